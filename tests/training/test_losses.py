"""Objectives against loops in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from heedful.training.losses import LOSSES, balanced_logistic, bpr, sampled_softmax, warp


def instances(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits, positives and weights of users with 1 to 4 positives and 1 to 6 negatives in 4 + 6 places."""
    randoms = np.random.default_rng(seed)
    logits = torch.from_numpy(randoms.normal(size=(5, 10)) * 3)
    positive, weights = np.zeros((5, 10), bool), np.zeros((5, 10))
    for b in range(5):
        p, n = randoms.integers(1, 5), randoms.integers(1, 7)
        positive[b, :p] = True
        weights[b, :p] = 1 / (2 * p)
        weights[b, 4 : 4 + n] = 1 / (2 * n)
    return logits.requires_grad_(), torch.from_numpy(positive), torch.from_numpy(weights)


def transcription_of_4_2(logits: torch.Tensor, positive: torch.Tensor, weights: torch.Tensor) -> float:
    total = 0.0
    for row, is_positive, weight in zip(logits.tolist(), positive.tolist(), weights.tolist(), strict=True):
        r = [1 / (1 + math.exp(-logit)) for logit in row]
        s = [r[q] for q in range(len(r)) if is_positive[q]]
        n = [r[q] for q in range(len(r)) if not is_positive[q] and weight[q] > 0]
        total -= sum(math.log(one) for one in s) / (2 * len(s)) + sum(math.log(1 - one) for one in n) / (2 * len(n))
    return total / len(logits)


def softmax_loop(logits: torch.Tensor, positive: torch.Tensor, weights: torch.Tensor) -> float:
    total = 0.0
    for row, is_positive, weight in zip(logits.tolist(), positive.tolist(), weights.tolist(), strict=True):
        s = [row[q] for q in range(len(row)) if is_positive[q]]
        n = [row[q] for q in range(len(row)) if not is_positive[q] and weight[q] > 0]
        against = sum(math.exp(logit) for logit in n)
        total -= sum(math.log(math.exp(logit) / (math.exp(logit) + against)) for logit in s) / len(s)
    return total / len(logits)


def pairs_of(row: list[float], is_positive: list[bool], weight: list[float]) -> list[list[float]]:
    """For each positive, by how much it stands above each negative."""
    n = [row[q] for q in range(len(row)) if not is_positive[q] and weight[q] > 0]
    return [[row[q] - other for other in n] for q in range(len(row)) if is_positive[q]]


def bpr_loop(logits: torch.Tensor, positive: torch.Tensor, weights: torch.Tensor) -> float:
    total = 0.0
    for user in zip(logits.tolist(), positive.tolist(), weights.tolist(), strict=True):
        margins = [margin for above in pairs_of(*user) for margin in above]
        total += sum(math.log(1 + math.exp(-margin)) for margin in margins) / len(margins)
    return total / len(logits)


def warp_loop(logits: torch.Tensor, positive: torch.Tensor, weights: torch.Tensor) -> float:
    total = 0.0
    for user in zip(logits.tolist(), positive.tolist(), weights.tolist(), strict=True):
        pairs = pairs_of(*user)
        for above in pairs:
            violations = [1 - margin for margin in above if margin < 1]
            if violations:
                total += math.log(1 + len(violations)) * sum(violations) / len(violations) / len(pairs)
    return total / len(logits)


LOOPS = [(balanced_logistic, transcription_of_4_2), (sampled_softmax, softmax_loop), (bpr, bpr_loop), (warp, warp_loop)]


@pytest.mark.parametrize(("objective", "loop"), LOOPS)
def test_value_and_gradient_are_those_of_the_loop(objective, loop) -> None:  # type: ignore[no-untyped-def]
    logits, positive, weights = instances()
    loss = objective(logits, positive, weights)
    loss.backward()
    assert loss.item() == pytest.approx(loop(logits, positive, weights), rel=1e-9)
    assert logits.grad is not None
    unused = weights == 0
    assert unused.any() and (logits.grad[unused] == 0).all()
    assert objective is warp or (logits.grad[~unused] != 0).all()  # where nothing is violated there is nothing to learn
    step = 1e-5
    for b, c in [(0, 0), (1, 4), (4, 0)]:
        moved = logits.detach().clone()
        moved[b, c] += step
        slope = (loop(moved, positive, weights) - loop(logits, positive, weights)) / step
        assert logits.grad[b, c].item() == pytest.approx(slope, rel=1e-3, abs=1e-6)


def test_a_model_that_knows_nothing() -> None:
    logits = torch.zeros(2, 12)
    positive = torch.zeros(2, 12, dtype=torch.bool)
    positive[:, :2] = True
    weights = torch.where(positive, 1 / 4, 1 / 20)
    assert balanced_logistic(logits, positive, weights).item() == pytest.approx(math.log(2))
    assert sampled_softmax(logits, positive, weights).item() == pytest.approx(math.log(11))
    assert bpr(logits, positive, weights).item() == pytest.approx(math.log(2))
    assert warp(logits, positive, weights).item() == pytest.approx(math.log(11))


@pytest.mark.parametrize("objective", list(LOSSES.values()))
def test_extreme_logits_and_no_negatives_stay_finite(objective) -> None:  # type: ignore[no-untyped-def]
    positive = torch.tensor([[True, False, False], [True, False, False]])
    weights = torch.tensor([[0.5, 0.25, 0.25], [0.5, 0.0, 0.0]])
    logits = torch.tensor([[-500.0, 500.0, 0.0], [3.0, 0.0, 0.0]], requires_grad=True)
    loss = objective(logits, positive, weights)
    loss.backward()
    assert loss.isfinite() and logits.grad is not None and logits.grad.isfinite().all()
    assert (logits.grad[1, 1:] == 0).all()
