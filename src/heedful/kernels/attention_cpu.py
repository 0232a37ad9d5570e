"""Attention (section 4.1) in score space: the training step of short histories on a CPU.

z^(k-1) is z^0 plus what earlier layers read, so that the scores of layer k, s^k_i = f^k(x_i)^T z^(k-1), are a number for
each (layer, past item). It starts at f^k(x_i)^T h(x_q), and every layer j < k adds sum_m (f^k(x_i)^T g^j(x_m)) p_m^j. The
term between two items is x_i^T (f^kT g^j) x_m: a matrix made of the parameters, and a product with it for each past item,
whatever the candidate. Likewise logit = phi^T z^0 + sum_kj p_j^k (phi^T g^k(x_j)). No candidate has a z then: at K = 10 a
user with 8 past items and 110 candidates costs an eighth of the arithmetic. The matrices are made in
`attention_folding`, the layers of each user in `attention_layers`.

Shapes: B users, L past items (padded), T past items of all users end to end, C candidates, D embedding width, H hidden
width, K layers, M null tokens, X = (K + 1) D, E columns of the folded matrices.
"""

from __future__ import annotations

from itertools import chain
from typing import Protocol

import numpy as np
import torch
from torch import nn

from heedful.kernels.attention_folding import FoldedMatrices
from heedful.kernels.attention_layers import AttentionLayers
from heedful.kernels.matmul import LANES

__all__ = ["AttentionParameters", "is_faster", "logits"]


class AttentionParameters(Protocol):
    """The parameters of section 4.1; the bias of f has no effect and is not there.

    Attributes:
        h: of candidates, [H, D] and its bias.
        f: a matrix [H, D] for each layer.
        g: `nn.Linear` for each layer, [H, D] and its bias.
        phi: [1, H].
        null: null tokens [M, D] for each layer, or nothing.
    """

    h: nn.Linear
    f: nn.ParameterList
    g: nn.ModuleList
    phi: nn.Parameter
    null: nn.ParameterList


def is_faster(parameters: AttentionParameters, x_BLD: torch.Tensor, used_BL: torch.Tensor, xq_BCD: torch.Tensor) -> bool:
    """Whether `logits` can take this call, and takes fewer multiply-adds than attention over the items themselves.

    It can take a training step in float32 on a CPU that needs no gradient for the items.
    """
    if not torch.is_grad_enabled() or x_BLD.requires_grad or xq_BCD.requires_grad:
        return False
    if not all(_is_supported(tensor) for tensor in (x_BLD, xq_BCD, *_all_of(parameters))):
        return False
    depth, (hidden, width), candidates = len(parameters.f), parameters.h.weight.shape, xq_BCD.shape[1]
    lengths, null_tokens = _lengths(used_BL), _null_tokens(parameters)
    if not depth or not (lengths + null_tokens).all():
        return False
    rows, pairs = lengths.astype(float) + null_tokens, depth * (depth - 1) // 2
    fold = 3 * (depth + pairs) * width * width * hidden
    maps = 2 * (depth + pairs) * width * width * lengths + 2 * depth * rows * width * candidates
    products = pairs * rows**2 * (2 * width + 3 * candidates)
    longest = lengths.max() + null_tokens
    over_items = len(lengths) * candidates * depth * width * (6 * hidden + 4 * longest)
    return bool(fold + (maps + products).sum() < over_items)


def logits(
    parameters: AttentionParameters, x_BLD: torch.Tensor, used_BL: torch.Tensor, xq_BCD: torch.Tensor
) -> torch.Tensor:
    """The logit of each candidate, float32 [B, C], with gradients for the parameters.

    Args:
        parameters: of at least one layer, float32.
        x_BLD: past items.
        used_BL: bool, False in the padding. A user without past items needs null tokens.
        xq_BCD: candidates, or [1, C, D] for the same candidates for every user.
    """
    with torch.autocast("cpu", enabled=False):
        return _logits(parameters, x_BLD, used_BL, xq_BCD)


def _logits(p: AttentionParameters, x_BLD: torch.Tensor, used_BL: torch.Tensor, xq_BCD: torch.Tensor) -> torch.Tensor:
    """`logits`; compiled code sees D padded to a multiple of `LANES`."""
    depth, padding = len(p.f), -x_BLD.shape[2] % LANES
    layers = [g for g in p.g if isinstance(g, nn.Linear)]
    xq_BCD = xq_BCD.expand(len(x_BLD), -1, -1)
    bias_KH = torch.stack([p.h.bias, *(g.bias for g in layers)]).cumsum(0)  # those of what z^(k-1) is made of
    item_BC = xq_BCD @ (p.phi @ p.h.weight)[0] + p.phi[0] @ bias_KH[-1]
    x_TD, xq_BCD = _padded(x_BLD[used_BL], padding), _padded(xq_BCD, padding)
    f_KHD = _padded(torch.stack(list(p.f)), padding)
    hg_HX = torch.cat([_padded(matrix, padding) for matrix in (p.h.weight, *(g.weight for g in layers))], dim=1)
    start_KD = torch.bmm(bias_KH[:-1, None], f_KHD)[:, 0]
    worth_KD = (p.phi @ hg_HX).view(1 + depth, -1)[1:]
    null_KMD = _padded(torch.stack(list(p.null)), padding) if p.null else x_TD.new_zeros(depth, 0, x_TD.shape[1])
    maps_DE = FoldedMatrices.apply(f_KHD, hg_HX, start_KD, worth_KD)  # type: ignore[no-untyped-call]
    read_BC: torch.Tensor = AttentionLayers.apply(  # type: ignore[no-untyped-call]
        maps_DE, null_KMD.flatten(0, 1) @ maps_DE, null_KMD, x_TD, xq_BCD, _lengths(used_BL)
    )
    return read_BC + item_BC


def _all_of(parameters: AttentionParameters) -> list[torch.Tensor]:
    linear = [(layer.weight, layer.bias) for layer in (parameters.h, *parameters.g) if isinstance(layer, nn.Linear)]
    return [*chain(*linear), *parameters.f, parameters.phi, *parameters.null]


def _is_supported(tensor: torch.Tensor) -> bool:
    return tensor.dtype == torch.float32 and tensor.device.type == "cpu"


def _null_tokens(parameters: AttentionParameters) -> int:
    return len(parameters.null[0]) if parameters.null else 0


def _lengths(used_BL: torch.Tensor) -> np.ndarray:
    return used_BL.sum(1).numpy()


def _padded(tensor: torch.Tensor, padding: int) -> torch.Tensor:
    return nn.functional.pad(tensor, (0, padding)) if padding else tensor
