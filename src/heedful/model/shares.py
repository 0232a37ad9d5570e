"""The share of an item among all users of items: one formula for features, training and the prior."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba.extending import register_jitable

__all__ = ["log_share"]


@register_jitable
def log_share(users: Any, total: Any) -> Any:
    """log((users + 1/2) / (total + 1)): an item's share of all users of items, finite without users."""
    return np.log((users + 0.5) / (total + 1.0))
