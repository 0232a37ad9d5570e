"""Negatives from the user's own past items, for rankers whose targets can be repeats.

Drawn by popularity alone, an own item would hardly ever be a negative, and whatever the user took before would look like a
target.

Shapes: B users, L items of a history (padded), C candidates, N negatives.
"""

from __future__ import annotations

import numpy as np

from heedful.model.encode import HistoryBatch

__all__ = ["OWN_SHARE", "draw_own", "own_probability"]

OWN_SHARE = 0.5
"""Share of the negatives that are drawn from the user's own items."""


def draw_own(history: HistoryBatch, randoms: np.ndarray) -> np.ndarray:
    """Items of each history, which is not empty, drawn evenly by random numbers in [0, 1), float64 [B, N]; int64 [B, N]."""
    places = (randoms * history.lengths[:, None]).astype(np.int64)
    return np.take_along_axis(history.rows, places, axis=1)


def own_probability(history: HistoryBatch, candidates: np.ndarray) -> np.ndarray:
    """Probability with which `draw_own` draws each candidate, float64 [B, C], for candidates int64 [B, C]."""
    is_own_BCL = (history.rows[:, None, :] == candidates[:, :, None]) & (history.counts > 0)[:, None, :]
    return np.asarray(is_own_BCL.any(axis=2) / np.maximum(history.lengths, 1)[:, None])
