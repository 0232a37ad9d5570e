"""Products, softmax and transposition in registers against numpy in float64."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import pytest

from heedful.kernels import reference
from heedful.kernels.matmul import multiply, positive_part, softmax, softmax_gradient, transpose


@numba.njit
def softmax_of(p: Any) -> None:
    softmax(p.ctypes.data, p.shape[1], p.shape[0], p.shape[1])


@numba.njit
def softmax_gradient_of(d: Any, p: Any) -> None:
    softmax_gradient(d.ctypes.data, p.ctypes.data, p.shape[1], p.shape[0], p.shape[1])


@numba.njit
def positive_part_of(z: Any, rows: int, threshold: Any, result: Any) -> None:
    positive_part(z.ctypes.data, z.shape[1], rows, result.shape[1], threshold.ctypes.data, result.ctypes.data)


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("add", [0, 1])
@pytest.mark.parametrize("columns", [16, 48, 112])
@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 6, 7, 8, 13, 31])
def test_products(rows: int, columns: int, add: int) -> None:
    """Of matrices that are parts of larger ones, which stay as they are beside them; the left one as it is or transposed."""
    for depth in (1, 7, 64):
        a, b, before = random(rows, depth + 3, seed=1), random(depth, columns + 5, seed=2), random(rows, columns + 2, seed=3)
        expected = before.astype(np.float64)
        expected[:, :columns] = add * expected[:, :columns] + a[:, :depth].astype(np.float64) @ b[:, :columns]
        for left, row, step in ((a, depth + 3, 1), (np.ascontiguousarray(a.T), 1, rows)):
            c = before.copy()
            multiply(
                left.ctypes.data, row, step, b.ctypes.data, columns + 5, c.ctypes.data, columns + 2, rows, depth, columns,
                add,
            )  # fmt: skip
            assert np.abs(c - expected).max() < 2e-5


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (7, 64), (8, 16), (9, 15), (33, 112)])
def test_transposition(rows: int, columns: int) -> None:
    source, target = random(rows, columns + 3), np.zeros((columns, rows + 5), np.float32)
    transpose(source.ctypes.data, columns + 3, target.ctypes.data, rows + 5, rows, columns)
    assert np.array_equal(target[:, :rows], source[:, :columns].T)
    assert not target[:, rows:].any()


def test_softmax_and_its_gradient() -> None:
    """Down to weights that are next to nothing, which become zero rather than subnormal."""
    scores, d = 8 * random(9, 32), random(9, 32, seed=1)
    scores[3, 5], scores[:, 7] = -1000, 1e6
    weights = reference.softmax(scores.astype(np.float64))
    expected = reference.softmax_gradient(d.astype(np.float64), weights)
    p = scores.copy()
    softmax_of(p)
    assert np.allclose(p, weights, rtol=4e-6, atol=2e-20)
    assert p[3, 5] == 0
    softmax_gradient_of(d, p)
    assert np.abs(d - expected).max() < 1e-6


@pytest.mark.parametrize("rows", [0, 1, 9])
def test_positive_part(rows: int) -> None:
    """Of a part of a matrix; a column without anything above the threshold gives zeros."""
    z, result = random(9, 40), np.full((2, 32), np.nan, np.float32)
    z[:, 3] = -5
    positive_part_of(z, rows, np.array([0.3], np.float32), result)
    np.testing.assert_allclose(result, reference.positive_part(z[:rows, :32].astype(np.float64), 0.3), atol=1e-6)
    assert not result[:, 3].any()


def test_nan_stays_nan() -> None:
    p = np.zeros((3, 16), np.float32)
    p[1, 4] = np.nan
    softmax_of(p)
    assert np.isnan(p[:, 4]).all()
    assert np.isfinite(np.delete(p, 4, axis=1)).all()
    result = np.zeros((2, 16), np.float32)
    p[:, 4] = [0, np.nan, 0]
    positive_part_of(p, 3, np.zeros(1, np.float32), result)
    assert np.isnan(result[0, 4]) and np.isfinite(np.delete(result, 4, axis=1)).all()
