"""Items to be ranked for many users, laid end to end: the sibling of `Histories` on the other side of a ranker."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from heedful.events.histories import ragged_positions

__all__ = ["Candidates", "parts_of"]


@dataclass(frozen=True)
class Candidates:
    """Item rows of B users, N in all; user b has those in `offsets[b]:offsets[b + 1]`.

    Attributes:
        offsets: int64 [B + 1], from 0 to N.
        rows: item rows, int64 [N] (int32 is accepted where many are kept at rest); -1 for an item that whoever numbers
            the rows does not know.

    """

    offsets: np.ndarray
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> np.ndarray:
        """Number of candidates of each user, int64 [B]."""
        return np.diff(self.offsets)

    @property
    def owners(self) -> np.ndarray:
        """The user (0..B-1) of each candidate, int64 [N]."""
        return np.repeat(np.arange(len(self), dtype=np.int64), self.lengths)

    @classmethod
    def of(cls, lists: Sequence[np.ndarray]) -> Self:
        """Candidates from one array of rows for each user."""
        lengths = np.array([len(rows) for rows in lists], np.int64)
        return cls.from_lengths(lengths, np.concatenate([np.empty(0, np.int64), *lists]).astype(np.int64))

    @classmethod
    def from_lengths(cls, lengths: np.ndarray, rows: np.ndarray) -> Self:
        """Candidates of users who have `lengths[b]` each, int64 [B], laid end to end in `rows`."""
        return cls(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64), rows)

    @classmethod
    def same_for_all(cls, users: int, rows: np.ndarray) -> Self:
        """The same candidates for each of `users` users."""
        return cls(np.arange(users + 1, dtype=np.int64) * len(rows), np.tile(rows, users))

    def take(self, users: np.ndarray) -> Self:
        """The candidates of the given users (positions 0..B-1), in that order."""
        lengths = self.lengths[users]
        return self.from_lengths(lengths, self.rows[ragged_positions(self.offsets[:-1][users], lengths)])

    def part(self, users: slice) -> Self:
        """The candidates of consecutive users, without copying the rows."""
        start, stop, _ = users.indices(len(self))
        low, high = self.offsets[start], self.offsets[stop]
        return type(self)(self.offsets[start : stop + 1] - low, self.rows[low:high])

    def where(self, keep: np.ndarray) -> Self:
        """Only the candidates where `keep` (bool [N]) holds; every user stays, maybe with none."""
        kept = np.concatenate([[0], np.cumsum(keep, dtype=np.int64)])
        return type(self)(kept[self.offsets], self.rows[keep])

    def with_rows(self, rows: np.ndarray) -> Self:
        """The candidates with row i replaced by `rows[i]` (int64); the unknown stay unknown, and none is dropped."""
        if not len(rows):
            return type(self)(self.offsets, np.full(len(self.rows), -1, np.int64))
        return type(self)(self.offsets, np.where(self.rows >= 0, rows[self.rows], -1))


def parts_of(offsets: np.ndarray, most: int) -> Iterator[slice]:
    """Consecutive users with at most `most` candidates together (or one user with more)."""
    start, n = 0, len(offsets) - 1
    while start < n:
        stop = int(np.searchsorted(offsets, offsets[start] + most, side="right")) - 1
        stop = min(max(stop, start + 1), n)
        yield slice(start, stop)
        start = stop
