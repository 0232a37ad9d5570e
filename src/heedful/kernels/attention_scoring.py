"""Attention (section 4.1) of many candidates without gradients, on a CPU.

The scores of layer k are x_i^T q^k, q^k = f^kT z^(k-1). What a candidate itself puts into q^k does
not depend on the user: q^k0 = f^kT h(x_q) is made once for all users of a batch. Layer j < k adds
f^kT g^j(r^j), r^j = sum_i p_i^j x_i being what it read: the product with a [D, D] matrix made of
the parameters. The last layer's reading is never made: logit = phi^T h(x_q) + sum_k sum_i p_i^k
(phi^T g^k(x_i)), a number for each (layer, past item). Of a short history nothing is read at all:
layer j adds x_i^T f^kT g^j x_m p_m^j to the scores, an [N, N] matrix made once for each user
(score space, see `attention_cpu`). Whichever takes fewer operations is taken.

Replaces the form over the items (`heedful.model.attention`), whose intermediate results do not fit
the caches. Reference: `reference.PlainAttention`. Gain: docs/kernels.md. Delete it when
`benchmarks/kernels.py` shows less than 1.3 for the default preset.

Shapes: B users (Q of them, or 1, in arrays of candidates), L past items (padded), M null tokens,
N = M + L, C candidates, S blocks of them, D embedding width, H hidden width, K layers.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numba
import numpy as np
import torch
from numba.np.numpy_support import carray
from torch import nn

from heedful.kernels.attention_cpu import AttentionParameters
from heedful.kernels.candidate_blocks import BLOCK, in_blocks, lengths_of, parts_of_user, without_blocks, workable
from heedful.kernels.matmul import floats_at, integers_at, multiply, next_task, softmax
from heedful.kernels.openmp import at, run_on_threads

__all__ = ["Queries", "is_faster", "logits", "queries"]

# What a multiply-add over the items costs, whose intermediate results do not fit the caches, in those here; measured.
_WORTH = 1.3
# Places in the array that describes a call: the next task, the numbers, the lengths, the tensors.
_LENGTHS, _FIRST_TENSOR, _TENSORS = 10, 11, 5


def is_faster(parameters: AttentionParameters, x_BLD: torch.Tensor, used_BL: torch.Tensor, xq_BCD: torch.Tensor) -> bool:
    """Whether `logits` can take this call, and by its multiply-adds is faster than attention over the items themselves."""
    if not len(parameters.f) or not workable(x_BLD, xq_BCD, *_all_of(parameters)) or lengths_of(used_BL) is None:
        return False
    depth, (hidden, width), rows = len(parameters.f), parameters.h.weight.shape, _rows(parameters, x_BLD)
    users, (own, candidates) = len(x_BLD), xq_BCD.shape[:2]
    made = (depth + depth * depth) * width * width * hidden + own * candidates * depth * width * width
    first_products = users * candidates * depth * rows * width
    over_items = users * candidates * depth * 2 * width * (hidden + rows)
    return made + first_products + users * min(_costs(depth, width, rows, candidates)) < _WORTH * over_items


class Queries(NamedTuple):
    """What is made of candidates and parameters whoever the users are.

    Attributes:
        of_blocks: q^k0 as columns, float32 [Q, S, K D, BLOCK].
        base_QC: what a candidate adds to its logit, and what the constants of the g^k add.
        maps_KDX: f^kT g^j for all j side by side, float32 [K, D, K D].
        worth_KD: phi^T g^k.
    """

    of_blocks: torch.Tensor
    base_QC: torch.Tensor
    maps_KDX: torch.Tensor
    worth_KD: torch.Tensor


def queries(parameters: AttentionParameters, xq_BCD: torch.Tensor) -> Queries:
    """Of candidates, [B, C, D] or the same for every user, [1, C, D]; of at least one layer, float32."""
    depth, width = len(parameters.f), xq_BCD.shape[2]
    layers = [g for g in parameters.g if isinstance(g, nn.Linear)]
    f_XH, g_HX = torch.cat(list(parameters.f), dim=1).T, torch.cat([g.weight for g in layers], dim=1)
    phi_H, bias_KH = parameters.phi[0], torch.stack([parameters.h.bias, *(g.bias for g in layers)]).cumsum(0)
    start_X1 = torch.bmm(f_XH.view(depth, width, -1), bias_KH[:-1, :, None]).view(-1, 1)
    return Queries(
        (f_XH @ parameters.h.weight) @ in_blocks(xq_BCD) + start_X1,
        xq_BCD @ (phi_H @ parameters.h.weight) + phi_H @ bias_KH[-1],
        (f_XH @ g_HX).view(depth, width, -1),
        (phi_H @ g_HX).view(depth, width),
    )


def logits(parameters: AttentionParameters, x_BLD: torch.Tensor, used_BL: torch.Tensor, queries: Queries) -> torch.Tensor:
    """The logit of each candidate, float32 [B, C], without gradients.

    Args:
        parameters: those of the queries.
        x_BLD: past items.
        used_BL: above 0 for past items, 0 in the padding behind them.
        queries: of the candidates.
    """
    lengths = lengths_of(used_BL)
    assert lengths is not None
    (depth, width), users = queries.worth_KD.shape, len(x_BLD)
    (own, blocks), candidates = queries.of_blocks.shape[:2], queries.base_QC.shape[1]
    memory_KBND = _memory(parameters, x_BLD)
    memories, _, longest, _ = memory_KBND.shape
    worth_KBN = torch.einsum("kbnd,kd->kbn", memory_KBND.expand(depth, -1, -1, -1), queries.worth_KD)
    with_scores, with_readings = _costs(depth, width, longest, candidates)
    in_score_space = with_scores < with_readings
    maps = _between(memory_KBND, queries.maps_KDX) if in_score_space else queries.maps_KDX
    read_BSb = x_BLD.new_empty(users, blocks, BLOCK)
    sizes = [users, depth, longest, width, blocks, parts_of_user(users), in_score_space, own > 1, memories > 1]
    tensors = [queries.of_blocks, memory_KBND, worth_KBN, maps, read_BSb]
    rows = lengths + longest - x_BLD.shape[1]
    run_on_threads(_score_users, *map(int, sizes), rows, *(tensor.contiguous() for tensor in tensors))
    return without_blocks(read_BSb, candidates) + queries.base_QC


def _costs(depth: int, width: int, rows: int, candidates: int) -> tuple[int, int]:
    """Multiply-adds of a user after the first products, in score space and with readings."""
    pairs = depth * (depth - 1) // 2
    between = depth * rows * width * depth * width + pairs * rows * rows * width
    return between + candidates * pairs * rows * rows, candidates * (pairs * width + (depth - 1) * rows) * width


def _rows(parameters: AttentionParameters, x_BLD: torch.Tensor) -> int:
    return x_BLD.shape[1] + (len(parameters.null[0]) if parameters.null else 0)


def _memory(parameters: AttentionParameters, x_BLD: torch.Tensor) -> torch.Tensor:
    """The rows that each layer attends to, null tokens first, float32 [K, B, N, D]; [1, B, N, D] without null tokens."""
    if not parameters.null:
        return x_BLD[None]
    return torch.stack([torch.cat([null.expand(len(x_BLD), -1, -1), x_BLD], dim=1) for null in parameters.null])


def _between(memory_KBND: torch.Tensor, maps_KDX: torch.Tensor) -> torch.Tensor:
    """What the weights of layer j add to the scores of layer k > j, float32 [B, K, K, N, N]."""
    depth, width, _ = maps_KDX.shape
    _, users, rows, _ = memory_KBND.shape
    between = memory_KBND.new_empty(users, depth, depth, rows, rows)
    memory_KBND = memory_KBND.expand(depth, -1, -1, -1)
    for k in range(1, depth):
        left_BNjD = (memory_KBND[k] @ maps_KDX[k, :, : k * width]).view(users, rows, k, width)
        torch.matmul(left_BNjD.transpose(1, 2), memory_KBND[:k].permute(1, 0, 3, 2), out=between[:, k, :k])
    return between


def _all_of(parameters: AttentionParameters) -> list[torch.Tensor]:
    layers = [layer for layer in (parameters.h, *parameters.g) if isinstance(layer, nn.Linear)]
    linear = [part for layer in layers for part in (layer.weight, layer.bias)]
    return [*linear, *parameters.f, parameters.phi, *parameters.null]


class _Call(NamedTuple):
    """The arguments of a call as compiled code sees them; tensors as matrices of their last axis."""

    users: int
    depth: int
    rows: int  # N, padded
    width: int
    blocks: int
    parts: int
    in_score_space: int
    own_candidates: int
    own_memories: int
    lengths: np.ndarray
    queries: np.ndarray
    memory: np.ndarray
    worth: np.ndarray
    maps: np.ndarray
    read: np.ndarray


class _Buffers(NamedTuple):
    """What a thread works in: weights of all layers, what they read, the queries of one."""

    weights: np.ndarray
    readings: np.ndarray
    query: np.ndarray


def _score_users(address: Any) -> None:
    """Take tasks until there are none; run by every thread."""
    call = carray(address, _FIRST_TENSOR + _TENSORS)
    given = _call_of(call)
    weights = np.empty((given.depth * max(given.rows, 1), BLOCK), np.float32)
    readings = np.empty((given.depth * given.width, BLOCK), np.float32)
    buffers = _Buffers(weights, readings, np.empty((given.width, BLOCK), np.float32))
    each = (given.blocks + given.parts - 1) // given.parts
    while True:
        task = next_task(call.ctypes.data)
        if task >= given.users * given.parts:
            break
        first = task % given.parts * each
        for block in range(first, min(first + each, given.blocks)):
            _score_block(given, buffers, task // given.parts, block)


@numba.njit
def _call_of(call: Any) -> Any:
    users, depth, rows, width, blocks = call[1], call[2], call[3], call[4], call[5]
    in_score_space, own_candidates, own_memories = call[7], call[8], call[9]
    of_candidates, of_memory = users if own_candidates else 1, depth if own_memories else 1
    maps = (users * depth * depth * rows, rows) if in_score_space else (depth * width, depth * width)
    return _Call(
        users,
        depth,
        rows,
        width,
        blocks,
        call[6],
        in_score_space,
        own_candidates,
        own_memories,
        carray(integers_at(call[_LENGTHS]), users),
        carray(floats_at(call[_FIRST_TENSOR]), (of_candidates * blocks * depth * width, BLOCK)),
        carray(floats_at(call[_FIRST_TENSOR + 1]), (of_memory * users * rows, width)),
        carray(floats_at(call[_FIRST_TENSOR + 2]), (depth * users, rows)),
        carray(floats_at(call[_FIRST_TENSOR + 3]), maps),
        carray(floats_at(call[_FIRST_TENSOR + 4]), (users * blocks, BLOCK)),
    )


@numba.njit
def _score_block(given: Any, buffers: Any, user: Any, block: Any) -> None:
    """All layers of one user for one block of candidates."""
    depth, width, rows, reads = given.depth, given.width, given.lengths[user], not given.in_score_space
    weights, readings, query = buffers
    read = at(given.read, user * given.blocks + block, 0)
    for k in range(depth):
        first = ((user * given.own_candidates * given.blocks + block) * depth + k) * width
        q, p = at(given.queries, first, 0), at(weights, k * given.rows, 0)
        x = at(given.memory, (k * given.own_memories * given.users + user) * given.rows, 0)
        if k and reads:
            query[:] = given.queries[first : first + width]
            q = at(query, 0, 0)
            multiply(
                at(given.maps, k * width, 0), given.maps.shape[1], 1, at(readings, 0, 0), BLOCK, q, BLOCK, width,
                k * width, BLOCK, 1,
            )  # fmt: skip
        multiply(x, width, 1, q, BLOCK, p, BLOCK, rows, width, BLOCK, 0)
        for j in range(0 if reads else k):
            between = at(given.maps, ((user * depth + k) * depth + j) * given.rows, 0)
            multiply(between, given.rows, 1, at(weights, j * given.rows, 0), BLOCK, p, BLOCK, rows, rows, BLOCK, 1)
        softmax(p, BLOCK, rows, BLOCK)
        multiply(at(given.worth, k * given.users + user, 0), 0, 1, p, BLOCK, read, 0, 1, rows, BLOCK, k > 0)
        if reads and k < depth - 1:
            multiply(x, 1, width, p, BLOCK, at(readings, k * width, 0), BLOCK, width, rows, BLOCK, 0)
