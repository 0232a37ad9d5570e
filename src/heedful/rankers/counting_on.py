"""A ranker as of a later time: popularity goes on from the counts of its log with the touches that came since."""

from __future__ import annotations

import copy
from typing import TypeVar

import numpy as np

from heedful.model.touches import Touches
from heedful.rankers.base import Ranker
from heedful.rankers.prior import LogShares

__all__ = ["counted_on"]

R = TypeVar("R", bound=Ranker)


def counted_on(ranker: R, touches: Touches, now: int) -> R:
    """A ranker like this one that knows what is popular at a time; it shares all else.

    What it counts is what `heedful.rankers.refreshing.refreshed` counts from the same events, but for co-occurrence, the
    factors of the last stage, and what sold a year ago, which stay.

    Args:
        ranker: one with `touches`.
        touches: these and what came since, all before that time, for all items of the ranker.
        now: unix seconds.
    """
    newer = copy.copy(ranker)
    users = touches.users.copy()
    trained = len(users) if ranker.newcomers_from is None else ranker.newcomers_from
    # An item that came later has the users that its extension counted until somebody touches it here.
    users[trained:] = np.where(users[trained:] > 0, users[trained:], ranker.users_of_item[trained:])
    newer.touches, newer.last_time = touches, now - 1
    newer.log_shares = LogShares(users, total=max(int(users[:trained].sum()), 1))
    newer._count_at(now)
    return newer
