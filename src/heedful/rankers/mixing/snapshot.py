"""All that a log tells of users and items up to a time, as columns for the trees.

Shapes: B users, E past actions, C candidates laid end to end, I items, F features.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np

from heedful.events.candidates import Candidates
from heedful.events.histories import Histories
from heedful.model.shares import log_recent_users, recent_users_first
from heedful.model.touches import Touches
from heedful.rankers.mixing.cooccurrence import (
    Partners,
    bm25_partners,
    cosine_partners,
    ease_partners,
    strongest,
)
from heedful.rankers.mixing.factors import Factors
from heedful.rankers.mixing.item_features import ItemFeatures, features_of, item_features
from heedful.rankers.mixing.user_features import USER_FEATURES, user_features

__all__ = ["POPULAR", "Snapshot", "latest_items", "past_weights"]

POPULAR = 150
"""Items of recent popularity that are put forward to everyone."""

# Items between which EASE is learnt: a gram matrix of 64 MiB and some seconds of arithmetic.
_EASE_ITEMS = 4000
_EASE_PENALTY = 300.0
_PARTNERS = 100
# So many items of a user count, the latest: the number of pairs grows with the square.
_LATEST_ITEMS = 300
# A past action weighs half as much for each of so many windows that it is old.
_HALF_LIFE_WINDOWS = 4.0
_HALF_DAY = 43_200
_PASTS = ("past", "recent_past", "last_past")


@dataclass(frozen=True)
class Snapshot:
    """What was known at a time.

    Attributes:
        now: unix seconds; nothing that happened at that time or later is known.
        window: seconds of a training window, in whose multiples recency is measured.
        items: counts and ages of the items.
        partners: co-occurrence by name.
        factors: tastes that items share.
    """

    now: int
    window: int
    items: ItemFeatures
    partners: dict[str, Partners]
    factors: Factors

    @classmethod
    def of(cls, histories: Histories, n_items: int, now: int, window: int, *, seasonal: bool | None = None) -> Self:
        """Count what had happened before `now` in a log, in rows of `n_items` items; see `item_features`."""
        before = histories.where(histories.times < now)
        past = latest_items(before, n_items)
        once = np.ones(len(past.items), np.float32)
        partners = {
            "ease": ease_partners(past, n_items, top=_EASE_ITEMS, penalty=_EASE_PENALTY, keep=_PARTNERS),
            "cosine": cosine_partners(past, once, n_items, _PARTNERS),
            "recent_cosine": cosine_partners(past, _recency(past, now, window), n_items, _PARTNERS),
            "bm25": bm25_partners(past, n_items, _PARTNERS),
        }
        items = item_features(before, n_items, now, window, seasonal=seasonal)
        return cls(now, window, items, partners, Factors.of(past, n_items))

    @cached_property
    def rise(self) -> np.ndarray:
        """Recent users over all users of each item, float32 [I]."""
        return ((self.items.recent_users + 0.5) / (self.items.users + 0.5)).astype(np.float32)

    @cached_property
    def popular(self) -> np.ndarray:
        """The items with most users lately, all-time users deciding between equals; at most `POPULAR`, in no order."""
        scores = recent_users_first(self.items.recent_users, self.items.users)
        return strongest(np.arange(len(scores)), scores, POPULAR)

    @cached_property
    def popularity(self) -> np.ndarray:
        """Logarithm of the users of the last window, all users deciding between equals, float32 [I]."""
        return log_recent_users(self.items.recent_users, self.items.users)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the columns, "group.feature", F."""
        together = (*(f"{name}_{kind}" for name in self.partners for kind in _PASTS), *Factors.names)
        return (
            *(f"popularity_over_time.{name}" for name in self.items.names),
            *(f"user.{name}" for name in USER_FEATURES),
            *(f"cooccurrence.{name}" for name in together),
        )

    def features(self, histories: Histories, candidates: Candidates) -> np.ndarray:
        """Columns for the candidates of B users, float32 [C, F]; their histories end before `now`."""
        past = latest_items(histories, len(self.items.users))
        user = user_features(histories, self.items, self.now, self.window)
        return np.concatenate(
            [self.items.values[candidates.rows], user[candidates.owners], self._together(past, candidates)], axis=1
        )

    def _together(self, past: Histories, candidates: Candidates) -> np.ndarray:
        weights = past_weights(past, self.now, self.window)
        weights_EW = np.stack([weights[kind] for kind in _PASTS], axis=1)
        sums = [partners.scores(past, weights_EW, candidates) for partners in self.partners.values()]
        return np.concatenate([*sums, self.factors.scores(past, candidates)], axis=1)

    def counted(self, touches: Touches, now: int, newcomers_from: int | None = None) -> Snapshot:
        """With items as of a later time; co-occurrence and factors stay.

        Args:
            touches: those before that time.
            now: unix seconds.
            newcomers_from: items from this row on keep what was taken for granted until somebody touches them.
        """
        items = features_of(touches, now, self.window, self.items)
        new = slice(newcomers_from, None) if newcomers_from is not None else slice(0)
        unseen = np.zeros(len(items.users), bool)
        unseen[new] = items.users[new] == 0
        items.values[unseen] = self.items.values[unseen]
        return Snapshot(now, self.window, items, self.partners, self.factors)

    def extended(self, n_items: int) -> Snapshot:
        """With further items, of which nothing is known but what holds for the newest tenth of the others.

        Args:
            n_items: of the longer catalogue.
        """
        more = n_items - len(self.items.users)
        newest = np.argsort(-self.items.born, kind="stable")[: max(len(self.items.born) // 10, 1)]
        like_new = np.median(self.items.values[newest], axis=0)[None]
        none = np.zeros(more, np.int64)
        items = ItemFeatures(
            self.items.names,
            np.concatenate([self.items.values, np.repeat(like_new, more, axis=0)]).astype(np.float32),
            np.concatenate([self.items.users, none]),
            np.concatenate([self.items.recent_users, none]),
            np.concatenate([self.items.born, none + self.now]),
        )
        partners = {name: partners.extended(n_items) for name, partners in self.partners.items()}
        return Snapshot(self.now, self.window, items, partners, self.factors.extended(n_items))

    def save(self, folder: Path) -> None:
        """Write the arrays and the two times into a new folder."""
        folder.mkdir()
        arrays = {"values": self.items.values, "users": self.items.users, "recent_users": self.items.recent_users}
        arrays |= {"born": self.items.born, "times": np.array([self.now, self.window])}
        arrays |= {"factors": self.factors.items, "factor_scale": self.factors.scale}
        for name, partners in self.partners.items():
            arrays |= {f"{name}_items": partners.items, f"{name}_weights": partners.weights}
        for name, array in arrays.items():
            np.save(folder / f"{name}.npy", array)
        (folder / "names.json").write_text(json.dumps({"items": self.items.names, "partners": list(self.partners)}))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """The snapshot that `save` wrote, memory-mapped."""

        def mapped(name: str) -> np.ndarray:
            return np.asarray(np.load(folder / f"{name}.npy", mmap_mode="r"))

        names = json.loads((folder / "names.json").read_text())
        items = ItemFeatures(
            tuple(names["items"]), mapped("values"), mapped("users"), mapped("recent_users"), mapped("born")
        )
        partners = {name: Partners(mapped(f"{name}_items"), mapped(f"{name}_weights")) for name in names["partners"]}
        now, window = mapped("times").tolist()
        return cls(now, window, items, partners, Factors(mapped("factors"), mapped("factor_scale")))


def past_weights(past: Histories, now: int, window: int) -> dict[str, np.ndarray]:
    """What each past action counts in sums over the history, by name, float32 [E] each."""
    once = np.ones(len(past.items), np.float32)
    return {"past": once, "recent_past": _recency(past, now, window), "last_past": _of_last_day(past)}


def latest_items(histories: Histories, n_items: int) -> Histories:
    """Each user's distinct items, each where it was last touched: the latest of them."""
    past = histories.distinct(n_items)
    if past.lengths.max(initial=0) <= _LATEST_ITEMS:
        return past
    order = np.lexsort((past.times, np.repeat(np.arange(len(past)), past.lengths)))
    to_end = np.repeat(past.offsets[1:], past.lengths) - np.arange(len(order))
    keep = np.zeros(len(order), bool)
    keep[order[to_end <= _LATEST_ITEMS]] = True
    return past.where(keep)


def _recency(past: Histories, now: int, window: int) -> np.ndarray:
    """Half for each half-life that an action is old, float32 [E]."""
    age = np.maximum(now - past.times, 0)
    return np.asarray(np.exp2(-age / (_HALF_LIFE_WINDOWS * window)), np.float32)


def _of_last_day(past: Histories) -> np.ndarray:
    """1 for the actions within half a day of the user's last one, which mostly are one basket or visit; float32 [E]."""
    last = np.zeros(len(past), np.int64)
    owner = np.repeat(np.arange(len(past)), past.lengths)
    np.maximum.at(last, owner, past.times)
    return (past.times >= last[owner] - _HALF_DAY).astype(np.float32)
