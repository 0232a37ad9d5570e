"""What every ranker must do: one suite, which each model of `ALL_MODELS` inherits."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from heedful.embeddings.table import ItemEmbeddings
from heedful.errors import ConfigError, FolderError, HeedfulError, InputError, MismatchError, TrainingError
from heedful.events.candidates import Candidates
from heedful.events.histories import Histories
from heedful.events.log import EventLog
from heedful.rankers.base import UNKNOWN_SCORE, Ranker
from heedful.rankers.external.base import PublicRanker
from heedful.rankers.mixed import MixedRanker
from heedful.rankers.recent_popularity import RecentPopularity
from heedful.rankers.registry import ALL_MODELS, MODELS, load_ranker
from heedful.recommending.recommend import Query, Recommender
from ranking_worlds import DAY, QUICK, START, log_of, random_log, table_of

N_ITEMS = 60
KINDS = ("view", "purchase")
CLOCK = {"half_life": 30.0, "history_half_life": 10.0, "recency": 0.5, "recent_days": 20.0}
# The trained models also as the paper has them: other code paths (one term, no null tokens, no popularity over time).
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {name: (name, QUICK[name]) for name in ALL_MODELS} | {
    "attention-paper": ("attention", {**QUICK["attention"], "preset": "paper"}),
    **{f"{name}-clock": (name, {**QUICK[name], **CLOCK}) for name in ("ease", "cosine", "bm25")},
    "averaging-sum": ("averaging", {**QUICK["averaging"], "form": "sum", "terms": ("averaging",)}),
}
VARIANTS["attention-paper"][1].update(null_tokens=0, depth=3)
IDS: dict[str, Callable[[int], Any]] = {"text": lambda n: f"sku-{n}", "integer": lambda n: 10_000 + 7 * n}


@cache
def the_log(ids: str) -> EventLog:
    return random_log(items=N_ITEMS, ids=[IDS[ids](n) for n in range(N_ITEMS)], kind_names=KINDS)


@cache
def the_table(ids: str) -> ItemEmbeddings:
    """Vectors for all items of the log but the last five, in another order, and for three items that the log lacks."""
    known = [IDS[ids](n) for n in np.random.default_rng(1).permutation(N_ITEMS - 5)]
    return table_of([*known, *(IDS[ids](n) for n in range(900, 903))])


def new(variant: str) -> Ranker:
    name, options = VARIANTS[variant]
    return ALL_MODELS[name](**options)


@cache
def fitted(variant: str, ids: str = "text") -> Ranker:
    return new(variant).fit(the_log(ids), the_table(ids))


def users_of(ranker: Ranker, count: int = 30, seed: int = 5) -> Histories:
    """Users whom the log lacks, with histories of 0 to 40 actions."""
    randoms = np.random.default_rng(seed)
    lengths = [0, 1, 2, 40, *randoms.integers(0, 30, count - 4)]
    items = [[ranker.items.ids[int(row)].as_py() for row in randoms.integers(0, len(ranker.items), n)] for n in lengths]
    times = [np.sort(START + randoms.integers(0, 110 * DAY, n)).tolist() for n in lengths]
    kinds = [[KINDS[code] for code in randoms.integers(0, 2, n)] for n in lengths]
    return ranker.histories_of(items, times, kinds)


def candidates_of(ranker: Ranker, users: int, seed: int = 6) -> Candidates:
    randoms = np.random.default_rng(seed)
    return Candidates.of([randoms.integers(-1, len(ranker.items), n) for n in randoms.integers(0, 25, users)])


def users_of_late(ranker: Ranker) -> np.ndarray:
    """What a visitor without a history is ranked by: users of the last days where a ranker has a clock, or all users."""
    if isinstance(ranker, MixedRanker) and ranker.stage is not None:
        return ranker.stage.snapshot.items.recent_users
    return ranker.recent if isinstance(ranker, RecentPopularity) else ranker.users_of_item


@pytest.fixture(params=list(VARIANTS))
def variant(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=list(IDS))
def ranker(request: pytest.FixtureRequest, variant: str) -> Ranker:
    return fitted(variant, request.param)


@pytest.fixture
def text_ranker(variant: str) -> Ranker:
    return fitted(variant)


def close(got: np.ndarray, expected: np.ndarray) -> None:
    assert got.dtype == np.float32 and got.shape == expected.shape
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


class TestScores:
    """Scores do not depend on how the question is put."""

    def test_a_batch_is_one_by_one(self, ranker: Ranker) -> None:
        histories = users_of(ranker)
        candidates = candidates_of(ranker, len(histories))
        together = ranker.score_rows(histories, candidates)
        assert np.isfinite(together).all()
        for user in range(len(histories)):
            part = slice(user, user + 1)
            alone = ranker.score_rows(histories.take(np.array([user])), candidates.part(part))
            close(together[candidates.offsets[user] : candidates.offsets[user + 1]], alone)

    def test_other_users_in_the_batch_change_nothing(self, ranker: Ranker) -> None:
        histories = users_of(ranker)
        candidates = candidates_of(ranker, len(histories))
        order = np.random.default_rng(0).permutation(len(histories))
        mixed = ranker.score_rows(histories.take(order), candidates.take(order))
        expected = ranker.score_rows(histories, candidates)
        places = np.concatenate([np.arange(candidates.offsets[u], candidates.offsets[u + 1]) for u in order])
        close(mixed, expected[places])

    def test_order_and_number_of_candidates_change_nothing(self, ranker: Ranker) -> None:
        histories = users_of(ranker)
        randoms = np.random.default_rng(1)
        lists = [randoms.permutation(len(ranker.items))[:20] for _ in range(len(histories))]
        expected = ranker.score_rows(histories, Candidates.of(lists)).reshape(-1, 20)
        for width in (20, 3):
            orders = np.stack([randoms.permutation(20)[:width] for _ in lists])
            asked = Candidates.of([rows[order] for rows, order in zip(lists, orders, strict=True)])
            got = ranker.score_rows(histories, asked).reshape(-1, width)
            close(got, np.take_along_axis(expected, orders, axis=1))

    def test_the_catalogue_is_all_rows(self, ranker: Ranker) -> None:
        histories = users_of(ranker)
        for gamma in (0.0, 1.0, None):
            everything = Candidates.same_for_all(len(histories), np.arange(len(ranker.items)))
            expected = ranker.score_rows(histories, everything, pool_gamma=gamma).reshape(len(histories), -1)
            got = ranker.score_catalogue(histories, pool_gamma=gamma)
            close(got, expected)
            assert not np.isnan(got).any()

    def test_large_batches_are_done_in_parts(self, ranker: Ranker, monkeypatch: pytest.MonkeyPatch) -> None:
        histories = users_of(ranker)
        candidates = candidates_of(ranker, len(histories))
        expected = ranker.score_rows(histories, candidates), ranker.score_catalogue(histories)
        monkeypatch.setattr("heedful.rankers.base._PART_CANDIDATES", 10)
        monkeypatch.setattr("heedful.rankers.scoring._ELEMENTS", 2000)
        monkeypatch.setattr("heedful.rankers.scoring._BLOCK_ITEMS", 7)
        monkeypatch.setattr("heedful.rankers.heuristics._CHUNK_ITEMS", 7)
        close(ranker.score_rows(histories, candidates), expected[0])
        close(ranker.score_catalogue(histories), expected[1])

    def test_duplicate_candidates_have_equal_scores(self, ranker: Ranker) -> None:
        histories = users_of(ranker, 5)
        scores = ranker.score_rows(histories, Candidates.same_for_all(5, np.array([4, 9, 4, 4]))).reshape(5, 4)
        close(scores[:, [2, 3]], scores[:, [0, 0]])

    def test_ids_are_their_rows(self, ranker: Ranker) -> None:
        ids = ranker.items.take(np.arange(8)).to_pylist()
        got = ranker.score(ids[:4], ids)
        histories = ranker.histories_of([ids[:4]])
        close(got, ranker.score_rows(histories, Candidates.of([np.arange(8)])))
        assert len(np.unique(got)) > 1

    def test_an_unknown_candidate_stands_below_all(self, ranker: Ranker) -> None:
        ids = ranker.items.ids.to_pylist()
        for history in (ids[:3], []):
            for gamma in (0.0, 1.0, -3.0, None):
                scores = ranker.score(history, [*ids, "nobody knows this", None], pool_gamma=gamma)
                assert (scores[-2:] == np.float32(UNKNOWN_SCORE)).all()
                assert np.isfinite(scores).all() and scores[:-2].min() > scores[-1]

    def test_unknown_past_items_are_ignored(self, ranker: Ranker) -> None:
        ids = ranker.items.ids.to_pylist()
        with_strangers = ["who", ids[5], "what", ids[2], None]
        times, kinds = [START, START + 5, START + 6, START + 7, START + 8], ["view", "purchase", "view", "view", "view"]
        got = ranker.score(with_strangers, ids, history_times=times, history_kinds=kinds)
        expected = ranker.score(
            [ids[5], ids[2]], ids, history_times=[START + 5, START + 7], history_kinds=["purchase", "view"]
        )
        close(got, expected)

    def test_an_empty_history_is_ranked_by_popularity(self, ranker: Ranker) -> None:
        ids = ranker.items.ids.to_pylist()
        for history in ([], ["unknown"]):
            scores = ranker.score(history, ids)
            order = np.argsort(-scores, kind="stable")
            assert (np.diff(users_of_late(ranker)[order]) <= 0).all()
            assert len(np.unique(scores)) > 5
            catalogue = ranker.score_catalogue(ranker.histories_of([history]))
            close(catalogue[0], scores)

    def test_no_candidates_and_no_users(self, ranker: Ranker) -> None:
        assert ranker.score([ranker.items.ids[0].as_py()], []).shape == (0,)
        assert ranker.score([], []).shape == (0,)
        nobody = ranker.histories_of([])
        assert ranker.score_rows(nobody, Candidates.of([])).shape == (0,)
        assert ranker.score_catalogue(nobody).shape == (0, len(ranker.items))
        assert Recommender(ranker, exact=True).top_rows(nobody, Query(k=3))[0].shape == (0, 3)

    def test_a_history_longer_than_any_seen(self, ranker: Ranker) -> None:
        ids = ranker.items.ids.to_pylist()
        history = [ids[n % len(ids)] for n in range(5000)]
        assert np.isfinite(ranker.score(history, ids[:9])).all()

    def test_actions_are_put_in_order_of_time(self, ranker: Ranker) -> None:
        ids = ranker.items.take(np.arange(6)).to_pylist()
        times = [START + 40 * n * DAY for n in range(6)]
        expected = ranker.score(ids, ids, history_times=times)
        shuffled = [3, 0, 5, 1, 4, 2]
        got = ranker.score([ids[n] for n in shuffled], ids, history_times=[times[n] for n in shuffled])
        close(got, expected)

    def test_times_and_kinds_must_fit_the_history(self, ranker: Ranker) -> None:
        ids = ranker.items.take(np.arange(3)).to_pylist()
        with pytest.raises(InputError, match=r"history_times of request 0 does not fit.*got: 2 values; expected: 3"):
            ranker.score(ids, ids, history_times=[START, START])
        with pytest.raises(InputError, match=r"history_kinds of request 0 does not fit.*got: 4 values; expected: 3"):
            ranker.score(ids, ids, history_kinds=["view"] * 4)
        assert np.isfinite(ranker.score(ids, ids, history_kinds=["never heard of"] * 3)).all()


class TestPrior:
    """`pool_gamma` is (gamma - pool_gamma) log P and nothing else."""

    def test_it_is_added_exactly(self, ranker: Ranker) -> None:
        histories = users_of(ranker)
        histories = histories.take(np.flatnonzero(histories.lengths))
        candidates = Candidates.same_for_all(len(histories), np.arange(len(ranker.items)))
        plain = ranker.score_rows(histories, candidates, pool_gamma=None).reshape(len(histories), -1)
        log_p = np.log((ranker.users_of_item + 0.5) / (ranker.users_of_item.sum() + 1))
        for pool_gamma in (0.0, 0.5, 1.0, -1.0):
            got = ranker.score_rows(histories, candidates, pool_gamma=pool_gamma).reshape(len(histories), -1)
            expected = (ranker.gamma - pool_gamma) * log_p if ranker.gamma is not None else np.zeros(len(log_p))
            np.testing.assert_allclose(got - plain, np.broadcast_to(expected, got.shape), atol=2e-4)
        assert ranker.uses_prior == (ranker.name in ("mixed", "attention", "averaging", "two-stage"))

    @pytest.mark.parametrize("gamma", [np.nan, np.inf])
    def test_it_must_be_a_number(self, ranker: Ranker, gamma: float) -> None:
        if ranker.uses_prior:
            with pytest.raises(ConfigError, match=r"invalid pool_gamma; got: (nan|inf); expected: a finite number"):
                ranker.score([], [], pool_gamma=gamma)


class TestTop:
    """The best of the catalogue."""

    def test_it_is_sorted_and_without_the_history(self, ranker: Ranker) -> None:
        histories = users_of(ranker)
        scores = ranker.score_catalogue(histories)
        rows, best = Recommender(ranker, exact=True).top_rows(histories, Query(k=10, exclude_history=True))
        for user in range(len(histories)):
            past = set(histories.items[histories.offsets[user] : histories.offsets[user + 1]].tolist())
            open_rows = [row for row in range(len(ranker.items)) if row not in past]
            expected = sorted(open_rows, key=lambda row: (-scores[user, row], row))[:10]
            if ranker.name not in ("attention", "averaging", "weighted-sum"):  # the others may differ in the last digit
                assert rows[user].tolist() == expected
            close(best[user], scores[user, expected])
            assert not past & set(rows[user].tolist())
            assert (np.diff(best[user]) <= 0).all() and len(set(rows[user])) == 10

    def test_with_the_history(self, ranker: Ranker) -> None:
        histories = users_of(ranker)
        rows, best = Recommender(ranker, exact=True).top_rows(histories, Query(k=len(ranker.items), exclude_history=False))
        assert all(sorted(row) == list(range(len(ranker.items))) for row in rows.tolist())
        assert np.isfinite(best).all()

    def test_more_than_the_catalogue_has(self, ranker: Ranker) -> None:
        histories = users_of(ranker)
        n = len(ranker.items)
        rows, best = Recommender(ranker, exact=True).top_rows(histories, Query(k=n + 5, exclude_history=True))
        for user in range(len(histories)):
            past = np.unique(histories.items[histories.offsets[user] : histories.offsets[user + 1]])
            found = n - len(past)
            assert sorted(np.concatenate([rows[user, :found], past]).tolist()) == list(range(n))
            assert (rows[user, found:] == -1).all() and (best[user, found:] == -np.inf).all()


class TestFolders:
    """A model that was saved and loaded gives the same scores, bit for bit, or an error."""

    def save(self, ranker: Ranker, tmp_path: Path, **options: Any) -> Path:
        """Save the model beside its embeddings, which lie in a folder of their own."""
        kept = ranker.embeddings
        try:
            if kept is not None:
                if not (tmp_path / "table").exists():
                    kept.save(tmp_path / "table")
                ranker.embeddings = ItemEmbeddings.load(tmp_path / "table")
            ranker.save(tmp_path / "model", **options)
        finally:
            ranker.embeddings = kept
        return tmp_path / "model"

    def check(self, loaded: Ranker, ranker: Ranker) -> None:
        histories = users_of(ranker)
        assert type(loaded) is type(ranker) and loaded.config == ranker.config and loaded.items == ranker.items
        assert loaded.kinds == ranker.kinds and loaded.last_time == ranker.last_time
        assert np.array_equal(loaded.users_of_item, ranker.users_of_item)
        candidates = candidates_of(ranker, len(histories))
        assert np.array_equal(loaded.score_rows(histories, candidates), ranker.score_rows(histories, candidates))
        assert np.array_equal(loaded.score_catalogue(histories), ranker.score_catalogue(histories))
        for gamma in (None, 1.0):
            one, other = (r.score_catalogue(histories, pool_gamma=gamma) for r in (loaded, ranker))
            assert np.array_equal(one, other)

    def test_the_same_scores(self, ranker: Ranker, tmp_path: Path) -> None:
        self.check(load_ranker(self.save(ranker, tmp_path)), ranker)
        again = load_ranker(tmp_path / "model")
        again.save(tmp_path / "second")
        self.check(load_ranker(tmp_path / "second"), ranker)

    def test_no_pickle(self, text_ranker: Ranker, tmp_path: Path) -> None:
        model = self.save(text_ranker, tmp_path)
        for file in model.rglob("*.npy"):
            np.load(file, allow_pickle=False)
        for file in model.rglob("*.npz"):
            with np.load(file, allow_pickle=False) as arrays:
                assert all(arrays[name] is not None for name in arrays)
        assert {file.suffix for file in model.rglob("*") if file.is_file()} <= {
            ".json",
            ".npy",
            ".npz",
            ".parquet",
            ".arrow",
            ".safetensors",
            ".txt",  # trees
        }

    def test_packed_it_can_be_moved(self, text_ranker: Ranker, tmp_path: Path) -> None:
        model = self.save(text_ranker, tmp_path, pack=True)
        elsewhere = tmp_path / "far" / "away" / "renamed"
        elsewhere.parent.mkdir(parents=True)
        model.rename(elsewhere)
        shutil.rmtree(tmp_path / "table", ignore_errors=True)
        self.check(load_ranker(elsewhere), text_ranker)

    def test_a_table_that_was_never_saved_is_packed(self, text_ranker: Ranker, tmp_path: Path) -> None:
        text_ranker.save(tmp_path / "model")
        assert (tmp_path / "model" / "embeddings").is_dir() == text_ranker.needs_embeddings
        self.check(load_ranker(tmp_path / "model"), text_ranker)

    def test_both_folders_moved_together(self, text_ranker: Ranker, tmp_path: Path) -> None:
        (tmp_path / "a").mkdir()
        self.save(text_ranker, tmp_path / "a")
        (tmp_path / "a").rename(tmp_path / "b")
        self.check(load_ranker(tmp_path / "b" / "model"), text_ranker)

    def test_existing_is_not_replaced_unasked(self, text_ranker: Ranker, tmp_path: Path) -> None:
        model = self.save(text_ranker, tmp_path)
        with pytest.raises(FolderError, match=r"model exists already; to fix: pass --overwrite"):
            self.save(text_ranker, tmp_path)
        self.save(text_ranker, tmp_path, overwrite=True)
        self.check(load_ranker(model), text_ranker)

    def test_another_table_is_refused(self, text_ranker: Ranker, tmp_path: Path) -> None:
        model = self.save(text_ranker, tmp_path)
        other = table_of(text_ranker.items.ids, seed=9)
        if not text_ranker.needs_embeddings:
            self.check(load_ranker(model, embeddings=other), text_ranker)
            return
        with pytest.raises(MismatchError, match="was trained on another embedding table; got: a table with hash"):
            load_ranker(model, embeddings=other)
        shutil.rmtree(tmp_path / "table")
        with pytest.raises(FolderError, match=r"embeddings of .* are not at .*--embeddings"):
            load_ranker(model)
        self.check(load_ranker(model, embeddings=text_ranker.embeddings), text_ranker)
        other.save(tmp_path / "table")
        with pytest.raises(MismatchError, match="was trained on another embedding table"):
            load_ranker(model)

    def test_any_damage_is_found(self, text_ranker: Ranker, tmp_path: Path) -> None:
        model = self.save(text_ranker, tmp_path)
        files = sorted(file for file in model.rglob("*") if file.is_file() and file.name != "manifest.json")
        assert len(files) >= 2
        for file in files:
            whole = file.read_bytes()
            file.write_bytes(whole[:-3])
            with pytest.raises(FolderError, match=rf"{file.name} is damaged; got: {len(whole) - 3} bytes; expected"):
                load_ranker(model)
            changed = bytearray(whole)
            changed[len(whole) // 2] ^= 1
            file.write_bytes(bytes(changed))
            with pytest.raises(FolderError, match=rf"{file.name} has been changed since it was written"):
                load_ranker(model)
            file.unlink()
            with pytest.raises(FolderError, match=rf"{file.name} is missing"):
                load_ranker(model)
            file.write_bytes(whole)
        self.check(load_ranker(model), text_ranker)

    def test_a_changed_manifest_is_found(self, text_ranker: Ranker, tmp_path: Path) -> None:
        model = self.save(text_ranker, tmp_path)
        whole = json.loads((model / "manifest.json").read_text())

        def refused(changed: Any, match: str) -> None:
            (model / "manifest.json").write_text(changed if isinstance(changed, str) else json.dumps(changed))
            with pytest.raises(FolderError, match=match):
                load_ranker(model)

        files = whole["files"]
        refused({**whole, "kind": "sequences"}, "holds something else; got: sequences; expected: model")
        refused({**whole, "format_version": 99}, "a format that this version does not read; got: 99; expected: 1")
        refused({**whole, "files": {n: f for n, f in files.items() if n != "config.json"}}, "changed since it was written")
        refused({**whole, "files": {**files, "../x": files["config.json"]}}, r"names a file outside its folder; got: ../x")
        refused({**whole, "files": {**files, "config.json": {}}}, "is not a manifest")
        refused({**whole, "files": []}, "is not a manifest")
        refused("{", "cannot be read")
        refused("[]", "is not a manifest")
        if text_ranker.needs_embeddings:
            refused({key: value for key, value in whole.items() if key != "embeddings"}, "incomplete; got: KeyError")
            refused({**whole, "embeddings": "x"}, "incomplete; got: TypeError")

    def test_a_folder_made_by_hand_gives_an_error(self, text_ranker: Ranker, tmp_path: Path) -> None:
        """Settings that do not belong to the weights, under a manifest that is sound."""
        from heedful.folders import new_folder

        model = self.save(text_ranker, tmp_path)
        settings = json.loads((model / "config.json").read_text())
        manifest = json.loads((model / "manifest.json").read_text())

        def forged(changes: dict[str, Any]) -> Path:
            with new_folder(tmp_path / "forged", kind="model", overwrite=True) as folder:
                left_out = shutil.ignore_patterns("manifest.json", "config.json")
                shutil.copytree(
                    model,
                    folder.path,
                    ignore=lambda at, names: left_out(at, names) if at == str(model) else (),
                    dirs_exist_ok=True,
                )
                (folder.path / "config.json").write_text(json.dumps({**settings, **changes}))
                folder.manifest.update({key: manifest[key] for key in ("embeddings",) if key in manifest})
            return tmp_path / "forged"

        self.check(load_ranker(forged({})), text_ranker)
        for version in (1, 3):
            words = rf"another version of heedful; got: model format {version}; expected: .*2; to fix: train the model again"
            with pytest.raises(FolderError, match=words):
                load_ranker(forged({"model_format": version}))
        with pytest.raises(FolderError, match="holds an unknown model; got: oracle; expected: mixed, attention"):
            load_ranker(forged({"model": "oracle"}))
        with pytest.raises(HeedfulError, match=r"unknown option for .*Config; got: nonsense"):
            load_ranker(forged({"config": {"nonsense": 1}}))
        with pytest.raises(FolderError, match=r"config.json.*kinds"):
            settings.pop("kinds")
            load_ranker(forged({}))
        with pytest.raises(FolderError, match=r"got: model format 1; .*to fix: train the model again"):
            settings.pop("model_format")  # the first folders did not say
            load_ranker(forged({}))


class TestLogs:
    """Unusual logs and tables: a sound ranker or a clear error."""

    def fit(self, variant: str, log: EventLog, table: ItemEmbeddings | None = None) -> Ranker | None:
        ranker = new(variant)
        try:
            ranker.fit(log, table if table is not None else table_of(log.catalog.items.ids))
        except TrainingError as error:
            assert str(error).count("; ") >= 1 and len(str(error)) > 30
            return None
        ids = ranker.items.ids.to_pylist()
        for history in ([], ids[:1], ids):
            assert np.isfinite(ranker.score(history, ids)).all()
        return ranker

    def test_tiny_logs(self, variant: str) -> None:
        simple = variant in ("popularity", "recent-popularity", "last-item")
        learnt = {
            "one item": self.fit(variant, log_of([[0, 0, 0], [0]])),
            "one event": self.fit(variant, log_of([[0]])),
            "one event each": self.fit(variant, log_of([[0], [1], [2]])),
        }
        assert all((ranker is not None) == simple for ranker in learnt.values()), learnt
        self.fit(variant, log_of([[0, 1]]))
        one_user = self.fit(variant, log_of([[0, 1, 2, 3, 4, 5, 6, 7]], n_items=30))
        assert one_user is not None or variant in ("weighted-sum", "two-stage")

    def test_an_empty_log(self, variant: str) -> None:
        log = log_of([], n_items=4)
        assert (self.fit(variant, log) is not None) == (variant in ("popularity", "recent-popularity", "last-item"))

    def test_everyone_has_everything(self, variant: str) -> None:
        randoms = np.random.default_rng(0)
        log = log_of([randoms.permutation(6).tolist() for _ in range(20)])
        assert self.fit(variant, log) is not None

    def test_items_without_vectors_are_left_out_and_vectors_without_events_are_ranked(self, text_ranker: Ranker) -> None:
        log, table = the_log("text"), the_table("text")
        if isinstance(text_ranker, PublicRanker):
            assert text_ranker.items == log.catalog.items
            return
        assert text_ranker.items == table.items
        users = dict(zip(log.catalog.items.ids.to_pylist(), log.catalog.users, strict=True))
        assert text_ranker.users_of_item.tolist() == [users.get(name, 0) for name in table.items.ids.to_pylist()]
        left_out = log.catalog.items.ids[N_ITEMS - 1].as_py()
        assert text_ranker.score(["sku-3"], [left_out])[0] == np.float32(UNKNOWN_SCORE)
        assert text_ranker.score(["sku-3"], ["sku-900"])[0] > UNKNOWN_SCORE

    def test_a_table_for_other_items(self, variant: str) -> None:
        table = table_of([f"film {n}" for n in range(9)])
        if variant in ("popularity", "recent-popularity"):
            assert (new(variant).fit(the_log("text"), table).users_of_item == 0).all()
            return
        if not ALL_MODELS[VARIANTS[variant][0]].needs_embeddings:
            assert new(variant).fit(the_log("text"), table).items == the_log("text").catalog.items
            return
        with pytest.raises(InputError, match="the embedding table is for other items; got: none of the log's 60 items"):
            new(variant).fit(the_log("text"), table)

    def test_zero_and_huge_vectors(self, variant: str) -> None:
        log = the_log("text")
        vectors = np.random.default_rng(0).normal(size=(N_ITEMS, 8)).astype(np.float32)
        vectors[:5], vectors[5:10] = 0, 1e6
        ranker = new(variant)
        ranker.fit(log, ItemEmbeddings.from_arrays(log.catalog.items.ids, vectors))
        ids = ranker.items.ids.to_pylist()
        assert np.isfinite(ranker.score(ids[:2], ids)).all() and np.isfinite(ranker.score(ids[3:12], ids)).all()

    def test_unicode_and_very_long_ids(self, variant: str, tmp_path: Path) -> None:
        names = ["naïve", "日本語", "🦆" * 50, "x" * 100_000, " blank ", "a/b\\c", "\t", "٣", "0", "00"]
        log = log_of([[n, (n + 1) % 10, (n + 3) % 10, (n + 4) % 10] for n in range(10)] * 3, ids=names)
        ranker = self.fit(variant, log)
        assert ranker is not None
        ranker.save(tmp_path / "模型")
        loaded = load_ranker(tmp_path / "模型")
        assert loaded.items.ids.to_pylist() == names
        assert np.array_equal(loaded.score(names[:3], names), ranker.score(names[:3], names))
        assert len(set(ranker.items.rows(["0", "00"]).tolist())) == 2

    def test_the_same_log_gives_the_same_ranker(self, variant: str) -> None:
        other = new(variant).fit(the_log("text"), the_table("text"))
        histories = users_of(other)
        np.testing.assert_array_equal(other.score_catalogue(histories), fitted(variant).score_catalogue(histories))

    def test_fitting_changes_neither_log_nor_table(self, variant: str) -> None:
        log, table = the_log("text"), the_table("text")
        before = [a.copy() for a in (log.histories.items, log.histories.times, log.histories.kinds, table.vectors)]
        new(variant).fit(log, table)
        after = (log.histories.items, log.histories.times, log.histories.kinds, table.vectors)
        assert all(np.array_equal(one, other) for one, other in zip(before, after, strict=True))


def test_popularity_needs_no_table() -> None:
    log = the_log("text")
    ranker = MODELS["popularity"]().fit(log)  # type: ignore[call-arg]
    assert ranker.items == log.catalog.items
    scores = ranker.score(["sku-1"], ranker.items.ids.to_pylist())
    assert (np.diff(ranker.users_of_item[np.argsort(-scores, kind="stable")]) <= 0).all()


def test_last_item_is_the_cosine_with_the_last_item() -> None:
    ranker, table = fitted("last-item"), the_table("text")
    ids = table.items.ids.to_pylist()
    unit = table.vectors / np.linalg.norm(table.vectors, axis=1, keepdims=True)
    got = ranker.score([ids[4], ids[7]], ids)
    np.testing.assert_allclose(got, unit @ unit[7], atol=1e-5)
    turned = ranker.score([ids[4], ids[7]], ids, history_times=[START + 9, START])
    np.testing.assert_allclose(turned, unit @ unit[4], atol=1e-5)


def test_weighted_sum_is_its_formula() -> None:
    ranker, table = fitted("weighted-sum"), the_table("text")
    ids = table.items.ids.to_pylist()
    unit = table.vectors / np.linalg.norm(table.vectors, axis=1, keepdims=True)
    history = [ids[n] for n in (1, 2, 1, 3)]
    now = ranker.last_time
    times = [now - 50 * DAY, now - 20 * DAY, now - 9 * DAY, now - 2 * DAY]
    kinds = ["view", "purchase", "purchase", "view"]
    log_a, b, c, log_w = ranker.parameters  # type: ignore[attr-defined]
    weight = {}
    for place, (row, age, count, kind) in enumerate([(3, 2, 1, "view"), (1, 9, 2, "purchase"), (2, 20, 1, "purchase")]):
        of_kind = 0.0 if ranker.kinds.index(kind) == 0 else log_w
        weight[row] = np.exp(-np.exp(log_a) * age) * (1 + place) ** -b * count**c * np.exp(of_kind)
    user = sum(w * unit[row] for row, w in weight.items())
    expected = unit @ (user / np.linalg.norm(user))
    np.testing.assert_allclose(ranker.score(history, ids, history_times=times, history_kinds=kinds), expected, atol=1e-5)


def test_the_prior_sees_items_without_users() -> None:
    ranker = fitted("attention")
    prior = ranker.prior(0.0)
    unseen = ranker.users_of_item == 0
    assert isinstance(prior, np.ndarray) and unseen.any() and np.isfinite(prior).all()
    assert prior[unseen].max() < prior[~unseen].min()


def test_items_that_the_table_cannot_name_are_named_by_the_log(tmp_path: Path) -> None:
    log = the_log("text")
    known = log.catalog.items.ids[3].as_py()
    table = table_of(["sku-new", known])
    ranker = MODELS["last-item"]().fit(log, table)
    ranker.save(tmp_path / "model")
    for one in (ranker, load_ranker(tmp_path / "model")):
        assert one.describe_item(known) == "title 3"
        assert one.describe_item("sku-new") == "sku-new"
        assert one.trained_on["n_events"] == log.n_events
