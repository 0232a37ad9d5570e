"""Items of a catalogue that co-occurrence and recent popularity put forward, beside those of an index.

Shapes: B users, I items.
"""

from __future__ import annotations

import numpy as np

from heedful.events.histories import Histories
from heedful.rankers.mixing.snapshot import Snapshot, latest_items, past_weights

__all__ = ["put_forward"]

# Items of each source.
_FROM_PARTNERS, _FROM_RECENT = 150, 150


def put_forward(snapshot: Snapshot, histories: Histories) -> list[np.ndarray]:
    """Candidates for each of B users, int64 arrays in ascending order; past items may be among them.

    The sources are the strongest partners of the past by each kind of co-occurrence, alone and times how much the item's
    popularity rises, and the items with most users lately.
    """
    past = latest_items(histories, len(snapshot.items.users))
    weights = past_weights(past, snapshot.now, snapshot.window)
    rise = ((snapshot.items.recent_users + 0.5) / (snapshot.items.users + 0.5)).astype(np.float32)
    factors = (np.ones_like(rise), rise)
    sources = [
        partners.best(past, weights["recent_past" if "recent" in name else "past"], factors, _FROM_PARTNERS)
        for name, partners in snapshot.partners.items()
    ]
    popular = _most(snapshot.items.recent_users + 1e-6 * snapshot.items.users, _FROM_RECENT)
    return [np.unique(np.concatenate([popular, *lists])) for lists in zip(*sources, strict=True)]


def _most(scores: np.ndarray, count: int) -> np.ndarray:
    """Places of the highest scores that are above 0, in no order, int64."""
    count = min(count, len(scores))
    places = np.argpartition(-scores, count - 1)[:count]
    return np.asarray(places[scores[places] > 0], np.int64)
