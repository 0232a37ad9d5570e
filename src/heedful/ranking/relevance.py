"""Two learnt terms that stand beside the attention's logit: direct relevance, and a vector for the user.

The softmax of attention passes on an average of the past: two past items that both point to a candidate count no more than
one. `Relevance` lets them add up. `UserTower` is the deep averaging network of section 5.2 with means over three horizons.

Shapes: B users, L past items (padded), C candidates, D embedding width, R relations.
"""

from __future__ import annotations

import torch
from torch import nn

__all__ = ["Relevance", "UserTower"]

_TOWER_UNITS = 64


class Relevance(nn.Module):
    """How much of the past is relevant to a candidate: sum over r of a_r log(1 + sum_i v_ri) + c_r max_i v_ri.

    v_ri = relu(x_q^T W_r x_i - b_r) is the relevance of past item i in relation r; what is below the threshold b_r counts
    nothing, so that a long history is not an advantage by itself.

    Args:
        width: D.
        relations: R.
        scale: length of the input vectors.
    """

    def __init__(self, *, width: int, relations: int, scale: float) -> None:
        super().__init__()
        cosine = torch.eye(width) * 4 / scale**2  # 4 times the cosine to begin with
        self.w = nn.Parameter(torch.stack([cosine + 0.02 * torch.randn(width, width) for _ in range(relations)]))
        self.threshold = nn.Parameter(torch.linspace(0, 3, relations))
        self.a = nn.Parameter(torch.zeros(relations))
        self.c = nn.Parameter(torch.zeros(relations))

    def forward(self, x_BLD: torch.Tensor, used_BL: torch.Tensor, xq_BCD: torch.Tensor) -> torch.Tensor:
        """What the term adds to the logit of each candidate.

        Args:
            x_BLD: past items.
            used_BL: 1 for a past item, 0 in the padding.
            xq_BCD: candidates, or [1, C, D] for the same candidates for every user.

        Returns:
            float [B, C].
        """
        users, past = x_BLD.shape[:2]
        total_BC = x_BLD.new_zeros(users, xq_BCD.shape[1])
        if past == 0:
            return total_BC
        for w_DD, threshold, a, c in zip(self.w, self.threshold, self.a, self.c, strict=True):
            query_BCD = (xq_BCD @ w_DD).expand(users, -1, -1)
            v_BCL = torch.relu(torch.bmm(query_BCD, x_BLD.transpose(1, 2)) - threshold) * used_BL[:, None, :]
            total_BC = total_BC + a * torch.log1p(v_BCL.sum(-1)) + c * v_BCL.amax(-1)
        return total_BC


class UserTower(nn.Module):
    """A vector for the user, mu([mean, mean of the latest, mean of the youngest])^T B x_q + c.

    Args:
        width: D.
    """

    def __init__(self, *, width: int) -> None:
        super().__init__()
        self.mu = nn.Sequential(nn.Linear(3 * width, 2 * _TOWER_UNITS), nn.ReLU(), nn.Linear(2 * _TOWER_UNITS, _TOWER_UNITS))
        self.query = nn.Linear(width, _TOWER_UNITS)
        nn.init.normal_(self.query.weight, std=0.05)

    def forward(
        self, x_BLD: torch.Tensor, used_BL: torch.Tensor, recency_BL: torch.Tensor, xq_BCD: torch.Tensor
    ) -> torch.Tensor:
        """What the term adds to the logit of each candidate.

        Args:
            x_BLD: past items, newest first.
            used_BL: 1 for a past item, 0 in the padding.
            recency_BL: weight of each past item by its age, 0 in the padding.
            xq_BCD: candidates, or [1, C, D] for the same candidates for every user.

        Returns:
            float [B, C].
        """
        by_order_L = torch.exp(-torch.arange(x_BLD.shape[1], device=x_BLD.device, dtype=x_BLD.dtype) / 10)
        weights_B3L = torch.stack([used_BL, used_BL * by_order_L, recency_BL], dim=1)
        weights_B3L = weights_B3L / weights_B3L.sum(-1, keepdim=True).clamp(min=1e-9)
        user_BT = self.mu(torch.bmm(weights_B3L, x_BLD).flatten(1))
        return torch.matmul(self.query(xq_BCD), user_BT[:, :, None]).squeeze(-1)
