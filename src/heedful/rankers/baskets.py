"""On which days users took which items, and what that says of when they take them again.

Actions of a user on one day (UTC) are one basket.

Shapes: B users, E events, P (user, item) pairs, N (user, item, basket) triples, I items.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np

from heedful.events.histories import Histories

__all__ = ["Baskets"]

_DAY = 86_400


@dataclass(frozen=True)
class Baskets:
    """The baskets of B users by (user, item) pair.

    Attributes:
        pairs: user x I + item, ascending, int64 [P].
        offsets: where the triples of each pair begin, and their end, int64 [P + 1].
        since: baskets of the user after the triple's, 0 for the latest, int64 [N]; falling within a pair.
        times: of the first action of the user in the basket, int64 [N].
        counts: baskets of each user, int64 [B].
        starts: time of the first action of each basket, int64; baskets of all users, oldest first within a user.
        owners: user of each basket, int64.
        n_items: I.
    """

    pairs: np.ndarray
    offsets: np.ndarray
    since: np.ndarray
    times: np.ndarray
    counts: np.ndarray
    starts: np.ndarray
    owners: np.ndarray
    n_items: int

    @classmethod
    def of(cls, histories: Histories, n_items: int) -> Self:
        """The baskets of histories in rows of `n_items` items."""
        owner = np.repeat(np.arange(len(histories), dtype=np.int64), histories.lengths)
        day = histories.times // _DAY
        first = np.ones(len(day), bool)
        first[1:] = (np.diff(day) != 0) | (np.diff(owner) != 0)
        basket = np.cumsum(first) - 1
        starts, owners = histories.times[first], owner[first]
        counts = np.bincount(owners, minlength=len(histories))
        last = np.cumsum(counts) - 1
        pair = owner * n_items + histories.items
        order = np.lexsort((basket, pair))
        pair, basket = pair[order], basket[order]
        new_pair = np.diff(pair, prepend=-1) != 0
        triple = new_pair | (np.diff(basket, prepend=-1) != 0)
        pair, basket, begins = pair[triple], basket[triple], np.flatnonzero(new_pair[triple])
        since = last[pair // max(n_items, 1)] - basket
        offsets = np.append(begins, len(pair))
        return cls(pair[begins], offsets, since, starts[basket], counts, starts, owners, n_items)

    @cached_property
    def sizes(self) -> np.ndarray:
        """Baskets of each pair, int64 [P]."""
        return np.diff(self.offsets)

    @property
    def users(self) -> np.ndarray:
        """User of each pair, int64 [P]."""
        return np.asarray(self.pairs // max(self.n_items, 1))

    @property
    def items(self) -> np.ndarray:
        """Item row of each pair, int64 [P]."""
        return np.asarray(self.pairs % max(self.n_items, 1))

    @property
    def first(self) -> np.ndarray:
        """Place of the oldest triple of each pair, int64 [P]."""
        return self.offsets[:-1]

    @property
    def latest(self) -> np.ndarray:
        """Place of the latest triple of each pair, int64 [P]."""
        return self.offsets[1:] - 1

    def total(self, values: np.ndarray) -> np.ndarray:
        """Sums of a value of each triple, [N], over the triples of each pair, float64 [P]."""
        sums = np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])
        return np.asarray(sums[self.offsets[1:]] - sums[self.offsets[:-1]])

    def gaps(self) -> np.ndarray:
        """Mean seconds between the baskets of each pair, float64 [P]; 0 for a single one."""
        span = self.times[self.latest] - self.times[self.first]
        return np.asarray(span / np.maximum(self.sizes - 1, 1))

    def places(self, owners: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Place of the pair of each user and item, int64; -1 where the user never took the item."""
        wanted = owners * self.n_items + rows
        place = np.minimum(np.searchsorted(self.pairs, wanted), max(len(self.pairs) - 1, 0))
        found = self.pairs[place] == wanted if len(self.pairs) else np.zeros(len(wanted), bool)
        return np.where(found, place, -1)
