"""A batch of training instances (section 4.2).

Shapes: B users in a batch, C = P + N candidates (P places for positives, N negatives), F popularity features.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from heedful.model.encode import HistoryBatch

__all__ = ["Batch", "BatchShare", "CandidatePopularity"]


@dataclass(frozen=True)
class BatchShare:
    """Which users of a batch that several workers share are in hand.

    Attributes:
        places: their places in the whole batch, int64 [B].
        users: users of the whole batch.
        weight: what the mean loss of this share counts for, so that the mean over workers is that over all users.
        longest: L of the whole batch; 0 until the workers have agreed on it.
    """

    places: np.ndarray
    users: int
    weight: float
    longest: int = 0


@dataclass(frozen=True)
class CandidatePopularity:
    """Popularity of candidates at the time of ranking.

    Attributes:
        features: float32 [B, C, F].
        offset: log of the item's share of all first actions before, less the log of the probability of
            drawing it as a negative, float32 [B, C].
    """

    features: np.ndarray
    offset: np.ndarray


@dataclass(frozen=True)
class Batch:
    """Training instances of B users.

    Attributes:
        history: the observed items T_u.
        candidates: item rows, int64 [B, C]: P places for positives, then N negatives; 0 in unused places.
        positive: bool [B, C].
        weights: 1 / (2 |S_u|), 1 / (2 |N_u|), or 0 in unused places, float32 [B, C].
        now: time of ranking, unix seconds, int64 [B].
        seed: of the random numbers of the forward pass, so that a batch made again is treated the same.
        share: where the users are in a batch shared with other workers; None for a whole batch.
        popularity: of the candidates at `now`; None where no term needs it.
    """

    history: HistoryBatch
    candidates: np.ndarray
    positive: np.ndarray
    weights: np.ndarray
    now: np.ndarray
    seed: int
    share: BatchShare | None = None
    popularity: CandidatePopularity | None = None
