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
