"""The clock of EASE and of the neighbours, against plain sums in double precision."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from heedful.errors import ConfigError
from heedful.events.log import EventLog
from heedful.rankers.external.clock import ClockRanker
from heedful.rankers.external.ease import EASE
from heedful.rankers.external.neighbours import BM25Neighbours, CosineNeighbours
from ranking_worlds import DAY, START, log_of, random_log

N_ITEMS = 30
CLOCK = {"half_life": 20.0, "history_half_life": 5.0, "recency": 0.5, "recent_days": 15.0}
KINDS: dict[str, tuple[type[ClockRanker], dict[str, Any]]] = {
    "ease": (EASE, {"regularization": 2.0}),
    "cosine": (CosineNeighbours, {"neighbours": N_ITEMS}),
    "bm25": (BM25Neighbours, {"neighbours": N_ITEMS}),
}


@pytest.fixture(params=list(KINDS))
def kind(request: pytest.FixtureRequest) -> tuple[type[ClockRanker], dict[str, Any]]:
    return KINDS[request.param]


def users(log: EventLog) -> list[list[tuple[int, int]]]:
    """Each user's (item, time), oldest first."""
    parts = (part for _, part in log.histories.chunks(1))
    return [list(zip(part.items.tolist(), part.times.tolist(), strict=True)) for part in parts]


def weights(log: EventLog, half_life: float, least: float = 0.0) -> np.ndarray:
    end = max(time for user in users(log) for _, time in user) + 1
    matrix = np.zeros((len(log.users), N_ITEMS))
    for row, user in enumerate(users(log)):
        for item, time in user:
            weight = max(2 ** (-(end - time) / DAY / half_life), least) if half_life else 1.0
            matrix[row, item] = max(matrix[row, item], weight)
    return matrix


def ease_weights(x: np.ndarray, penalty: float) -> np.ndarray:
    inverse = np.linalg.inv(x.T @ x + penalty * np.eye(N_ITEMS))
    found = -inverse / np.diag(inverse)
    np.fill_diagonal(found, 0)
    return found


def cosines(x: np.ndarray) -> np.ndarray:
    unit = x / np.linalg.norm(x, axis=0)
    return np.asarray(unit.T @ unit)


def trend(log: EventLog, days: float) -> np.ndarray:
    end = max(time for user in users(log) for _, time in user) + 1
    recent, ever = np.zeros(N_ITEMS), np.zeros(N_ITEMS)
    for user in users(log):
        for item in {item for item, time in user if time >= end - days * DAY}:
            recent[item] += 1
        for item in {item for item, _ in user}:
            ever[item] += 1
    return np.asarray(np.log(recent + 0.5) - np.log(ever + 0.5))


def fused(sums: np.ndarray, recency: float, slope: np.ndarray) -> np.ndarray:
    rows = [np.log(np.maximum(row, 0) / np.quantile(np.maximum(row, 0), 0.99) + 0.02) + recency * slope for row in sums]
    return np.stack(rows)


def test_training_actions_and_past_items_decay() -> None:
    log = random_log(users=50, items=N_ITEMS)
    past = weights(log, 5.0, least=0.05)
    assert (past == 0.05).any()
    options = {"half_life": 20.0, "history_half_life": 5.0}
    ease = EASE(regularization=2.0, **options).fit(log)
    expected = ease_weights(weights(log, 20.0), 2.0)
    np.testing.assert_allclose(ease.weights, expected, atol=1e-5)
    np.testing.assert_allclose(ease.score_catalogue(log.histories), past @ expected, atol=1e-4)
    cosine = CosineNeighbours(neighbours=N_ITEMS, **options).fit(log)
    expected = past @ cosines(weights(log, 20.0))
    np.testing.assert_allclose(cosine.score_catalogue(log.histories), expected, atol=1e-4)


def test_bm25_takes_the_weights_for_frequencies() -> None:
    log = random_log(users=50, items=N_ITEMS)
    ranker = BM25Neighbours(neighbours=N_ITEMS, saturation=2.0, length_weight=0.5, half_life=20.0).fit(log)
    x = weights(log, 20.0)
    length = x.sum(axis=0) / x.sum(axis=0).mean()
    # implicit counts how many items a user has, whatever they weigh.
    rarity = np.log(N_ITEMS) - np.log1p((x > 0).sum(axis=1))
    value = x * 3 / (2 * (0.5 + 0.5 * length) + x) * rarity[:, None]
    expected = weights(log, 0.0) @ (value.T @ value)
    np.testing.assert_allclose(ranker.score_catalogue(log.histories), expected, atol=1e-3, rtol=1e-4)


