"""Going on from yesterday's weights: fewer steps, honest periods, counts of the newer log."""

import numpy as np
import pyarrow as pa
import pytest

from heedful.embeddings.continuing import continue_embeddings
from heedful.embeddings.skipgram import SkipGram
from heedful.errors import ConfigError
from heedful.events.candidates import Candidates
from heedful.events.log import EventLog
from heedful.rankers import mixed
from heedful.rankers.attention import AttentionRanker
from heedful.rankers.catching_up import caught_up
from heedful.rankers.mixed import MixedRanker
from heedful.rankers.periods import Periods, copy_periods, periods_beside
from heedful.rankers.popularity import Popularity
from heedful.rankers.refreshing import refreshed
from ranking_worlds import DAY, QUICK, heedful, random_log, table_of

EMBEDDING = {"width": 8, "epochs": 5, "threads": 1}


def two_nights():
    """A log, and the same without its last day."""
    log = random_log(users=120, items=40, events=30)
    end = int(log.histories.times.max()) + 1
    return log.split(end - DAY, days=1)[0], log


def weights(ranker):
    return {name: weight.numpy() for name, weight in ranker.model.state_dict().items()}


def scores(ranker, log):
    rows = ranker.items.rows(log.catalog.items.ids)
    known = log.histories.with_rows(rows)
    return ranker.score_rows(known, Candidates.same_for_all(len(known), np.arange(len(ranker.items))))


def test_an_attention_ranker_goes_on_from_its_weights():
    before, log = two_nights()
    table = SkipGram(**EMBEDDING).fit(before)
    first = AttentionRanker(**QUICK["attention"]).fit(before, table)
    tiny = {**first.config.to_dict(), "learning_rate": 1e-12}
    later = AttentionRanker(**tiny).fit(log, table, start=first)
    for name, weight in weights(later).items():
        np.testing.assert_allclose(weight, weights(first)[name], atol=1e-6)
    assert later.report.steps == 4
    assert later.config.steps == first.config.steps
    assert later.last_time > first.last_time


def test_categories_that_are_new_are_learnt_beside_the_known_ones():
    before, log = two_nights()
    colours = pa.table({"colour": ["red", "green"] * 20})
    more = pa.table({"colour": ["red", "green"] * 19 + ["blue", "blue"]})
    ids = before.catalog.items.ids
    old, new = (table_of(ids, attributes=known) for known in (colours.slice(0, len(ids)), more.slice(40 - len(ids))))
    options = {**QUICK["attention"], "features": ("colour",)}
    first = AttentionRanker(**options).fit(before, old)
    later = AttentionRanker(**options).fit(log, new, start=first)
    known = first.inputs.codes.values["colour"]
    assert list(later.inputs.codes.values["colour"])[: len(known)] == list(known)
    assert "blue" in later.inputs.codes.values["colour"]


def test_another_shape_is_refused():
    before, log = two_nights()
    table = table_of(before.catalog.items.ids)
    first = AttentionRanker(**QUICK["attention"]).fit(before, table)
    with pytest.raises(ConfigError, match="other weights"):
        AttentionRanker(**QUICK["attention"] | {"hidden": 16}).fit(log, table, start=first)


@pytest.fixture
def looking(monkeypatch):
    """(time of the period, last event that its ranker knew, whether it was trained) of each ranker of a period."""
    seen = []
    whole = MixedRanker._ranker_before
    trained = []
    train = MixedRanker._trained_before

    def training(self, before, *rest):
        trained.append(True)
        return train(self, before, *rest)

    def watched(self, time, *rest):
        trained.clear()
        ranker = whole(self, time, *rest)
        seen.append((time, ranker.last_time, bool(trained)))
        return ranker

    monkeypatch.setattr(MixedRanker, "_ranker_before", watched)
    monkeypatch.setattr(MixedRanker, "_trained_before", training)
    return seen


