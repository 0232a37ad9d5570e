"""Popularity that goes on after training is what a refresh counts from the same events."""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from heedful.embeddings.table import ItemEmbeddings
from heedful.events.histories import Histories
from heedful.events.log import EventLog
from heedful.model.popularity import PopularityIndex, features_at
from heedful.model.touches import Later, Touches
from heedful.rankers.attention import AttentionRanker
from heedful.rankers.base import Ranker
from heedful.rankers.counting_on import counted_on
from heedful.rankers.mixed import MixedRanker
from heedful.rankers.neural import NeuralRanker
from heedful.rankers.recent_popularity import RecentPopularity
from heedful.rankers.refreshing import refreshed
from heedful.rankers.registry import MODELS, load_ranker
from heedful.recommending.recommend import Recommender
from heedful.recommending.retrieval import Retriever
from ranking_worlds import DAY, QUICK, START, histories_of, log_of, random_log, table_of

N_ITEMS = 60
CUT = START + 80 * DAY


@cache
def whole() -> EventLog:
    return random_log(items=N_ITEMS, users=120)


@cache
def past() -> EventLog:
    return whole().split(CUT, days=1)[0]


@cache
def table() -> ItemEmbeddings:
    return table_of(past().catalog.items.ids)


@cache
def fitted(name: str) -> Ranker:
    return MODELS[name](**QUICK[name]).fit(past(), table())


def later(ranker: Ranker, log: EventLog, parts: int = 1, *, shuffled: bool = False) -> Touches:
    """The ranker's touches, and those of a log after its end, in some parts, as a server learns of them."""
    assert ranker.touches is not None
    counting, before = Later(ranker.touches), {}
    histories = log.histories.with_rows(ranker.items.rows(log.catalog.items.ids))
    new = []
    for user in range(len(histories)):
        one = histories.part(slice(user, user + 1))
        for row, time in zip(one.items.tolist(), one.times.tolist(), strict=True):
            if time > ranker.last_time:
                new.append((f"u{user}", row, time))
            else:
                before[f"u{user}", row] = time
    new.sort(key=lambda touch: touch[2])
    if shuffled:
        np.random.default_rng(0).shuffle(new)  # type: ignore[arg-type]
    new = [(str(user), int(row), int(time)) for user, row, time in new]
    for places in np.array_split(np.arange(len(new)), parts):
        counting.add([new[place] for place in places], before)
    return counting.touches


@pytest.mark.parametrize("parts,shuffled", [(1, False), (7, False), (5, True)])
@pytest.mark.parametrize("name", ["mixed", "attention", "averaging", "recent-popularity"])
def test_it_is_what_a_refresh_counts(name: str, parts: int, shuffled: bool) -> None:
    ranker = fitted(name)
    expected, _ = refreshed(ranker, whole())
    now = expected.last_time + 1
    live = counted_on(ranker, later(ranker, whole(), parts, shuffled=shuffled), now)
    np.testing.assert_array_equal(live.users_of_item, expected.users_of_item)
    np.testing.assert_array_equal(live.cold_start_scores(), expected.cold_start_scores())
    assert live.last_time == expected.last_time
    if isinstance(live, RecentPopularity) and isinstance(expected, RecentPopularity):
        np.testing.assert_array_equal(live.recent, expected.recent)
    if isinstance(live, MixedRanker) and isinstance(expected, MixedRanker):
        assert live.stage is not None and expected.stage is not None
        ours, theirs = live.stage.snapshot.items, expected.stage.snapshot.items
        assert ours.names == theirs.names
        np.testing.assert_allclose(ours.values, theirs.values, rtol=1e-6)
        for field in ("users", "recent_users", "born"):
            np.testing.assert_array_equal(getattr(ours, field), getattr(theirs, field))
        live, expected = live.ranker, expected.ranker  # type: ignore[assignment]
    for term, values in getattr(live, "at_time", {}).items():
        np.testing.assert_allclose(values, expected.at_time[term], rtol=1e-4, atol=1e-5)  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["mixed", "attention", "recent-popularity"])
def test_the_counts_of_training_are_kept_in_the_folder(name: str, tmp_path: Path) -> None:
    ranker = fitted(name)
    ranker.save(tmp_path / "model", pack=True)
    loaded = load_ranker(tmp_path / "model")
    now = int(whole().histories.times.max()) + 1
    ours, theirs = (counted_on(one, later(one, whole()), now) for one in (loaded, ranker))
    np.testing.assert_array_equal(ours.cold_start_scores(), theirs.cold_start_scores())
    histories = loaded.histories_of([["item1", "item2"]])
    np.testing.assert_array_equal(ours.score_catalogue(histories), theirs.score_catalogue(histories))


