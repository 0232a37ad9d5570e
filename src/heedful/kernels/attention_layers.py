"""All layers of attention in score space (see `attention_cpu`), one user at a time: what a user needs stays in the caches.

A user's memory has N = L + M rows in each layer, R = K N in all. The past items are first taken through the matrices of
`attention_folding`: for every layer k the D columns of f^k(x)^T h and of f^k(x)^T g^j for j < k, then what each layer's
scores start with, and what each layer's reading adds to the logit. With P the weights,
[R, C],

    scores^k = start^k + [own^k | between^k0 | ... | between^k,k-1] [Xq; P^0; ...; P^k-1],    P^k = softmax(scores^k),

where between^kj = (X f^kT g^j) X^T is [N, N]. So a layer is one product with a matrix that grows by the layer's own
weights, and backward the same matrix stands on the other side. The products are those of `matmul`.

Shapes: T past items of all users end to end, B users, L past items of one, M null tokens, N = L + M, R = K N, C candidates,
D embedding width, K layers, E columns of `attention_folding`; C, D, N and R are padded where `matmul` needs it.
"""

from __future__ import annotations

import contextlib
from collections import deque
from typing import Any, NamedTuple

import numba
import numba.extending
import numpy as np
import torch
from numba.np.numpy_support import carray
from torch.autograd.function import once_differentiable

from heedful.kernels.attention_folding import first_column, n_columns
from heedful.kernels.matmul import LANES, floats_at, integers_at, multiply, next_task, softmax, softmax_gradient, transpose
from heedful.kernels.openmp import at, run_on_threads

__all__ = ["AttentionLayers"]

# Users of one task: null tokens have their gradients summed task by task, so that the sum is the same whoever does them.
_TASK_USERS = 4


