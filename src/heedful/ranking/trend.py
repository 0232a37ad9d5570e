"""How popular an item is at a moment, and where it is heading: what a ranker must know where tastes and stock move.

All counts are of what had happened before the moment in question, so that a training instance knows no more than could
have been known then. They are made twice: of each user's first action with an item, which is popularity as equation 5 of
the paper counts it, and of all actions.

Shapes: I items, F features, W windows, N (item, moment) pairs.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple, Self

import numba
import numpy as np

from heedful.events.histories import Histories

__all__ = ["N_TREND_FEATURES", "Known", "TrendIndex", "newborn_features"]

_WINDOWS = 8
_FEATURES_EACH = 2 * _WINDOWS + 3
N_TREND_FEATURES = 2 * _FEATURES_EACH
"""F: for first actions and for all actions, two for each window and three for the item's whole life."""
# Share of the negatives of a moment that are drawn by popularity, the rest evenly: hard ones, and all of the catalogue.
_POPULAR_SHARE = 0.5


class _Actions(NamedTuple):
    """Times of some actions, item by item and all together, sorted."""

    times: np.ndarray
    offsets: np.ndarray
    all_times: np.ndarray
    all_items: np.ndarray

    @classmethod
    def of(cls, items: np.ndarray, times: np.ndarray, n_items: int) -> _Actions:
        order, in_time = np.lexsort((times, items)), np.argsort(times, kind="stable")
        offsets = np.searchsorted(items[order], np.arange(n_items + 1)).astype(np.int64)
        return cls(times[order], offsets, times[in_time], items[in_time])


class Known(NamedTuple):
    """What was known of candidates at a moment.

    Attributes:
        features: float32 [B, C, F].
        offset: log of the item's share of all first actions before, less that of the probability of drawing it as a
            negative, float32 [B, C].
    """

    features: np.ndarray
    offset: np.ndarray


