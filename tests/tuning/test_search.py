"""`tune`: what is found is real, a search that was stopped goes on as if it was not, and the test period is never seen."""

from __future__ import annotations

import json
import sys
import tomllib
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

import heedful
from heedful.embeddings import skipgram
from heedful.errors import ConfigError, FolderError, InputError, MissingExtraError, TrainingError
from heedful.events.log import EventLog
from heedful.folders import open_folder
from heedful.metrics import ndcg, nested_ranks
from heedful.progress import _state
from heedful.rankers import continuing
from heedful.rankers.external.neighbours import CosineNeighbours
from heedful.rankers.registry import ALL_MODELS
from heedful.tuning import search
from heedful.tuning.options import TuneConfig
from heedful.tuning.space import _OF_MODELS, Choice
from heedful.tuning.validation import Validation, before
from ranking_worlds import DAY, START, log_of, random_log

GROUPS = 6
Fake = Callable[[dict[str, dict[str, Any]], int], float]


@pytest.fixture(scope="module")
def log() -> EventLog:
    return random_log(users=120, items=50, events=40)


def taste_log(users: int = 200, items: int = 400, events: int = 30) -> EventLog:
    """Four in five events of a user are with items of the user's own group; times even over 67 days."""
    randoms = np.random.default_rng(0)
    drawn = randoms.integers(0, items, (users, events))
    own = drawn - drawn % GROUPS + np.arange(users)[:, None] % GROUPS
    sequences = np.where((randoms.random(drawn.shape) < 0.8) & (own < items), own, drawn).tolist()
    times = START + np.sort(randoms.integers(0, 67 * DAY, drawn.shape), axis=1)
    return log_of(sequences, times.tolist(), n_items=items)


def short(monkeypatch: pytest.MonkeyPatch, steps: int, epochs: int = 5) -> None:
    """The defaults train no longer than this."""
    monkeypatch.setattr(continuing, "_FEWEST_STEPS", steps)
    monkeypatch.setattr(skipgram, "_AUTO_EPOCHS", (epochs, epochs))


def faked(monkeypatch: pytest.MonkeyPatch, score: Fake) -> list[dict[str, Any]]:
    """Replace training and validation by a function of (settings, seed); the settings it was called with are listed."""
    calls: list[dict[str, Any]] = []

    def ndcg(self: Validation, settings: Any, pools: Any, *, seed: int, folder: Path) -> np.ndarray:
        calls.append(settings)
        noise = np.random.default_rng(0).normal(0, 0.01, (len(pools), len(pools.gammas)))
        return score(settings, seed) + noise

    monkeypatch.setattr(Validation, "ndcg", ndcg)
    return calls


def shallow(settings: dict[str, dict[str, Any]], seed: int) -> float:
    """Best at depth 5 and few null tokens; the default is depth 2, four null tokens."""
    train = settings["train"]
    return 0.4 - 0.01 * abs(train.get("depth", 2) - 5) - 0.002 * train.get("null_tokens", 4)


def values_of(trials: Any) -> list[Any]:
    return [(trial.values, trial.ndcg, trial.problem) for trial in trials]


# What is found


