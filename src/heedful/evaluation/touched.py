"""What users touched before and after a cut, in rows of the items that can be ranked."""

from __future__ import annotations

import numpy as np

from heedful.events.candidates import Candidates
from heedful.events.log import EventLog
from heedful.events.targets import TargetConfig
from heedful.events.vocabulary import Vocabulary

__all__ = ["distinct_items", "events_of_targets", "not_again", "pair_keys", "rankable", "seen_items", "union"]


def rankable(past: EventLog, items: Vocabulary | None) -> tuple[Vocabulary, np.ndarray]:
    """The items that can be ranked, those of the past for None, and the distinct users of each in the past, int64 [I]."""
    if items is None:
        return past.catalog.items, np.asarray(past.catalog.users)
    rows = past.catalog.items.rows(items.ids)
    return items, np.where(rows >= 0, past.catalog.users[rows], 0)


def distinct_items(log: EventLog, users: np.ndarray, rows: np.ndarray) -> Candidates:
    """Distinct items that each of `users` (rows of the log) touched, renumbered by `rows` (-1: left out), sorted."""
    histories = log.histories.take(users).with_rows(rows)
    return _sorted_distinct(Candidates(histories.offsets, histories.items), int(rows.max(initial=0)) + 1)


def seen_items(past: EventLog, users: np.ndarray, items: Vocabulary, targets: TargetConfig) -> Candidates:
    """The distinct items that count as seen by users of the past log (rows; -1: none), in rows of `items`."""
    seen = distinct_items(past.select(targets.seen_kinds), np.maximum(users, 0), items.rows(past.catalog.items.ids))
    return seen.where((users >= 0)[seen.owners])


def events_of_targets(future: EventLog, targets: TargetConfig) -> EventLog:
    """The events that make items targets."""
    if not targets.negative_kinds:
        return future.select(targets.target_kinds)
    future.kind_codes(targets.negative_kinds)  # refuses a kind that the log does not have
    kinds = [kind for kind in targets.target_kinds or future.kinds if kind not in targets.negative_kinds]
    return future.select(kinds)


def not_again(seen: Candidates, after: Candidates, keys: np.ndarray, sizes: np.ndarray, n_items: int) -> Candidates:
    """Seen items of B users that are not touched after the cut, in random order.

    Args:
        seen: before the cut.
        after: touched after it.
        keys: random streams, uint64 [B].
        sizes: at most so many of each user, int64 [B].
        n_items: I.

    Returns:
        int32 rows.
    """
    left = seen.where(~np.isin(pair_keys(seen, n_items), pair_keys(after, n_items)))
    lists = []
    for user, size in enumerate(sizes):
        rows = left.rows[left.offsets[user] : left.offsets[user + 1]]
        lists.append(np.random.default_rng(keys[user]).permutation(rows)[:size])
    drawn = Candidates.of(lists)
    return Candidates(drawn.offsets, drawn.rows.astype(np.int32))


def union(one: Candidates, other: Candidates, n_items: int) -> Candidates:
    """The distinct items that each user has in one of both, sorted."""
    owners, rows = np.concatenate([one.owners, other.owners]), np.concatenate([one.rows, other.rows])
    order = np.argsort(owners, kind="stable")
    return _sorted_distinct(Candidates.from_lengths(one.lengths + other.lengths, rows[order]), n_items)


def pair_keys(touched: Candidates, n_items: int) -> np.ndarray:
    """Each (user, item) pair as a number, int64."""
    return np.asarray(touched.owners * n_items + touched.rows)


def _sorted_distinct(touched: Candidates, n_items: int) -> Candidates:
    keys = np.unique(touched.owners * n_items + touched.rows)
    lengths = np.bincount(keys // n_items, minlength=len(touched))
    return Candidates.from_lengths(lengths, keys % n_items)
