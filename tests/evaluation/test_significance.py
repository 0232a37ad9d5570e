"""Paired tests keep their level under the null and find planted differences."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from heedful.evaluation.significance import holm, paired_tests


def test_p_values_are_uniform_where_nothing_differs() -> None:
    differences = np.random.default_rng(0).normal(size=(60, 400))
    p = np.array([test.p for test in paired_tests(differences, confidence=0.99, resamples=999, seed=1)])
    assert stats.kstest(p, "uniform").pvalue > 0.01
    assert (p <= 0.05).mean() == pytest.approx(0.05, abs=0.035)


def test_a_planted_difference_is_found() -> None:
    differences = np.random.default_rng(1).normal(0.3, 1.0, size=(400, 1))
    (test,) = paired_tests(differences, confidence=0.99, resamples=2000, seed=0)
    assert test.p == pytest.approx(1 / 2001)
    assert 0 < test.low < test.difference < test.high
    assert test.effect == pytest.approx(differences.mean() / differences.std(ddof=1))
    assert test.users == 400


def test_few_users_agree_with_all_sign_assignments() -> None:
    values = np.array([0.5, -0.1, 0.4, 0.3, 0.0, 0.2])
    signs = 1 - 2 * ((np.arange(64)[:, None] >> np.arange(6)) & 1)
    exact = (np.abs(signs @ values) >= abs(values.sum()) - 1e-12).mean()
    (test,) = paired_tests(values[:, None], confidence=0.9, resamples=20_000, seed=3)
    assert test.p == pytest.approx(exact, abs=0.01)


def test_the_interval_agrees_with_the_normal_one_for_many_users() -> None:
    values = np.random.default_rng(2).normal(0.1, 1.0, (3000, 1))
    (test,) = paired_tests(values, confidence=0.95, resamples=4000, seed=0)
    half = 1.96 * values.std() / np.sqrt(3000)
    assert test.high - test.difference == pytest.approx(half, rel=0.1)
    assert test.difference - test.low == pytest.approx(half, rel=0.1)


def test_equal_models_differ_in_nothing() -> None:
    (test,) = paired_tests(np.zeros((10, 1)), confidence=0.99, resamples=100, seed=0)
    assert (test.p, test.difference, test.effect, test.low, test.high) == (1.0, 0.0, 0.0, 0.0, 0.0)


def test_one_user_shows_nothing() -> None:
    (test,) = paired_tests(np.array([[0.5]]), confidence=0.99, resamples=100, seed=0)
    assert test.p == 1.0 and test.users == 1


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_holm_only_raises_and_keeps_the_order(p: list[float]) -> None:
    adjusted = holm(p)
    assert all(a >= b for a, b in zip(adjusted, p, strict=True)) and max(adjusted) <= 1
    order = np.argsort(p, kind="stable")
    assert (np.diff(np.array(adjusted)[order]) >= 0).all()


def several_cuts(seed: int, users: int = 50, tests: int = 3) -> np.ndarray:
    """Differences in three cuts, in each of which other users are not measured; cuts of a user are alike."""
    randoms = np.random.default_rng(seed)
    own = randoms.normal(size=(1, users, tests))
    values = own + 0.5 * randoms.normal(size=(3, users, tests)) + np.array([0.5, 0.0, 2.0])[:, None, None]
    values[np.broadcast_to(randoms.random((3, users, 1)) < 0.4, values.shape)] = np.nan
    return values[:, np.isfinite(values[:, :, 0]).any(axis=0)]


def test_one_cut_is_the_plain_test() -> None:
    values = np.random.default_rng(4).normal(0.2, 1, (40, 3))
    options = {"confidence": 0.95, "resamples": 300, "seed": 7}
    assert paired_tests(values, **options) == paired_tests(values[None], **options)  # type: ignore[arg-type]


def test_the_difference_is_the_mean_over_cuts_of_means_over_users() -> None:
    values = several_cuts(0)
    tests = paired_tests(values, confidence=0.99, resamples=4000, seed=1)
    expected = np.nanmean(values, axis=1).mean(axis=0)
    assert [test.difference for test in tests] == pytest.approx(expected.tolist())
    assert all(test.low < test.difference < test.high and test.users == values.shape[1] for test in tests)
    spread = [np.nanstd(values[:, :, n], ddof=1) for n in range(3)]
    assert [test.effect for test in tests] == pytest.approx((expected / spread).tolist())


def test_users_are_drawn_with_all_their_cuts() -> None:
    """The interval and p against a plain bootstrap and all sign flips of a few users."""
    values = several_cuts(1, users=9, tests=1)
    users = values.shape[1]
    (test,) = paired_tests(values, confidence=0.9, resamples=40_000, seed=2)
    randoms, means = np.random.default_rng(3), []
    for _ in range(4000):
        drawn = values[:, randoms.integers(0, users, users), 0]
        means.append(np.mean([row[np.isfinite(row)].mean() if np.isfinite(row).any() else 0.0 for row in drawn]))
    assert [test.low, test.high] == pytest.approx(np.quantile(means, [0.05, 0.95]).tolist(), abs=0.06)
    signs = 1 - 2 * ((np.arange(2**users)[:, None] >> np.arange(users)) & 1)
    flipped = np.array([np.nanmean(values[:, :, 0] * sign, axis=1).mean() for sign in signs])
    exact = (np.abs(flipped) >= abs(test.difference) - 1e-12).mean()
    assert test.p == pytest.approx(exact, abs=0.01)


def test_users_who_are_alike_in_all_cuts_count_once() -> None:
    """Measuring the same users again adds nothing: the interval stays as wide."""
    values = np.random.default_rng(5).normal(0.1, 1.0, (200, 1))
    once, thrice = (paired_tests(np.stack([values] * cuts), confidence=0.95, resamples=2000, seed=0)[0] for cuts in (1, 3))
    assert (thrice.low, thrice.high, thrice.p) == pytest.approx((once.low, once.high, once.p))
