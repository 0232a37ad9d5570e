import numpy as np
import pytest
from numba import njit

from heedful.errors import InputError
from heedful.kernels.alias import alias_table, draw, smoothed_weights
from heedful.kernels.rng import next_random


def distribution(probability, alias):
    """What the table draws, in double precision."""
    shares = probability.astype(np.float64)
    shares += np.bincount(alias, weights=1 - probability.astype(np.float64), minlength=len(alias))
    return shares / len(alias)


@njit
def draws(probability, alias, n, state):
    counts = np.zeros(len(probability), np.int64)
    for _ in range(n):
        state, random = next_random(state)
        counts[draw(probability, alias, random)] += 1
    return counts


@pytest.mark.parametrize("n", [1, 2, 7, 1000, 100_003])
def test_table_holds_the_distribution_of_the_weights(n):
    weights = np.random.default_rng(n).pareto(0.8, n) + 1e-9
    probability, alias = alias_table(weights)
    assert probability.dtype == np.float32 and alias.dtype == np.int32
    np.testing.assert_allclose(distribution(probability, alias), weights / weights.sum(), atol=1e-6 / n**0.5)


def test_zero_weights_are_never_drawn():
    weights = np.array([0, 3, 0, 1, 0.0])
    counts = draws(*alias_table(weights), 20_000, np.uint64(1))
    assert counts[[0, 2, 4]].sum() == 0
    assert abs(counts[1] / 20_000 - 0.75) < 0.02


def test_the_weights_are_not_changed():
    weights = np.array([1.0, 2.0, 3.0])
    alias_table(weights)
    assert weights.tolist() == [1, 2, 3]


@pytest.mark.parametrize("exponent", [0.75, 0.0, -0.5])
def test_draws_follow_the_smoothed_counts(exponent):
    counts = np.array([1000, 400, 100, 30, 9, 4, 2, 1])
    expected = counts.astype(float) ** exponent
    expected *= 400_000 / expected.sum()
    found = draws(*alias_table(smoothed_weights(counts, exponent)), 400_000, np.uint64(7))
    chi_square = ((found - expected) ** 2 / expected).sum()
    assert chi_square < 24.3  # 7 degrees of freedom, p = 0.001


def test_smoothed_weights_neither_overflow_nor_revive_items_without_counts():
    weights = smoothed_weights(np.array([10**9, 1, 0]), 50.0)
    assert np.isfinite(weights).all() and weights[0] == 1 and weights[2] == 0
    assert smoothed_weights(np.array([10**9, 1, 0]), -50.0).tolist()[1:] == [1, 0]


@pytest.mark.parametrize("weights", [[], [0.0, 0.0], [1.0, -1.0, 3.0], [np.nan, 1.0], [np.inf, 1.0], [[1.0, 2.0]]])
def test_weights_that_are_no_distribution(weights):
    with pytest.raises(InputError, match="weights must be finite, non-negative and not all zero"):
        alias_table(np.array(weights))
