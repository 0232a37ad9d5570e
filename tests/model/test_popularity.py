"""Popularity over time against a slow reference, and against knowledge of the future."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heedful.events.histories import Histories
from heedful.model.popularity import N_POPULARITY_FEATURES, PopularityIndex
from heedful.training.negatives import draw_as_of, log_probability
from ranking_worlds import DAY, START, histories_of, random_log

N_ITEMS = 40
WINDOWS = 8


def world(seed: int = 0, users: int = 30) -> Histories:
    return random_log(seed, users=users, items=N_ITEMS).histories


def actions(histories: Histories, first_only: bool) -> list[tuple[int, int]]:
    """(item, time) of all actions, or of each user's first with the item."""
    found = []
    for u in range(len(histories)):
        seen: set[int] = set()
        for n in range(histories.offsets[u], histories.offsets[u + 1]):
            item = int(histories.items[n])
            if not first_only or item not in seen:
                found.append((item, int(histories.times[n])))
            seen.add(item)
    return found


def slow_features(histories: Histories, item: int, now: int) -> tuple[list[float], float]:
    span = int(histories.times.max()) + 1 - int(histories.times.min())
    features, log_share = [], 0.0
    for first_only in (True, False):
        before = [(i, t) for i, t in actions(histories, first_only) if t < now]
        own = sorted(t for i, t in before if i == item)
        levels, rises = [], []
        for w in range(WINDOWS):
            since = now - int(span / 2 ** (w + 1))
            recent, of_all = sum(t >= since for t in own), sum(t >= since for _, t in before)
            expected = len(own) * of_all / max(len(before), 1)
            levels.append(0.5 * math.log(1 + recent))
            rises.append(0.7 * math.log((recent + 1) / (expected + 1)))
        ages = [0.4 * math.log(1 + 256 * (now - t) / span) - 1 for t in (own[0], own[-1])] if own else [-2.0, 2.0]
        features += [*levels, *rises, 0.3 * math.log(1 + len(own)), *ages]
        if first_only:
            log_share = math.log((len(own) + 0.5) / (len(before) + 1))
    return features, log_share


def test_features_are_the_slow_ones() -> None:
    histories = world()
    index = PopularityIndex(histories, N_ITEMS + 3)
    randoms = np.random.default_rng(0)
    rows = randoms.integers(0, N_ITEMS + 3, 60)
    # Times at random, at the very time of an event, before the first and after the last.
    at = np.concatenate(
        [START + randoms.integers(0, 100 * DAY, 30), randoms.choice(histories.times, 20), [START - 5] * 5, [index.end] * 5]
    )
    features, log_share = index.features(rows, at)
    assert features.shape == (60, N_POPULARITY_FEATURES)
    for n in range(60):
        expected, share = slow_features(histories, int(rows[n]), int(at[n]))
        assert features[n].tolist() == pytest.approx(expected, rel=1e-4, abs=1e-4)
        assert log_share[n] == pytest.approx(share, rel=1e-5)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 100 * DAY), st.integers(0, 2**32))
def test_nothing_at_or_after_the_time_counts(seed: int, after: int, scramble: int) -> None:
    """Whatever else had happened from then on, features and negatives are the same."""
    histories, now = world(seed, users=12), START + after
    randoms = np.random.default_rng(scramble)
    items, later = histories.items.copy(), histories.times >= now
    items[later] = randoms.integers(0, N_ITEMS, later.sum())
    times = histories.times.copy()
    # The period must stay as it is, since it sets the windows: only events between its ends move.
    inner = later & (times < times.max()) & (times > times.min())
    for u in range(len(histories)):
        own = np.arange(histories.offsets[u], histories.offsets[u + 1])
        own = own[inner[own]]
        if len(own):
            low = max(now, int(times.min()))
            times[own] = np.sort(randoms.integers(low, times.max(), len(own)))
    changed = Histories(histories.offsets, items, times, histories.kinds)
    rows, at = np.arange(N_ITEMS), np.full(N_ITEMS, now)
    bits = randoms.integers(2**64, size=300, dtype=np.uint64)
    first, second = PopularityIndex(histories, N_ITEMS), PopularityIndex(changed, N_ITEMS)
    assert first.span == second.span
    for one, other in zip(first.features(rows, at), second.features(rows, at), strict=True):
        assert np.array_equal(one, other)
    drawn = [draw_as_of(index, np.full(300, now), bits) for index in (first, second)]
    # Among those born at the same second the order is free; here no item is.
    assert np.array_equal(drawn[0], drawn[1])


def test_negatives_are_half_by_popularity_half_even() -> None:
    histories = world()
    index = PopularityIndex(histories, N_ITEMS)
    now = START + 60 * DAY
    n = 200_000
    drawn = draw_as_of(index, np.full(n, now), np.random.default_rng(1).integers(2**64, size=n, dtype=np.uint64))
    counts = np.zeros(N_ITEMS)
    for item, time in actions(histories, first_only=True):
        counts[item] += time < now
    expected = 0.5 * counts / counts.sum() + 0.5 * (counts > 0) / (counts > 0).sum()
    got = np.bincount(drawn, minlength=N_ITEMS)
    assert (got[expected == 0] == 0).all()
    known = expected > 0
    chi_square = ((got - n * expected)[known] ** 2 / (n * expected)[known]).sum()
    degrees = known.sum() - 1
    assert chi_square < degrees + 5 * math.sqrt(2 * degrees)
    # and that is the probability it is said to be, but for the smoothing of the share
    log_share = index.features(np.arange(N_ITEMS), np.full(N_ITEMS, now))[1]
    said = np.exp(log_probability(index, log_share, np.full(N_ITEMS, now)))
    assert said[known] == pytest.approx(expected[known], rel=0.5, abs=2e-3)


def test_before_anything_is_known_nothing_is_drawn() -> None:
    index = PopularityIndex(world(), N_ITEMS)
    drawn = draw_as_of(index, np.full(9, START - 1), np.arange(9, dtype=np.uint64) << np.uint64(60))
    assert (drawn == -1).all()


def test_one_event() -> None:
    index = PopularityIndex(histories_of([[0]]), 2)
    features, log_share = index.features(np.array([0, 1]), np.full(2, index.end))
    assert np.isfinite(features).all() and np.isfinite(log_share).all()
    assert log_share[0] > log_share[1]


def test_a_saved_index_answers_like_the_one_that_was_saved(tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    offsets = np.array([0, 40, 40, 100])
    times = np.concatenate([np.sort(random.integers(0, 10**6, n)) for n in (40, 0, 60)])
    histories = Histories(offsets, random.integers(0, 9, 100).astype(np.int32), times, np.zeros(100, np.uint8))
    index = PopularityIndex(histories, 9)
    index.save(tmp_path)
    loaded = PopularityIndex.load(tmp_path)
    rows, at = np.repeat(np.arange(9), 5), np.tile(np.linspace(1, 10**6, 5).astype(np.int64), 9)
    for found, expected in zip(loaded.features(rows, at), index.features(rows, at), strict=True):
        np.testing.assert_array_equal(found, expected)
    bits = random.integers(2**64, size=45, dtype=np.uint64)
    np.testing.assert_array_equal(draw_as_of(loaded, at, bits), draw_as_of(index, at, bits))
    assert (loaded.end, loaded.span) == (index.end, index.span)
