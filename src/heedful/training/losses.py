"""Objectives as pure functions: section 4.2 of the paper, sampled softmax, and the pairwise ones that section 7 names.

Shapes: B users in a batch, C candidates (positives and negatives of one user, padded); P, N the same C as either.
"""

from __future__ import annotations

import torch
from torch.nn import functional

__all__ = ["LOSSES", "balanced_logistic", "bpr", "sampled_softmax", "warp"]

_WARP_MARGIN = 1.0


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


def bpr(logits_BC: torch.Tensor, positive_BC: torch.Tensor, weights_BC: torch.Tensor) -> torch.Tensor:
    """Mean over users and pairs of -log sigma(positive - negative), Bayesian personalised ranking (Rendle et al. 2009).

    At its optimum logits differ as log P(q | u) - log P_gamma(q) does, as with `balanced_logistic`, so that the same
    prior applies (`Ranker.prior`).

    Args:
        logits_BC: scores.
        positive_BC: bool, True for the items of S_u.
        weights_BC: as in `balanced_logistic`.

    Returns:
        The loss, a scalar; log 2 for a model that knows nothing.
    """
    margins_BPN, pairs_BPN = _pairs(logits_BC, positive_BC, weights_BC)
    return (pairs_BPN * functional.softplus(-margins_BPN)).sum() / logits_BC.shape[0]


def warp(logits_BC: torch.Tensor, positive_BC: torch.Tensor, weights_BC: torch.Tensor) -> torch.Tensor:
    """The weighted approximate-rank pairwise loss (Weston, Bengio and Usunier 2011), over all negatives instead of a search.

    A positive that v of the user's negatives violate, being less than 1 below it, costs 1 + 1/2 + ... + 1/v (here its
    smooth form log(1 + v)) times the mean violation. The search of the original, which draws negatives until one violates,
    estimates v; with all negatives at hand it is counted. Logits have no density ratio to go by: `Ranker.prior` is then a
    habit, not a consequence.

    Args:
        logits_BC: scores.
        positive_BC: bool, True for the items of S_u.
        weights_BC: as in `balanced_logistic`.

    Returns:
        The loss, a scalar; log(1 + |N_u|) for a model that knows nothing.
    """
    margins_BPN, pairs_BPN = _pairs(logits_BC, positive_BC, weights_BC)
    violations_BPN = functional.relu(_WARP_MARGIN - margins_BPN) * (pairs_BPN > 0)
    violating_BP = (violations_BPN > 0).sum(2).to(logits_BC.dtype)
    losses_BP = violations_BPN.sum(2) / violating_BP.clamp(min=1) * torch.log1p(violating_BP)
    return (pairs_BPN.sum(2) * losses_BP).sum() / logits_BC.shape[0]


def _pairs(
    logits_BC: torch.Tensor, positive_BC: torch.Tensor, weights_BC: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Positive less negative, [B, P, N], and the weight of each such pair: 1 / (|S_u| |N_u|), 0 elsewhere."""
    positives_BC = torch.where(positive_BC, 2 * weights_BC, 0)
    negatives_BC = torch.where(positive_BC, 0, 2 * weights_BC)
    return logits_BC[:, :, None] - logits_BC[:, None, :], positives_BC[:, :, None] * negatives_BC[:, None, :]


LOSSES = {"logistic": balanced_logistic, "softmax": sampled_softmax, "bpr": bpr, "warp": warp}