def test_rankers_of_periods_are_kept_and_never_know_their_period(tmp_path, looking):
    before, log = two_nights()
    table = SkipGram(**EMBEDDING).fit(before)
    first = MixedRanker(**QUICK["mixed"]).fit(before, table, periods=tmp_path / "periods")
    assert [trained for *_, trained in looking] == [True, True]
    looking.clear()
    later = MixedRanker(**first.config.to_dict())
    later.fit(log, continue_embeddings(table, log), start=first, periods=tmp_path / "periods")
    # A day later the kept rankers are not a whole period old.
    assert [trained for *_, trained in looking] == [False, False]
    assert all(last < time for time, last, _ in looking)
    assert later.stage is not None
    assert np.isfinite(scores(later, log)).all()


def test_a_ranker_that_is_a_whole_period_old_goes_on_training(tmp_path, looking, monkeypatch):
    before, log = two_nights()
    table = SkipGram(**EMBEDDING).fit(before)
    first = MixedRanker(**QUICK["mixed"]).fit(before, table, periods=tmp_path / "periods")
    monkeypatch.setattr(mixed, "window_length", lambda times: DAY // 24)
    looking.clear()
    MixedRanker(**first.config.to_dict()).fit(log, table, start=first, periods=tmp_path / "periods")
    assert all(trained for *_, trained in looking)
    assert all(last < time for time, last, _ in looking)
    # Those that this night did not use are gone.
    kept = Periods(tmp_path / "periods")
    assert kept.latest(min(time for time, *_ in looking) - 1) is None


def test_kept_rankers_are_found_beside_another_model(tmp_path):
    before, _ = two_nights()
    table = table_of(before.catalog.items.ids)
    ranker = AttentionRanker(**QUICK["attention"]).fit(before, table)
    Periods(periods_beside(tmp_path / "old")).put(ranker.last_time + 1, ranker)
    copy_periods(tmp_path / "old", tmp_path / "new")
    found = Periods(periods_beside(tmp_path / "new")).latest(ranker.last_time + 5)
    assert found.time == ranker.last_time + 1
    np.testing.assert_array_equal(scores(found.ranker, before), scores(ranker, before))


@pytest.mark.parametrize("name", ["mixed", "attention", "popularity"])
def test_a_refreshed_ranker_counts_the_newer_log_and_keeps_what_it_learnt(name):
    before, log = two_nights()
    model = {"mixed": MixedRanker, "attention": AttentionRanker, "popularity": Popularity}[name]
    table = SkipGram(**EMBEDDING).fit(before)
    old = model(**QUICK[name]).fit(before, table)
    fresh = caught_up(old, log)
    rows = log.catalog.items.rows(fresh.items.ids)
    np.testing.assert_array_equal(fresh.users_of_item, log.catalog.users[rows])
    assert fresh.last_time == int(log.histories.times.max()) > old.last_time
    if name == "attention":
        again = refreshed(fresh, before)[0]
        np.testing.assert_allclose(scores(again, before), scores(old, before), atol=1e-5)


def test_a_refreshed_ranker_knows_new_items():
    before, log = two_nights()
    lacking = before.catalog.items.ids[0].as_py()
    keep = before.histories.items != 0
    old_log = before._only(keep).compact()
    old = AttentionRanker(**QUICK["attention"]).fit(old_log, SkipGram(**EMBEDDING).fit(old_log))
    assert old.items.rows([lacking])[0] < 0
    fresh = caught_up(old, log)
    row = int(fresh.items.rows([lacking])[0])
    assert fresh.users_of_item[row] > 0
    assert np.isfinite(scores(fresh, log)).all()


def test_the_commands_go_on(tmp_path):
    before, log = two_nights()
    before.save(tmp_path / "before")
    log.save(tmp_path / "log")
    for command in (
        ["embed", "before", "--out", "e0", "--width", 8, "--epochs", 5, "--threads", 1],
        ["embed", "log", "--from", "e0", "--out", "e1"],
        ["train", "attention", "before", "--embeddings", "e0", "--out", "m0", "--steps", 20, "--hidden", 8],
        ["train", "attention", "log", "--embeddings", "e1", "--from", "m0", "--out", "m1"],
    ):
        done = heedful(*command, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    assert "4 steps" in done.stdout
    refused = heedful("train", "mixed", "log", "--embeddings", "e1", "--from", "m0", "--out", "m2", cwd=tmp_path)
    assert "model of another kind" in refused.stderr
    assert EventLog.load(tmp_path / "log").n_events == log.n_events
