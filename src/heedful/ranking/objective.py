"""Objectives as pure functions: that of section 4.2 of the paper, and sampled softmax.

Shapes: B users in a batch, C candidates (positives and negatives of one user, padded).
"""

from __future__ import annotations

import torch
from torch.nn import functional

__all__ = ["OBJECTIVES", "balanced_logistic", "sampled_softmax"]


def balanced_logistic(logits_BC: torch.Tensor, positive_BC: torch.Tensor, weights_BC: torch.Tensor) -> torch.Tensor:
    """Mean over users of the weighted negative log-likelihood, equation L-hat of section 4.2.

    Args:
        logits_BC: scores before the logistic function.
        positive_BC: bool, True for the items of S_u.
        weights_BC: 1 / (2 |S_u|) for positives, 1 / (2 |N_u|) for negatives, 0 in the padding.

    Returns:
        The loss, a scalar; log 2 for a model that knows nothing.
    """
    signed_BC = torch.where(positive_BC, -logits_BC, logits_BC)
    return (weights_BC * functional.softplus(signed_BC)).sum() / logits_BC.shape[0]


def sampled_softmax(logits_BC: torch.Tensor, positive_BC: torch.Tensor, weights_BC: torch.Tensor) -> torch.Tensor:
    """Mean over users of -log of the share of each positive among itself and the user's negatives.

    Where the logits are less the logarithm of the probability with which negatives were drawn, this estimates the
    softmax over the whole catalogue (the logQ correction; Bengio and Senecal 2008, Yi et al. 2019).

    Args:
        logits_BC: scores before the softmax.
        positive_BC: bool, True for the items of S_u.
        weights_BC: as in `balanced_logistic`; only whether a place is used, and 1 / |S_u|, matter.

    Returns:
        The loss, a scalar; log(1 + |N_u|) for a model that knows nothing.
    """
    negatives_BC = logits_BC.masked_fill(positive_BC | (weights_BC == 0), -torch.inf)
    against_B1 = torch.logsumexp(negatives_BC, dim=1, keepdim=True)
    losses_BC = functional.softplus(against_B1 - logits_BC)
    weights_BC = torch.where(positive_BC, 2 * weights_BC, 0)
    return (weights_BC * losses_BC).sum() / logits_BC.shape[0]


OBJECTIVES = {"logistic": balanced_logistic, "softmax": sampled_softmax}