def test_a_setting_that_matters_is_found_and_confirmed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After ten updates whoever took larger steps has learnt more."""
    short(monkeypatch, steps=10)
    found = heedful.tune(taste_log(), tmp_path / "t", trials=6, search=("train.learning_rate",), pool=50, threads=1)
    rate = found.best.values["train.learning_rate"]
    assert rate > 0.004 and found.train == {"learning_rate": rate} and found.embed == {}
    assert found.confirmed and found.gain is not None and found.gain.low > 0.01
    assert found.best.ndcg is not None and found.default.ndcg is not None and found.best.ndcg > found.default.ndcg + 0.02
    assert abs(found.validation_users - found.gain.users) <= 1 and not found.sampled
    assert "recommendation: the settings found." in str(found)
    # What is written
    folder = open_folder(tmp_path / "t", kind="tuning")
    assert sorted(folder.manifest["files"]) == ["trials.json", "trials.parquet", "tuned.toml"]
    text = (tmp_path / "t" / "tuned.toml").read_text()
    assert tomllib.loads(text) == {"embed": {}, "train": {"learning_rate": rate}}
    assert "99 % interval [" in text and text.startswith("# Made by `heedful tune`")
    table = pq.read_table(tmp_path / "t" / "trials.parquet")
    columns = {"number", "ndcg", "ndcg, gamma 0.75", "standard_error", "seconds", "problem", "train.learning_rate"}
    assert len(table) == 6 and columns <= set(table.column_names)
    facts = json.loads((tmp_path / "t" / "trials.json").read_text())
    assert facts["confirmed"] and [trial["number"] for trial in facts["trials"]] == list(range(6))
    # Embeddings of the same settings are learnt once for all trials, and once more for the other seed.
    assert len(list((tmp_path / "t.study" / "embeddings").iterdir())) == 2


def test_nothing_better_than_the_defaults(log: EventLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    faked(monkeypatch, lambda settings, seed: 0.4 if not settings["train"] else 0.3)
    found = heedful.tune(log, tmp_path / "t", trials=5, search=("depth",), pool=20)
    assert found.best.number == 0 and found.gain is None and not found.confirmed
    assert "No trial was better than the defaults.\nrecommendation: stay with the defaults." in str(found)
    text = (tmp_path / "t" / "tuned.toml").read_text()
    assert tomllib.loads(text) == {"embed": {}, "train": {}} and "as comments" not in text


def test_a_gain_that_another_seed_does_not_repeat(log: EventLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    faked(monkeypatch, lambda settings, seed: 0.4 + 0.1 * bool(settings["train"]) * (seed == 1))
    found = heedful.tune(log, tmp_path / "t", trials=4, search=("depth",), pool=20)
    assert found.best.number == 1 and found.gain is not None and found.gain.difference == 0 and not found.confirmed
    assert found.train == {}
    assert "Nothing beat the defaults beyond noise.\nrecommendation: stay with the defaults." in str(found)
    text = (tmp_path / "t" / "tuned.toml").read_text()
    assert tomllib.loads(text) == {"embed": {}, "train": {}} and "as comments.\n" in text and "\n# depth = 10\n" in text


def test_the_first_trials_are_the_defaults_and_the_paper(
    log: EventLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = faked(monkeypatch, shallow)
    found = heedful.tune(log, tmp_path / "t", trials=2, pool=20)
    assert calls[0] == {"embed": {}, "train": {}}
    assert calls[1]["train"]["depth"] == 10 and calls[1]["train"]["objective"] == "logistic" and calls[1]["embed"] == {}
    assert found.best.ndcg is not None and found.default.ndcg is not None and found.best.ndcg >= found.default.ndcg


def test_every_second_trial_keeps_the_best_embeddings(
    log: EventLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = faked(monkeypatch, lambda settings, seed: 0.4 if settings["embed"].get("window", 20) > 19 else 0.3)
    heedful.tune(log, tmp_path / "t", trials=12, search=("embed", "depth"), pool=20)
    assert all(call["embed"] == {} for call in calls[3:12:2])  # that of the first trial, which nothing beats
    assert any(call["embed"] for call in calls[2:12:2])


def test_the_sampler_gets_better(log: EventLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    faked(monkeypatch, shallow)
    found = heedful.tune(log, tmp_path / "t", trials=40, search=("depth", "null_tokens"), pool=20)
    early, late = ([trial.ndcg or 0 for trial in part] for part in (found.trials[2:12], found.trials[-10:]))
    assert np.mean(late) > np.mean(early) + 0.005
    assert found.train["depth"] == 5 and found.confirmed


# Interrupts, failures, other logs


def test_a_search_that_was_stopped_goes_on_as_if_it_was_not(
    log: EventLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faked(monkeypatch, shallow)
    options: dict[str, Any] = {"trials": 16, "pool": 20, "search": ("train", "embed.window")}
    whole = heedful.tune(log, tmp_path / "whole", **options)
    count = [0]

    def stopping(settings: dict[str, dict[str, Any]], seed: int) -> float:
        count[0] += 1
        if count[0] in (1, 4, 5, 14):
            raise KeyboardInterrupt
        return shallow(settings, seed)

    faked(monkeypatch, stopping)
    for _ in range(4):
        with pytest.raises(KeyboardInterrupt):
            heedful.tune(log, tmp_path / "parts", **options)
        assert not (tmp_path / "parts").exists()
    parts = heedful.tune(log, tmp_path / "parts", **options)
    assert values_of(parts.trials) == values_of(whole.trials) and parts.gain == whole.gain
    more = heedful.tune(log, tmp_path / "parts", **{**options, "trials": 18})
    assert values_of(more.trials[:16]) == values_of(whole.trials) and len(more.trials) == 18
    assert len(heedful.tune(log, tmp_path / "parts", **{**options, "trials": 18}).trials) == 18


def test_real_trainings_give_the_same_again(log: EventLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    short(monkeypatch, steps=3, epochs=1)
    options: dict[str, Any] = {"trials": 3, "pool": 20, "search": ("embed.window", "null_tokens"), "threads": 1}
    once = heedful.tune(log, tmp_path / "once", **options)
    heedful.tune(log, tmp_path / "twice", **{**options, "trials": 2})
    assert values_of(heedful.tune(log, tmp_path / "twice", **options).trials) == values_of(once.trials)


def test_trials_that_fail_are_counted(log: EventLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(settings: dict[str, dict[str, Any]], seed: int) -> float:
        if zlib.crc32(str(settings).encode()) % 2 and settings["train"]:
            raise TrainingError("the training loss became nan")
        return shallow(settings, seed)

    faked(monkeypatch, failing)
    found = heedful.tune(log, tmp_path / "t", trials=12, search=("train",), pool=20)
    failed = [trial for trial in found.trials if trial.problem]
    assert 0 < len(failed) < 11 and all(trial.ndcg is None for trial in failed)
    assert failed[0].problem == "TrainingError: the training loss became nan"
    assert f"12 trials, {len(failed)} of them failed" in str(found)


def test_defaults_that_fail_end_the_search(log: EventLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(settings: Any, seed: int) -> float:
        raise TrainingError("there is nothing to learn from")

    faked(monkeypatch, failing)
    with pytest.raises(TrainingError, match="nothing to learn from"):
        heedful.tune(log, tmp_path / "t", trials=12, pool=20)
    faked(monkeypatch, shallow)
    assert len(heedful.tune(log, tmp_path / "t", trials=2, pool=20).trials) == 2


def test_the_best_fails_when_it_is_repeated(log: EventLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(settings: dict[str, dict[str, Any]], seed: int) -> float:
        if settings["train"] and seed == 2:
            raise MemoryError
        return 0.4 + 0.1 * bool(settings["train"])

    faked(monkeypatch, failing)
    found = heedful.tune(log, tmp_path / "t", trials=2, search=("depth",), pool=20)
    assert found.gain is None and "Trial 1 failed when it was repeated with another seed." in str(found)


def test_another_log_or_other_options(log: EventLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    faked(monkeypatch, shallow)
    options: dict[str, Any] = {"trials": 2, "search": ("depth",), "pool": 20}
    heedful.tune(log, tmp_path / "t", **options)
    for other, changed, named in (
        (random_log(1, users=120, items=50, events=40), {}, "different: log;"),
        (log, {"seed": 2}, "different: log, seed;"),
        (log, {"search": ("null_tokens",)}, "different: defaults, ranges, search;"),
        (log, {"alpha": 0.05}, "different: alpha;"),
    ):
        with pytest.raises(ConfigError, match=named):
            heedful.tune(other, tmp_path / "t", **{**options, **changed})
    assert heedful.tune(log, tmp_path / "t", **{**options, "minutes": 5, "threads": 1, "trials": 3}).config.minutes == 5
    anew = heedful.tune(log, tmp_path / "t", overwrite=True, **{**options, "seed": 2})
    assert len(anew.trials) == 2


def test_what_is_in_the_way(log: EventLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    faked(monkeypatch, shallow)
    log.save(tmp_path / "s")
    with pytest.raises(FolderError, match="is in the way; got: a folder of sequences"):
        heedful.tune(log, tmp_path / "s", trials=2, pool=20)
    heedful.tune(log, tmp_path / "t", trials=2, pool=20)
    (tmp_path / "t.study").rename(tmp_path / "moved")
    with pytest.raises(FolderError, match="t exists already"):
        heedful.tune(log, tmp_path / "t", trials=2, pool=20)
    (tmp_path / "u.study").mkdir()
    (tmp_path / "u.study" / "journal.log").write_text('{"op_code": "nonsense"}\n')
    with pytest.raises(FolderError, match=r"trials in .*u\.study cannot be read"):
        heedful.tune(log, tmp_path / "u", trials=2, pool=20)


def test_time_is_limited(
    log: EventLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    faked(monkeypatch, shallow)
    monkeypatch.setitem(_state, "shown", True)
    found = heedful.tune(log, tmp_path / "t", trials=30, minutes=1e-6, pool=20)
    assert len(found.trials) == 2  # the defaults and one other, however little time there is
    assert "no time for another trial, which lately took 0.0 minutes" in capsys.readouterr().err


def test_without_optuna(log: EventLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'heedful\[tune\]'"):
        heedful.tune(log, tmp_path / "t")


# Validation users, and what is never seen


def test_validation_users_and_days(log: EventLog) -> None:
    config = TuneConfig(days=20, validation_users=15, pool=20, users=100)
    validation = Validation.of(log, config)
    assert validation.sampled and 90 < len(validation.training.users) <= 100
    selection, confirmation = (set(pools.users.to_pylist()) for pools in (validation.selection, validation.confirmation))
    assert len(selection) == len(confirmation) == 15 and not selection & confirmation
    assert validation.period[0] > int(validation.training.histories.times.max())
    assert validation.period[1] - validation.period[0] < 20 * DAY
    assert Validation.of(log, config).data == validation.data != Validation.of(log, replace(config, seed=2)).data


def test_the_test_period_changes_nothing(log: EventLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole log with `cut` is the same as the log before the cut alone: the same validation users, pools and trials."""
    cut = START + 80 * DAY
    past, future = log.split(cut, days=20)
    config = TuneConfig(pool=20)
    assert Validation.of(before(log, cut), config).data == Validation.of(past, config).data
    assert before(past, cut) is past and before(log, None) is log
    assert Validation.of(log, config).data != Validation.of(past, config).data
    faked(monkeypatch, shallow)
    found = heedful.tune(log, tmp_path / "t", cut=cut, trials=2, pool=20)
    assert found.period[1] < cut <= int(future.histories.times.min())
    assert len(heedful.tune(past, tmp_path / "t", trials=2, pool=20).trials) == 2  # the same search


