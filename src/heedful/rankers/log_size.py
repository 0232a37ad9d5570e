"""Options of a trained ranker that follow from the size and the period of its log."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

import numpy as np

from heedful.events.histories import Histories
from heedful.training.recipe import TrainingConfig

__all__ = ["recent_since", "resolved", "span_of"]

C = TypeVar("C", bound=TrainingConfig)

# Updates when none are asked for: some passes over the users, within limits. More updates on a small log overfit.
_PASSES, _FEWEST_STEPS, _MOST_STEPS = 2, 700, 5000
# Times of ranking are drawn from the period of this part of the log's events, the newest. A log in which these would
# be fewer needs all of its times.
_RECENT_PART, _FEWEST_RECENT = 0.5, 1000
# Events whose times are looked at to find it.
_SAMPLED_TIMES = 1_000_000
# The plateau schedule of section 4.3 validates every 5,000 updates, a 125th of an epoch of 40 million users. On a smaller
# log it validates after each epoch, but not so often that the noise of the loss decides.
_PLATEAU_UPDATES = (100, 5000)


def span_of(times: np.ndarray) -> float:
    """Length of a log's period, seconds."""
    return float(max(int(times.max()) + 1 - int(times.min()), 1)) if len(times) else 1.0


def recent_since(times: np.ndarray) -> int | None:
    """The time after which the newest events are (of a sample of them, should there be very many)."""
    if _RECENT_PART * len(times) < _FEWEST_RECENT:
        return None
    sample = np.asarray(times[:: max(len(times) // _SAMPLED_TIMES, 1)])
    return int(np.quantile(sample, 1 - _RECENT_PART, method="lower"))


def resolved(config: C, histories: Histories) -> C:
    """Fill in the options that depend on the size of the log."""
    users = int(np.count_nonzero(histories.lengths >= 2))
    validation = config.validation_users or min(2000, users // 20)
    steps = config.steps
    if not steps and config.schedule == "linear":
        steps = min(max(_PASSES * users // config.batch_users, _FEWEST_STEPS), _MOST_STEPS)
    in_epoch = int(np.clip(users // config.batch_users, *_PLATEAU_UPDATES))
    every = config.validate_every or (max(steps // 10, 1) if steps else in_epoch)
    return replace(config, steps=steps, validate_every=every, validation_users=min(validation, users // 2))
