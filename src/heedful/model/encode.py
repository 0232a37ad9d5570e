"""Histories encoded for a model: each user's distinct items, newest first, padded to one length.

Shapes: B users, L distinct items of a history (padded), E actions laid end to end,
N kinds, A = 3 N properties of actions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numba
import numpy as np

from heedful.events.histories import Histories

__all__ = ["PROPERTIES", "HistoryBatch", "encode", "properties_of"]

PROPERTIES = ("once", "log_count", "recency")
"""What is known of the actions with an item, beside the kind of the last of them: 1, log of their number, weight by age."""

_DAY = 86400.0


@dataclass(frozen=True)
class HistoryBatch:
    """Distinct items of B histories, newest first; the paper's A_u is a set, repetition is kept beside it.

    Attributes:
        lengths: distinct items of each user, at most L, int64 [B].
        rows: item rows, int64 [B, L]; 0 in the padding.
        ages: days from the last action with the item to the time of ranking, float32 [B, L].
        counts: actions with the item, float32 [B, L]; 0 in the padding.
        kinds: kind code of the last action with the item, int64 [B, L].
    """

    lengths: np.ndarray
    rows: np.ndarray
    ages: np.ndarray
    counts: np.ndarray
    kinds: np.ndarray

    def __len__(self) -> int:
        return len(self.lengths)

    def take(self, users: np.ndarray) -> HistoryBatch:
        """The histories of some users (positions 0..B-1), padded no longer than they need."""
        longest = int(self.lengths[users].max(initial=0))
        columns = (self.rows, self.ages, self.counts, self.kinds)
        return HistoryBatch(self.lengths[users], *(column[users, :longest] for column in columns))


def encode(
    histories: Histories,
    now: np.ndarray,
    *,
    max_items: int,
    users: np.ndarray | None = None,
    ends: np.ndarray | None = None,
) -> HistoryBatch:
    """Collect each user's distinct items: for training, batch scoring and serving alike.

    Args:
        histories: actions in item rows.
        now: time of ranking of each user, unix seconds, int64 [B].
        max_items: keep at most this many distinct items, the most recent ones.
        users: positions of the users in `histories`, int64 [B]; all of them when None.
        ends: the history of user b ends before this position in `histories.items`, int64 [B];
            the whole history when None.
    """
    if users is None:
        users = np.arange(len(histories), dtype=np.int64)
    starts = np.asarray(histories.offsets[:-1], np.int64)[users]
    if ends is None:
        ends = np.asarray(histories.offsets[1:], np.int64)[users]
    longest = int(min(max_items, (ends - starts).max(initial=0)))
    batch = _empty(len(users), longest)
    actions = _Actions(histories.items, histories.times, histories.kinds)
    _collect(actions, starts, ends, np.asarray(now, np.int64), batch)
    used = int(batch.lengths.max(initial=0))
    columns = (batch.rows, batch.ages, batch.counts, batch.kinds)
    return HistoryBatch(batch.lengths, *(column[:, :used] for column in columns))


def properties_of(history: HistoryBatch, recency: np.ndarray, n_kinds: int) -> np.ndarray:
    """The properties of the actions with each item, at the places of their kind, float32 [B, L, A]; 0 elsewhere.

    Args:
        history: of B users.
        recency: weights by age, [B, L]; 0 in the padding.
        n_kinds: N.
    """
    used = history.counts > 0
    known = np.stack([used, np.log(np.maximum(history.counts, 1)), recency], axis=2)
    is_kind = history.kinds[:, :, None] == np.arange(n_kinds)
    actions = is_kind[:, :, :, None] * known[:, :, None, :]
    return np.asarray(actions.reshape(*history.rows.shape, n_kinds * len(PROPERTIES)), np.float32)


class _Actions(NamedTuple):
    items: np.ndarray
    times: np.ndarray
    kinds: np.ndarray


class _Columns(NamedTuple):
    """`HistoryBatch` as compiled code takes it."""

    lengths: np.ndarray
    rows: np.ndarray
    ages: np.ndarray
    counts: np.ndarray
    kinds: np.ndarray


def _empty(users: int, longest: int) -> _Columns:
    shape = (users, longest)
    ages, counts = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    lengths = np.empty(users, np.int64)
    return _Columns(lengths, np.zeros(shape, np.int64), ages, counts, np.zeros(shape, np.int64))


@numba.njit(nogil=True, cache=True)
def _collect(actions: Any, starts: Any, ends: Any, now: Any, batch: Any) -> None:
    """Walk each history from its end; a hash table of its distinct items tells repetitions."""
    limit = batch.rows.shape[1]
    size = 4
    while size < 2 * limit:
        size *= 2
    keys, slots = np.full(size, -1, np.int64), np.empty(size, np.int64)
    for b in range(len(starts)):
        used = 0
        for n in range(ends[b] - 1, starts[b] - 1, -1):
            item = np.int64(actions.items[n])
            place = _place(keys, item)
            if keys[place] == item:
                batch.counts[b, slots[place]] += 1.0
            elif used < limit:
                keys[place], slots[place] = item, used
                batch.rows[b, used] = item
                batch.ages[b, used] = max(now[b] - actions.times[n], 0) / _DAY
                batch.counts[b, used] = 1.0
                batch.kinds[b, used] = actions.kinds[n]
                used += 1
        batch.lengths[b] = used
        if used:
            keys[:] = -1


@numba.njit(inline="always")
def _place(keys: Any, item: Any) -> Any:
    """Where the item is in an open-addressing table, or the free place where it belongs."""
    mask = len(keys) - 1
    mixed = np.uint64(item) * np.uint64(0x9E3779B97F4A7C15)
    place = np.int64(mixed >> np.uint64(32)) & mask
    while keys[place] != -1 and keys[place] != item:
        place = (place + 1) & mask
    return place