class AttentionLayers(torch.autograd.Function):
    """sum_kn p_n^k worth^k_n of each candidate, and its gradients for the linear maps and the null tokens.

    What is kept for the gradient is written over by it, so that it can be taken once only.
    """

    @staticmethod
    def forward(
        ctx: Any, maps_DE: torch.Tensor, null_maps_GE: torch.Tensor, null_KMD: torch.Tensor, x_TD: torch.Tensor,
        xq_BCD: torch.Tensor, lengths: np.ndarray,
    ) -> torch.Tensor:  # fmt: skip
        """The layers of a batch, float [B, C].

        Args:
            maps_DE: linear maps (see `attention_folding`).
            null_maps_GE: the null tokens under these maps, G = K M.
            null_KMD: the null tokens, M may be 0.
            x_TD: past items, user by user; D is a multiple of `LANES`.
            xq_BCD: candidates.
            lengths: L of each user, int64 [B].
        """
        sizes = _sizes(lengths, null_KMD.shape, xq_BCD.shape[1])
        maps_TE, kept = _room(len(x_TD) * maps_DE.shape[1]), _room(int(sizes.kept[-1]))
        torch.mm(x_TD, maps_DE, out=_matrix(maps_TE, len(x_TD), maps_DE.shape[1]))
        tensors = [maps_TE, *(tensor.contiguous() for tensor in (null_maps_GE, null_KMD, x_TD, xq_BCD)), kept]
        logits_BC = x_TD.new_empty(xq_BCD.shape[:2])
        run_on_threads(_forward_users, *_facts(sizes, x_TD), *tensors, logits_BC)
        ctx.sizes, ctx.tensors = sizes, tensors
        return logits_BC

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_BC: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """The same users again, from the last layer to the first.

        Raises:
            RuntimeError: a second call; the first one overwrites what is kept.
        """
        if ctx.tensors is None:
            raise RuntimeError(
                "attention_cpu: backward was called twice; its buffers are overwritten, so call forward again"
            )
        maps_TE, null_maps_GE, null_KMD, x_TD, _, kept = tensors = ctx.tensors
        tasks = -(-len(ctx.sizes.lengths) // _TASK_USERS)
        d_null_maps, d_null = (x_TD.new_zeros(tasks, *part.shape) for part in (null_maps_GE, null_KMD))
        run_on_threads(_backward_users, *_facts(ctx.sizes, x_TD), *tensors, gradient_BC.contiguous(), d_null_maps, d_null)
        d_maps_DE = x_TD.T @ _matrix(maps_TE, len(x_TD), null_maps_GE.shape[1])
        ctx.tensors = None
        _SPARE.extend((maps_TE, kept))
        return d_maps_DE, d_null_maps.sum(0), d_null.sum(0), None, None, None


# Memory of earlier batches: new pages from the system cost as much as a good part of the arithmetic.
_SPARE: deque[torch.Tensor] = deque(maxlen=4)


def _room(numbers: int) -> torch.Tensor:
    """Memory for at least so many numbers, float32."""
    for _ in range(len(_SPARE)):
        with contextlib.suppress(IndexError):  # another thread took it
            spare = _SPARE.popleft()
            if len(spare) >= numbers:
                return spare
    return torch.empty(numbers + numbers // 4, dtype=torch.float32)


def _matrix(memory: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    return memory[: rows * columns].view(rows, columns)


@numba.extending.register_jitable
def _up(n: Any) -> Any:
    return (n + LANES - 1) // LANES * LANES


class _Sizes(NamedTuple):
    depth: int
    null_tokens: int
    candidates: int
    width: int
    lengths: np.ndarray
    starts: np.ndarray
    kept: np.ndarray


def _sizes(lengths: np.ndarray, null_shape: tuple[int, ...], candidates: int) -> _Sizes:
    """Where each user's past begins, and what is kept of them for the gradient."""
    depth, null_tokens, width = null_shape
    starts = np.concatenate([[0], np.cumsum(lengths)])
    rows = lengths + null_tokens
    kept = depth * rows * _matrix_columns(rows, depth, width) + (width + depth * rows) * _up(candidates)
    return _Sizes(depth, null_tokens, candidates, width, lengths, starts, np.concatenate([[0], np.cumsum(kept)]))


@numba.extending.register_jitable
def _matrix_columns(rows: Any, depth: int, width: int) -> Any:
    """Columns of [own | between], with room for a product's padding."""
    return width + ((depth - 1) * rows + 2 * LANES - 2) // LANES * LANES


def _facts(sizes: _Sizes, x_TD: torch.Tensor) -> tuple[int | np.ndarray, ...]:
    return len(sizes.lengths), *sizes[:4], len(x_TD), sizes.lengths, sizes.starts, sizes.kept


class _Batch(NamedTuple):
    """The arguments of a call as compiled code sees them."""

    depth: int
    null_tokens: int
    candidates: int
    width: int
    lengths: np.ndarray
    starts: np.ndarray
    kept_from: np.ndarray
    maps_TE: np.ndarray
    null_maps_GE: np.ndarray
    null_GD: np.ndarray
    x_TD: np.ndarray
    xq_QD: np.ndarray  # Q = B C
    kept: np.ndarray


class _Gradients(NamedTuple):
    """What the backward call has besides; gradients of the null tokens stand there once for each task, S tasks."""

    logits_BC: np.ndarray
    null_maps_SGE: np.ndarray
    null_SGD: np.ndarray


# Places in the array that describes a call: the next task, the facts, the sizes' arrays, the tensors.
_TENSORS = 10


@numba.njit
def _batch(call: Any) -> Any:
    users, depth, null_tokens, candidates, width, items = call[1], call[2], call[3], call[4], call[5], call[6]
    columns, kept_from = n_columns(depth, width), carray(integers_at(call[9]), users + 1)
    return _Batch(
        depth,
        null_tokens,
        candidates,
        width,
        carray(integers_at(call[7]), users),
        carray(integers_at(call[8]), users + 1),
        kept_from,
        carray(floats_at(call[_TENSORS]), (items, columns)),
        carray(floats_at(call[_TENSORS + 1]), (depth * null_tokens, columns)),
        carray(floats_at(call[_TENSORS + 2]), (depth * null_tokens, width)),
        carray(floats_at(call[_TENSORS + 3]), (items, width)),
        carray(floats_at(call[_TENSORS + 4]), (users * candidates, width)),
        carray(floats_at(call[_TENSORS + 5]), kept_from[users]),
    )


@numba.njit
def _gradients(call: Any) -> Any:
    users, depth, null_tokens, candidates, width = call[1], call[2], call[3], call[4], call[5]
    columns, tasks = n_columns(depth, width), (users + _TASK_USERS - 1) // _TASK_USERS
    return _Gradients(
        carray(floats_at(call[_TENSORS + 6]), (users, candidates)),
        carray(floats_at(call[_TENSORS + 7]), (tasks, depth * null_tokens, columns)),
        carray(floats_at(call[_TENSORS + 8]), (tasks, depth * null_tokens, width)),
    )


@numba.njit
def _kept_of(batch: Any, user: int) -> Any:
    """A user's part of what is kept: [own | between] of all layers, and [Xq; P]."""
    rows = batch.lengths[user] + batch.null_tokens
    columns, padded = _matrix_columns(rows, batch.depth, batch.width), _up(batch.candidates)
    first = batch.kept_from[user]
    middle = first + batch.depth * rows * columns
    matrix = batch.kept[first:middle].reshape((batch.depth * rows, columns))
    return matrix, batch.kept[middle : batch.kept_from[user + 1]].reshape((batch.width + batch.depth * rows, padded))


def _forward_users(address: Any) -> None:
    """Take tasks until there are none; run by every thread."""
    call = carray(address, _TENSORS + 7)
    batch, users = _batch(call), call[1]
    logits_BC = carray(floats_at(call[_TENSORS + 6]), (users, batch.candidates))
    while True:
        first = next_task(call.ctypes.data) * _TASK_USERS
        if first >= users:
            break
        for user in range(first, min(first + _TASK_USERS, users)):
            _forward_user(batch, user, logits_BC[user])


def _backward_users(address: Any) -> None:
    """Take tasks until there are none; run by every thread."""
    call = carray(address, _TENSORS + 9)
    batch, gradients, users = _batch(call), _gradients(call), call[1]
    while True:
        task = next_task(call.ctypes.data)
        if task * _TASK_USERS >= users:
            break
        for user in range(task * _TASK_USERS, min((task + 1) * _TASK_USERS, users)):
            _backward_user(batch, gradients, user, gradients.null_maps_SGE[task], gradients.null_SGD[task])


@numba.njit
def _forward_user(batch: Any, user: int, logits_C: Any) -> None:
    """The layers of one user, from the first to the last; what `_backward_user` needs is kept."""
    depth, extra, width = batch.depth, batch.null_tokens, batch.width
    past, first, ends = batch.lengths[user], batch.starts[user], first_column(depth, width)
    rows = past + extra
    matrix, stack = _kept_of(batch, user)
    wide, columns = matrix.shape[1], stack.shape[1]
    _between(batch, user, matrix)
    start_R, worth_R = np.empty((1, depth * rows), np.float32), np.empty((1, depth * rows), np.float32)
    for k in range(depth):
        for n in range(rows):
            of_item = batch.maps_TE[first + n] if n < past else batch.null_maps_GE[k * extra + n - past]
            matrix[k * rows + n, :width] = of_item[first_column(k, width) : first_column(k, width) + width]
            start_R[0, k * rows + n], worth_R[0, k * rows + n] = of_item[ends + k], of_item[ends + depth + k]
    stack[:width, batch.candidates :] = 0
    xq = at(batch.xq_QD, user * batch.candidates, 0)
    transpose(xq, width, at(stack, 0, 0), columns, batch.candidates, width)
    ones = np.ones((1, columns), np.float32)
    for k in range(depth):
        p = at(stack, width + k * rows, 0)
        multiply(at(start_R, 0, k * rows), 1, 0, at(ones, 0, 0), 0, p, columns, rows, 1, columns, 0)
        multiply(
            at(matrix, k * rows, 0), wide, 1, at(stack, 0, 0), columns, p, columns, rows, width + k * rows, columns, 1
        )  # fmt: skip
        softmax(p, columns, rows, columns)
    multiply(
        at(worth_R, 0, 0), 0, 1, at(stack, width, 0), columns, at(ones, 0, 0), 0, 1, depth * rows, columns, 0
    )  # fmt: skip
    logits_C[:] = ones[0, : batch.candidates]


@numba.njit
def _between(batch: Any, user: int, matrix: Any) -> None:
    """What layer j adds to the scores of layer k > j, [N, N] each, written beside the place of layer k's own columns."""
    depth, extra, width = batch.depth, batch.null_tokens, batch.width
    past, first = batch.lengths[user], batch.starts[user]
    rows, stride, wide = past + extra, batch.maps_TE.shape[1], matrix.shape[1]
    memory_DN = np.zeros((width, _up(rows)), np.float32)
    padded = memory_DN.shape[1]
    if past:
        transpose(at(batch.x_TD, first, 0), width, at(memory_DN, 0, 0), padded, past, width)
    for j in range(depth - 1):
        if extra:
            transpose(at(batch.null_GD, j * extra, 0), width, at(memory_DN, 0, past), padded, extra, width)
        for k in range(j + 1, depth):
            # The padding of a product runs into the columns of layer j + 1, which are written after these.
            place = first_column(k, width) + (1 + j) * width
            if past:
                multiply(
                    at(batch.maps_TE, first, place), stride, 1, at(memory_DN, 0, 0), padded,
                    at(matrix, k * rows, width + j * rows), wide, past, width, padded, 0,
                )  # fmt: skip
            if extra:
                multiply(
                    at(batch.null_maps_GE, k * extra, place), stride, 1, at(memory_DN, 0, 0), padded,
                    at(matrix, k * rows + past, width + j * rows), wide, extra, width, padded, 0,
                )  # fmt: skip


@numba.njit
def _backward_user(batch: Any, gradients: Any, user: int, null_maps_GE: Any, null_GD: Any) -> None:
    """The layers of one user, from the last to the first: d holds the gradient of P, after its layer's turn of the scores.

    The gradients of the maps are written over the maps of this user.
    """
    depth, extra, width = batch.depth, batch.null_tokens, batch.width
    past, first, ends = batch.lengths[user], batch.starts[user], first_column(depth, width)
    rows, candidates = past + extra, batch.candidates
    matrix, stack = _kept_of(batch, user)
    wide, columns, stride = matrix.shape[1], stack.shape[1], batch.maps_TE.shape[1]
    xq, d_maps = at(batch.xq_QD, user * candidates, 0), batch.maps_TE
    p_CR = np.empty((columns, _up(depth * rows)), np.float32)
    p_CR[:, depth * rows :] = 0
    transpose(at(stack, width, 0), columns, at(p_CR, 0, 0), p_CR.shape[1], depth * rows, columns)
    logits = np.zeros((1, columns), np.float32)
    logits[0, :candidates] = gradients.logits_BC[user]
    memory_ND = np.empty((rows, width), np.float32)
    memory_ND[:past] = batch.x_TD[first : first + past]
    worth_N, d_RC = np.empty((1, rows), np.float32), np.empty((depth * rows, columns), np.float32)
    d_worth = np.empty((1, p_CR.shape[1]), np.float32)
    multiply(
        at(logits, 0, 0), 0, 1, at(p_CR, 0, 0), p_CR.shape[1], at(d_worth, 0, 0), 0, 1, candidates, p_CR.shape[1], 0
    )  # fmt: skip
    d_between = np.empty((rows, p_CR.shape[1]), np.float32)
    for k in range(depth - 1, -1, -1):
        d, later, own = at(d_RC, k * rows, 0), (depth - 1 - k) * rows, first_column(k, width)
        for n in range(rows):
            of_item = batch.maps_TE[first + n] if n < past else batch.null_maps_GE[k * extra + n - past]
            worth_N[0, n] = of_item[ends + depth + k]
        multiply(at(worth_N, 0, 0), 1, 0, at(logits, 0, 0), 0, d, columns, rows, 1, columns, 0)
        if later:
            multiply(
                at(matrix, (k + 1) * rows, width + k * rows), 1, wide, d + 4 * rows * columns, columns, d, columns,
                rows, later, columns, 1,
            )  # fmt: skip
        softmax_gradient(d, at(stack, width + k * rows, 0), columns, rows, columns)
        for n in range(rows):
            start = _sum(d_RC[k * rows + n])
            if n < past:
                d_maps[first + n, ends + k], d_maps[first + n, ends + depth + k] = start, d_worth[0, k * rows + n]
            else:
                null_maps_GE[k * extra + n - past, ends + k] += start
                null_maps_GE[k * extra + n - past, ends + depth + k] += d_worth[0, k * rows + n]
        if past:
            multiply(d, columns, 1, xq, width, at(d_maps, first, own), stride, past, candidates, width, 0)
        if extra:
            d_null = d + 4 * past * columns
            multiply(d_null, columns, 1, xq, width, at(null_maps_GE, k * extra, own), stride, extra, candidates, width, 1)
        if k == 0:
            continue
        multiply(
            d, columns, 1, at(p_CR, 0, 0), p_CR.shape[1], at(d_between, 0, 0), p_CR.shape[1], rows, candidates,
            _up(k * rows), 0,
        )  # fmt: skip
        for j in range(k):
            of_pair, place = at(d_between, 0, j * rows), own + (1 + j) * width
            if extra:
                memory_ND[past:] = batch.null_GD[j * extra : (j + 1) * extra]
            if extra:  # before what it reads is written over
                null, of_null = at(null_GD, j * extra, 0), of_pair + 4 * past
                multiply(
                    of_null, 1, p_CR.shape[1], at(batch.maps_TE, first, place), stride, null, width, extra, past, width, 1
                )  # fmt: skip
                multiply(
                    of_null + 4 * past * p_CR.shape[1], 1, p_CR.shape[1], at(batch.null_maps_GE, k * extra, place), stride,
                    null, width, extra, extra, width, 1,
                )  # fmt: skip
            if past:
                multiply(
                    of_pair, p_CR.shape[1], 1, at(memory_ND, 0, 0), width, at(d_maps, first, place), stride, past, rows,
                    width, 0,
                )  # fmt: skip
            if extra:
                multiply(
                    at(d_between, past, j * rows), p_CR.shape[1], 1, at(memory_ND, 0, 0), width,
                    at(null_maps_GE, k * extra, place), stride, extra, rows, width, 1,
                )  # fmt: skip


@numba.njit(fastmath={"reassoc", "contract", "nsz"})
def _sum(numbers: Any) -> Any:
    total = np.float32(0)
    for value in numbers:
        total += value
    return total
