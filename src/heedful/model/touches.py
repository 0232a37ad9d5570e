"""When each item was taken up, taken up again and used at all: what popularity is counted from, and can go on with.

A touch is an action of a user with an item; a pair is a user with an item. The times of a trained model's log are kept
item by item, without users, and what comes later is added beside them, so that counting as of another time looks at
items, not at events.

Shapes: I items, N entries, W times.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numba
import numpy as np

from heedful.events.histories import Histories

__all__ = ["Later", "Tally", "Touches"]

# A row and a time in one integer, which sorts by row and then by time; times are less than 2**34 s, the year 2514.
_ROW = 34


@dataclass(frozen=True)
class Tally:
    """Times of items: those of a log, with more of them and without some.

    Attributes:
        times: of the log, item by item and sorted, unix seconds, int64 [N].
        offsets: where those of each item begin, int64 [I + 1].
        more: what came later: row << 34 | time, sorted int64.
        fewer: what no longer counts, in the same form.
    """

    times: np.ndarray
    offsets: np.ndarray
    more: np.ndarray
    fewer: np.ndarray

    @classmethod
    def of(cls, rows: np.ndarray, times: np.ndarray, n_items: int) -> Self:
        """Of entries with these rows, int [N], at these times, int64 [N]."""
        order = np.lexsort((times, rows))
        offsets = np.searchsorted(rows[order], np.arange(n_items + 1)).astype(np.int64)
        none = np.empty(0, np.int64)
        return cls(times[order], offsets, none, none)

    def changed(self, more: np.ndarray, fewer: np.ndarray) -> Tally:
        """With more entries and without some; both as `keys` makes them."""
        return Tally(self.times, self.offsets, _merged(self.more, more), _merged(self.fewer, fewer))

    def extended(self, n_items: int) -> Tally:
        """With further items, of which there is nothing."""
        offsets = np.pad(self.offsets, (0, n_items + 1 - len(self.offsets)), mode="edge")
        return Tally(self.times, offsets, self.more, self.fewer)

    def since(self, times: np.ndarray) -> np.ndarray:
        """How many entries of each item are at some times or later, int64 [W, I]."""
        counts = np.empty((len(times), len(self.offsets) - 1), np.int64)
        _count(self.times, self.offsets, times.astype(np.int64), counts)
        counts += _since(self.more, times, counts.shape[1]) - _since(self.fewer, times, counts.shape[1])
        return np.maximum(counts, 0)

    def ends(self, missing_first: int, missing_last: int) -> tuple[np.ndarray, np.ndarray]:
        """The first and the last time of each item, int64 [I] each; entries that no longer count are looked at too."""
        starts, stops = self.offsets[:-1], self.offsets[1:]
        some = starts < stops
        first = np.full(len(starts), missing_first, np.int64)
        last = np.full(len(starts), missing_last, np.int64)
        first[some], last[some] = self.times[starts[some]], self.times[stops[some] - 1]
        rows, times = self.more >> _ROW, self.more & ((1 << _ROW) - 1)
        first[rows[~some[rows]]] = np.iinfo(np.int64).max
        last[rows[~some[rows]]] = 0
        np.minimum.at(first, rows, times)
        np.maximum.at(last, rows, times)
        return first, last

    def has(self, row: int, time: int) -> bool:
        """Whether the log has an entry of an item at a time."""
        start, stop = self.offsets[row], self.offsets[row + 1]
        place = start + np.searchsorted(self.times[start:stop], time)
        return bool(place < stop and self.times[place] == time)


@dataclass(frozen=True)
class Touches:
    """What a log, and what came after it, tell of the popularity of items.

    Attributes:
        first: each pair's first touch.
        last: each pair's last touch.
        every: all touches.
        start: time of the first touch of all, unix seconds.
        pace: mean seconds between touches in the newer half of the log.
    """

    first: Tally
    last: Tally
    every: Tally
    start: int
    pace: float

    @classmethod
    def of(cls, histories: Histories, n_items: int) -> Self:
        """The touches of a log, in rows of `n_items` items."""
        items, times = np.asarray(histories.items, np.int64), np.asarray(histories.times)
        owner = np.repeat(np.arange(len(histories), dtype=np.int64), histories.lengths)
        order = np.lexsort((times, owner * n_items + items))
        pairs, at = (owner * n_items + items)[order], times[order]
        is_first = np.diff(pairs, prepend=-1) != 0
        is_last = np.append(is_first[1:], True)[: len(pairs)]
        newer = int(times.max()) - float(np.median(times)) if len(times) else 0.0
        first, last = (Tally.of(pairs[one] % n_items, at[one], n_items) for one in (is_first, is_last))
        start = int(times.min()) if len(times) else 0
        pace = newer / max(len(times) / 2, 1.0) or 1.0
        return cls(first, last, Tally.of(items, times, n_items), start, pace)

    @cached_property
    def users(self) -> np.ndarray:
        """Distinct users of each item, int64 [I]."""
        return np.asarray(self.first.since(np.zeros(1))[0])

    def extended(self, n_items: int) -> Touches:
        """With further items, which nobody has touched."""
        first, last, every = (tally.extended(n_items) for tally in (self.first, self.last, self.every))
        return Touches(first, last, every, self.start, self.pace)

    def save(self, folder: Path) -> None:
        """Write the touches of the log into a new folder, so that other processes can map them."""
        folder.mkdir()
        for name in _TALLIES:
            tally = getattr(self, name)
            np.save(folder / f"{name}_times.npy", tally.times)
            np.save(folder / f"{name}_offsets.npy", tally.offsets)
        np.save(folder / "start_and_pace.npy", np.array([self.start, self.pace]))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """What `save` wrote, memory-mapped."""
        none = np.empty(0, np.int64)

        def tally(name: str) -> Tally:
            times, offsets = (np.load(folder / f"{name}_{part}.npy", mmap_mode="r") for part in ("times", "offsets"))
            return Tally(times, np.asarray(offsets), none, none)

        start, pace = np.load(folder / "start_and_pace.npy").tolist()
        return cls(tally("first"), tally("last"), tally("every"), int(start), pace)


_TALLIES = ("first", "last", "every")


class Later:
    """Touches that come after a log, gathered by user and item; not safe to share between threads.

    Args:
        touches: those of the log.
    """

    def __init__(self, touches: Touches) -> None:
        self.touches = touches
        self._pairs: dict[tuple[str, int], tuple[int, int]] = {}

    def knows(self, user: str, row: int) -> bool:
        """Whether the pair has been touched after the log."""
        return (user, row) in self._pairs

    def add(self, new: list[tuple[str, int, int]], before: dict[tuple[str, int], int]) -> None:
        """Count touches.

        Args:
            new: (user, row, time) of each.
            before: last touch of pairs up to the end of the log, as far as it is known; what the log lacks does not count.
        """
        changes: dict[str, tuple[list[int], list[int]]] = {name: ([], []) for name in _TALLIES}
        for user, row, time in new:
            key = row << _ROW
            changes["every"][0].append(key | time)
            if (pair := self._pairs.get((user, row))) is None:
                earlier = before.get((user, row))
                if earlier is not None and self.touches.last.has(row, earlier):
                    changes["last"][1].append(key | earlier)
                    first = -1  # before the end of the log
                else:
                    changes["first"][0].append(key | time)
                    first = time
                changes["last"][0].append(key | time)
                self._pairs[user, row] = (first, time)
                continue
            first, last = pair
            if time < first:
                changes["first"][0].append(key | time)
                changes["first"][1].append(key | first)
            if time > last:
                changes["last"][0].append(key | time)
                changes["last"][1].append(key | last)
            self._pairs[user, row] = (min(first, time), max(last, time))
        tallies = {
            name: getattr(self.touches, name).changed(*(np.array(keys, np.int64) for keys in both))
            for name, both in changes.items()
        }
        self.touches = Touches(**tallies, start=self.touches.start, pace=self.touches.pace)


def _merged(keys: np.ndarray, new: np.ndarray) -> np.ndarray:
    if not len(new):
        return keys
    new = np.sort(new)
    return np.insert(keys, np.searchsorted(keys, new), new)


def _since(keys: np.ndarray, times: np.ndarray, n_items: int) -> np.ndarray:
    """How many keys of each item are at some times or later, int64 [W, I]."""
    if not len(keys):
        return np.zeros((len(times), n_items), np.int64)
    rows = np.arange(n_items, dtype=np.int64) << _ROW
    stops = np.searchsorted(keys, rows + (1 << _ROW))
    wanted = np.clip(times, 0, (1 << _ROW) - 1).astype(np.int64)
    return np.stack([stops - np.searchsorted(keys, rows + time) for time in wanted])


@numba.njit(nogil=True, cache=True)
def _count(times: Any, offsets: Any, since: Any, counts: Any) -> None:
    for item in range(len(offsets) - 1):
        for w in range(len(since)):
            low, high = offsets[item], offsets[item + 1]
            while low < high:
                middle = (low + high) // 2
                if times[middle] < since[w]:
                    low = middle + 1
                else:
                    high = middle
            counts[w, item] = offsets[item + 1] - low
