"""The attention model of section 4.1.

The paper: z^0 = h(x_q); p^k = softmax_i(f^k(x_i)^T z^(k-1)); z^k = z^(k-1) + sum_i p_i^k g^k(x_i); logit = phi^T z^K.

f^k(x_i)^T z = x_i^T (B_f^T z) + c_f^T z, whose last term is the same for all i and cancels in the softmax, and
sum_i p_i g(x_i) = g(sum_i p_i x_i), since the p_i sum to one. So the history is never projected, and every layer attends
over the same raw x_i. The bias c_f has no effect and is not kept. With D = 64, H = 128, K = 10 there are 173,568
parameters, 174,848 with the K x H inert numbers of c_f. Short histories are trained in a third form of the same function,
`heedful.kernels.attention_cpu`.

Null rows: the softmax forgets how alike query and history are (with one past item its weight is always 1). A few learnt
rows in every layer's memory give the attention somewhere else to go, which makes the weights of real items absolute.

Shapes: B users, L past items (padded), C candidates, D embedding width, H hidden width, K layers, M null rows.
"""

from __future__ import annotations

import torch
from torch import nn

from heedful.kernels import attention_cpu

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
        if attention_cpu.is_faster(self, x_BLD, used_BL, xq_BCD):
            return attention_cpu.logits(self, x_BLD, used_BL, xq_BCD)
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
