"""Two learnt terms beside attention: item-item interactions that add up, and a vector for the user.

Softmax passes on an average of the history: two items that both point to a candidate count no more than
one. `ItemInteractions` lets them add up. `UserTower` is the deep averaging network of section 5.2 with
means over three horizons. Both are ours, not the paper's.

Shapes: B users, L items of a history (padded), C candidates, D embedding width, R relations.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from heedful.kernels import interactions_scoring
from heedful.model.inputs import Inputs
from heedful.model.score import Term

__all__ = ["ItemInteractions", "UserTower"]

_RELATIONS = 3
_TOWER_UNITS = 64
# The mean of the latest items weighs the n-th newest by exp(-n / 10).
_LATEST_ITEMS = 10


class ItemInteractions(Term):
    """sum over r of a_r log(1 + sum_i v_ri) + c_r max_i v_ri.

    v_ri = relu(x_q^T W_r x_i - b_r) says how well item i of the history goes with the candidate in
    relation r. What is below the threshold b_r counts nothing, so that a long history is not an
    advantage by itself.

    Args:
        width: D.
        scale: length of the input vectors.
        relations: R.
    """

    def __init__(self, *, width: int, scale: float, relations: int = _RELATIONS) -> None:
        super().__init__()
        cosine = torch.eye(width) * 4 / scale**2  # 4 times the cosine to begin with
        relation_matrices = [cosine + 0.02 * torch.randn(width, width) for _ in range(relations)]
        self.w = nn.Parameter(torch.stack(relation_matrices))
        self.threshold = nn.Parameter(torch.linspace(0, 3, relations))
        self.a = nn.Parameter(torch.zeros(relations))
        self.c = nn.Parameter(torch.zeros(relations))

    def forward(self, inputs: Inputs) -> torch.Tensor:
        """What the term adds to the logit of each candidate, float [B, C]."""
        users, longest = inputs.x_BLD.shape[:2]
        total_BC = inputs.x_BLD.new_zeros(users, inputs.xq_BCD.shape[1])
        if longest == 0:
            return total_BC
        for a, c, (sum_BC, largest_BC) in zip(self.a, self.c, self._sums_and_maxima(inputs), strict=True):
            total_BC = total_BC + a * torch.log1p(sum_BC) + c * largest_BC
        return total_BC

    def _sums_and_maxima(self, inputs: Inputs) -> Iterable[tuple[torch.Tensor, torch.Tensor]]:
        """Sum and maximum of v_ri over i, float [B, C], of each relation r."""
        past = inputs.x_BLD, inputs.used_BL
        if interactions_scoring.is_possible(*past, inputs.xq_BCD, self.w, self.threshold):
            queries = inputs.once(self, lambda: interactions_scoring.queries(inputs.xq_BCD, self.w))
            return zip(*interactions_scoring.sums_and_maxima(*past, queries, self.threshold), strict=True)
        matches = (self._matches(inputs, relation) for relation in range(len(self.w)))
        return ((v_BCL.sum(-1), v_BCL.amax(-1)) for v_BCL in matches)

    def by_history_item(self, inputs: Inputs) -> torch.Tensor | None:
        """Each logarithm divided in proportion to v_ri, each maximum given to its item; float [B, C, L]."""
        total_BCL = inputs.x_BLD.new_zeros(len(inputs.x_BLD), inputs.xq_BCD.shape[1], inputs.x_BLD.shape[1])
        if total_BCL.shape[2] == 0:
            return total_BCL
        for relation, (a, c) in enumerate(zip(self.a, self.c, strict=True)):
            v_BCL = self._matches(inputs, relation)
            sum_BC1 = v_BCL.sum(-1, keepdim=True)
            share_BCL = v_BCL / sum_BC1.clamp(min=1e-30)
            best_BC1 = v_BCL.argmax(-1, keepdim=True)
            total_BCL = total_BCL + a * torch.log1p(sum_BC1) * share_BCL
            total_BCL = total_BCL.scatter_add(-1, best_BC1, c * v_BCL.gather(-1, best_BC1))
        return total_BCL

    def _matches(self, inputs: Inputs, relation: int) -> torch.Tensor:
        """v_ri of one relation, float [B, C, L]."""
        users = len(inputs.x_BLD)
        query_BCD = (inputs.xq_BCD @ self.w[relation]).expand(users, -1, -1)
        products_BCL = torch.bmm(query_BCD, inputs.x_BLD.transpose(1, 2))
        return torch.relu(products_BCL - self.threshold[relation]) * inputs.used_BL[:, None, :]


class UserTower(Term):
    """A vector for the user: mu([mean, mean of the latest, mean by recency])^T B x_q + c.

    Args:
        width: D.
    """

    def __init__(self, *, width: int) -> None:
        super().__init__()
        first, last = nn.Linear(3 * width, 2 * _TOWER_UNITS), nn.Linear(2 * _TOWER_UNITS, _TOWER_UNITS)
        self.mu = nn.Sequential(first, nn.ReLU(), last)
        self.query = nn.Linear(width, _TOWER_UNITS)
        nn.init.normal_(self.query.weight, std=0.05)

    def forward(self, inputs: Inputs) -> torch.Tensor:
        """What the term adds to the logit of each candidate, float [B, C]."""
        x_BLD, used_BL = inputs.x_BLD, inputs.used_BL
        place_L = torch.arange(x_BLD.shape[1], device=x_BLD.device, dtype=x_BLD.dtype)
        latest_BL = used_BL * torch.exp(-place_L / _LATEST_ITEMS)
        weights_B3L = torch.stack([used_BL, latest_BL, inputs.recency_BL], dim=1)
        weights_B3L = weights_B3L / weights_B3L.sum(-1, keepdim=True).clamp(min=1e-9)
        user_BT = self.mu(torch.bmm(weights_B3L, x_BLD).flatten(1))
        query_BCT: torch.Tensor = inputs.once(self, lambda: self.query(inputs.xq_BCD))
        if len(query_BCT) == 1:
            return torch.mm(user_BT, query_BCT[0].T)
        return torch.matmul(query_BCT, user_BT[:, :, None]).squeeze(-1)
