"""Encoded histories against a slow reference."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heedful.events.histories import Histories
from heedful.model.encode import HistoryBatch, encode
from ranking_worlds import DAY, START, histories_of

N_ITEMS = 12
LARGEST = 2**31 - 1
# Items that a hash table of up to 2 ** 20 places puts into the same few: multiples of a power of two, and the ends of int32.
COLLIDING = [0, *(1 << power for power in range(31)), *(n << 20 for n in range(2, 40)), LARGEST - 1, LARGEST]

Slow = list[tuple[int, float, float, int]]


def slow_history(items: list[int], times: list[int], kinds: list[int], now: int, most: int) -> Slow:
    """(row, age, count, kind) of the distinct items, newest first."""
    found: dict[int, list[float]] = {}
    for item, time, kind in reversed(list(zip(items, times, kinds, strict=True))):
        if item in found:
            found[item][1] += 1
        elif len(found) < most:
            found[item] = [max(now - time, 0) / DAY, 1, kind]
    return [(item, age, count, int(kind)) for item, (age, count, kind) in found.items()]


def check(batch: HistoryBatch, b: int, expected: Slow) -> None:
    used = int(batch.lengths[b])
    columns = (batch.rows, batch.ages, batch.counts, batch.kinds)
    got = list(zip(*(column[b, :used].tolist() for column in columns), strict=True))
    assert [(row, pytest.approx(age, rel=1e-6), count, kind) for row, age, count, kind in expected] == got
    assert (batch.counts[b, used:] == 0).all() and (batch.rows[b, used:] == 0).all()


def histories_from(randoms, sequences: list[list[int]], kinds: list[list[int]]) -> tuple[Histories, list[list[int]]]:  # type: ignore[no-untyped-def]
    times = [np.cumsum([randoms.randint(0, 3 * DAY) for _ in user]) + START if user else [] for user in sequences]
    return histories_of(sequences, times, kinds), [list(map(int, user)) for user in times]


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from([list(range(N_ITEMS)), COLLIDING, [LARGEST, 0]]),
    st.lists(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 3)), max_size=60), min_size=1, max_size=4),
    st.integers(1, 40),
    st.randoms(use_true_random=False),
)
def test_it_is_the_slow_one(items, world, most, randoms) -> None:  # type: ignore[no-untyped-def]
    sequences = [[items[draw % len(items)] for draw, _ in user] for user in world]
    kinds = [[kind for _, kind in user] for user in world]
    histories, times = histories_from(randoms, sequences, kinds)
    users = np.array([randoms.randrange(len(world)) for _ in range(5)])
    ends = np.array([histories.offsets[u] + randoms.randint(0, len(sequences[u])) for u in users])
    now = np.array([START + randoms.randint(0, 80 * DAY) for _ in users])
    batch = encode(histories, now=now, max_items=most, users=users, ends=ends)
    assert len(batch) == 5 and batch.rows.shape[1] == batch.lengths.max(initial=0)
    for b, u in enumerate(users):
        n = ends[b] - histories.offsets[u]
        check(batch, b, slow_history(sequences[u][:n], times[u][:n], kinds[u][:n], int(now[b]), most))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.tuples(st.integers(0, N_ITEMS - 1), st.integers(0, 3)), max_size=25), max_size=4),
    st.integers(1, 15),
    st.randoms(use_true_random=False),
)
def test_a_user_is_encoded_the_same_in_any_company(world, most, randoms) -> None:  # type: ignore[no-untyped-def]
    sequences = [[item for item, _ in user] for user in world]
    histories, _ = histories_from(randoms, sequences, [[kind for _, kind in user] for user in world])
    now = np.array([START + randoms.randint(0, 80 * DAY) for _ in world], np.int64)
    together = encode(histories, now=now, max_items=most)
    for u in range(len(world)):
        alone = encode(histories, now=now[[u]], max_items=most, users=np.array([u]))
        taken = together.take(np.array([u]))
        for name in ("lengths", "rows", "ages", "counts", "kinds"):
            expected, found = getattr(alone, name), getattr(taken, name)
            assert expected.dtype == found.dtype
            assert np.array_equal(expected, found)


def test_the_table_of_a_long_history_is_full_of_collisions() -> None:
    """Every item twice, in two orders: found again wherever it was put."""
    items = [n << 16 for n in range(2**15)]
    shuffled = np.random.default_rng(0).permutation(items).tolist()
    histories = histories_of([[*shuffled, *items], [LARGEST, 0, LARGEST]])
    batch = encode(histories, now=np.full(2, START), max_items=len(items))
    assert batch.rows[0].tolist() == items[::-1] and (batch.counts[0] == 2).all()
    assert batch.rows[1, :2].tolist() == [LARGEST, 0] and batch.counts[1, :2].tolist() == [2, 1]


def test_the_whole_histories_by_default() -> None:
    histories = histories_of([[3, 1, 3], [], [2]])
    now = np.full(3, START + 2 * DAY)
    batch = encode(histories, now=now, max_items=9)
    assert batch.lengths.tolist() == [2, 0, 1]
    assert batch.rows.tolist() == [[3, 1], [0, 0], [2, 0]]
    assert batch.counts.tolist() == [[2, 1], [0, 0], [1, 0]]
    assert batch.ages.tolist() == [[0, 1], [0, 0], [2, 0]]


def test_an_item_beyond_the_most_recent_ones_is_left_out_with_all_its_actions() -> None:
    histories = histories_of([[0, 1, 0, 2, 1]])
    batch = encode(histories, now=np.array([START]), max_items=2)
    assert batch.rows.tolist() == [[1, 2]] and batch.counts.tolist() == [[2, 1]]


def test_some_users_are_padded_no_longer_than_they_need() -> None:
    batch = encode(histories_of([[0, 1, 2, 3], [4], [5, 6]]), now=np.full(3, START), max_items=9)
    some = batch.take(np.array([2, 1]))
    assert some.rows.tolist() == [[6, 5], [4, 0]] and some.lengths.tolist() == [2, 1]
    assert batch.take(np.zeros(0, np.int64)).rows.shape == (0, 0)