def test_what_is_popular_lately_ranks_higher() -> None:
    log = random_log(users=50, items=N_ITEMS)
    slope = trend(log, 15.0)
    for ranker, learnt in (
        (EASE(regularization=2.0, recency=0.7, recent_days=15.0), ease_weights(weights(log, 0.0), 2.0)),
        (CosineNeighbours(neighbours=N_ITEMS, recency=0.7, recent_days=15.0), cosines(weights(log, 0.0))),
    ):
        got = ranker.fit(log).score_catalogue(log.histories)
        np.testing.assert_allclose(got, fused(weights(log, 0.0) @ learnt, 0.7, slope), atol=1e-3)


def test_where_hardly_anything_is_relevant_the_scale_is_the_largest_sum() -> None:
    pairs = [[2 * n, 2 * n + 1] for n in range(300)]
    log = log_of(pairs)
    got = CosineNeighbours(recency=1.0).fit(log).score(["item0"], ["item1", "item2"])
    np.testing.assert_allclose(got, np.log([1.02, 0.02]), atol=1e-5)


def test_items_that_ease_has_not_learnt_rise_with_their_trend() -> None:
    times = [[START, START + DAY]] * 30 + [[START + 90 * DAY, START + 91 * DAY]] * 3
    log = log_of([[0, 1]] * 10 + [[0, 2]] * 10 + [[1, 2]] * 10 + [[3, 4]] * 2 + [[3, 0]], times)
    plain = EASE(top_items=3, regularization=1.0).fit(log).score(["item0"], [f"item{n}" for n in range(5)])
    assert plain[[3, 4]].max() < plain[:3].min() and plain[3] > plain[4]
    clock = EASE(top_items=3, regularization=1.0, recency=0.5).fit(log)
    got = clock.score(["item0"], [f"item{n}" for n in range(5)])
    # Recent and all users: 3 and 3 of item 3, 2 and 2 of item 4; the learnt ones have 21, 20 and 20 users.
    floor = 0.02 * np.array([3, 2]) / ((21 + 20 + 20) / 3)
    np.testing.assert_allclose(got[3:], np.log(floor), atol=1e-5)
    # Nobody touches item 2 any more, yet it goes with item 0.
    assert got[2] == pytest.approx(np.log(1.02) + 0.5 * np.log(0.5 / 20.5), abs=0.05)


def test_without_a_clock_time_changes_nothing(kind: tuple[type[ClockRanker], dict[str, Any]]) -> None:
    model, options = kind
    log = random_log(users=50, items=N_ITEMS)
    histories = log.histories
    shifted = replace(histories, times=histories.times - (histories.times - START) // 2)
    first = model(**options).fit(log).score_catalogue(histories)
    second = model(**options).fit(replace(log, histories=shifted)).score_catalogue(shifted)
    np.testing.assert_array_equal(first, second)


def test_the_future_changes_nothing(kind: tuple[type[ClockRanker], dict[str, Any]]) -> None:
    """Two logs that are the same up to a day and differ after it give the same ranker on that day."""
    model, options = kind
    log, cut = random_log(users=50, items=N_ITEMS), START + 70 * DAY
    late = log.histories.times >= cut
    assert late.any()
    other = replace(log.histories, items=np.where(late, 0, log.histories.items).astype(np.int32))
    rankers = [
        model(**options, **CLOCK).fit(replace(log, histories=histories).split(str(cut), days=100)[0])
        for histories in (log.histories, other)
    ]
    past = log.split(str(cut), days=100)[0].histories
    np.testing.assert_array_equal(*(ranker.score_catalogue(past) for ranker in rankers))


def test_an_action_after_the_log_weighs_most(kind: tuple[type[ClockRanker], dict[str, Any]]) -> None:
    """The age of an item is counted from the user's last action where that is after the end of the log."""
    model, options = kind
    ranker = model(**options, history_half_life=5.0).fit(random_log(users=50, items=N_ITEMS))
    names = ranker.items.ids.to_pylist()
    day = ranker.last_time + 100 * DAY

    def score(*history: tuple[int, int]) -> np.ndarray:
        items, times = zip(*history, strict=True)
        return ranker.score([names[item] for item in items], names, history_times=list(times))

    np.testing.assert_allclose(
        score((3, day - 5 * DAY), (4, day)), 0.5 * score((3, day)) + score((4, day)), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("name", ["half_life", "history_half_life", "recency", "recent_days"])
def test_options_out_of_range(name: str, kind: tuple[type[ClockRanker], dict[str, Any]]) -> None:
    for value in (-1.0, float("nan"), float("inf"), *([0.0] if name == "recent_days" else [])):
        with pytest.raises(ConfigError, match=f"option '{name}' is out of range"):
            kind[0](**{name: value})
