"""What a history says of its user: how much, how lately, and whether popular or new items.

Shapes: B users, I items, F features.
"""

from __future__ import annotations

import numpy as np

from heedful.events.histories import Histories
from heedful.rankers.mixing.item_features import ItemFeatures

__all__ = ["USER_FEATURES", "user_features"]

USER_FEATURES = ("items", "recent_items", "since_last", "since_first", "mean_users", "mean_age")
"""Names of the columns of `user_features`."""
# Windows that count as recent.
_RECENT_WINDOWS = 4
_DAY = 86_400.0


def user_features(histories: Histories, items: ItemFeatures, now: int, window: int) -> np.ndarray:
    """Features of B users at `now` from their distinct past items, float32 [B, F]; 0 for an empty history.

    Args:
        histories: what they did before `now`, in rows of `items`.
        items: what is known of the items at `now`.
        now: unix seconds.
        window: seconds of a training window.
    """
    past = histories.distinct(len(items.users))
    owner = np.repeat(np.arange(len(past)), past.lengths)
    count = np.maximum(past.lengths, 1)

    def total(values: np.ndarray) -> np.ndarray:
        return np.bincount(owner, values, minlength=len(past))

    ages = np.log1p(np.maximum(past.times - items.born[past.items], 0) / _DAY)
    first, last = _ends(histories, now)
    columns = (
        np.log1p(past.lengths),
        np.log1p(total(past.times >= now - _RECENT_WINDOWS * window)),
        np.log1p(np.maximum(now - last, 0) / _DAY),
        np.log1p(np.maximum(now - first, 0) / _DAY),
        total(np.log(items.users[past.items] + 0.5)) / count,
        total(ages) / count,
    )
    return np.stack(columns, 1).astype(np.float32)


def _ends(histories: Histories, now: int) -> tuple[np.ndarray, np.ndarray]:
    """Times of the first and of the last action of each user, `now` for those without."""
    first, last = np.full(len(histories), now, np.int64), np.full(len(histories), now, np.int64)
    some = np.flatnonzero(histories.lengths)
    first[some] = histories.times[histories.offsets[:-1][some]]
    last[some] = histories.times[histories.offsets[1:][some] - 1]
    return first, last