def test_kinds_count_in_training_and_validation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = random_log(users=120, items=50, events=40, kind_names=("view", "buy"))
    calls = faked(monkeypatch, lambda settings, seed: 0.4)
    found = heedful.tune(log, tmp_path / "t", trials=2, pool=20, target_kinds=("buy",), search=("depth",))
    assert all(call["train"]["target_kinds"] == ("buy",) for call in calls)
    assert found.train == {"target_kinds": ("buy",)}
    positives = Validation.of(log, found.config).selection.positives.lengths
    assert 0 < positives.sum() < Validation.of(log, TuneConfig(pool=20)).selection.positives.lengths.sum()
    with pytest.raises(ConfigError, match="gift"):
        heedful.tune(log, tmp_path / "u", target_kinds=("gift",))


def test_too_few_validation_users(log: EventLog, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"too few validation users|nobody can be tested"):
        heedful.tune(log_of([[0, 1, 2, 3]] * 3, n_items=6), tmp_path / "t", days=1)
    assert not (tmp_path / "t.study").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"trials": 1}, "'trials' is out of range"),
        ({"alpha": 0}, "'alpha' is out of range"),
        ({"gammas": ()}, "'gammas' is out of range"),
        ({"days": 0}, "'days' is out of range"),
        ({"validation_users": 0}, "'validation_users' is out of range"),
        ({"minutes": -1}, "'minutes' is out of range"),
        ({"wings": 2}, "unknown option for TuneConfig; got: wings"),
        ({"search": ("wings",)}, "that option is not searched; got: wings"),
    ],
)
def test_options_out_of_range(log: EventLog, tmp_path: Path, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as raised:
        search.tune(log, tmp_path / "t", **options)
    assert words in str(raised.value)
    assert not (tmp_path / "t.study").exists()


# Other models


def drifting_log() -> EventLog:
    """What goes together changes after 50 of 67 days, so that training on the old days alone misleads."""
    log = taste_log()
    late = log.histories.times >= START + 50 * DAY
    moved = np.where(late, (log.histories.items * 7 + 3) % 400, log.histories.items).astype(np.int32)
    return replace(log, histories=replace(log.histories, items=moved))


def test_a_rival_is_tuned_on_the_same_days(tmp_path: Path) -> None:
    log = drifting_log()
    options = {"pool": 50, "seed": 3, "search": ("half_life", "recency", "recent_days")}
    found = heedful.tune(log, tmp_path / "t", model="cosine", trials=8, **options)
    trained = CosineNeighbours().fit(Validation.of(log, TuneConfig(model="cosine", pool=50, seed=3)).training)
    assert set(found.best.values) == {"cosine.half_life", "cosine.recency", "cosine.recent_days"}
    assert found.default.values == {"cosine.half_life": 0.0, "cosine.recency": 0.0, "cosine.recent_days": 28.0}
    assert found.best.ndcg is not None and found.default.ndcg is not None and found.best.ndcg > found.default.ndcg
    assert trained.last_time < found.period[0]
    text = (tmp_path / "t" / "tuned.toml").read_text()
    assert "[cosine]" in text and "[embed]" in text
    assert not (tmp_path / "t.study" / "embeddings").exists()


@pytest.mark.parametrize("model", ["recent-popularity", "ease", "bm25", "averaging"])
def test_a_trial_is_the_model_with_its_settings(
    log: EventLog, tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    short(monkeypatch, steps=5, epochs=1)
    config = TuneConfig(model=model, pool=20, threads=1)
    validation, (name, domain) = Validation.of(log, config), next(iter(_OF_MODELS[model].items()))
    value = domain.values[0] if isinstance(domain, Choice) else domain.low
    settings: dict[str, dict[str, Any]] = {"embed": {}, "train": {}, model: {name: value}}
    got = validation.ndcg(settings, validation.selection, seed=5, folder=tmp_path)
    ranker = ALL_MODELS[model](**{name: value}, **({"seed": 5} if model == "averaging" else {}))
    items = validation.embeddings({}, seed=5, folder=tmp_path) if model == "averaging" else None
    ranker.fit(validation.training, items)  # type: ignore[arg-type]
    pools = validation.selection
    users = slice(0, len(pools))
    histories = pools.histories(validation.all_users, users).with_rows(
        ranker.items.rows(validation.all_users.catalog.items.ids)
    )
    candidates = pools.candidates(0.0, users).with_rows(ranker.items.rows(pools.items.ids))
    scores = pools.reveal(ranker.score_rows(histories, candidates, pool_gamma=0.0), 0.0, users)
    ranks = nested_ranks(scores, candidates.offsets, pools.positives.lengths, (int(candidates.lengths.max()),))[0]
    np.testing.assert_allclose(got[:, pools.gammas.index(0.0)], ndcg(ranks), atol=1e-6)
