"""Items of a catalogue that co-occurrence and recent popularity put forward, beside those of an index.

Shapes: B users, I items.
"""

from __future__ import annotations

import numpy as np

from heedful.events.histories import Histories
from heedful.rankers.mixing.snapshot import Snapshot, latest_items, past_weights

__all__ = ["put_forward"]

# Items of each kind of co-occurrence.
_FROM_PARTNERS = 150


def put_forward(snapshot: Snapshot, histories: Histories) -> list[np.ndarray]:
    """Candidates for each of B users, int64 arrays in ascending order; past items may be among them.

    The sources are the strongest partners of the past by each kind of co-occurrence, alone and times how much the item's
    popularity rises, and the items with most users lately.
    """
    past = latest_items(histories, len(snapshot.items.users))
    weights = past_weights(past, snapshot.now, snapshot.window)
    factors = (None, snapshot.rise)
    sources = [
        partners.best(past, weights["recent_past" if "recent" in name else "past"], factors, _FROM_PARTNERS)
        for name, partners in snapshot.partners.items()
    ]
    return [np.unique(np.concatenate([snapshot.popular, *lists])) for lists in zip(*sources, strict=True)]
