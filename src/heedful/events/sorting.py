"""Events in the order of users, times, items and kinds, whatever their number: sorted outside memory.

The events are spooled to a file, block by block, in each block sorted by bucket, a range of users. Then each bucket is
read and sorted by itself, most often as one 64-bit number for each event, while the one before it is written.
"""

from __future__ import annotations

import itertools
import os
import tempfile
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

__all__ = ["Events", "Spool"]

# Events of a bucket, about, and of a block: 17 bytes each in the file, some 60 in memory while a bucket is sorted.
_BUCKET_EVENTS = 2**19
# Buckets that are sorted at a time; more would take more memory, and the rest of the work could not keep pace.
_AT_A_TIME = 2
_DTYPES = (np.int32, np.int64, np.int32, np.uint8)
_UNITS = (10**9, 10**6, 10**3, 1)


@dataclass(frozen=True)
class Events:
    """Events of whole users.

    Attributes:
        users: rows of the users, int32 [N].
        instants: nanoseconds since 1970, int64 [N].
        items: rows of the items, int32 [N].
        kinds: codes of the kinds, uint8 [N].

    """

    users: np.ndarray
    instants: np.ndarray
    items: np.ndarray
    kinds: np.ndarray

    def __len__(self) -> int:
        return len(self.users)

    @property
    def columns(self) -> tuple[np.ndarray, ...]:
        """The four columns."""
        return self.users, self.instants, self.items, self.kinds

    def in_order(self) -> Events:
        """The same events by user, instant, item and kind."""
        starts = [int(column.min()) for column in self.columns]
        # Times mostly come in whole seconds or milliseconds, which take fewer bits.
        unit = next(unit for unit in _UNITS if unit == 1 or not (self.instants % unit).any())
        starts[1] -= starts[1] % unit
        units = (1, unit, 1, 1)
        bits = [
            ((int(column.max()) - start) // unit).bit_length()
            for column, start, unit in zip(self.columns, starts, units, strict=True)
        ]
        if sum(bits) > 63:
            order = np.lexsort(self.columns[::-1])
            return Events(*(column[order] for column in self.columns))
        keys = np.zeros(len(self), np.int64)
        for column, start, unit, width in zip(self.columns, starts, units, bits, strict=True):
            keys <<= width
            keys += column - start if unit == 1 else (column - start) // unit
        keys.sort()
        columns = []
        for start, unit, width, dtype in reversed(list(zip(starts, units, bits, _DTYPES, strict=True))):
            column = keys & ((1 << width) - 1)
            keys >>= width
            column *= unit
            column += start
            columns.append(column.astype(dtype, copy=False))
        return Events(*reversed(columns))


class Spool:
    """A file that takes events in any order and gives them back in order; a context manager, at whose end it is gone.

    Args:
        folder: where the file lies; it has no name there.
        n_users: events have users 0 to `n_users` - 1.
        n_events: how many events there will be, about.

    """

    def __init__(self, folder: Path, *, n_users: int, n_events: int) -> None:
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed at the end of the context
        self._end = 0
        users = max(_BUCKET_EVENTS * n_users // max(n_events, 1), 1)
        self._shift = users.bit_length() - 1  # a bucket has 2 ** shift users
        self._n_buckets = ((n_users - 1) >> self._shift) + 1
        # Of each block: the places of its columns in the file, and its event that each bucket begins with.
        self._blocks: list[tuple[list[int], np.ndarray]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()

    def fill(self, batches: Iterable[Events]) -> None:
        """Take all events."""
        waiting: list[Events] = []
        for batch in batches:
            waiting.append(batch)
            if sum(map(len, waiting)) >= _BUCKET_EVENTS:
                self._write(waiting)
                waiting = []
        if waiting:
            self._write(waiting)
        self._file.flush()

    def buckets(self) -> Iterator[Events]:
        """The events in order, all of a user together."""
        with ThreadPoolExecutor(_AT_A_TIME, thread_name_prefix="heedful-sort") as pool:
            numbers = iter(range(self._n_buckets))
            futures: deque[Future[Events]] = deque()
            for number in itertools.islice(numbers, _AT_A_TIME):
                futures.append(pool.submit(self._sorted, number))
            while futures:
                events = futures.popleft().result()
                for number in itertools.islice(numbers, 1):
                    futures.append(pool.submit(self._sorted, number))
                if len(events):
                    yield events

    def _write(self, batches: list[Events]) -> None:
        block = [np.concatenate(columns) for columns in zip(*(batch.columns for batch in batches), strict=True)]
        buckets = block[0] >> self._shift
        if self._n_buckets > 1:
            # Of small numbers, numpy sorts 16 bits by their digits.
            small = buckets.astype(np.uint16) if self._n_buckets <= 2**16 else buckets
            order = np.argsort(small, kind="stable")
            block = [column[order] for column in block]
            buckets = buckets[order]
        begins = np.searchsorted(buckets, np.arange(self._n_buckets + 1))
        places = []
        for column in block:
            places.append(self._end)
            self._file.write(column.data)
            self._end += column.nbytes
        self._blocks.append((places, begins))

    def _sorted(self, bucket: int) -> Events:
        columns: list[np.ndarray] = []
        for number, dtype in enumerate(_DTYPES):
            size = np.dtype(dtype).itemsize
            parts = []
            for places, begins in self._blocks:
                low, high = int(begins[bucket]), int(begins[bucket + 1])
                parts.append(os.pread(self._file.fileno(), (high - low) * size, places[number] + low * size))
            columns.append(np.frombuffer(b"".join(parts), dtype))
        events = Events(*columns)
        return events.in_order() if len(events) else events
