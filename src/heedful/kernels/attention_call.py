"""What the compiled layers of attention see of a call: its sizes, its arrays, and each user's part
of what is kept.

A part of `attention_cpu`, and deleted with it.

Shapes: T past items of all users end to end, B users, L past items of one, M null tokens, N = L +
M, R = K N, C candidates, D embedding width, K layers, E columns of `attention_folding`; C, D, N and
R are padded where `matmul` needs it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numba
import numba.extending
import numpy as np
import torch
from numba.np.numpy_support import carray

from heedful.kernels.attention_folding import n_columns
from heedful.kernels.matmul import LANES, floats_at, integers_at

__all__ = ["FIRST_TENSOR", "TASK_USERS", "Sizes", "batch_of", "facts_of", "gradients_of", "kept_of", "round_up", "sizes_of"]

# Users of one task: null tokens have their gradients summed task by task, so that the sum is the same whoever does them.
TASK_USERS = 4
# Places in the array that describes a call: the next task, the facts, the sizes' arrays, the tensors.
FIRST_TENSOR = 10


@numba.extending.register_jitable
def round_up(n: Any) -> Any:
    """The next multiple of `LANES`."""
    return (n + LANES - 1) // LANES * LANES


class Sizes(NamedTuple):
    """Sizes of a batch.

    Attributes:
        depth: K.
        null_tokens: M.
        candidates: C.
        width: D.
        lengths: L of each user, int64 [B].
        starts: where each user's past begins in x_TD, int64 [B + 1].
        kept: where each user's part of what is kept begins, int64 [B + 1].
    """

    depth: int
    null_tokens: int
    candidates: int
    width: int
    lengths: np.ndarray
    starts: np.ndarray
    kept: np.ndarray


def sizes_of(lengths: np.ndarray, null_shape: tuple[int, ...], candidates: int) -> Sizes:
    """Where each user's past begins, and what is kept of them for the gradient."""
    depth, null_tokens, width = null_shape
    starts = np.concatenate([[0], np.cumsum(lengths)])
    rows = lengths + null_tokens
    kept = depth * rows * _matrix_columns(rows, depth, width) + (width + depth * rows) * round_up(candidates)
    return Sizes(depth, null_tokens, candidates, width, lengths, starts, np.concatenate([[0], np.cumsum(kept)]))


@numba.extending.register_jitable
def _matrix_columns(rows: Any, depth: int, width: int) -> Any:
    """Columns of [own | between], with room for a product's padding."""
    return width + ((depth - 1) * rows + 2 * LANES - 2) // LANES * LANES


def facts_of(sizes: Sizes, x_TD: torch.Tensor) -> tuple[int | np.ndarray, ...]:
    """The numbers and arrays that `batch_of` reads before the tensors."""
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
    """What the backward call has besides; gradients of the null tokens once for each task, S tasks."""

    logits_BC: np.ndarray
    null_maps_SGE: np.ndarray
    null_SGD: np.ndarray


# Places in the array that describes a call: the next task, the facts, the sizes' arrays, the tensors.
FIRST_TENSOR = 10


@numba.njit
def batch_of(call: Any) -> Any:
    """The arguments of a call, from the numbers and addresses that `openmp.run_on_threads` passes on."""
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
        carray(floats_at(call[FIRST_TENSOR]), (items, columns)),
        carray(floats_at(call[FIRST_TENSOR + 1]), (depth * null_tokens, columns)),
        carray(floats_at(call[FIRST_TENSOR + 2]), (depth * null_tokens, width)),
        carray(floats_at(call[FIRST_TENSOR + 3]), (items, width)),
        carray(floats_at(call[FIRST_TENSOR + 4]), (users * candidates, width)),
        carray(floats_at(call[FIRST_TENSOR + 5]), kept_from[users]),
    )


@numba.njit
def gradients_of(call: Any) -> Any:
    """The further arguments of a backward call."""
    users, depth, null_tokens, candidates, width = call[1], call[2], call[3], call[4], call[5]
    columns, tasks = n_columns(depth, width), (users + TASK_USERS - 1) // TASK_USERS
    return _Gradients(
        carray(floats_at(call[FIRST_TENSOR + 6]), (users, candidates)),
        carray(floats_at(call[FIRST_TENSOR + 7]), (tasks, depth * null_tokens, columns)),
        carray(floats_at(call[FIRST_TENSOR + 8]), (tasks, depth * null_tokens, width)),
    )


@numba.njit
def kept_of(batch: Any, user: int) -> Any:
    """A user's part of what is kept: [own | between] of all layers, and [Xq; P]."""
    rows = batch.lengths[user] + batch.null_tokens
    columns, padded = _matrix_columns(rows, batch.depth, batch.width), round_up(batch.candidates)
    first = batch.kept_from[user]
    middle = first + batch.depth * rows * columns
    matrix = batch.kept[first:middle].reshape((batch.depth * rows, columns))
    return matrix, batch.kept[middle : batch.kept_from[user + 1]].reshape((batch.width + batch.depth * rows, padded))
