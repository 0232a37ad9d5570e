"""The sampling prior against its formula, and that it turns a logit into a ranking by P(q | u) / P_gamma'(q)."""

from __future__ import annotations

import numpy as np
import pytest

from heedful.errors import ConfigError
from heedful.rankers.prior import LogShares, sampling_prior

USERS = np.array([8, 1, 0, 3])


def test_log_shares_are_shares_of_all_users_of_items() -> None:
    shares = LogShares(USERS)
    assert shares.total == 12
    assert shares[:] == pytest.approx(np.log([8.5 / 13, 1.5 / 13, 0.5 / 13, 3.5 / 13]))
    assert shares[:].dtype == np.float32 and np.isfinite(shares[:]).all()


@pytest.mark.parametrize("all_first", [False, True])
def test_some_items_are_the_same_as_among_all(all_first: bool) -> None:
    shares, rows = LogShares(USERS), np.array([3, 0, 3, 2])
    if all_first:
        shares[:]
    np.testing.assert_array_equal(shares[rows], LogShares(USERS)[:][rows])
    np.testing.assert_array_equal(shares[1:3], LogShares(USERS)[:][1:3])


def test_a_total_of_its_own_keeps_the_shares_of_the_items_that_were_there() -> None:
    longer = LogShares(np.concatenate([USERS, [100]]), total=LogShares(USERS).total)
    np.testing.assert_array_equal(longer[:4], LogShares(USERS)[:])


def test_without_any_user_shares_are_finite() -> None:
    shares = LogShares(np.zeros(3, np.int64))
    assert shares.total == 1 and np.isfinite(shares[:]).all()


@pytest.mark.parametrize("pool_gamma", [0.0, 0.75, 1.0, -1.0])
def test_the_prior_is_its_formula(pool_gamma: float) -> None:
    shares, rows = LogShares(USERS), np.array([0, 3, 0])
    expected = (0.75 - pool_gamma) * np.log((USERS + 0.5) / 13)
    assert sampling_prior(shares, 0.75, pool_gamma) == pytest.approx(expected)
    assert sampling_prior(shares, 0.75, pool_gamma, rows) == pytest.approx(expected[rows])


def test_with_it_a_perfect_logit_ranks_by_the_probability_over_that_of_the_pool() -> None:
    """The logit of a classifier against negatives from P_gamma is log P(q | u) - log P_gamma(q) + c."""
    users = np.array([50, 20, 7, 1])
    p_of_user, popularity = np.array([0.2, 0.25, 0.25, 0.3]), (users + 0.5) / (users.sum() + 1)
    logit = np.log(p_of_user) - 0.75 * np.log(popularity) + 3.0
    for pool_gamma in (0.0, 0.5, 1.0):
        score = logit + sampling_prior(LogShares(users), 0.75, pool_gamma)
        difference = score - np.log(p_of_user / popularity**pool_gamma)
        assert np.ptp(difference) < 1e-5


def test_nothing_is_added_without_a_prior() -> None:
    assert sampling_prior(LogShares(USERS), None, 1.0) == 0
    assert sampling_prior(LogShares(USERS), 0.75, None) == 0


@pytest.mark.parametrize("pool_gamma", [np.nan, np.inf, -np.inf])
def test_it_must_be_a_finite_number(pool_gamma: float) -> None:
    with pytest.raises(ConfigError, match=r"invalid pool_gamma; got: .*; expected: a finite number"):
        sampling_prior(LogShares(USERS), 0.75, pool_gamma)
