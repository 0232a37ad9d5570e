"""The gradients of `attention_layers`, one user at a time, from the last layer to the first.

A part of `attention_cpu`, and deleted with it.

Shapes: T past items of all users end to end, B users, L past items of one, M null tokens, N = L +
M, R = K N, C candidates, D embedding width, K layers, E columns of `attention_folding`; C, D, N and
R are padded where `matmul` needs it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numba
import numpy as np

from heedful.kernels.attention_call import kept_of, round_up
from heedful.kernels.attention_folding import first_column
from heedful.kernels.matmul import multiply, softmax_gradient, transpose
from heedful.kernels.openmp import at

__all__ = ["backward_user"]


class _Work(NamedTuple):
    """A user's part of a backward call, P = up(R); d_RC holds the gradient of P, then in place that of the scores."""

    user: int
    rows: int
    matrix: np.ndarray
    stack: np.ndarray
    logits_1C: np.ndarray
    p_CP: np.ndarray
    d_RC: np.ndarray
    d_worth_1P: np.ndarray
    d_between_NP: np.ndarray
    memory_ND: np.ndarray
    null_maps_GE: np.ndarray
    null_GD: np.ndarray


@numba.njit
def backward_user(batch: Any, gradients: Any, user: int, task: int) -> None:
    """The layers of one user, from the last to the first.

    The gradients of the maps are written over the maps of this user.
    """
    work = _work(batch, gradients, user, task)
    candidates, columns = batch.candidates, work.p_CP.shape[1]
    multiply(
        at(work.logits_1C, 0, 0), 0, 1, at(work.p_CP, 0, 0), columns, at(work.d_worth_1P, 0, 0), 0, 1, candidates, columns, 0
    )  # fmt: skip
    for k in range(batch.depth - 1, -1, -1):
        _backward_scores(batch, work, k)
        _backward_vectors(batch, work, k)
        _backward_own(batch, work, k)
        if k:
            multiply(
                at(work.d_RC, k * work.rows, 0), work.d_RC.shape[1], 1, at(work.p_CP, 0, 0), columns,
                at(work.d_between_NP, 0, 0), columns, work.rows, candidates, round_up(k * work.rows), 0,
            )  # fmt: skip
        for j in range(k):
            _backward_between(batch, work, k, j)


@numba.njit
def _work(batch: Any, gradients: Any, user: int, task: int) -> Any:
    past, first = batch.lengths[user], batch.starts[user]
    rows = past + batch.null_tokens
    all_rows = batch.depth * rows
    matrix, stack = kept_of(batch, user)
    columns, padded = stack.shape[1], round_up(all_rows)
    p_CP = np.empty((columns, padded), np.float32)
    p_CP[:, all_rows:] = 0
    transpose(at(stack, batch.width, 0), columns, at(p_CP, 0, 0), padded, all_rows, columns)
    logits_1C = np.zeros((1, columns), np.float32)
    logits_1C[0, : batch.candidates] = gradients.logits_BC[user]
    memory_ND = np.empty((rows, batch.width), np.float32)
    memory_ND[:past] = batch.x_TD[first : first + past]
    d_RC, d_worth_1P = np.empty((all_rows, columns), np.float32), np.empty((1, padded), np.float32)
    d_between_NP = np.empty((rows, padded), np.float32)
    return _Work(
        user, rows, matrix, stack, logits_1C, p_CP, d_RC, d_worth_1P, d_between_NP, memory_ND,
        gradients.null_maps_SGE[task], gradients.null_SGD[task],
    )  # fmt: skip


