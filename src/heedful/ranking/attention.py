"""The attention model of section 4.1, in the cheaper of two forms that are the same function with the same gradients.

The paper: z^0 = h(x_q); p^k = softmax_i(f^k(x_i)^T z^(k-1)); z^k = z^(k-1) + sum_i p_i^k g^k(x_i); logit = phi^T z^K.

Absorbed, for a long past: f^k(x_i)^T z = x_i^T (B_f^T z) + c_f^T z, whose last term is the same for all i and cancels in
the softmax, and sum_i p_i g(x_i) = B_g (sum_i p_i x_i) + c_g, since the p_i sum to one. So the history is never projected,
and every layer attends over the same raw x_i. The bias c_f, which has no effect in either form, is not kept. With D = 64,
H = 128, K = 10 there are 173,568 parameters, 174,848 with the K x H inert numbers of c_f.

Scores alone, for a short past in training (`_score_space`): z^(k-1) is z^0 plus what earlier layers read, so that the
scores of layer k, s^k_i = f^k(x_i)^T z^(k-1), are a number for each (layer, past item) that starts at f^k(x_i)^T h(x_q) and
to which every layer j < k adds sum_m (f^k(x_i)^T g^j(x_m)) p_m^j. What stands between two items is x_i^T (f^kT g^j) x_m: a
matrix made of the parameters, and a product with it for each past item, whatever the candidate. Likewise
logit = phi^T z^0 + sum_kj p_j^k (phi^T g^k(x_j)). No candidate has a z then: at K = 10 a user with 8 past items and 110
candidates costs an eighth of the arithmetic. Kernels of our own do it, a user at a time (`maps`, `layers`).

Null rows: the softmax forgets how alike query and history are (with one past item its weight is always 1). A few learnt
rows in every layer's memory give the attention somewhere else to go, which makes the weights of real items absolute.

Shapes: B users, L past items (padded), C candidates, D embedding width, H hidden width, K layers, M null rows.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from heedful.ranking.layers import LANES, Layers
from heedful.ranking.maps import Maps

__all__ = ["Attention"]


class Attention(nn.Module):
    """K stacked layers of attention of candidates over a user's past items.

    Args:
        width: D.
        hidden: H, d' in the paper.
        depth: K.
        null_rows: M; 0 is the paper's model.
        scale: length of the input vectors, for the first size of the null rows.
    """

    def __init__(self, *, width: int, hidden: int, depth: int, null_rows: int, scale: float) -> None:
        super().__init__()
        self.h = nn.Linear(width, hidden)
        self.f = nn.ParameterList(nn.Parameter(torch.empty(hidden, width)) for _ in range(depth))
        self.g = nn.ModuleList(nn.Linear(width, hidden) for _ in range(depth))
        self.phi = nn.Parameter(torch.empty(1, hidden))
        rows = [nn.Parameter(torch.randn(null_rows, width) * scale / width**0.5) for _ in range(depth if null_rows else 0)]
        self.null = nn.ParameterList(rows)
        for matrix in (self.h.weight, self.phi, *self.f, *(layer.weight for layer in self.g)):  # Saxe et al. 2014
            nn.init.orthogonal_(matrix)
        for layer in (self.h, *self.g):
            nn.init.zeros_(layer.bias)

    def forward(self, x_BLD: torch.Tensor, log_weight_BL: torch.Tensor, xq_BCD: torch.Tensor) -> torch.Tensor:
        """The logit of each candidate.

        Args:
            x_BLD: past items.
            log_weight_BL: 0 for a past item, -inf in the padding; added to the attention's scores. A user without past
                items needs null rows.
            xq_BCD: candidates, or [1, C, D] for the same candidates for every user.

        Returns:
            float [B, C].
        """
        used_BL = log_weight_BL == 0
        if self._on_scores(x_BLD, used_BL, xq_BCD):
            with torch.autocast(x_BLD.device.type, enabled=False):
                return self._score_space(x_BLD, used_BL, xq_BCD)
        users = x_BLD.shape[0]
        z_BCH = self.h(xq_BCD).expand(users, -1, -1)
        weighted = not bool(used_BL.all())
        for k, (f, g) in enumerate(zip(self.f, self.g, strict=True)):
            memory_BND, log_weight_BN = x_BLD, log_weight_BL
            if self.null:
                null_BMD = self.null[k].expand(users, -1, -1)
                memory_BND = torch.cat([x_BLD, null_BMD], dim=1)
                log_weight_BN = nn.functional.pad(log_weight_BN, (0, null_BMD.shape[1]))
            z_BCH = z_BCH + g(_read(memory_BND, z_BCH @ f, log_weight_BN if weighted else None))
        logits_BC: torch.Tensor = (z_BCH @ self.phi.T).squeeze(-1)
        return logits_BC

    def _on_scores(self, x_BLD: torch.Tensor, used_BL: torch.Tensor, xq_BCD: torch.Tensor) -> bool:
        """Whether this is a training step on a processor that takes fewer multiply-adds on scores alone."""
        if not torch.is_grad_enabled() or x_BLD.requires_grad or xq_BCD.requires_grad or x_BLD.device.type != "cpu":
            return False
        depth, (hidden, width), candidates = len(self.f), self.h.weight.shape, xq_BCD.shape[1]
        null_rows, lengths = len(self.null[0]) if self.null else 0, _lengths(used_BL)
        if not depth or not (lengths + null_rows).all():
            return False
        rows, pairs = lengths.astype(float) + null_rows, depth * (depth - 1) // 2
        fold = 3 * (depth + pairs) * width * width * hidden
        maps = 2 * (depth + pairs) * width * width * lengths + 2 * depth * rows * width * candidates
        products = pairs * rows**2 * (2 * width + 3 * candidates)
        longest = lengths.max() + null_rows
        absorbed = len(lengths) * candidates * depth * width * (6 * hidden + 4 * longest)
        return bool(fold + (maps + products).sum() < absorbed)

    def _score_space(self, x_BLD: torch.Tensor, used_BL: torch.Tensor, xq_BCD: torch.Tensor) -> torch.Tensor:
        """`forward` on scores alone; in what compiled code sees, D is padded."""
        users, depth, padding = len(x_BLD), len(self.f), -x_BLD.shape[2] % LANES
        layers = [g for g in self.g if isinstance(g, nn.Linear)]
        xq_BCD = xq_BCD.expand(users, -1, -1)
        bias_KH = torch.stack([self.h.bias, *(g.bias for g in layers)]).cumsum(0)  # those of what z^(k-1) is made of
        item_BC = xq_BCD @ (self.phi @ self.h.weight)[0] + self.phi[0] @ bias_KH[-1]
        x_TD, xq_BCD = _padded(x_BLD[used_BL], padding), _padded(xq_BCD, padding)
        f_KHD = _padded(torch.stack(list(self.f)), padding)
        hg_HX = torch.cat([_padded(matrix, padding) for matrix in (self.h.weight, *(g.weight for g in layers))], dim=1)
        start_KD = torch.bmm(bias_KH[:-1, None], f_KHD)[:, 0]
        worth_KD = (self.phi @ hg_HX).view(1 + depth, -1)[1:]
        null_KMD = _padded(torch.stack(list(self.null)), padding) if self.null else x_TD.new_zeros(depth, 0, x_TD.shape[1])
        maps_DE = Maps.apply(f_KHD, hg_HX, start_KD, worth_KD)  # type: ignore[no-untyped-call]
        read_BC: torch.Tensor = Layers.apply(  # type: ignore[no-untyped-call]
            maps_DE, null_KMD.flatten(0, 1) @ maps_DE, null_KMD, x_TD, xq_BCD, _lengths(used_BL)
        )
        logits_BC: torch.Tensor = read_BC + item_BC
        return logits_BC


def _lengths(used_BL: torch.Tensor) -> np.ndarray:
    return used_BL.sum(1).numpy()


def _padded(tensor: torch.Tensor, padding: int) -> torch.Tensor:
    return nn.functional.pad(tensor, (0, padding)) if padding else tensor


def _read(memory_BND: torch.Tensor, query_BCD: torch.Tensor, log_weight_BN: torch.Tensor | None) -> torch.Tensor:
    """The mean of the memory under each query's softmax, float [B, C, D].

    Without gradients by the fused kernel, which keeps no scores; with them by plain products, which are faster there.
    """
    if torch.is_grad_enabled():
        keys_BDN = memory_BND.transpose(1, 2)
        if log_weight_BN is None:
            scores_BCN = torch.bmm(query_BCD, keys_BDN)
        else:
            scores_BCN = torch.baddbmm(log_weight_BN[:, None, :], query_BCD, keys_BDN)
        return torch.bmm(scores_BCN.softmax(-1), memory_BND)
    mask_B11N = None if log_weight_BN is None else log_weight_BN[:, None, None, :].to(query_BCD.dtype)
    memory_B1ND = memory_BND[:, None].to(query_BCD.dtype)
    read_B1CD = nn.functional.scaled_dot_product_attention(
        query_BCD[:, None], memory_B1ND, memory_B1ND, attn_mask=mask_B11N, scale=1.0
    )
    return read_B1CD[:, 0]
