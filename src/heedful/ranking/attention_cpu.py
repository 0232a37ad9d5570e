"""Temporary: the fast form of the attention, until it moves below embeddings."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from heedful.ranking.layers import LANES, Layers
from heedful.ranking.maps import Maps


def is_faster(module: Any, x_BLD: torch.Tensor, used_BL: torch.Tensor, xq_BCD: torch.Tensor) -> bool:
    if not torch.is_grad_enabled() or x_BLD.requires_grad or xq_BCD.requires_grad or x_BLD.device.type != "cpu":
        return False
    depth, (hidden, width), candidates = len(module.f), module.h.weight.shape, xq_BCD.shape[1]
    null_rows, lengths = len(module.null[0]) if module.null else 0, _lengths(used_BL)
    if not depth or not (lengths + null_rows).all():
        return False
    rows, pairs = lengths.astype(float) + null_rows, depth * (depth - 1) // 2
    fold = 3 * (depth + pairs) * width * width * hidden
    maps = 2 * (depth + pairs) * width * width * lengths + 2 * depth * rows * width * candidates
    products = pairs * rows**2 * (2 * width + 3 * candidates)
    longest = lengths.max() + null_rows
    absorbed = len(lengths) * candidates * depth * width * (6 * hidden + 4 * longest)
    return bool(fold + (maps + products).sum() < absorbed)


def logits(self: Any, x_BLD: torch.Tensor, used_BL: torch.Tensor, xq_BCD: torch.Tensor) -> torch.Tensor:
    users, depth, padding = len(x_BLD), len(self.f), -x_BLD.shape[2] % LANES
    layers = [g for g in self.g if isinstance(g, nn.Linear)]
    xq_BCD = xq_BCD.expand(users, -1, -1)
    bias_KH = torch.stack([self.h.bias, *(g.bias for g in layers)]).cumsum(0)
    item_BC = xq_BCD @ (self.phi @ self.h.weight)[0] + self.phi[0] @ bias_KH[-1]
    x_TD, xq_BCD = _padded(x_BLD[used_BL], padding), _padded(xq_BCD, padding)
    f_KHD = _padded(torch.stack(list(self.f)), padding)
    hg_HX = torch.cat([_padded(matrix, padding) for matrix in (self.h.weight, *(g.weight for g in layers))], dim=1)
    start_KD = torch.bmm(bias_KH[:-1, None], f_KHD)[:, 0]
    worth_KD = (self.phi @ hg_HX).view(1 + depth, -1)[1:]
    null_KMD = _padded(torch.stack(list(self.null)), padding) if self.null else x_TD.new_zeros(depth, 0, x_TD.shape[1])
    maps_DE = Maps.apply(f_KHD, hg_HX, start_KD, worth_KD)
    read_BC = Layers.apply(maps_DE, null_KMD.flatten(0, 1) @ maps_DE, null_KMD, x_TD, xq_BCD, _lengths(used_BL))
    return read_BC + item_BC


def _lengths(used_BL: torch.Tensor) -> np.ndarray:
    return used_BL.sum(1).numpy()


def _padded(tensor: torch.Tensor, padding: int) -> torch.Tensor:
    return nn.functional.pad(tensor, (0, padding)) if padding else tensor
