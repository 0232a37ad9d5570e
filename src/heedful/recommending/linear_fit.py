"""The inner product that is closest to a ranker's logit for a user: what an index can search by.

Shapes: B users, D embedding width, A anchors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np

from heedful.events.histories import Histories
from heedful.rankers.neural import NeuralRanker
from heedful.rankers.scoring import SharedCandidates

__all__ = ["LinearFit"]

_RIDGE = 0.1


@dataclass(frozen=True)
class LinearFit:
    """How w is fitted to the logits l of some anchors: x_A w + c is closest to l by least squares.

    Attributes:
        anchors: the items, the same for every user.
        bias_A: their own terms, which are not fitted.
        matrix_DA: makes w of the centred logits, float64.
    """

    anchors: SharedCandidates
    bias_A: np.ndarray
    matrix_DA: np.ndarray

    @classmethod
    def of(cls, ranker: NeuralRanker, rows: np.ndarray, bias_A: np.ndarray) -> Self:
        """The fit to the logits of the items in `rows`, int64 [A]."""
        x_AD = ranker.input_vectors(rows).astype(np.float64)
        x_AD -= x_AD.mean(axis=0)
        gram_DD = x_AD.T @ x_AD + _RIDGE * np.eye(x_AD.shape[1])
        return cls(ranker.shared(rows), bias_A, np.linalg.solve(gram_DD, x_AD.T))

    def vectors(self, ranker: NeuralRanker, histories: Histories) -> np.ndarray:
        """The w of each user, float64 [B, D]."""
        logits_BA = ranker.shared_logits(histories, self.anchors) - self.bias_A
        return np.asarray((logits_BA - logits_BA.mean(axis=1, keepdims=True)) @ self.matrix_DA.T)
