"""The period of the newest events of a log."""

from __future__ import annotations

import numpy as np

__all__ = ["recent_since"]

# Times of ranking are drawn from the period of this part of the log's events, the newest. A log in which these would
# be fewer needs all of its times.
_RECENT_PART, _FEWEST_RECENT = 0.5, 1000
# Events whose times are looked at to find it.
_SAMPLED_TIMES = 1_000_000


def recent_since(times: np.ndarray) -> int | None:
    """The time after which the newest events are (of a sample of them, should there be very many)."""
    if _RECENT_PART * len(times) < _FEWEST_RECENT:
        return None
    sample = np.asarray(times[:: max(len(times) // _SAMPLED_TIMES, 1)])
    return int(np.quantile(sample, 1 - _RECENT_PART, method="lower"))
