"""The memory against a slow reference."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heedful.model.encode import encode
from ranking_worlds import DAY, START, histories_of

N_ITEMS = 12


def slow_memory(
    items: list[int], times: list[int], kinds: list[int], now: int, cap: int
) -> list[tuple[int, float, float, int]]:
    """(row, age, count, kind) of the distinct items, newest first."""
    found: dict[int, list[float]] = {}
    for item, time, kind in reversed(list(zip(items, times, kinds, strict=True))):
        if item in found:
            found[item][1] += 1
        elif len(found) < cap:
            found[item] = [max(now - time, 0) / DAY, 1, kind]
    return [(item, age, count, int(kind)) for item, (age, count, kind) in found.items()]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.tuples(st.integers(0, N_ITEMS - 1), st.integers(0, 3)), max_size=25), min_size=1, max_size=4),
    st.integers(1, 15),
    st.randoms(use_true_random=False),
)
def test_it_is_the_slow_one(world, cap, randoms) -> None:  # type: ignore[no-untyped-def]
    sequences = [[item for item, _ in user] for user in world]
    times = [np.cumsum([randoms.randint(0, 3 * DAY) for _ in user]) + START if user else [] for user in world]
    kinds = [[kind for _, kind in user] for user in world]
    histories = histories_of(sequences, times, kinds)
    users = np.array([randoms.randrange(len(world)) for _ in range(5)])
    ends = np.array([histories.offsets[u] + randoms.randint(0, len(sequences[u])) for u in users])
    now = np.array([START + randoms.randint(0, 80 * DAY) for _ in users])
    scratch = np.full(N_ITEMS, -1, np.int64)
    memory = encode(histories, now=now, max_items=cap, scratch=scratch, users=users, ends=ends)
    assert (scratch == -1).all()
    assert len(memory) == 5 and memory.rows.shape[1] == memory.lengths.max(initial=0)
    for b, u in enumerate(users):
        n = ends[b] - histories.offsets[u]
        expected = slow_memory(sequences[u][:n], list(times[u])[:n], kinds[u][:n], int(now[b]), cap)
        used = memory.lengths[b]
        columns = (memory.rows, memory.ages, memory.counts, memory.kinds)
        got = list(zip(*(column[b, :used].tolist() for column in columns), strict=True))
        assert [(row, pytest.approx(age, rel=1e-6), count, kind) for row, age, count, kind in expected] == got
        assert (memory.counts[b, used:] == 0).all() and (memory.rows[b, used:] == 0).all()


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.tuples(st.integers(0, N_ITEMS - 1), st.integers(0, 3)), max_size=25), max_size=4),
    st.integers(1, 15),
    st.randoms(use_true_random=False),
)
def test_that_of_few_is_bit_for_bit_the_same(world, cap, randoms) -> None:  # type: ignore[no-untyped-def]
    sequences = [[item for item, _ in user] for user in world]
    times = [np.cumsum([randoms.randint(0, 3 * DAY) for _ in user]) + START if user else [] for user in world]
    histories = histories_of(sequences, times, [[kind for _, kind in user] for user in world])
    now = np.array([START + randoms.randint(0, 80 * DAY) for _ in world], np.int64)
    whole = encode(histories, now=now, max_items=cap, scratch=np.full(N_ITEMS, -1, np.int64))
    few = encode(histories, now=now, max_items=cap)
    for name in ("lengths", "rows", "ages", "counts", "kinds"):
        expected, found = getattr(whole, name), getattr(few, name)
        assert expected.dtype == found.dtype
        assert np.array_equal(expected, found)


def test_the_whole_histories_by_default() -> None:
    histories = histories_of([[3, 1, 3], [], [2]])
    now = np.full(3, START + 2 * DAY)
    memory = encode(histories, now=now, max_items=9, scratch=np.full(5, -1, np.int64))
    assert memory.lengths.tolist() == [2, 0, 1]
    assert memory.rows.tolist() == [[3, 1], [0, 0], [2, 0]]
    assert memory.counts.tolist() == [[2, 1], [0, 0], [1, 0]]
    assert memory.ages.tolist() == [[0, 1], [0, 0], [2, 0]]


def test_an_item_beyond_the_cap_is_left_out_with_all_its_actions() -> None:
    histories = histories_of([[0, 1, 0, 2, 1]])
    memory = encode(histories, now=np.array([START]), max_items=2, scratch=np.full(3, -1, np.int64))
    assert memory.rows.tolist() == [[1, 2]] and memory.counts.tolist() == [[2, 1]]
