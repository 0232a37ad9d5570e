"""The best of many scores."""

from __future__ import annotations

import numpy as np

__all__ = ["top_places"]

_BLOCK = 64


def top_places(scores: np.ndarray, k: int) -> np.ndarray:
    """Places of the k highest finite scores, best first, equal ones in order of their place; int64."""
    blocks, lowest = len(scores) // _BLOCK, -np.inf
    if 0 < k < blocks:
        # k scores at least reach the k-th highest maximum of a block, and few more.
        maxima = scores[: blocks * _BLOCK].reshape(blocks, _BLOCK).max(axis=1)
        lowest = np.partition(maxima, blocks - k)[blocks - k]
    places = np.flatnonzero(scores >= lowest)
    places = places[np.isfinite(scores[places])]
    if 0 < k < len(places):
        chosen = scores[places]
        places = places[chosen >= np.partition(chosen, len(chosen) - k)[len(chosen) - k]]
    return np.asarray(places[np.argsort(-scores[places], kind="stable")][:k])
