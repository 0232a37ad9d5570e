"""Negatives follow P_gamma, without replacement, and never touch what is banned."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from heedful.evaluation.sampling import draw_negatives, hide_positives, reveal_positives, stream_keys, weights
from heedful.events.candidates import Candidates

COUNTS = np.array([50, 30, 30, 12, 8, 5, 5, 2, 1, 0])


def nothing(users: int) -> Candidates:
    return Candidates(np.zeros(users + 1, np.int64), np.empty(0, np.int64))


@pytest.mark.parametrize("gamma", [1.0, 0.75, 0.0])
def test_the_first_draw_follows_the_smoothed_popularity(gamma: float) -> None:
    n = 40_000
    banned = Candidates.same_for_all(n, np.array([1]))
    drawn = draw_negatives(stream_keys(5, gamma, np.arange(n)), weights(COUNTS, gamma), banned, 1)
    expected = np.where(np.arange(10) == 1, 0, weights(COUNTS, gamma))
    observed = np.bincount(drawn.rows, minlength=10)
    assert (observed[expected == 0] == 0).all()
    possible = expected > 0
    assert stats.chisquare(observed[possible], n * expected[possible] / expected.sum()).pvalue > 1e-3


@pytest.mark.parametrize("size", [2, 9])
def test_the_second_draw_follows_what_the_first_left(size: int) -> None:
    """P(a, b) = w_a w_b / (W (W - w_a)), by rejection (size 2) as well as when nearly all items are drawn (size 9)."""
    n, weight = 40_000, weights(COUNTS, 1.0)
    drawn = draw_negatives(stream_keys(6, 1.0, np.arange(n)), weight, nothing(n), size)
    pairs = drawn.rows.reshape(n, -1)[:, :2]
    observed = np.zeros((10, 10))
    np.add.at(observed, (pairs[:, 0], pairs[:, 1]), 1)
    expected = np.outer(weight, weight) / (weight.sum() * (weight.sum() - weight))[:, None]
    np.fill_diagonal(expected, 0)
    assert np.trace(observed) == 0
    common = n * expected > 10
    assert (
        stats.chisquare(
            observed[common], n * expected[common] * observed[common].sum() / (n * expected[common]).sum()
        ).pvalue
        > 1e-3
    )


def test_the_last_draws_by_exponential_keys_follow_the_same_law() -> None:
    """With one item of nearly all the weight, rejection gives up and the rest is drawn by keys."""
    weight = np.array([1e9, 3.0, 2.0, 1.0])
    n = 20_000
    drawn = draw_negatives(stream_keys(1, 1.0, np.arange(n)), weight, nothing(n), 4).rows.reshape(n, 4)
    assert (np.sort(drawn, axis=1) == np.arange(4)).all()
    assert (drawn[:, 0] == 0).all()
    observed = np.bincount(drawn[:, 1], minlength=4)[1:]
    assert stats.chisquare(observed, n * np.array([3, 2, 1]) / 6).pvalue > 1e-3


def test_a_smaller_pool_is_the_beginning_of_a_larger_one_and_users_do_not_depend_on_each_other() -> None:
    counts = np.random.default_rng(0).integers(0, 100, 500)
    keys = stream_keys(3, 0.75, np.arange(20))
    large = draw_negatives(keys, weights(counts, 0.75), nothing(20), 400).rows.reshape(20, 400)
    small = draw_negatives(keys, weights(counts, 0.75), nothing(20), 10).rows.reshape(20, 10)
    assert (large[:, :10] == small).all()
    alone = draw_negatives(keys[7:8], weights(counts, 0.75), nothing(1), 10).rows
    assert (alone == small[7]).all()
    assert len({tuple(row) for row in small.tolist()}) == 20


def test_whoever_has_touched_much_gets_all_that_is_left() -> None:
    banned = Candidates.of([np.array([0, 1, 2, 3, 4, 5]), np.array([9])])
    drawn = draw_negatives(stream_keys(0, 1.0, np.arange(2)), weights(COUNTS, 1.0), banned, 8)
    assert drawn.lengths.tolist() == [3, 8]
    assert sorted(drawn.rows[:3]) == [6, 7, 8]


def test_hidden_positives_stand_anywhere_and_come_back() -> None:
    n_users, length = 4000, 11
    offsets = np.arange(n_users + 1) * length
    pool = Candidates(offsets, np.tile(np.arange(length), n_users))
    keys = stream_keys(9, -2.0, np.arange(n_users))
    n_positive = np.full(n_users, 2)
    hidden = hide_positives(pool, n_positive, keys)
    assert (reveal_positives(hidden.rows, offsets, n_positive, keys) == pool.rows).all()
    table = hidden.rows.reshape(n_users, length)
    for positive in (0, 1):
        assert stats.chisquare(np.bincount(np.argmax(table == positive, axis=1), minlength=length)).pvalue > 1e-3
