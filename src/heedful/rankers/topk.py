"""The best of many scores."""

from __future__ import annotations

import numpy as np

__all__ = ["top_places"]


def top_places(scores: np.ndarray, k: int) -> np.ndarray:
    """Places of the k highest finite scores, best first, equal ones in order of their place; int64."""
    if k < len(scores):
        threshold = np.partition(scores, len(scores) - k)[len(scores) - k]
        places = np.flatnonzero(scores >= threshold)
    else:
        places = np.arange(len(scores))
    places = places[np.isfinite(scores[places])]
    return np.asarray(places[np.lexsort((places, -scores[places]))][:k])
