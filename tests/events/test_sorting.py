"""Events sorted outside memory come out in the order of users, moments, items and kinds, whatever their numbers are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from heedful.events import sorting
from heedful.events.sorting import Events, Spool


def made(n: int, *, n_users: int, unit: int, span: int, n_items: int = 1000, seed: int = 0) -> Events:
    rng = np.random.default_rng(seed)
    return Events(
        rng.integers(0, n_users, n).astype(np.int32),
        (1_600_000_000 + rng.integers(0, span, n)) * 10**9 // unit * unit + rng.integers(0, 10**9 // unit, n) * unit,
        rng.integers(0, n_items, n).astype(np.int32),
        rng.integers(0, 3, n).astype(np.uint8),
    )


def as_tuples(events: Events) -> list[tuple[int, ...]]:
    return list(zip(*(column.tolist() for column in events.columns), strict=True))


@pytest.mark.parametrize("unit", [10**9, 10**6, 10**3, 1])
@pytest.mark.parametrize("span", [1, 50, 10**8])
def test_events_of_a_bucket_are_in_order(unit: int, span: int) -> None:
    events = made(3000, n_users=40, unit=unit, span=span)
    ordered = events.in_order()
    assert as_tuples(ordered) == sorted(as_tuples(events))
    assert [column.dtype for column in ordered.columns] == [np.int32, np.int64, np.int32, np.uint8]


def test_the_largest_numbers_that_there_are() -> None:
    events = Events(
        np.array([2**31 - 1, 0, 2**31 - 1, 2**31 - 1], np.int32),
        np.array([4_102_444_800 * 10**9, 1, 0, 4_102_444_800 * 10**9], np.int64),
        np.array([2**31 - 1, 5, 0, 0], np.int32),
        np.array([254, 0, 254, 254], np.uint8),
    )
    assert as_tuples(events.in_order()) == sorted(as_tuples(events))


@pytest.mark.parametrize("n_users", [1, 7, 300, 5000])
def test_a_spool_gives_back_what_it_took_in_order_and_users_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_users: int
) -> None:
    monkeypatch.setattr(sorting, "_BUCKET_EVENTS", 512)
    batches = [made(701, n_users=n_users, unit=10**9, span=10**6, seed=seed) for seed in range(10)]
    with Spool(tmp_path, n_users=n_users, n_events=7010) as spool:
        spool.fill(batches)
        buckets = list(spool.buckets())
    assert [event for bucket in buckets for event in as_tuples(bucket)] == sorted(e for b in batches for e in as_tuples(b))
    seen = [set(bucket.users.tolist()) for bucket in buckets]
    assert sum(map(len, seen)) == len(set.union(*seen))
    assert len(buckets) == 1 if n_users == 1 else len(buckets) > 5
    assert not list(tmp_path.iterdir())


def test_a_spool_of_one_user_among_many(tmp_path: Path) -> None:
    event = Events(np.array([999_999], np.int32), np.array([5]), np.array([3], np.int32), np.array([1], np.uint8))
    with Spool(tmp_path, n_users=10**6, n_events=10**7) as spool:
        spool.fill([event])
        assert [as_tuples(bucket) for bucket in spool.buckets()] == [[(999_999, 5, 3, 1)]]