def test_without_news_and_at_the_end_of_the_log_nothing_changes() -> None:
    for name in ("mixed", "attention", "recent-popularity"):
        ranker = fitted(name)
        assert ranker.touches is not None
        same = counted_on(ranker, ranker.touches, ranker.last_time + 1)
        histories = ranker.histories_of([["item1", "item2"], []])
        np.testing.assert_allclose(same.score_catalogue(histories), ranker.score_catalogue(histories), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("back", [0, 3600, 20 * DAY])
def test_features_are_those_of_the_index(seed: int, back: int) -> None:
    histories = random_log(seed, items=20, users=15, events=6).histories
    now = int(histories.times.max()) + 1 + back
    index = PopularityIndex(histories, 23)
    expected = index.features(np.arange(23), np.full(23, now))
    got = features_at(Touches.of(histories, 23), now, index.span)
    for ours, theirs in zip(got, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def test_an_item_that_nobody_touched_before() -> None:
    counting = Later(Touches.of(histories_of([[0, 0, 2]]), 4))
    assert counting.touches.users.tolist() == [1, 0, 1, 0]
    counting.add([("ann", 1, START + 9 * DAY), ("bob", 1, START + 8 * DAY), ("ann", 1, START + 7 * DAY)], {})
    touches = counting.touches
    assert touches.users.tolist() == [1, 2, 1, 0]
    assert touches.first.ends(-1, -1)[0].tolist() == [START, START + 7 * DAY, START + 2 * DAY, -1]
    last = touches.last.ends(-1, -1)[1]
    assert last.tolist() == [START + DAY, START + 9 * DAY, START + 2 * DAY, -1]
    assert touches.first.since(np.array([START + 8 * DAY]))[0].tolist() == [0, 1, 0, 0]
    assert touches.last.since(np.array([START + 9 * DAY]))[0].tolist() == [0, 1, 0, 0]
    assert touches.every.since(np.array([0]))[0].tolist() == [2, 3, 1, 0]


def test_a_pair_of_the_log_is_not_counted_again() -> None:
    counting = Later(Touches.of(histories_of([[0, 0, 2], [0]]), 3))
    counting.add([("ann", 0, START + 9 * DAY)], {("ann", 0): START + DAY})
    assert counting.touches.users.tolist() == [2, 0, 1]
    assert counting.touches.last.since(np.array([START + 2 * DAY]))[0].tolist() == [1, 0, 1]
    assert counting.touches.last.since(np.array([0]))[0].tolist() == [2, 0, 1]


def test_a_pair_that_the_log_lacks_is_new() -> None:
    """What is stored of a user from before the end of the log need not have been in it."""
    counting = Later(Touches.of(histories_of([[0, 0, 2]]), 3))
    counting.add([("bob", 0, START + 9 * DAY)], {("bob", 0): START + 5 * DAY})
    assert counting.touches.users.tolist() == [2, 0, 1]


def test_popularity_of_chosen_kinds_is_not_counted_on() -> None:
    log = random_log(items=N_ITEMS, kind_names=("view", "purchase"))
    options: dict[str, Any] = {**QUICK["attention"], "history_kinds": ("purchase",), "target_kinds": ("purchase",)}
    assert AttentionRanker(**options).fit(log, table_of(log.catalog.items.ids)).touches is None


def test_without_a_history_the_items_of_most_users_of_late_come_first() -> None:
    ranker = fitted("mixed")
    assert isinstance(ranker, MixedRanker) and ranker.stage is not None
    histories, since = past().histories, ranker.last_time + 1 - ranker.stage.snapshot.window
    lately = histories.where(histories.times >= since).distinct(len(ranker.items))
    users = np.bincount(lately.items, minlength=len(ranker.items)) + 1e-6 * past().catalog.users
    items = Recommender(ranker).recommend([], k=4).items
    assert sorted(users[past().catalog.items.rows(items)]) == sorted(np.sort(users)[-4:])
    nobody = Histories(np.array([0, 0]), *(np.empty(0, kind) for kind in (np.int32, np.int64, np.uint8)))
    np.testing.assert_array_equal(ranker.score_catalogue(nobody)[0], ranker.cold_start_scores())


@pytest.mark.parametrize("name", ["attention", "averaging"])
def test_without_a_history_the_trained_rankers_tell_what_is_popular_now(name: str) -> None:
    now = copy.copy(fitted(name))
    assert isinstance(now, NeuralRanker)
    nobody = Histories(np.array([0, 0]), *(np.empty(0, kind) for kind in (np.int32, np.int64, np.uint8)))
    rising = int(np.argmin(now.popularity_now))
    now.at_time = {term: values.copy() for term, values in now.at_time.items()}
    now.at_time["popularity_over_time"][rising] += 20
    expected = now.items.take(np.array([rising])).to_pylist()
    assert expected != Recommender(fitted(name)).recommend([], k=1).items
    assert expected == Recommender(now).recommend([], k=1).items
    assert rising in Retriever(now, candidates=5).retrieve(nobody).rows
    np.testing.assert_array_equal(now.score_catalogue(nobody)[0], now.popularity_now)


def test_recent_popularity_is_the_same_at_a_cold_start() -> None:
    sequences = [[n % 4, (n + 1) % 4] for n in range(60)] + [[0, 4 + n % 2] for n in range(9)]
    times = [[START, START + DAY] for _ in range(60)] + [[START, START + 200 * DAY + n] for n in range(9)]
    log = log_of(sequences, times)
    ranker = RecentPopularity().fit(log)
    assert np.argmax(ranker.users_of_item) < 4
    assert Recommender(ranker).recommend([], k=2).items == ["item4", "item5"]
    np.testing.assert_array_equal(ranker.score([], ["item5", "item1"]), ranker.score(["item1"], ["item5", "item1"]))
