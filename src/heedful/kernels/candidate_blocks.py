"""Candidates in blocks of `BLOCK` columns, as `attention_scoring` and `interactions_scoring` take
them: what one block of one user needs stays in the caches nearest to the processor.

A part of the two, and deleted with them.

Shapes: B users (or 1, for the same candidates for all), C candidates, S blocks, D embedding width.
"""

from __future__ import annotations

import numpy as np
import torch
from torch.nn.functional import pad

from heedful.kernels.matmul import LANES

__all__ = ["BLOCK", "in_blocks", "lengths_of", "parts_of_user", "without_blocks", "workable"]

BLOCK = 2 * LANES
"""Columns that the products of `matmul` take at once, where registers are widest."""
# A user's blocks are divided among the threads where users are fewer than that for each of them.
_USERS_EACH = 4


def in_blocks(xq_BCD: torch.Tensor) -> torch.Tensor:
    """Vectors of candidates as columns, float32 [B, S, D, BLOCK]; the last block is padded with zeros."""
    users, candidates, width = xq_BCD.shape
    if candidates % BLOCK:
        xq_BCD = pad(xq_BCD, (0, 0, 0, -candidates % BLOCK))
    return xq_BCD.view(users, -1, BLOCK, width).transpose(2, 3).contiguous()


def without_blocks(values: torch.Tensor, candidates: int) -> torch.Tensor:
    """Values of candidates [..., C] from those of blocks [..., S, BLOCK]."""
    return values.flatten(-2)[..., :candidates]


def workable(*tensors: torch.Tensor) -> bool:
    """Whether the scoring kernels can read these: without gradients, float32 in CPU memory."""
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
        return False
    return all(tensor.dtype == torch.float32 and tensor.device.type == "cpu" for tensor in tensors)


def lengths_of(used_BL: torch.Tensor) -> np.ndarray | None:
    """Past items of each user, int64 [B]; None where padding is not behind all of them."""
    used = used_BL.numpy() > 0
    return None if (used[:, 1:] > used[:, :-1]).any() else used.sum(axis=1, dtype=np.int64)


def parts_of_user(users: int) -> int:
    """Tasks into which the blocks of each user are divided."""
    threads = torch.get_num_threads()
    return 1 if users >= _USERS_EACH * threads else threads
