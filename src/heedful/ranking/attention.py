"""The attention model of section 4.1, in the cheaper of two forms that are the same function with the same gradients.

The paper: z^0 = h(x_q); p^k = softmax_i(f^k(x_i)^T z^(k-1)); z^k = z^(k-1) + sum_i p_i^k g^k(x_i); logit = phi^T z^K.

Absorbed, for a long past: f^k(x_i)^T z = x_i^T (B_f^T z) + c_f^T z, whose last term is the same for all i and cancels in
the softmax, and sum_i p_i g(x_i) = B_g (sum_i p_i x_i) + c_g, since the p_i sum to one. So the history is never projected,
and every layer attends over the same raw x_i. The bias c_f, which has no effect in either form, is not kept. With D = 64,
H = 128, K = 10 there are 173,568 parameters, 174,848 with the K x H inert numbers of c_f.

Scores alone, for a short past (`_score_space`): z^(k-1) is z^0 plus what earlier layers read, so that the scores of layer
k, s^k_i = f^k(x_i)^T z^(k-1), are a number for each (layer, past item) that starts at f^k(x_i)^T h(x_q) and to which every
layer j < k adds sum_m (f^k(x_i)^T g^j(x_m)) p_m^j. The products of f^k and g^j are those of a user, whatever the candidate.
Likewise logit = phi^T z^0 + sum_kj p_j^k (phi^T g^k(x_j)). No candidate has a z then: a user with 8 past items and 110
candidates costs a seventh of the arithmetic, and a candidate keeps K x L numbers for the gradient in place of K x H.

Null rows: the softmax forgets how alike query and history are (with one past item its weight is always 1). A few learnt
rows in every layer's memory give the attention somewhere else to go, which makes the weights of real items absolute.

Shapes: B users, L past items (padded), C candidates, D embedding width, H hidden width, K layers, M null rows.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable

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

    def forward(
        self, x_BLD: torch.Tensor, log_weight_BL: torch.Tensor, xq_BCD: torch.Tensor, bias_KBL: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The logit of each candidate.

        Args:
            x_BLD: past items.
            log_weight_BL: 0 for a past item, -inf in the padding; added to the attention's scores. A user without past
                items needs null rows.
            xq_BCD: candidates, or [1, C, D] for the same candidates for every user.
            bias_KBL: what each layer adds to the scores of each past item, if anything.

        Returns:
            float [B, C].
        """
        if torch.is_grad_enabled() and self._short(x_BLD.shape[1], xq_BCD.shape[1]):
            return self._score_space(x_BLD, log_weight_BL, xq_BCD, bias_KBL)
        users = x_BLD.shape[0]
        z_BCH = self.h(xq_BCD).expand(users, -1, -1)
        weighted = bias_KBL is not None or bool(log_weight_BL.any())
        for k, (f, g) in enumerate(zip(self.f, self.g, strict=True)):
            memory_BND, log_weight_BN = x_BLD, log_weight_BL
            if bias_KBL is not None:
                log_weight_BN = log_weight_BN + bias_KBL[k]
            if self.null:
                null_BMD = self.null[k].expand(users, -1, -1)
                memory_BND = torch.cat([x_BLD, null_BMD], dim=1)
                log_weight_BN = nn.functional.pad(log_weight_BN, (0, null_BMD.shape[1]))
            z_BCH = z_BCH + g(_read(memory_BND, z_BCH @ f, log_weight_BN if weighted else None))
        logits_BC: torch.Tensor = (z_BCH @ self.phi.T).squeeze(-1)
        return logits_BC

    def _short(self, past: int, candidates: int) -> bool:
        """Whether a training step on scores alone takes fewer multiply-adds for a user than the absorbed form."""
        depth, (hidden, width) = len(self.f), self.h.weight.shape
        rows = past + (len(self.null[0]) if self.null else 0)
        pairs = depth * (depth - 1) // 2
        products = depth * rows * width * (2 * candidates + 7 * hidden) + 3 * pairs * rows**2 * (candidates + hidden)
        return 0 < products < candidates * depth * width * (6 * hidden + 4 * rows)

    def _score_space(
        self, x_BLD: torch.Tensor, log_weight_BL: torch.Tensor, xq_BCD: torch.Tensor, bias_KBL: torch.Tensor | None
    ) -> torch.Tensor:
        """`forward` on scores alone; N = L + M rows of memory."""
        users, depth = len(x_BLD), len(self.f)
        memories = [x_BLD] * depth
        if self.null:
            memories = [torch.cat([x_BLD, null_MD.expand(users, -1, -1)], dim=1) for null_MD in self.null]
        keys_BKNH = torch.stack([memory @ f.T for memory, f in zip(memories, self.f, strict=True)], dim=1)
        values_BKNH = torch.stack([g(memory) for memory, g in zip(memories, self.g, strict=True)], dim=1)
        log_weight_BKL = log_weight_BL[:, None].expand(-1, depth, -1)
        if bias_KBL is not None:
            log_weight_BKL = log_weight_BKL + bias_KBL.transpose(0, 1)
        log_weight_BKN = nn.functional.pad(log_weight_BKL, (0, keys_BKNH.shape[2] - x_BLD.shape[1]))
        start_BKN = keys_BKNH @ self.h.bias + log_weight_BKN
        own_BKND, worth_BKN = keys_BKNH @ self.h.weight, values_BKNH @ self.phi[0]
        inputs = (own_BKND, start_BKN, worth_BKN, keys_BKNH, values_BKNH, xq_BCD.expand(users, -1, -1))
        with torch.autocast(x_BLD.device.type, enabled=False):
            read_BC: torch.Tensor = _Layers.apply(*(tensor.float() for tensor in inputs))  # type: ignore[no-untyped-call]
        item_BC: torch.Tensor = self.h(xq_BCD) @ self.phi[0]
        return read_BC + item_BC