class TrendIndex:
    """For each item, the times of its actions.

    The windows are the halves, quarters, ... of the log's period, so that the features mean the same in a log of hours
    and in one of years.

    Args:
        histories: the training log in item rows.
        n_items: I.

    Attributes:
        end: the moment after the last event, unix seconds.
        span: length of the period, seconds.
    """

    def __init__(self, histories: Histories, n_items: int) -> None:
        items, times = np.asarray(histories.items), np.asarray(histories.times)
        first = _first_touches(np.asarray(histories.offsets), items, n_items)
        self._first = _Actions.of(items[first], times[first], n_items)
        self._all = _Actions.of(items, times, n_items)
        known = np.flatnonzero(np.diff(self._first.offsets))
        births = self._first.times[self._first.offsets[known]]
        in_time = np.argsort(births, kind="stable")
        self._births, self._born = births[in_time], known[in_time]
        self.end = int(times.max()) + 1 if len(times) else 0
        self.span = float(max(self.end - int(times.min()), 1)) if len(times) else 1.0
        self._windows = (self.span / 2.0 ** np.arange(1, _WINDOWS + 1)).astype(np.int64)

    def save(self, folder: Path) -> None:
        """Write the arrays into an existing folder, so that other processes can map them."""
        arrays = {"births": self._births, "born": self._born, "windows": self._windows}
        arrays |= {"period": np.array([self.end, self.span])}
        for name, actions in (("first", self._first), ("all", self._all)):
            arrays |= {f"{name}_{field}": array for field, array in actions._asdict().items()}
        for name, array in arrays.items():
            np.save(folder / f"{name}.npy", array)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """The index that `save` wrote, memory-mapped."""

        def mapped(name: str) -> np.ndarray:
            return np.asarray(np.load(folder / f"{name}.npy", mmap_mode="r"))

        index = cls.__new__(cls)
        index._births, index._born, index._windows = mapped("births"), mapped("born"), mapped("windows")
        index._first, index._all = (
            _Actions(*(mapped(f"{name}_{field}") for field in _Actions._fields)) for name in ("first", "all")
        )
        end, span = mapped("period").tolist()
        index.end, index.span = int(end), float(span)
        return index

    def features(self, rows: np.ndarray, moments: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What was known of items at moments.

        Args:
            rows: item rows, int64 [N].
            moments: unix seconds, int64 [N]; events at the moment itself do not count.

        Returns:
            (features float32 [N, F], log of the item's share of all first actions before the moment, float32 [N]).
        """
        features = np.empty((len(rows), N_TREND_FEATURES), np.float32)
        log_share = np.empty(len(rows), np.float32)
        # The second call is for first actions, so that its share is the one that stays.
        for actions, part in ((self._all, features[:, _FEATURES_EACH:]), (self._first, features[:, :_FEATURES_EACH])):
            _describe(
                rows, moments, actions.offsets, actions.times, actions.all_times, self._windows, self.span, part, log_share
            )
        return features, log_share

    def known(self, candidates: np.ndarray, now: np.ndarray) -> Known:
        """What was known of the candidates of a batch at the moments of ranking.

        Args:
            candidates: item rows, int64 [B, C].
            now: unix seconds, int64 [B].
        """
        moments = np.repeat(now, candidates.shape[1])
        features, log_share = self.features(candidates.ravel(), moments)
        offset = log_share - self.log_probability(log_share, moments)
        return Known(features.reshape(*candidates.shape, -1), offset.reshape(candidates.shape))

    def negatives(self, moments: np.ndarray, randoms: np.ndarray) -> np.ndarray:
        """Draw items as they were found at each moment: half by popularity up to then, half evenly from those known then.

        Args:
            moments: unix seconds, int64 [N].
            randoms: 64 random bits for each draw, uint64 [N].

        Returns:
            Item rows, int64 [N]; -1 where no item was known yet.
        """
        drawn = np.empty(len(moments), np.int64)
        _draw_before(moments, randoms, self._first.all_times, self._first.all_items, self._births, self._born, drawn)
        return drawn

    def log_probability(self, log_share: np.ndarray, moments: np.ndarray) -> np.ndarray:
        """Logarithm of the probability with which `negatives` draws items of a given log share; float32 [N]."""
        known = np.maximum(np.searchsorted(self._births, moments), 1)
        return np.asarray(np.log(_POPULAR_SHARE * np.exp(log_share) + (1 - _POPULAR_SHARE) / known), np.float32)


def newborn_features(users: np.ndarray, ages: np.ndarray, span: float) -> np.ndarray:
    """What `TrendIndex.features` would say of items that came after the log, for all that is known of them.

    Their users are taken to have come evenly since the item was born, one action each, in a log whose actions came evenly.

    Args:
        users: distinct users of each item, 1 or more, int64 [N].
        ages: seconds since its first action, float64 [N].
        span: length of the log's period, seconds.

    Returns:
        float32 [N, F].
    """
    count, age = users[:, None].astype(np.float64), np.maximum(ages, 1.0)[:, None]
    share = 2.0 ** -np.arange(1, _WINDOWS + 1)
    recent = count * np.minimum(share * span / age, 1)
    once = [
        0.5 * np.log1p(recent),
        0.7 * np.log((recent + 1) / (count * share + 1)),
        0.3 * np.log1p(count),
        0.4 * np.log1p(256 * age / span) - 1,
        0.4 * np.log1p(256 * (age / count) / span) - 1,
    ]
    return np.concatenate([*once, *once], axis=1).astype(np.float32)


@numba.njit(nogil=True, cache=True)
def _draw_before(moments: Any, randoms: Any, all_times: Any, all_items: Any, births: Any, born: Any, drawn: Any) -> None:
    total, known, moment = 0, 0, np.int64(-1)
    for n in range(len(moments)):
        if n == 0 or moments[n] != moment:
            moment = moments[n]
            total = _before(all_times, 0, len(all_times), moment)
            known = _before(births, 0, len(births), moment)
        bits = randoms[n]
        place = (bits >> np.uint64(1)) & np.uint64(0x7FFFFFFFFFFF)
        if known == 0:
            drawn[n] = -1
        elif bits >> np.uint64(63):
            drawn[n] = all_items[np.int64(place % np.uint64(total))]
        else:
            drawn[n] = born[np.int64(place % np.uint64(known))]


@numba.njit(nogil=True, cache=True)
def _first_touches(offsets: Any, items: Any, n_items: int) -> Any:
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
def _before(times: Any, low: Any, high: Any, moment: Any) -> Any:
    """First position in times[low:high] (sorted) that is not before the moment."""
    while low < high:
        middle = (low + high) // 2
        if times[middle] < moment:
            low = middle + 1
        else:
            high = middle
    return low


@numba.njit(nogil=True, cache=True)
def _describe(
    rows: Any,
    moments: Any,
    offsets: Any,
    times: Any,
    all_times: Any,
    windows: Any,
    span: float,
    features: Any,
    log_share: Any,
) -> None:
    """Logarithms, each scaled to a standard deviation of about one."""
    n_windows = len(windows)
    of_all = np.zeros(n_windows)
    total, moment = 0, np.int64(-1)
    for n in range(len(rows)):
        if n == 0 or moments[n] != moment:
            moment = moments[n]
            total = _before(all_times, 0, len(all_times), moment)
            for w in range(n_windows):
                of_all[w] = total - _before(all_times, 0, total, moment - windows[w])
        start = offsets[rows[n]]
        stop = _before(times, start, offsets[rows[n] + 1], moment)
        count = stop - start
        for w in range(n_windows):
            recent = stop - _before(times, start, stop, moment - windows[w])
            expected = count * of_all[w] / max(total, 1)
            features[n, w] = 0.5 * math.log(1.0 + recent)
            features[n, n_windows + w] = 0.7 * math.log((recent + 1.0) / (expected + 1.0))
        features[n, 2 * n_windows] = 0.3 * math.log(1.0 + count)
        features[n, 2 * n_windows + 1] = _age(moment - times[start], span) if count else -2.0
        features[n, 2 * n_windows + 2] = _age(moment - times[stop - 1], span) if count else 2.0
        log_share[n] = math.log((count + 0.5) / (total + 1.0))


@numba.njit(inline="always")
def _age(seconds: Any, span: Any) -> Any:
    return 0.4 * math.log(1.0 + 256.0 * seconds / span) - 1.0
