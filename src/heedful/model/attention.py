"""The attention of section 4.1 of the paper.

    z^0 = h(x_q);  p^k = softmax_i(f^k(x_i)^T z^(k-1));  z^k = z^(k-1) + sum_i p_i^k g^k(x_i);
    logit = phi^T z^K,  k = 1..K;  f, g, h affine, phi linear; layers share no parameters.

The history is never projected. f^k(x_i)^T z = x_i^T (B_f^T z) + c_f^T z, whose last term is the same for
all i and cancels in the softmax: the bias c_f has no effect and is not kept. And sum_i p_i g(x_i) =
B_g (sum_i p_i x_i) + c_g, since the p_i sum to one. So every layer attends over the same raw x_i, and
scores and gradients are those of the equations. With D = 64, H = 128, K = 10 there are 173,568
parameters: the paper's 174,848 less the K x H inert numbers of c_f.

Ours: null tokens. Softmax forgets how alike query and history are (with one item its weight is always
1). A few learnt rows in each layer's memory give attention somewhere else to go, which makes the
weights of the real items absolute. None of them is the paper's model.

Shapes: B users, L items of a history (padded), C candidates, D embedding width, H hidden width,
K layers, M null tokens, N = L + M.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn.functional import pad, scaled_dot_product_attention

from heedful.kernels import attention_cpu, attention_scoring
from heedful.model.inputs import Inputs
from heedful.model.score import Term

__all__ = ["Attention"]

Read = Callable[[torch.Tensor, torch.Tensor, torch.Tensor | None], torch.Tensor]


class Attention(Term):
    """K stacked layers in which candidates attend over a user's history.

    Args:
        width: D.
        hidden: H, d' in the paper.
        depth: K.
        null_tokens: M; 0 is the paper's model.
        scale: length of the input vectors, for the initial size of the null tokens.
    """

    def __init__(self, *, width: int, hidden: int, depth: int, null_tokens: int, scale: float) -> None:
        super().__init__()
        self.h = nn.Linear(width, hidden)
        self.f = nn.ParameterList(nn.Parameter(torch.empty(hidden, width)) for _ in range(depth))
        self.g = nn.ModuleList(nn.Linear(width, hidden) for _ in range(depth))
        self.phi = nn.Parameter(torch.empty(1, hidden))
        tokens = (torch.randn(null_tokens, width) * scale / width**0.5 for _ in range(depth))
        self.null = nn.ParameterList(map(nn.Parameter, tokens) if null_tokens else [])
        for matrix in (self.h.weight, self.phi, *self.f, *(layer.weight for layer in self.g)):
            nn.init.orthogonal_(matrix)  # Saxe et al. 2014
        for layer in (self.h, *self.g):
            nn.init.zeros_(layer.bias)

    def forward(self, inputs: Inputs) -> torch.Tensor:
        """The logit of each candidate, float [B, C]."""
        given = inputs.x_BLD, inputs.used_BL > 0, inputs.xq_BCD
        logits_BC: torch.Tensor
        if attention_cpu.is_faster(self, *given):
            logits_BC = attention_cpu.logits(self, *given)
        elif attention_scoring.is_faster(self, *given):
            queries = inputs.once(self, lambda: attention_scoring.queries(self, inputs.xq_BCD))
            logits_BC = attention_scoring.logits(self, *given[:2], queries)
        else:
            logits_BC = (self._attend(inputs, _read) @ self.phi.T).squeeze(-1)
        return logits_BC

    def _attend(self, inputs: Inputs, read: Read) -> torch.Tensor:
        """z^K, float [B, C, H]."""
        x_BLD, users = inputs.x_BLD, len(inputs.x_BLD)
        z_BCH: torch.Tensor = self.h(inputs.xq_BCD).expand(users, -1, -1)
        padded = not bool((inputs.used_BL > 0).all())
        log_weight_BL = torch.log(inputs.used_BL) if padded else None
        for k, (f, g) in enumerate(zip(self.f, self.g, strict=True)):
            memory_BND, log_weight_BN = x_BLD, log_weight_BL
            if self.null:
                null_BMD = self.null[k].expand(users, -1, -1)
                memory_BND = torch.cat([x_BLD, null_BMD], dim=1)
                if log_weight_BN is not None:
                    log_weight_BN = pad(log_weight_BN, (0, null_BMD.shape[1]))
            z_BCH = z_BCH + g(read(memory_BND, z_BCH @ f, log_weight_BN))
        return z_BCH

    def attention(self, inputs: Inputs) -> torch.Tensor | None:
        """The weights p^k, float [K, B, C, L + M]; null tokens last, each layer's weights sum to 1."""
        weights: list[torch.Tensor] = []

        def read(memory: torch.Tensor, query: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
            weights.append(_weights(memory, query, mask))
            return torch.bmm(weights[-1], memory)

        z_BCH = self._attend(inputs, read)
        return torch.stack(weights) if weights else z_BCH.new_empty(0, *z_BCH.shape[:2], inputs.x_BLD.shape[1])

    def by_history_item(self, inputs: Inputs) -> torch.Tensor | None:
        """sum_k p_i^k phi^T g^k(x_i), float [B, C, L]; phi^T h(x_q) and the null tokens are the rest."""
        weights_KBCN, longest = self.attention(inputs), inputs.x_BLD.shape[1]
        assert weights_KBCN is not None
        total_BCL = inputs.x_BLD.new_zeros(weights_KBCN.shape[1], weights_KBCN.shape[2], longest)
        for p_BCN, g in zip(weights_KBCN, self.g, strict=True):
            worth_BL = (g(inputs.x_BLD) @ self.phi.T).squeeze(-1)
            total_BCL = total_BCL + p_BCN[:, :, :longest] * worth_BL[:, None, :]
        return total_BCL


def _weights(memory_BND: torch.Tensor, query_BCD: torch.Tensor, log_weight_BN: torch.Tensor | None) -> torch.Tensor:
    """Softmax over the memory for each query, float [B, C, N]."""
    keys_BDN = memory_BND.transpose(1, 2)
    if log_weight_BN is None:
        return torch.bmm(query_BCD, keys_BDN).softmax(-1)
    return torch.baddbmm(log_weight_BN[:, None, :], query_BCD, keys_BDN).softmax(-1)


def _read(memory_BND: torch.Tensor, query_BCD: torch.Tensor, log_weight_BN: torch.Tensor | None) -> torch.Tensor:
    """The mean of the memory under each query's softmax, float [B, C, D].

    Without gradients by the fused kernel, which keeps no scores; with them by plain products, which are
    faster there.
    """
    if torch.is_grad_enabled():
        return torch.bmm(_weights(memory_BND, query_BCD, log_weight_BN), memory_BND)
    mask_B11N = None if log_weight_BN is None else log_weight_BN[:, None, None, :].to(query_BCD.dtype)
    memory_B1ND = memory_BND[:, None].to(query_BCD.dtype)
    read_B1CD = scaled_dot_product_attention(query_BCD[:, None], memory_B1ND, memory_B1ND, attn_mask=mask_B11N, scale=1.0)
    return read_B1CD[:, 0]
