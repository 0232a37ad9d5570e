"""The memory that a ranker attends over: each user's distinct past items, newest first, padded to one length.

Shapes: B users, L distinct past items (padded), N actions laid end to end.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numba
import numpy as np

from heedful.events.histories import Histories

__all__ = ["FEW_ACTIONS", "Memory", "build_memory", "memory_of_few"]

FEW_ACTIONS = 4096
"""Up to so many actions `memory_of_few` takes a tenth of a millisecond to half of one."""

_DAY = 86400.0


@dataclass(frozen=True)
class Memory:
    """Distinct past items of B users, newest first; the paper's A_u is a set, and what repetition says is kept beside it.

    Attributes:
        lengths: distinct items of each user, at most L, int64 [B].
        rows: item rows, int64 [B, L]; 0 in the padding.
        ages: days from the last action with the item to the moment of ranking, float32 [B, L].
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


def build_memory(
    histories: Histories,
    *,
    now: np.ndarray,
    max_items: int,
    scratch: np.ndarray,
    users: np.ndarray | None = None,
    ends: np.ndarray | None = None,
) -> Memory:
    """Collect each user's distinct past items.

    Args:
        histories: actions in item rows.
        now: moment of ranking of each user, unix seconds, int64 [B].
        max_items: keep at most this many distinct items, the most recent ones.
        scratch: int64 [I] of -1, left so; a catalogue may be too large to make one for each call.
        users: positions of the users in `histories`, int64 [B]; all of them when None.
        ends: the history of user b ends before this position in `histories.items`, int64 [B]; the whole history when None.
    """
    if users is None:
        users = np.arange(len(histories), dtype=np.int64)
    starts = np.asarray(histories.offsets[:-1], np.int64)[users]
    if ends is None:
        ends = np.asarray(histories.offsets[1:], np.int64)[users]
    longest = int(min(max_items, (ends - starts).max(initial=0)))
    lengths = np.empty(len(users), np.int64)
    rows = np.zeros((len(users), longest), np.int64)
    ages, counts = np.zeros(rows.shape, np.float32), np.zeros(rows.shape, np.float32)
    kinds = np.zeros(rows.shape, np.int64)
    _collect(
        histories.items, histories.times, histories.kinds, starts, ends, now, scratch, lengths, rows, ages, counts, kinds
    )
    used = int(lengths.max(initial=0))
    return Memory(lengths, rows[:, :used], ages[:, :used], counts[:, :used], kinds[:, :used])


def memory_of_few(histories: Histories, *, now: np.ndarray, max_items: int) -> Memory:
    """What `build_memory` collects of whole histories, without scratch and compiled code.

    For the first request of a process loading the code would take longer than opening the model, and scratch of a large
    catalogue as long.
    """
    n_users, n_actions = len(histories), len(histories.items)
    owner = np.repeat(np.arange(n_users), histories.lengths)
    pairs = owner * (int(histories.items.max(initial=0)) + 1) + histories.items
    # Of the actions from the last one back, the first with each item of each user.
    _, back, counts = np.unique(pairs[::-1], return_index=True, return_counts=True)
    order = np.argsort(back)
    actions, counts = n_actions - 1 - back[order], counts[order]
    users = owner[actions]
    slots = np.arange(len(users)) - np.searchsorted(-users, -users)
    kept = slots < max_items
    actions, users, slots, counts = actions[kept], users[kept], slots[kept], counts[kept]
    lengths = np.bincount(users, minlength=n_users)
    shape = (n_users, int(lengths.max(initial=0)))
    memory = Memory(
        lengths,
        np.zeros(shape, np.int64),
        np.zeros(shape, np.float32),
        np.zeros(shape, np.float32),
        np.zeros(shape, np.int64),
    )
    memory.rows[users, slots] = histories.items[actions]
    memory.ages[users, slots] = np.maximum(now[users] - histories.times[actions], 0) / _DAY
    memory.counts[users, slots] = counts
    memory.kinds[users, slots] = histories.kinds[actions]
    return memory


@numba.njit(nogil=True, cache=True)
def _collect(
    items: Any,
    times: Any,
    codes: Any,
    starts: Any,
    ends: Any,
    now: Any,
    slots: Any,
    lengths: Any,
    rows: Any,
    ages: Any,
    counts: Any,
    kinds: Any,
) -> None:
    """Walk each history from its end; `slots` [I] is scratch, -1 everywhere before and after."""
    limit = rows.shape[1]
    for b in range(len(starts)):
        used = 0
        for n in range(ends[b] - 1, starts[b] - 1, -1):
            item = items[n]
            slot = slots[item]
            if slot >= 0:
                counts[b, slot] += 1.0
            elif used < limit:
                slots[item] = used
                rows[b, used] = item
                ages[b, used] = max(now[b] - times[n], 0) / _DAY
                counts[b, used] = 1.0
                kinds[b, used] = codes[n]
                used += 1
        lengths[b] = used
        for place in range(used):
            slots[rows[b, place]] = -1
