"""The period of a log, and of its newest events."""

from __future__ import annotations

import numpy as np

__all__ = ["recent_since", "span_of"]

# Times of ranking are drawn from the period of this part of the log's events, the newest. A log in which these would
# be fewer needs all of its times.
_RECENT_PART, _FEWEST_RECENT = 0.5, 1000
# Events whose times are looked at to find it.
_SAMPLED_TIMES = 1_000_000


def span_of(times: np.ndarray) -> float:
    """Length of a log's period, seconds."""
    return float(max(int(times.max()) + 1 - int(times.min()), 1)) if len(times) else 1.0


def recent_since(times: np.ndarray) -> int | None:
    """The time after which the newest events are (of a sample of them, should there be very many)."""
    if _RECENT_PART * len(times) < _FEWEST_RECENT:
        return None
    sample = np.asarray(times[:: max(len(times) // _SAMPLED_TIMES, 1)])
    return int(np.quantile(sample, 1 - _RECENT_PART, method="lower"))
