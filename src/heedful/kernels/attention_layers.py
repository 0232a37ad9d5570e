"""All layers of attention in score space (see `attention_cpu`), one user at a time: what a user
needs stays in the caches.

A user's memory has N = L + M rows in each layer, R = K N in all. The past items are first taken
through the matrices of `attention_folding`: for every layer k the D columns of f^k(x)^T h and of
f^k(x)^T g^j for j < k, then what each layer's scores start with, and what each layer's reading adds
to the logit. With P the weights, [R, C],

    scores^k = start^k + [own^k | between^k0 | ... | between^k,k-1] [Xq; P^0; ...; P^k-1],    P^k = softmax(scores^k),

where between^kj = (X f^kT g^j) X^T is [N, N]. So a layer is one product with a matrix that grows by
the layer's own weights, and backward the same matrix is on the other side. The products are
those of `matmul`.

A part of `attention_cpu`, and deleted with it.

Shapes: T past items of all users end to end, B users, L past items of one, M null tokens, N = L +
M, R = K N, C candidates, D embedding width, K layers, E columns of `attention_folding`; C, D, N and
R are padded where `matmul` needs it.
"""

from __future__ import annotations

from typing import Any

import numba
import numba.extending
import numpy as np
import torch
from numba.np.numpy_support import carray
from torch.autograd.function import once_differentiable

from heedful.kernels.attention_call import (
    FIRST_TENSOR,
    TASK_USERS,
    batch_of,
    facts_of,
    gradients_of,
    kept_of,
    round_up,
    sizes_of,
)
from heedful.kernels.attention_folding import first_column
from heedful.kernels.attention_gradients import backward_user
from heedful.kernels.matmul import floats_at, multiply, next_task, softmax, transpose
from heedful.kernels.openmp import at, run_on_threads

__all__ = ["AttentionLayers"]


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
        sizes = sizes_of(lengths, null_KMD.shape, xq_BCD.shape[1])
        maps_TE, kept = x_TD @ maps_DE, x_TD.new_empty(int(sizes.kept[-1]))
        tensors = [maps_TE, *(tensor.contiguous() for tensor in (null_maps_GE, null_KMD, x_TD, xq_BCD)), kept]
        logits_BC = x_TD.new_empty(xq_BCD.shape[:2])
        run_on_threads(_forward_users, *facts_of(sizes, x_TD), *tensors, logits_BC)
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
        maps_TE, null_maps_GE, null_KMD, x_TD, *_ = tensors = ctx.tensors
        tasks = -(-len(ctx.sizes.lengths) // TASK_USERS)
        d_null_maps, d_null = (x_TD.new_zeros(tasks, *part.shape) for part in (null_maps_GE, null_KMD))
        run_on_threads(_backward_users, *facts_of(ctx.sizes, x_TD), *tensors, gradient_BC.contiguous(), d_null_maps, d_null)
        ctx.tensors = None
        return x_TD.T @ maps_TE, d_null_maps.sum(0), d_null.sum(0), None, None, None


def _forward_users(address: Any) -> None:
    """Take tasks until there are none; run by every thread."""
    call = carray(address, FIRST_TENSOR + 7)
    batch, users = batch_of(call), call[1]
    logits_BC = carray(floats_at(call[FIRST_TENSOR + 6]), (users, batch.candidates))
    while True:
        first = next_task(call.ctypes.data) * TASK_USERS
        if first >= users:
            break
        for user in range(first, min(first + TASK_USERS, users)):
            _forward_user(batch, user, logits_BC[user])


def _backward_users(address: Any) -> None:
    """Take tasks until there are none; run by every thread."""
    call = carray(address, FIRST_TENSOR + 9)
    batch, gradients, users = batch_of(call), gradients_of(call), call[1]
    while True:
        task = next_task(call.ctypes.data)
        if task * TASK_USERS >= users:
            break
        for user in range(task * TASK_USERS, min((task + 1) * TASK_USERS, users)):
            backward_user(batch, gradients, user, task)


@numba.njit
def _forward_user(batch: Any, user: int, logits_C: Any) -> None:
    """The layers of one user, from the first to the last; what `attention_gradients` needs is kept."""
    depth, extra, width = batch.depth, batch.null_tokens, batch.width
    past, first, ends = batch.lengths[user], batch.starts[user], first_column(depth, width)
    rows = past + extra
    matrix, stack = kept_of(batch, user)
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
    memory_DN = np.zeros((width, round_up(rows)), np.float32)
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
