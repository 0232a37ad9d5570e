"""The share of an item among all users of items: one formula for features, training and the prior."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba.extending import register_jitable

__all__ = ["log_recent_users", "log_share", "recent_users_first"]

# All-time users decide between items that nobody touched lately, and never more than that.
_ALL_TIME_WEIGHT = 1e-6
_UNSEEN_USERS = 1e-9


@register_jitable
def log_share(users: Any, total: Any) -> Any:
    """log((users + 1/2) / (total + 1)): an item's share of all users of items, finite without users."""
    return np.log((users + 0.5) / (total + 1.0))


def recent_users_first(recent: np.ndarray, users: np.ndarray) -> np.ndarray:
    """Recent users of items, all users deciding between equals, float64."""
    return np.asarray(recent + _ALL_TIME_WEIGHT * users)


def log_recent_users(recent: np.ndarray, users: np.ndarray) -> np.ndarray:
    """The logarithm of `recent_users_first`, float32, finite without users."""
    return np.asarray(np.log(np.maximum(recent_users_first(recent, users), _UNSEEN_USERS)), np.float32)
