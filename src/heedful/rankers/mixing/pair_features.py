"""How often and how lately a user took this very item, against the user's own rhythm and that of all users of the item.

Shapes: B users, C candidates laid end to end, P (user, item) pairs, I items, F features.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from heedful.events.candidates import Candidates
from heedful.events.histories import Histories
from heedful.rankers.baskets import Baskets

__all__ = ["REPEAT_FEATURES", "Repeats"]

_DAY = 86_400.0
# Lengths of recent periods as multiples of the length of a training window.
_SCALES = (1.0, 4.0, 16.0)
# Decay of a basket with each later basket of the user.
_DECAYS = (0.97, 0.9, 0.7, 0.4)
# Shares are taken as logarithms, after this is added: a probability is about proportional to them.
_LEAST_SHARE = 1e-3
# Baskets of the last so many windows say how often an item is taken.
_RECENT = 4
# Baskets and days since an item that was never taken.
_NEVER_BASKETS, _NEVER_DAYS = 1000.0, 3650.0

REPEAT_FEATURES = (
    "baskets",
    "share",
    "share_since_first",
    *(f"share_{scale:g}" for scale in _SCALES),
    *(f"decayed_{decay:g}" for decay in _DECAYS),
    "baskets_since",
    "days_since",
    "against_gap",
    "against_item_gap",
    "item_again",
    "item_gap",
    "item_baskets",
    "user_again",
)
"""Names of the columns of `Repeats.columns`."""


@dataclass(frozen=True)
class Repeats:
    """What all users' repeats say of items up to a time.

    Attributes:
        again: log of the share of an item's users who took it on two days or more, float32 [I].
        gap: log of the mean days between two such days, float32 [I].
        often: log of the share of all users' baskets in the last four windows that have the item, float32 [I].
        now: unix seconds.
        window: seconds of a training window.
    """

    again: np.ndarray
    gap: np.ndarray
    often: np.ndarray
    now: int
    window: int

    @classmethod
    def of(cls, histories: Histories, n_items: int, now: int, window: int) -> Self:
        """Count what had happened before `now` in a log, in rows of `n_items` items."""
        baskets = Baskets.of(histories.where(histories.times < now), n_items)
        repeated, items = baskets.sizes > 1, baskets.items
        users = np.bincount(items, minlength=n_items)
        again = np.bincount(items[repeated], minlength=n_items)
        usual = repeated.sum() / max(len(items), 1)
        times = np.bincount(items, baskets.sizes - 1.0, minlength=n_items)
        spans = np.bincount(items, baskets.gaps() * (baskets.sizes - 1), minlength=n_items) / _DAY
        mean = spans.sum() / max(times.sum(), 1)
        since = now - _RECENT * window
        lately = np.bincount(np.repeat(items, baskets.sizes), baskets.times >= since, minlength=n_items)
        often = (lately + 0.5) / ((baskets.starts >= since).sum() + 1)
        return cls(
            np.log((again + usual + 1e-3) / (users + 1)).astype(np.float32),
            np.log1p((spans + mean) / (times + 1)).astype(np.float32),
            np.log(often).astype(np.float32),
            now,
            window,
        )

    def columns(self, histories: Histories, candidates: Candidates) -> np.ndarray:
        """Columns for the candidates of B users, float32 [C, F]; never taken is the least of each column."""
        baskets = Baskets.of(histories, len(self.again))
        owners, rows = candidates.owners, np.asarray(candidates.rows)
        of_pairs = np.concatenate([self._of_pairs(baskets), self._never()])  # place -1 is the last row
        taken = of_pairs[baskets.places(owners, rows)]
        distinct = np.bincount(baskets.users, minlength=len(histories))
        touched = np.bincount(baskets.users, baskets.sizes, minlength=len(histories))
        user_again = 1 - distinct / np.maximum(touched, 1)
        alone = np.stack([self.again[rows], self.gap[rows], self.often[rows], user_again[owners]], axis=1)
        return np.concatenate([taken, alone], axis=1).astype(np.float32)

    def _of_pairs(self, baskets: Baskets) -> np.ndarray:
        """What is known of each pair, float64 [P, F - 4]."""
        users, sizes, since = baskets.users, baskets.sizes, baskets.since
        now = np.full(len(baskets.counts), self.now)
        np.maximum.at(now, baskets.owners, baskets.starts)
        days = np.maximum(now[users] - baskets.times[baskets.latest], 0) / _DAY
        gap = baskets.gaps() / _DAY
        columns = [
            np.log1p(sizes),
            _log(sizes / np.maximum(baskets.counts[users], 1)),
            _log(sizes / (since[baskets.first] + 1)),
            *(_log(self._share_since(baskets, self.now - scale * self.window)) for scale in _SCALES),
            *(_log(_decayed_share(baskets, decay)) for decay in _DECAYS),
            -np.log1p(since[baskets.latest]),
            -np.log1p(days),
            np.where(sizes > 1, np.log((days + 0.5) / (gap + 0.5)), 0.0),
            np.log((days + 0.5) / (np.expm1(self.gap[baskets.items]) + 0.5)),
        ]
        return np.stack(columns, axis=1)

    def _share_since(self, baskets: Baskets, time: float) -> np.ndarray:
        """Share of the user's baskets since a time that have the item, float64 [P]."""
        recent = np.bincount(baskets.owners, baskets.starts >= time, minlength=len(baskets.counts))
        return np.asarray(baskets.total(baskets.times >= time) / np.maximum(recent[baskets.users], 1))

    @staticmethod
    def _never() -> np.ndarray:
        zeros = np.zeros(len(REPEAT_FEATURES) - 4)
        zeros[[place for place, name in enumerate(REPEAT_FEATURES) if name.startswith(("share", "decayed"))]] = _log(0.0)
        zeros[REPEAT_FEATURES.index("baskets_since")] = -np.log1p(_NEVER_BASKETS)
        zeros[REPEAT_FEATURES.index("days_since")] = -np.log1p(_NEVER_DAYS)
        return zeros[None]

    def extended(self, n_items: int) -> Repeats:
        """With further items, of which nothing is known but what holds for the median of the others."""
        more = n_items - len(self.again)
        arrays = (self.again, self.gap, self.often)
        again, gap, often = (np.append(one, np.full(more, np.median(one), np.float32)) for one in arrays)
        return Repeats(again, gap, often, self.now, self.window)

    def save(self, path: Path) -> None:
        """Write one file."""
        with path.open("wb") as stream:
            np.savez(stream, again=self.again, gap=self.gap, often=self.often, times=np.array([self.now, self.window]))

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote."""
        with np.load(path, allow_pickle=False) as arrays:
            now, window = arrays["times"].tolist()
            return cls(arrays["again"], arrays["gap"], arrays["often"], now, window)


def _log(share: np.ndarray | float) -> np.ndarray:
    return np.asarray(np.log(share + _LEAST_SHARE))


def _decayed_share(baskets: Baskets, decay: float) -> np.ndarray:
    """Share of the user's baskets that have the item, decayed by `decay` with every later one; float64 [P]."""
    counts = baskets.counts[baskets.users]
    return np.asarray(baskets.total(decay**baskets.since) * (1 - decay) / (1 - decay**counts))
