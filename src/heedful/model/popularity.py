"""How popular an item is at a time, and where it is heading: what a ranker must know where tastes and stock move.

All counts are of what had happened before the time in question, so that a training instance knows no
more than could have been known then. They are made twice: of each user's first action with an item,
which is popularity as equation 5 of the paper counts it, and of all actions.

Shapes: I items, F features, W windows, N (item, time) pairs, B users, C candidates.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple, Self

import numba
import numpy as np
import torch
from torch import nn

from heedful.events.histories import Histories, span_of
from heedful.model.inputs import Inputs
from heedful.model.score import Term
from heedful.model.shares import log_share
from heedful.model.touches import Touches

__all__ = [
    "N_POPULARITY_FEATURES",
    "PopularityIndex",
    "PopularityOverTime",
    "before",
    "features_at",
    "new_item_features",
]

_WINDOWS = 8
_FEATURES_EACH = 2 * _WINDOWS + 3
N_POPULARITY_FEATURES = 2 * _FEATURES_EACH
"""F: for first actions and for all actions, two for each window and three for the item's whole life."""
_UNITS = 32


class PopularityOverTime(Term):
    """How an item's rise, age and popularity at the time of ranking add to its logit.

    A line and a curve over the features of `PopularityIndex`; both say nothing before training.
    """

    def __init__(self) -> None:
        super().__init__()
        line, last = nn.Linear(N_POPULARITY_FEATURES, 1), nn.Linear(_UNITS, 1)
        for layer in (line, last):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        self.line = line
        self.curve = nn.Sequential(nn.Linear(N_POPULARITY_FEATURES, _UNITS), nn.ReLU(), last)

    def forward(self, inputs: Inputs) -> torch.Tensor:
        """What popularity adds beyond the log share of the item at the time, float [B, C]."""
        assert inputs.popularity_BCF is not None
        return self.learnt(inputs.popularity_BCF)

    def at_time(self, popularity_IF: torch.Tensor) -> torch.Tensor | None:
        """The same for items, float [I]."""
        return self.learnt(popularity_IF)

    def learnt(self, popularity: torch.Tensor) -> torch.Tensor:
        """Float [...] from features [..., F]."""
        learnt: torch.Tensor = (self.line(popularity) + self.curve(popularity)).squeeze(-1)
        return learnt


class Actions(NamedTuple):
    """Times of some actions, item by item and all together, sorted."""

    times: np.ndarray
    offsets: np.ndarray
    all_times: np.ndarray
    all_items: np.ndarray

    @classmethod
    def of(cls, items: np.ndarray, times: np.ndarray, n_items: int) -> Actions:
        """The actions with these items, int [E], at these unix seconds, int64 [E]."""
        order, in_time = np.lexsort((times, items)), np.argsort(times, kind="stable")
        offsets = np.searchsorted(items[order], np.arange(n_items + 1)).astype(np.int64)
        return cls(times[order], offsets, times[in_time], items[in_time])


