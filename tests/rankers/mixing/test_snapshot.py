"""The columns of a snapshot: nothing of the future, no dependence on the batch, one name each."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from heedful.events.candidates import Candidates
from heedful.events.histories import Histories
from heedful.rankers.mixing.snapshot import Snapshot
from ranking_worlds import DAY, histories_of, random_log

N_ITEMS, WINDOW = 30, 6 * DAY


@cache
def world() -> tuple[Histories, int]:
    histories = random_log(users=50, items=N_ITEMS).histories
    return histories, int(np.quantile(histories.times, 0.7))


@cache
def snapshot() -> Snapshot:
    histories, now = world()
    return Snapshot.of(histories, N_ITEMS, now, WINDOW)


def test_one_finite_column_for_each_name() -> None:
    histories, now = world()
    past = histories.where(histories.times < now)
    columns = snapshot().features(past, Candidates.same_for_all(len(past), np.arange(N_ITEMS)))
    assert columns.shape == (len(past) * N_ITEMS, len(snapshot().names)) and columns.dtype == np.float32
    assert np.isfinite(columns).all() and len(set(snapshot().names)) == len(snapshot().names)
    assert {name.partition(".")[0] for name in snapshot().names} == {"popularity_over_time", "user", "cooccurrence"}


def test_the_future_changes_nothing() -> None:
    histories, now = world()
    past = histories.where(histories.times < now)
    candidates = Candidates.same_for_all(len(past), np.arange(N_ITEMS))
    np.testing.assert_array_equal(
        Snapshot.of(past, N_ITEMS, now, WINDOW).features(past, candidates), snapshot().features(past, candidates)
    )


def test_a_batch_is_one_by_one() -> None:
    histories, now = world()
    past = histories.where(histories.times < now).part(slice(0, 12))
    randoms = np.random.default_rng(0)
    candidates = Candidates.of([randoms.integers(0, N_ITEMS, n) for n in range(12)])
    together = snapshot().features(past, candidates)
    for user in range(12):
        part = slice(user, user + 1)
        alone = snapshot().features(past.part(part), candidates.part(part))
        np.testing.assert_allclose(together[candidates.offsets[user] : candidates.offsets[user + 1]], alone, rtol=1e-5)


def test_pairs_are_counted_among_the_latest_items(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("heedful.rankers.mixing.snapshot._LATEST_ITEMS", 2)
    histories = histories_of([[0, 3, 1, 0], [2, 1]])
    partners = Snapshot.of(histories, 4, int(histories.times.max()) + 1, WINDOW).partners["cosine"]
    together = {(item, int(other)) for item in range(4) for other in partners.items[item] if other >= 0}
    assert together == {(0, 1), (1, 0), (1, 2), (2, 1)}


def test_new_items_are_like_the_newest_and_have_no_partners() -> None:
    longer = snapshot().extended(N_ITEMS + 2)
    past = world()[0].where(world()[0].times < world()[1])
    asked = Candidates.same_for_all(len(past), np.arange(N_ITEMS))
    np.testing.assert_array_equal(longer.features(past, asked), snapshot().features(past, asked))
    new = longer.features(past, Candidates.same_for_all(len(past), np.array([N_ITEMS, N_ITEMS + 1])))
    of_partners = [place for place, name in enumerate(longer.names) if name.startswith("cooccurrence.")]
    assert np.isfinite(new).all() and (new[:, of_partners] == 0).all()
    newest = np.argsort(-snapshot().items.born, kind="stable")[:3]
    expected = np.median(snapshot().items.values[newest], axis=0)
    np.testing.assert_allclose(new[0, : len(expected)], expected, rtol=1e-6)
