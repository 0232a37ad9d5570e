"""The deep averaging network of section 5.2, in both of its forms.

Shapes: B users, L items of a history (padded), C candidates, D embedding width, H hidden width.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from heedful.model.inputs import Inputs
from heedful.model.score import Term

__all__ = ["DeepAveraging"]


class DeepAveraging(Term):
    """Two layers of rectified linear units over the mean of the user's history.

    Form "inner" is mu(x_u)^T x_q, the one whose results the paper reports; form "sum" is mu(x_u + x_q).

    Args:
        width: D.
        hidden: H, units of each of the two layers.
        form: "inner" or "sum".
    """

    def __init__(self, *, width: int, hidden: int, form: Literal["inner", "sum"]) -> None:
        super().__init__()
        self.form = form
        last = nn.Linear(hidden, width if form == "inner" else 1)
        self.mu = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), last)
        for layer in self.mu:
            if isinstance(layer, nn.Linear):
                nn.init.orthogonal_(layer.weight)
                nn.init.zeros_(layer.bias)

    def forward(self, inputs: Inputs) -> torch.Tensor:
        """The logit of each candidate, float [B, C]."""
        used_BL = inputs.used_BL
        total_B1 = used_BL.sum(1, keepdim=True).clamp(min=1)
        mean_BD = torch.bmm((used_BL / total_B1)[:, None, :], inputs.x_BLD)[:, 0]
        if self.form == "inner":
            user_BD1 = self.mu(mean_BD)[:, :, None]
            return torch.matmul(inputs.xq_BCD, user_BD1).squeeze(-1)
        logits_BC: torch.Tensor = self.mu(mean_BD[:, None, :] + inputs.xq_BCD).squeeze(-1)
        return logits_BC