class PopularityIndex:
    """For each item, the times of its actions.

    The windows are the halves, quarters, ... of the log's period, so that the features mean the same in
    a log of hours and in one of years.

    Args:
        histories: the training log in item rows.
        n_items: I.
        span: length of the period that the windows are parts of, seconds; by default the log's own.

    Attributes:
        first: each user's first action with each item.
        births: time of the first action with each item that has one, sorted.
        born: these items in the same order.
        end: the second after the last event, unix seconds.
        span: length of the period, seconds.
    """

    def __init__(self, histories: Histories, n_items: int, *, span: float | None = None) -> None:
        items, times = np.asarray(histories.items), np.asarray(histories.times)
        first = _first_actions(np.asarray(histories.offsets), items, n_items)
        self.first = Actions.of(items[first], times[first], n_items)
        self._all = Actions.of(items, times, n_items)
        known = np.flatnonzero(np.diff(self.first.offsets))
        births = self.first.times[self.first.offsets[known]]
        in_time = np.argsort(births, kind="stable")
        self.births, self.born = births[in_time], known[in_time]
        self.end = int(times.max()) + 1 if len(times) else 0
        self.span = span_of(times) if span is None else span
        self._windows = (self.span / 2.0 ** np.arange(1, _WINDOWS + 1)).astype(np.int64)

    def save(self, folder: Path) -> None:
        """Write the arrays into an existing folder, so that other processes can map them."""
        arrays = {"births": self.births, "born": self.born, "windows": self._windows}
        arrays |= {"period": np.array([self.end, self.span])}
        for name, actions in (("first", self.first), ("all", self._all)):
            arrays |= {f"{name}_{field}": array for field, array in actions._asdict().items()}
        for name, array in arrays.items():
            np.save(folder / f"{name}.npy", array)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """The index that `save` wrote, memory-mapped."""

        def mapped(name: str) -> np.ndarray:
            return np.asarray(np.load(folder / f"{name}.npy", mmap_mode="r"))

        index = cls.__new__(cls)
        index.births, index.born, index._windows = mapped("births"), mapped("born"), mapped("windows")
        index.first, index._all = (
            Actions(*(mapped(f"{name}_{field}") for field in Actions._fields)) for name in ("first", "all")
        )
        end, span = mapped("period").tolist()
        index.end, index.span = int(end), float(span)
        return index

    def features(self, rows: np.ndarray, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Popularity of items as of some times.

        Args:
            rows: item rows, int64 [N].
            times: unix seconds, int64 [N]; events at the time itself do not count.

        Returns:
            (features float32 [N, F], log of the item's share of all first actions before, float32 [N]).
        """
        features = np.empty((len(rows), N_POPULARITY_FEATURES), np.float32)
        log_shares = np.empty(len(rows), np.float32)
        # The second call is for first actions, so that its share is the one that is kept.
        for actions, columns in ((self._all, slice(_FEATURES_EACH, None)), (self.first, slice(_FEATURES_EACH))):
            _describe(rows, times, actions, self._windows, self.span, features[:, columns], log_shares)
        return features, log_shares


def new_item_features(users: np.ndarray, ages: np.ndarray, span: float) -> np.ndarray:
    """The features of items that came after the log, for all that is known of them.

    Their users are taken to have come evenly since the item was new, one action each, in a log whose
    actions came evenly.

    Args:
        users: distinct users of each item, 1 or more, int64 [N].
        ages: seconds since its first action, float64 [N].
        span: length of the log's period, seconds.

    Returns:
        float32 [N, F].
    """
    features = np.empty((len(users), N_POPULARITY_FEATURES), np.float32)
    share = 2.0 ** -np.arange(1, _WINDOWS + 1)
    once = features[:, :_FEATURES_EACH]
    _describe_new(users.astype(np.float64), np.maximum(ages, 1.0).astype(np.float64), share, span, once)
    features[:, _FEATURES_EACH:] = once
    return features


def features_at(touches: Touches, now: int, span: float) -> tuple[np.ndarray, np.ndarray]:
    """What `PopularityIndex.features` says of all items as of a time, from touches that were counted on.

    Args:
        touches: those before that time.
        now: unix seconds.
        span: length of the period of training, seconds.

    Returns:
        (features float32 [I, F], log of each item's share of all first actions, float32 [I]).
    """
    windows = (span / 2.0 ** np.arange(1, _WINDOWS + 1)).astype(np.int64)
    since = np.concatenate([[0], now - windows])
    parts = []
    for tally in (touches.first, touches.every):
        counts = tally.since(since)
        first, last = tally.ends(now, now)
        features = np.empty((counts.shape[1], _FEATURES_EACH), np.float32)
        _describe_counts(counts, counts.sum(axis=1), now - first, now - last, span, features)
        parts.append(features)
    users = touches.users
    return np.concatenate(parts, axis=1), np.asarray(log_share(users, int(users.sum())), np.float32)


@numba.njit(nogil=True, cache=True)
def _describe_counts(counts: Any, totals: Any, ages: Any, since_last: Any, span: float, features: Any) -> None:
    n_windows = len(counts) - 1
    for n in range(counts.shape[1]):
        count = counts[0, n]
        for w in range(n_windows):
            expected = count * totals[w + 1] / max(totals[0], 1)
            _window(features, n, w, n_windows, counts[w + 1, n], expected)
        features[n, 2 * n_windows] = _users(count)
        features[n, 2 * n_windows + 1] = _age(ages[n], span) if count else -2.0
        features[n, 2 * n_windows + 2] = _age(since_last[n], span) if count else 2.0


@numba.njit(nogil=True, cache=True)
def _first_actions(offsets: Any, items: Any, n_items: int) -> Any:
    """Which events are the user's first with the item, bool [E]."""
    owner = np.full(n_items, -1, np.int64)
    first = np.zeros(len(items), np.bool_)
    for user in range(len(offsets) - 1):
        for n in range(offsets[user], offsets[user + 1]):
            if owner[items[n]] != user:
                owner[items[n]] = user
                first[n] = True
    return first


@numba.njit(inline="always")
def before(times: Any, low: Any, high: Any, time: Any) -> Any:
    """First position in times[low:high] (sorted) that is not before the time."""
    while low < high:
        middle = (low + high) // 2
        if times[middle] < time:
            low = middle + 1
        else:
            high = middle
    return low


@numba.njit(nogil=True, cache=True)
def _describe(rows: Any, times: Any, actions: Any, windows: Any, span: float, features: Any, log_shares: Any) -> None:
    n_windows = len(windows)
    of_all = np.zeros(n_windows)
    total, time = 0, np.int64(-1)
    for n in range(len(rows)):
        if n == 0 or times[n] != time:
            time = times[n]
            total = before(actions.all_times, 0, len(actions.all_times), time)
            for w in range(n_windows):
                of_all[w] = total - before(actions.all_times, 0, total, time - windows[w])
        start = actions.offsets[rows[n]]
        stop = before(actions.times, start, actions.offsets[rows[n] + 1], time)
        count = stop - start
        for w in range(n_windows):
            recent = stop - before(actions.times, start, stop, time - windows[w])
            _window(features, n, w, n_windows, recent, count * of_all[w] / max(total, 1))
        features[n, 2 * n_windows] = _users(count)
        features[n, 2 * n_windows + 1] = _age(time - actions.times[start], span) if count else -2.0
        features[n, 2 * n_windows + 2] = _age(time - actions.times[stop - 1], span) if count else 2.0
        log_shares[n] = log_share(count, total)


@numba.njit(nogil=True, cache=True)
def _describe_new(users: Any, ages: Any, shares: Any, span: float, features: Any) -> None:
    n_windows = len(shares)
    for n in range(len(users)):
        for w in range(n_windows):
            recent = users[n] * min(shares[w] * span / ages[n], 1.0)
            _window(features, n, w, n_windows, recent, users[n] * shares[w])
        features[n, 2 * n_windows] = _users(users[n])
        features[n, 2 * n_windows + 1] = _age(ages[n], span)
        features[n, 2 * n_windows + 2] = _age(ages[n] / users[n], span)


# Each feature is a logarithm scaled to a standard deviation of about one.


@numba.njit(inline="always")
def _window(features: Any, n: Any, w: Any, n_windows: Any, recent: Any, expected: Any) -> None:
    """Users in a window, and the same against what the item's whole life lets one expect."""
    features[n, w] = 0.5 * math.log(1.0 + recent)
    features[n, n_windows + w] = 0.7 * math.log((recent + 1.0) / (expected + 1.0))


@numba.njit(inline="always")
def _users(count: Any) -> Any:
    return 0.3 * math.log(1.0 + count)


@numba.njit(inline="always")
def _age(seconds: Any, span: Any) -> Any:
    return 0.4 * math.log(1.0 + 256.0 * seconds / span) - 1.0
