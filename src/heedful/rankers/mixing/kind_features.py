"""What the kinds of actions say, in logs with a few kinds.

Shapes: B users, C candidates laid end to end, E past actions, I items, K kinds.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from heedful.events.candidates import Candidates
from heedful.events.histories import Histories
from heedful.rankers.mixing.cooccurrence import Partners
from heedful.rankers.mixing.snapshot import latest_items

__all__ = ["MOST_KINDS", "Kinds"]

MOST_KINDS = 4
"""Logs with more kinds have no such columns: there are four for each kind."""


@dataclass(frozen=True)
class Kinds:
    """What all users' kinds of actions say of items up to a time.

    Attributes:
        shares: log of the share of an item's actions that are of each kind, float32 [I, K].
    """

    shares: np.ndarray

    @classmethod
    def of(cls, histories: Histories, n_items: int, now: int, n_kinds: int) -> Self:
        """Count what had happened before `now` in a log, in rows of `n_items` items."""
        before = histories.where(histories.times < now)
        cells = before.items.astype(np.int64) * n_kinds + before.kinds
        counts = np.bincount(cells, minlength=n_items * n_kinds).reshape(n_items, n_kinds)
        usual = (counts.sum(axis=0) + 1) / (counts.sum() + n_kinds)
        shares = (counts + usual) / (counts.sum(axis=1, keepdims=True) + 1)
        return cls(np.log(shares).astype(np.float32))

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the columns, 4 K; a kind has the number that it has in the log."""
        numbers = range(self.shares.shape[1])
        return tuple(f"{what}_{kind}" for what in ("own", "item", "user", "cosine") for kind in numbers)

    def columns(self, histories: Histories, candidates: Candidates, cosine: Partners) -> np.ndarray:
        """Columns for the candidates of B users, float32 [C, 4 K].

        own: log of 1 plus the user's actions with the candidate. item: `shares`. user: log of 1 plus the user's actions.
        cosine: sum over the user's past items whose last action was of the kind.

        Args:
            histories: actions of all kinds before the time.
            candidates: rows of items for the same users.
            cosine: partners of each item.
        """
        n_items, n_kinds = self.shares.shape
        owner = np.repeat(np.arange(len(histories), dtype=np.int64), histories.lengths)
        user_BK = np.bincount(owner * n_kinds + histories.kinds, minlength=len(histories) * n_kinds).reshape(-1, n_kinds)
        owners, rows = candidates.owners, np.asarray(candidates.rows, np.int64)
        own_CK = _counts(owner * n_items + histories.items, histories.kinds, owners * n_items + rows, n_kinds)
        past = latest_items(histories, n_items)
        weights_EK = (past.kinds[:, None] == np.arange(n_kinds)).astype(np.float32)
        together = cosine.scores(past, weights_EK, candidates)
        parts = [np.log1p(own_CK), self.shares[rows], np.log1p(user_BK)[owners], together]
        return np.concatenate(parts, axis=1).astype(np.float32)

    def extended(self, n_items: int) -> Kinds:
        """With further items, which are like the median of the others."""
        more = n_items - len(self.shares)
        return Kinds(np.concatenate([self.shares, np.repeat(np.median(self.shares, axis=0)[None], more, axis=0)]))

    def save(self, path: Path) -> None:
        """Write one file."""
        np.save(path, self.shares)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote."""
        return cls(np.load(path, allow_pickle=False))


def _counts(pairs: np.ndarray, kinds: np.ndarray, wanted: np.ndarray, n_kinds: int) -> np.ndarray:
    """Actions of each kind with each wanted (user, item) pair, int64 [C, K]."""
    known, place = np.unique(pairs, return_inverse=True)
    counts = np.bincount(place * n_kinds + kinds, minlength=(len(known) + 1) * n_kinds).reshape(-1, n_kinds)
    found = np.searchsorted(known, wanted)
    there = np.append(known, -1)[found] == wanted
    return np.where(there[:, None], counts[found], 0)