class _Layers(torch.autograd.Function):
    """All layers on scores alone, sum_kn p_n^k worth^k_n, and its gradients, in two buffers that are worked on in place.

    Candidates stand in the last dimension, over which the softmax of many short pasts is computed side by side.
    """

    @staticmethod
    def forward(
        ctx: Any, own_BKND: torch.Tensor, start_BKN: torch.Tensor, worth_BKN: torch.Tensor, keys_BKNH: torch.Tensor,
        values_BKNH: torch.Tensor, xq_BCD: torch.Tensor,
    ) -> torch.Tensor:  # fmt: skip
        """The layers of a batch, float [B, C]; R = K N rows."""
        _, depth, rows = start_BKN.shape
        own_BRD, keys_BRH = own_BKND.flatten(1, 2), keys_BKNH.flatten(1, 2)
        p_BRC = torch.baddbmm(start_BKN.flatten(1)[:, :, None], own_BRD, xq_BCD.transpose(1, 2))  # scores at first
        between = []  # what layer k adds to the scores of the layers after it, [B, (K - 1 - k) N, N]
        for k in range(depth):
            later = (k + 1) * rows
            p_BNC = p_BRC[:, later - rows : later]
            p_BNC.copy_(p_BNC.softmax(1))
            if later < p_BRC.shape[1]:
                between.append(torch.bmm(keys_BRH[:, later:], values_BKNH[:, k].transpose(1, 2)))
                p_BRC[:, later:].baddbmm_(between[k], p_BNC)
        ctx.save_for_backward(own_BRD, worth_BKN, keys_BRH, values_BKNH, xq_BCD, p_BRC, *between)
        return torch.bmm(worth_BKN.flatten(1)[:, None], p_BRC)[:, 0]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_BC: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """From the last layer to the first: d holds the gradient of each p, after its layer's turn that of its scores."""
        own_BRD, worth_BKN, keys_BRH, values_BKNH, xq_BCD, p_BRC, *between = ctx.saved_tensors
        _, depth, rows = worth_BKN.shape
        d_BRC = worth_BKN.flatten(1)[:, :, None] * gradient_BC[:, None]
        d_keys_BRH, d_values_BKNH = torch.zeros_like(keys_BRH), torch.zeros_like(values_BKNH)
        for k in reversed(range(depth)):
            later = (k + 1) * rows
            p_BNC, d_BNC = p_BRC[:, later - rows : later], d_BRC[:, later - rows : later]
            if k < len(between):
                d_BNC.baddbmm_(between[k].transpose(1, 2), d_BRC[:, later:])
                d_between = torch.bmm(d_BRC[:, later:], p_BNC.transpose(1, 2))
                d_keys_BRH[:, later:].baddbmm_(d_between, values_BKNH[:, k])
                d_values_BKNH[:, k] = torch.bmm(d_between.transpose(1, 2), keys_BRH[:, later:])
            d_BNC.copy_(torch._softmax_backward_data(d_BNC, p_BNC, 1, d_BNC.dtype))
        return (
            torch.bmm(d_BRC, xq_BCD).view(*worth_BKN.shape, -1),
            d_BRC.sum(2).view_as(worth_BKN),
            torch.bmm(p_BRC, gradient_BC[:, :, None]).view_as(worth_BKN),
            d_keys_BRH.view_as(values_BKNH),
            d_values_BKNH,
            torch.bmm(d_BRC.transpose(1, 2), own_BRD) if ctx.needs_input_grad[5] else None,
        )


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
