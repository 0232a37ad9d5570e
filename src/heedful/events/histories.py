"""Past actions of many users, laid end to end: the currency between the log, the rankers and the evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np

__all__ = ["Histories", "ragged_positions", "span_of"]


@dataclass(frozen=True)
class Histories:
    """Actions of B users, N in all; user b has those in `offsets[b]:offsets[b + 1]`, oldest first.

    Attributes:
        offsets: int64 [B + 1], from 0 to N.
        items: item rows, int32 [N].
        times: unix seconds, int64 [N].
        kinds: codes of the event kind, uint8 [N].

    """

    offsets: np.ndarray
    items: np.ndarray
    times: np.ndarray
    kinds: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> np.ndarray:
        """Number of actions of each user, int64 [B]."""
        return np.diff(self.offsets)

    def take(self, users: np.ndarray) -> Self:
        """The histories of the given users (positions 0..B-1), in that order."""
        lengths = self.lengths[users]
        positions = ragged_positions(self.offsets[:-1][users], lengths)
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        return type(self)(offsets, self.items[positions], self.times[positions], self.kinds[positions])

    def where(self, keep: np.ndarray) -> Self:
        """The histories with only the actions where `keep` (bool [N]) holds; every user stays, maybe with none."""
        kept = np.concatenate([[0], np.cumsum(keep, dtype=np.int64)])
        return type(self)(kept[self.offsets], self.items[keep], self.times[keep], self.kinds[keep])

    def distinct(self, n_items: int) -> Self:
        """Each user's distinct items, each where it was last touched, in rows of `n_items` items."""
        owner = np.repeat(np.arange(len(self), dtype=np.int64), self.lengths)
        keys = owner * n_items + self.items
        keep = np.zeros(len(keys), bool)
        keep[len(keys) - 1 - np.unique(keys[::-1], return_index=True)[1]] = True
        return self.where(keep)

    def with_rows(self, rows: np.ndarray) -> Self:
        """The histories with item row i replaced by `rows[i]`; actions whose new row is negative are dropped."""
        renumbered = rows[self.items]
        return type(self)(self.offsets, renumbered.astype(np.int32), self.times, self.kinds).where(renumbered >= 0)

    def part(self, users: slice) -> Self:
        """The histories of consecutive users, without copying the actions."""
        low, high = self.offsets[users.start], self.offsets[users.stop]
        return type(self)(
            self.offsets[users.start : users.stop + 1] - low,
            self.items[low:high],
            self.times[low:high],
            self.kinds[low:high],
        )

    def chunks(self, users: int) -> Iterator[tuple[slice, Self]]:
        """Consecutive parts of at most `users` users each, without copying the actions."""
        for start in range(0, len(self), users):
            part = slice(start, min(start + users, len(self)))
            yield part, self.part(part)


def ragged_positions(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Positions of ragged pieces laid end to end: starts[0], starts[0] + 1, ..., then those of the next piece; int64."""
    total = int(lengths.sum())
    ends = np.cumsum(lengths)
    positions: np.ndarray = np.arange(total, dtype=np.int64) + np.repeat(starts - (ends - lengths), lengths)
    return positions


def span_of(times: np.ndarray) -> float:
    """Length of the period of event times, seconds, int64 [E]: from the first to a second after the last, 1 at least."""
    return float(max(int(times.max()) + 1 - int(times.min()), 1)) if len(times) else 1.0