@numba.njit
def _backward_scores(batch: Any, work: Any, k: int) -> None:
    """The gradient of layer k's scores: from what its reading is worth, and from the scores of all later layers."""
    depth, extra, width, rows = batch.depth, batch.null_tokens, batch.width, work.rows
    past, first = batch.lengths[work.user], batch.starts[work.user]
    worth_column, columns = first_column(depth, width) + depth + k, work.stack.shape[1]
    worth_1N = np.empty((1, rows), np.float32)
    for n in range(rows):
        of_item = batch.maps_TE[first + n] if n < past else batch.null_maps_GE[k * extra + n - past]
        worth_1N[0, n] = of_item[worth_column]
    d, later = at(work.d_RC, k * rows, 0), (depth - 1 - k) * rows
    multiply(at(worth_1N, 0, 0), 1, 0, at(work.logits_1C, 0, 0), 0, d, columns, rows, 1, columns, 0)
    if later:
        multiply(
            at(work.matrix, (k + 1) * rows, width + k * rows), 1, work.matrix.shape[1], d + 4 * rows * columns, columns,
            d, columns, rows, later, columns, 1,
        )  # fmt: skip
    softmax_gradient(d, at(work.stack, width + k * rows, 0), columns, rows, columns)


@numba.njit
def _backward_vectors(batch: Any, work: Any, k: int) -> None:
    """The gradients of what layer k's scores start with and of what its reading is worth."""
    depth, extra, rows = batch.depth, batch.null_tokens, work.rows
    past, first, ends = batch.lengths[work.user], batch.starts[work.user], first_column(depth, batch.width)
    for n in range(rows):
        start, worth = _sum(work.d_RC[k * rows + n]), work.d_worth_1P[0, k * rows + n]
        if n < past:
            batch.maps_TE[first + n, ends + k], batch.maps_TE[first + n, ends + depth + k] = start, worth
        else:
            work.null_maps_GE[k * extra + n - past, ends + k] += start
            work.null_maps_GE[k * extra + n - past, ends + depth + k] += worth


@numba.njit
def _backward_own(batch: Any, work: Any, k: int) -> None:
    """The gradient of the items under f^kT h."""
    extra, width, candidates, columns = batch.null_tokens, batch.width, batch.candidates, work.stack.shape[1]
    past, first, own = batch.lengths[work.user], batch.starts[work.user], first_column(k, width)
    stride, d, xq = batch.maps_TE.shape[1], at(work.d_RC, k * work.rows, 0), at(batch.xq_QD, work.user * candidates, 0)
    if past:
        multiply(d, columns, 1, xq, width, at(batch.maps_TE, first, own), stride, past, candidates, width, 0)
    if extra:
        d_null, target = d + 4 * past * columns, at(work.null_maps_GE, k * extra, own)
        multiply(d_null, columns, 1, xq, width, target, stride, extra, candidates, width, 1)


@numba.njit
def _backward_between(batch: Any, work: Any, k: int, j: int) -> None:
    """The gradients of the items under f^kT g^j, and of the null tokens that layer j reads."""
    extra, width, rows = batch.null_tokens, batch.width, work.rows
    past, first, stride = batch.lengths[work.user], batch.starts[work.user], batch.maps_TE.shape[1]
    d, columns, memory = at(work.d_between_NP, 0, j * rows), work.p_CP.shape[1], at(work.memory_ND, 0, 0)
    place = first_column(k, width) + (1 + j) * width
    items, null = at(batch.maps_TE, first, place), at(work.null_GD, j * extra, 0)
    if extra:  # before what it reads is written over
        work.memory_ND[past:] = batch.null_GD[j * extra : (j + 1) * extra]
        d_past, d_null = d + 4 * past, d + 4 * past * (1 + columns)
        multiply(d_past, 1, columns, items, stride, null, width, extra, past, width, 1)
        null_maps = at(batch.null_maps_GE, k * extra, place)
        multiply(d_null, 1, columns, null_maps, stride, null, width, extra, extra, width, 1)
    if past:
        multiply(d, columns, 1, memory, width, items, stride, past, rows, width, 0)
    if extra:
        d_rows, target = d + 4 * past * columns, at(work.null_maps_GE, k * extra, place)
        multiply(d_rows, columns, 1, memory, width, target, stride, extra, rows, width, 1)


@numba.njit(fastmath={"reassoc", "contract", "nsz"})
def _sum(numbers: Any) -> Any:
    total = np.float32(0)
    for value in numbers:
        total += value
    return total
