"""The last windows of a log: what users touched in them is what the mixture is fitted to.

Shapes: E events of the log, B users.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from heedful.errors import TrainingError
from heedful.events.candidates import Candidates
from heedful.events.histories import Histories
from heedful.events.targets import Targets

__all__ = ["Window", "Windowed", "last_windows", "window_length", "windowed"]

_DAY = 86_400
# A window is this part of the time that the last half of the events took: two weeks where that was a year.
_WINDOWS_IN_HALF = 25


@dataclass(frozen=True)
class Window:
    """A period of the log, in unix seconds.

    Attributes:
        start: events before it are the history.
        stop: events from `start` to before it are the future.
    """

    start: int
    stop: int


@dataclass(frozen=True)
class Windowed:
    """Users with a history before a window who touched a target in it.

    Attributes:
        window: the period.
        users: their places in the log, int64 [B].
        histories: what they did before the window, [B].
        positives: known items that were targets in the window, [B].
        seen: the items that they had seen before the window, [B]; a row may be there several times.
    """

    window: Window
    users: np.ndarray
    histories: Histories
    positives: Candidates
    seen: Candidates

    def take(self, places: np.ndarray) -> Windowed:
        """Some of the users, by their places in `users`."""
        histories, positives = self.histories.take(places), self.positives.take(places)
        return Windowed(self.window, self.users[places], histories, positives, self.seen.take(places))


def window_length(times: np.ndarray) -> int:
    """Seconds of a window for a log with these event times, int64 [E]: at least a day.

    It follows the last half of the events, so that a few events of long ago do not make windows long.

    Raises:
        TrainingError: there are no events.
    """
    if not len(times):
        raise TrainingError("there is nothing to learn from", got="a log without events")
    half = int(times.max()) + 1 - int(np.median(times))
    return max(half // _WINDOWS_IN_HALF, _DAY)


def last_windows(times: np.ndarray, length: int, count: int) -> list[Window]:
    """At most `count` windows that end where the log ends, the latest first.

    Windows that would start in the first half of the log's period are left out, so that each has a history.
    """
    if not len(times):
        return []
    end, begin = int(times.max()) + 1, int(times.min())
    windows = [Window(end - (n + 1) * length, end - n * length) for n in range(count)]
    return [window for window in windows if window.start - begin >= (end - begin) / 2]


def windowed(histories: Histories, n_items: int, window: Window, targets: Targets | None = None) -> Windowed:
    """Split the log at a window.

    Args:
        histories: the log, in rows of `n_items` items.
        n_items: I.
        window: the period whose targets are the positives.
        targets: what counts as a target, in the log's kind codes; None: every new item.
    """
    targets = targets or Targets()
    before = histories.where(histories.times < window.start)
    in_window = (histories.times >= window.start) & (histories.times < window.stop)
    touched = _pairs(histories.where(in_window & targets.is_target(histories.kinds)), n_items)
    seen = before.where(targets.is_seen(before.kinds))
    known = np.bincount(before.items, minlength=n_items) > 0
    keys = touched[targets.counts(touched, _pairs(seen, n_items))]
    keys = keys[known[keys % n_items]]
    owners, rows = keys // n_items, keys % n_items
    has_history = before.lengths[owners] > 0
    owners, rows = owners[has_history], rows[has_history]
    users, lengths = np.unique(owners, return_counts=True)
    positives, seen = Candidates.from_lengths(lengths, rows), seen.take(users)
    return Windowed(window, users, before.take(users), positives, Candidates(seen.offsets, seen.items))


def _pairs(histories: Histories, n_items: int) -> np.ndarray:
    """Distinct (user, item) pairs as user * I + item, ascending, int64."""
    owner = np.repeat(np.arange(len(histories), dtype=np.int64), histories.lengths)
    return np.unique(owner * n_items + histories.items)
