"""Sum and maximum of what past items have to do with each candidate, without gradients, on a CPU:
the item interactions of many candidates.

Of v_ri = relu(x_q^T W_r x_i - b_r) only the sum and the maximum over the past items i are wanted;
x_q^T W_r is made once for all users of a batch, and no v leaves the caches.

Replaces the products, thresholds, sums and maxima of `heedful.model.terms`. Reference:
`reference.positive_part`. Gain: docs/kernels.md. Delete it when `benchmarks/kernels.py` shows less
than 1.3.

Shapes: B users (Q of them, or 1, in arrays of candidates), L past items (padded), C candidates, S
blocks of them, D embedding width, R relations.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numba.np.numpy_support import carray

from heedful.kernels.candidate_blocks import BLOCK, in_blocks, lengths_of, parts_of_user, without_blocks, workable
from heedful.kernels.matmul import floats_at, integers_at, multiply, next_task, positive_part
from heedful.kernels.openmp import at, run_on_threads

__all__ = ["Queries", "is_possible", "queries", "sums_and_maxima"]

_FIRST_TENSOR = 9


class Queries(NamedTuple):
    """What is made of candidates whoever the users are.

    Attributes:
        of_blocks: x_q^T W_r as columns, float32 [Q, S, R D, BLOCK].
        candidates: C.
        relations: R.
    """

    of_blocks: torch.Tensor
    candidates: int
    relations: int


def is_possible(x_BLD: torch.Tensor, used_BL: torch.Tensor, *others: torch.Tensor) -> bool:
    """Whether `sums_and_maxima` can take this call."""
    return workable(x_BLD, *others) and lengths_of(used_BL) is not None


def queries(xq_BCD: torch.Tensor, w_RDD: torch.Tensor) -> Queries:
    """x_q^T W_r of candidates, [B, C, D] or the same for every user, [1, C, D]."""
    return Queries(w_RDD.transpose(1, 2).flatten(0, 1) @ in_blocks(xq_BCD), xq_BCD.shape[1], len(w_RDD))


def sums_and_maxima(
    x_BLD: torch.Tensor, used_BL: torch.Tensor, queries: Queries, threshold_R: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sum and maximum of v_r over the past items, float32 [R, B, C] each; 0 without past items.

    Args:
        x_BLD: past items.
        used_BL: above 0 for past items, 0 in the padding behind them.
        queries: of the candidates.
        threshold_R: b_r.
    """
    users, longest, width = x_BLD.shape
    lengths = lengths_of(used_BL)
    assert lengths is not None
    own, blocks = queries.of_blocks.shape[:2]
    found_BSRb = x_BLD.new_empty(users, blocks, queries.relations, 2, BLOCK)
    sizes = [users, longest, width, queries.relations, blocks, parts_of_user(users), int(own > 1)]
    tensors = [queries.of_blocks, x_BLD, threshold_R, found_BSRb]
    run_on_threads(_score_users, *sizes, lengths, *(tensor.contiguous() for tensor in tensors))
    total, largest = without_blocks(found_BSRb.permute(3, 2, 0, 1, 4), queries.candidates)
    return total, largest


def _score_users(address: Any) -> None:
    """Take tasks until there are none; run by every thread."""
    call = carray(address, _FIRST_TENSOR + 4)
    users, longest, width, relations, blocks, parts, own = call[1], call[2], call[3], call[4], call[5], call[6], call[7]
    lengths = carray(integers_at(call[8]), users)
    queries = carray(floats_at(call[9]), ((users if own else 1) * blocks * relations * width, BLOCK))
    x, threshold = carray(floats_at(call[10]), (users * longest, width)), carray(floats_at(call[11]), (relations, 1))
    found = carray(floats_at(call[12]), (users * blocks * relations * 2, BLOCK))
    z = np.empty((max(longest, 1), BLOCK), np.float32)
    each = (blocks + parts - 1) // parts
    while True:
        task = next_task(call.ctypes.data)
        if task >= users * parts:
            break
        user, first = task // parts, task % parts * each
        for block in range(first, min(first + each, blocks)):
            for r in range(relations):
                q = at(queries, ((user * own * blocks + block) * relations + r) * width, 0)
                multiply(at(x, user * longest, 0), width, 1, q, BLOCK, at(z, 0, 0), BLOCK, lengths[user], width, BLOCK, 0)
                result = at(found, ((user * blocks + block) * relations + r) * 2, 0)
                positive_part(at(z, 0, 0), BLOCK, lengths[user], BLOCK, at(threshold, r, 0), result)
