"""A newer log renews what a ranker counted, and leaves what it learnt."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from heedful.embeddings.table import ItemEmbeddings
from heedful.errors import ConfigError, FolderError, InputError
from heedful.events.candidates import Candidates
from heedful.events.histories import Histories
from heedful.events.log import EventLog
from heedful.folders import open_folder
from heedful.model.popularity import PopularityIndex
from heedful.rankers.attention import AttentionRanker
from heedful.rankers.base import Ranker
from heedful.rankers.mixed import MixedRanker
from heedful.rankers.mixing.item_features import item_features
from heedful.rankers.recent_popularity import RecentPopularity
from heedful.rankers.refreshing import refresh, refreshed
from heedful.rankers.registry import ALL_MODELS, MODELS, load_ranker
from ranking_worlds import DAY, QUICK, START, heedful, log_of, random_log, table_of

N_ITEMS = 60
KINDS = ("view", "purchase")
YEAR = 365


def whole() -> EventLog:
    return random_log(items=N_ITEMS, ids=[f"sku-{n}" for n in range(N_ITEMS)], kind_names=KINDS, users=120)


@cache
def past() -> EventLog:
    return whole().split(START + 80 * DAY, days=1)[0]


@cache
def table() -> ItemEmbeddings:
    return table_of([f"sku-{n}" for n in np.random.default_rng(1).permutation(N_ITEMS - 5)])


@cache
def fitted(name: str) -> Ranker:
    return ALL_MODELS[name](**QUICK[name]).fit(past(), table())


def question(ranker: Ranker) -> tuple[Histories, Candidates]:
    randoms = np.random.default_rng(5)
    items = [[f"sku-{n}" for n in randoms.integers(0, N_ITEMS, length)] for length in (0, 1, 3, 9, 20)]
    times = [np.sort(START + randoms.integers(0, 80 * DAY, len(history))).tolist() for history in items]
    return ranker.histories_of(items, times), Candidates.same_for_all(5, np.arange(len(ranker.items)))


def in_rows(ranker: Ranker, log: EventLog) -> Histories:
    return log.histories.with_rows(ranker.items.rows(log.catalog.items.ids))


@pytest.mark.parametrize("name", MODELS)
def test_with_the_log_of_training_it_scores_as_before(name: str) -> None:
    ranker = fitted(name)
    again, facts = refreshed(ranker, past())
    for gamma in (0.0, 1.0, None):
        expected = ranker.score_rows(*question(ranker), pool_gamma=gamma)
        np.testing.assert_array_equal(again.score_rows(*question(ranker), pool_gamma=gamma), expected)
    assert facts.older_by == 0 and facts.last_time == ranker.last_time and not facts.unknown_kinds


@pytest.mark.parametrize("name", MODELS)
def test_a_newer_log_is_counted_and_the_old_ranker_stays_as_it_was(name: str) -> None:
    ranker = fitted(name)
    before = ranker.score_rows(*question(ranker))
    newer, facts = refreshed(ranker, whole())
    users = in_rows(ranker, whole()).distinct(len(ranker.items)).items
    np.testing.assert_array_equal(newer.users_of_item, np.bincount(users, minlength=len(ranker.items)))
    assert newer.last_time == int(whole().histories.times.max()) == facts.last_time
    assert facts.older_by == newer.last_time - ranker.last_time > 15 * DAY
    np.testing.assert_array_equal(ranker.score_rows(*question(ranker)), before)
    assert ranker.last_time < START + 80 * DAY


def test_counts_are_those_of_a_ranker_trained_on_the_newer_log() -> None:
    newer, _ = refreshed(fitted("recent-popularity"), whole())
    trained = RecentPopularity().fit(whole(), table())
    assert isinstance(newer, RecentPopularity)
    np.testing.assert_array_equal(newer.recent, trained.recent)


def test_popularity_over_time_is_that_of_the_end_in_the_windows_of_training() -> None:
    ranker = fitted("attention")
    newer, _ = refreshed(ranker, whole())
    assert isinstance(ranker, AttentionRanker) and isinstance(newer, AttentionRanker)
    rows = np.arange(len(ranker.items))
    index = PopularityIndex(in_rows(ranker, whole()), len(rows), span=ranker.inputs.span)
    features, shares = index.features(rows, np.full(len(rows), newer.last_time + 1))
    expected = newer.values_at(features, shares, newer.log_shares[:])
    for name, values in newer.at_time.items():
        np.testing.assert_allclose(values, expected[name], rtol=1e-5, atol=1e-5)
    assert newer.model is ranker.model and newer.inputs.span == ranker.inputs.span


def test_the_last_stage_sees_items_as_of_the_end_and_windows_of_training() -> None:
    ranker = fitted("mixed")
    newer, _ = refreshed(ranker, whole())
    assert isinstance(ranker, MixedRanker) and isinstance(newer, MixedRanker)
    assert ranker.stage is not None and newer.stage is not None
    window = ranker.stage.snapshot.window
    expected = item_features(in_rows(ranker, whole()), len(ranker.items), newer.last_time + 1, window)
    assert newer.stage.snapshot.window == window and newer.stage.snapshot.now == newer.last_time + 1
    np.testing.assert_array_equal(newer.stage.snapshot.items.values, expected.values)
    assert newer.stage.mixture is ranker.stage.mixture
    assert (newer.ranker.at_time["popularity_over_time"] != ranker.ranker.at_time["popularity_over_time"]).any()


def test_a_log_that_has_become_a_year_long_has_the_columns_of_training() -> None:
    ranker = fitted("mixed")
    log = whole()
    late = replace(log.histories, times=np.where(log.histories.times > START + 90 * DAY, log.histories.times + YEAR * DAY,
                                                 log.histories.times))  # fmt: skip
    newer, _ = refreshed(ranker, replace(log, histories=late))
    assert isinstance(ranker, MixedRanker) and isinstance(newer, MixedRanker)
    assert ranker.stage is not None and newer.stage is not None
    assert newer.stage.snapshot.items.names == ranker.stage.snapshot.items.names
    assert np.isfinite(newer.score_rows(*question(newer))).all()


def test_training_on_a_log_just_over_a_year_has_the_same_columns_in_all_periods() -> None:
    """The first periods are less than a year after the start of the log, and its end is more."""
    log = random_log(items=N_ITEMS, ids=[f"sku-{n}" for n in range(N_ITEMS)], users=120)
    stretched = START + (log.histories.times - START) * (YEAR + 4) // 100
    ranker = MixedRanker(**{**QUICK["mixed"], "stage_windows": 3}).fit(
        replace(log, histories=replace(log.histories, times=stretched)), table()
    )
    assert ranker.stage is not None
    assert np.isfinite(ranker.score_rows(*question(ranker))).all()


def test_unknown_items_and_kinds_are_left_out_and_counted() -> None:
    ranker = fitted("popularity")
    log = log_of(
        [[0, 1, 2], [0, 2, 2]], kinds=[[0, 1, 0], [2, 0, 1]], ids=["sku-1", "new", "sku-2"],
        kind_names=("purchase", "view", "return"),
    )  # fmt: skip
    newer, facts = refreshed(ranker, log)
    assert facts.unknown_items == 1 and facts.unknown_kinds == ("return",) and facts.events == 4
    users = dict(zip(newer.items.ids.to_pylist(), newer.users_of_item.tolist(), strict=True))
    assert users["sku-1"] == 1 and users["sku-2"] == 2 and sum(users.values()) == 3


def test_kinds_of_history_are_those_of_training() -> None:
    options: dict[str, Any] = {**QUICK["attention"], "history_kinds": ("purchase",), "target_kinds": ("purchase",)}
    ranker = AttentionRanker(**options).fit(past(), table())
    turned = replace(past(), kinds=KINDS[::-1], histories=replace(past().histories, kinds=1 - past().histories.kinds))
    again, _ = refreshed(ranker, turned)
    np.testing.assert_array_equal(again.score_rows(*question(ranker)), ranker.score_rows(*question(ranker)))


@pytest.mark.parametrize("name", ["ease", "two-stage", "cosine"])
def test_rankers_that_learn_from_one_log_alone_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} cannot be refreshed"):
        refreshed(fitted(name), whole())


def test_a_log_of_another_shop_is_refused() -> None:
    with pytest.raises(InputError, match="nothing to count"):
        refreshed(fitted("popularity"), log_of([[0, 1]]))


class TestFolders:
    @pytest.mark.parametrize("name", MODELS)
    def test_a_folder_says_what_it_was_made_from(self, name: str, tmp_path: Path) -> None:
        fitted(name).save(tmp_path / "model")
        whole().save(tmp_path / "sequences")
        log = EventLog.load(tmp_path / "sequences")
        refresh(tmp_path / "model", log, tmp_path / "newer")
        old, new = (open_folder(tmp_path / place, kind="model") for place in ("model", "newer"))
        assert new.manifest["refreshed_from"]["model"] == old.content_hash
        assert new.manifest["refreshed_from"]["log"]["content_hash"] == log.folder.content_hash  # type: ignore[union-attr]
        ranker = load_ranker(tmp_path / "newer")
        expected, _ = refreshed(fitted(name), whole())
        np.testing.assert_array_equal(ranker.score_rows(*question(ranker)), expected.score_rows(*question(ranker)))
        assert ranker.refreshed_from == new.manifest["refreshed_from"]
        assert ranker.trained_on == fitted(name).trained_on

    @pytest.mark.parametrize("pack", [True, False])
    def test_in_place_with_its_table(self, tmp_path: Path, pack: bool) -> None:
        table().save(tmp_path / "table")
        model = AttentionRanker(**QUICK["attention"]).fit(past(), ItemEmbeddings.load(tmp_path / "table"))
        model.save(tmp_path / "model", pack=pack)
        (tmp_path / "link").symlink_to("model")
        refresh(tmp_path / "link", whole())
        assert (tmp_path / "link").is_symlink() and not list(tmp_path.glob(".*"))
        assert (tmp_path / "model" / "embeddings").exists() == pack
        ranker = load_ranker(tmp_path / "link")
        expected, _ = refreshed(model, whole())
        np.testing.assert_array_equal(ranker.score_rows(*question(ranker)), expected.score_rows(*question(ranker)))

    def test_the_command(self, tmp_path: Path) -> None:
        fitted("recent-popularity").save(tmp_path / "model")
        whole().save(tmp_path / "sequences")
        outcome = heedful("refresh", tmp_path / "model", tmp_path / "sequences", "--out", tmp_path / "newer")
        assert outcome.returncode == 0, outcome.stderr
        assert "events counted, up to 2017-10-2" in outcome.stdout and "days older" in outcome.stdout
        assert "5 items are left out, which the model does not know" in outcome.stdout
        assert json.loads((tmp_path / "newer" / "config.json").read_text())["refreshed_from"]["model"]

    def test_a_place_that_is_taken(self, tmp_path: Path) -> None:
        fitted("popularity").save(tmp_path / "model")
        with pytest.raises(FolderError, match="exists already"):
            refresh(tmp_path / "model", whole(), tmp_path / "model")
