"""Small event logs and scorers with known properties, for the tests of the evaluation."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa

from heedful.events.candidates import Candidates
from heedful.events.catalog import Catalog
from heedful.events.histories import Histories
from heedful.events.log import EventLog, count_items
from heedful.events.vocabulary import Vocabulary

CUT = 1_500_000_000
DAY = 86_400


def log_of(users: np.ndarray, items: np.ndarray, times: np.ndarray, *, n_users: int, n_items: int) -> EventLog:
    """A log of the given events, with users "u0", ... and items "i0", ...; row numbers are the numbers given."""
    order = np.lexsort((items, times, users))
    offsets = np.concatenate([[0], np.cumsum(np.bincount(users, minlength=n_users))]).astype(np.int64)
    rows = items[order].astype(np.int32)
    histories = Histories(offsets, rows, times[order].astype(np.int64), np.zeros(len(rows), np.uint8))
    events, distinct = count_items(histories, n_items)
    names = Vocabulary([f"i{i}" for i in range(n_items)])
    catalog = Catalog(names, events, distinct, pa.table({"title": [f"title {i}" for i in range(n_items)]}))
    return EventLog(catalog, Vocabulary([f"u{u}" for u in range(n_users)]), histories, ("purchase",))


def random_log(seed: int = 0, *, n_users: int = 120, n_items: int = 300, events: int = 6000, skew: float = 0.8) -> EventLog:
    """Users and items drawn independently, items by popularity rank ** -skew, times on both sides of `CUT`."""
    rng = np.random.default_rng(seed)
    weight = np.arange(1, n_items + 1) ** -skew
    times = CUT + rng.integers(-60 * DAY, 7 * DAY, events)
    items = rng.choice(n_items, events, p=weight / weight.sum())
    return log_of(rng.integers(0, n_users, events), items, times, n_users=n_users, n_items=n_items)


def taste_log(seed: int = 0, *, n_users: int = 300, n_items: int = 400, events: int = 15_000, groups: int = 8) -> EventLog:
    """Like `random_log`, but four in five events of user u are with items i such that i % groups == u % groups."""
    plain = random_log(seed, n_users=n_users, n_items=n_items, events=events)
    rng = np.random.default_rng(seed + 1)
    histories = plain.histories
    owners = np.repeat(np.arange(n_users), histories.lengths)
    moved = histories.items - histories.items % groups + owners % groups
    items = np.where((rng.random(events) < 0.8) & (moved < n_items), moved, histories.items)
    return log_of(owners, items, histories.times, n_users=n_users, n_items=n_items)


Score = Callable[[Histories, Candidates], np.ndarray]


def popularity(log: EventLog) -> Score:
    """Scores by the number of users in `log`, whose items are those of the pools."""
    return lambda histories, candidates: log.catalog.users[candidates.rows].astype(np.float32)


def taste(log: EventLog, groups: int = 8, weight: float = 3.0) -> Score:
    """Scores by popularity and by whether the item is of the group in which the history has most items."""
    group_of = np.array([int(name[1:]) % groups for name in log.catalog.items.ids.to_pylist()])

    def score(histories: Histories, candidates: Candidates) -> np.ndarray:
        owners = np.repeat(np.arange(len(histories)), histories.lengths)
        counts = np.zeros((len(histories), groups))
        np.add.at(counts, (owners, group_of[histories.items]), 1)
        liked = counts / np.maximum(counts.sum(1, keepdims=True), 1)
        own = liked[candidates.owners, group_of[candidates.rows]]
        return weight * own + np.log1p(log.catalog.users[candidates.rows])

    return score


def noise(seed: int) -> Score:
    """Scores at random, but always the same for the same item."""
    values = np.random.default_rng(seed).random(1_000_000)
    return lambda histories, candidates: values[candidates.rows]


class ShiftedRanker:
    """A ranker with a prior, whose items stand in another order than those of the log and lack some of them."""

    uses_prior = True

    def __init__(self, log: EventLog, score: Score, *, seed: int = 0, missing: int = 0) -> None:
        order = np.random.default_rng(seed).permutation(len(log.catalog))[missing:]
        self.items = Vocabulary(log.catalog.items.take(order))
        self._order, self._score = order, score
        self._log_popularity = np.log(np.maximum(log.catalog.users[order], 0.5)).astype(np.float32)
        self.last_time = int(log.histories.times.max())

    def prior(self, pool_gamma: float | None) -> np.ndarray | np.float32:
        return np.float32(0) if pool_gamma is None else (0.75 - pool_gamma) * self._log_popularity

    def score_rows(self, histories: Histories, candidates: Candidates, *, pool_gamma: float | None = 0.0) -> np.ndarray:
        known = candidates.rows >= 0
        rows = Candidates(candidates.offsets, self._order[np.where(known, candidates.rows, 0)])
        scores = self._score(histories.with_rows(self._order), rows)
        prior = np.broadcast_to(self.prior(pool_gamma), len(self.items))[np.where(known, candidates.rows, 0)]
        return np.where(known, scores + prior, -1e9).astype(np.float32)

    def score_catalogue(self, histories: Histories, *, pool_gamma: float | None = 0.0) -> np.ndarray:
        everything = Candidates.same_for_all(len(histories), np.arange(len(self.items)))
        return self.score_rows(histories, everything, pool_gamma=pool_gamma).reshape(len(histories), -1)
