"""What is known of items at a time: users in all, users in windows of several lengths, the ratios of both, ages.

Shapes: E events, I items, F features, W windows.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Protocol

import numpy as np

from heedful.events.histories import Histories
from heedful.model.touches import Touches

__all__ = ["SEASON", "ItemFeatures", "features_of", "is_seasonal", "item_features"]

SEASON = "season"
"""The column that counts the users of a year ago."""

# Lengths of the windows as multiples of the length of a training window.
_SCALES = tuple(2.0**power for power in range(-4, 5))
_DAY = 86_400.0
_YEAR = 365 * _DAY


@dataclass(frozen=True)
class ItemFeatures:
    """Of every item at one time.

    Attributes:
        names: what each column is, F.
        values: float32 [I, F].
        users: distinct users of each item, int64 [I].
        recent_users: distinct users of each item within the last training window, int64 [I].
        born: time of the first event of each item, int64 [I]; `now` where there is none.
    """

    names: tuple[str, ...]
    values: np.ndarray
    users: np.ndarray
    recent_users: np.ndarray
    born: np.ndarray


def is_seasonal(times: np.ndarray, now: int) -> bool:
    """Whether a log with these event times, int64 [E], tells at `now` what sold a year ago."""
    return len(times) > 0 and now - int(times.min()) > _YEAR


def item_features(
    histories: Histories, n_items: int, now: int, window: int, *, seasonal: bool | None = None
) -> ItemFeatures:
    """Count the events before `now`.

    Args:
        histories: the log, in rows of `n_items` items; events at `now` and later do not count.
        n_items: I.
        now: unix seconds.
        window: seconds of a training window, in whose multiples recency is measured.
        seasonal: whether to count what sold a year ago; None: if the log reaches back so far.
    """
    events = _Events.before(histories, n_items, now)
    columns, recent = _columns(events, window)
    if is_seasonal(events.times, now) if seasonal is None else seasonal:
        columns |= _season(events, now - _YEAR, window)
    values = np.stack(list(columns.values()), 1).astype(np.float32)
    return ItemFeatures(tuple(columns), values, events.users, recent, events.born())


def features_of(touches: Touches, now: int, window: int, before: ItemFeatures) -> ItemFeatures:
    """What `item_features` says as of a time, from touches that were counted on.

    Args:
        touches: those before that time.
        now: unix seconds.
        window: seconds of a training window.
        before: features as of an earlier time: what was sold a year ago is taken from them.
    """
    events = _Touched(touches, now)
    columns, recent = _columns(events, window)
    values = np.stack(list(columns.values()), 1).astype(np.float32)
    seasons = before.values[:, len(columns) :]
    return ItemFeatures(before.names, np.concatenate([values, seasons], axis=1), events.users, recent, events.born())


class _Counts(Protocol):
    """What is counted of items before a time; int64 [I] each."""

    @property
    def now(self) -> int: ...
    @property
    def start(self) -> int: ...
    @property
    def users(self) -> np.ndarray: ...
    def users_since(self, since: float) -> np.ndarray: ...
    def new_since(self, since: float) -> np.ndarray: ...
    def born(self) -> np.ndarray: ...
    def latest(self) -> np.ndarray: ...


def _columns(events: _Counts, window: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The columns by name, but for those of seasons, and the users of the last window."""
    now, users = events.now, events.users
    columns = {
        "users": np.log(users + 0.5),
        "age": _age(now - events.born()),
        "since_last": _age(now - events.latest()),
    }
    recent = {scale: events.users_since(now - scale * window) for scale in _SCALES}
    for scale, count in recent.items():
        columns[f"users_{scale:g}"] = np.log(count + 0.5)
        columns[f"share_{scale:g}"] = np.log((count + 0.5) / (users + 0.5))
        columns[f"growth_{scale:g}"] = _growth(events.new_since(now - scale * window), users)
    for short, long in pairwise(_SCALES):
        columns[f"rise_{short:g}"] = np.log((recent[short] + 0.5) / (recent[long] + 0.5))
    return columns, recent[1.0]


def _age(seconds: np.ndarray) -> np.ndarray:
    return np.asarray(np.log1p(seconds / _DAY))


def _growth(new: np.ndarray, users: np.ndarray) -> np.ndarray:
    """New users of an item in a period against those that its share of all new users gives; a logarithm, [I]."""
    expected = users * (new.sum() / max(users.sum(), 1))
    return np.asarray(np.log((new + 1) / (expected + 1)))


def _season(events: _Events, year_ago: float, window: int) -> dict[str, np.ndarray]:
    """The same window a year ago, and against the five windows around it."""
    then = events.users_since(year_ago, year_ago + window)
    around = events.users_since(year_ago - 2 * window, year_ago + 3 * window)
    return {SEASON: np.log(then + 0.5), "season_share": np.log((then + 0.5) / (around + 1))}


@dataclass(frozen=True)
class _Events:
    """Events before a time, sorted by (user, item) pair and time."""

    pairs: np.ndarray
    times: np.ndarray
    n_items: int
    now: int

    @classmethod
    def before(cls, histories: Histories, n_items: int, now: int) -> _Events:
        owner = np.repeat(np.arange(len(histories), dtype=np.int64), histories.lengths)
        earlier = histories.times < now
        pairs, times = owner[earlier] * n_items + histories.items[earlier], histories.times[earlier]
        order = np.lexsort((times, pairs))
        return cls(pairs[order], times[order], n_items, now)

    @property
    def start(self) -> int:
        return int(self.times.min(initial=self.now))

    @cached_property
    def users(self) -> np.ndarray:
        return self.users_since(self.start)

    def users_since(self, since: float, until: float = np.inf) -> np.ndarray:
        """Distinct users of each item in a period, int64 [I]."""
        pairs = self.pairs[(self.times >= since) & (self.times < until)]
        return self._count(pairs[np.diff(pairs, prepend=-1) != 0])

    def new_since(self, since: float) -> np.ndarray:
        """Users of each item whose first action with it came since then, int64 [I]."""
        first = np.diff(self.pairs, prepend=-1) != 0
        return self._count(self.pairs[first & (self.times >= since)])

    def born(self) -> np.ndarray:
        born = np.full(self.n_items, self.now, np.int64)
        np.minimum.at(born, self.pairs % self.n_items, self.times)
        return born

    def latest(self) -> np.ndarray:
        latest = np.full(self.n_items, self.start, np.int64)
        np.maximum.at(latest, self.pairs % self.n_items, self.times)
        return latest

    def _count(self, pairs: np.ndarray) -> np.ndarray:
        return np.bincount(pairs % self.n_items, minlength=self.n_items)


class _Touched:
    """The same from touches; all of them are before `now`."""

    def __init__(self, touches: Touches, now: int) -> None:
        self.now, self.start, self._touches = now, touches.start, touches
        self.users = touches.users

    def users_since(self, since: float) -> np.ndarray:
        return np.asarray(self._touches.last.since(np.array([np.ceil(since)]))[0])

    def new_since(self, since: float) -> np.ndarray:
        return np.asarray(self._touches.first.since(np.array([np.ceil(since)]))[0])

    def born(self) -> np.ndarray:
        return self._touches.first.ends(self.now, self.start)[0]

    def latest(self) -> np.ndarray:
        return self._touches.last.ends(self.now, self.start)[1]
