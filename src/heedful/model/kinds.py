"""A learnt term for the kind, the number and the age of each past action.

Ours, not the paper's. The other terms treat a view like a purchase; this one learns how much more or less each kind counts,
below nothing for kinds that speak against an item.

Shapes: B users, L items of a history (padded), C candidates, D embedding width, N kinds, A = 3 N properties of actions.
"""

from __future__ import annotations

import torch
from torch import nn

from heedful.model.encode import PROPERTIES
from heedful.model.inputs import Inputs
from heedful.model.score import Term

__all__ = ["KindWeights"]


class KindWeights(Term):
    """x_q^T sum_i w_i x_i / (scale^2 sqrt(L)), where w_i is a weighted sum of the properties of the actions with item i.

    Each kind has weights of its own, zero at first.

    Args:
        n_kinds: N.
        scale: length of the input vectors.
    """

    def __init__(self, *, n_kinds: int, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.w = nn.Parameter(torch.zeros(n_kinds, len(PROPERTIES)))

    def forward(self, inputs: Inputs) -> torch.Tensor:
        """What the term adds to the logit of each candidate, float [B, C]."""
        user_BD = torch.bmm(self._weights(inputs)[:, None, :], inputs.x_BLD)[:, 0]
        if len(inputs.xq_BCD) == 1:
            return torch.mm(user_BD, inputs.xq_BCD[0].T)
        return torch.matmul(inputs.xq_BCD, user_BD[:, :, None]).squeeze(-1)

    def by_history_item(self, inputs: Inputs) -> torch.Tensor | None:
        """All of it, float [B, C, L]."""
        xq_BCD = inputs.xq_BCD.expand(len(inputs.x_BLD), -1, -1)
        return torch.bmm(xq_BCD, inputs.x_BLD.transpose(1, 2)) * self._weights(inputs)[:, None, :]

    def _weights(self, inputs: Inputs) -> torch.Tensor:
        """w_i / (scale^2 sqrt(L)), float [B, L]; 0 in the padding."""
        assert inputs.actions_BLA is not None
        length_B1 = inputs.used_BL.sum(-1, keepdim=True).clamp(min=1.0)
        weights_BL: torch.Tensor = inputs.actions_BLA @ self.w.flatten()
        return weights_BL / (self.scale**2 * length_B1.sqrt())
