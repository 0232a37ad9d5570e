"""How each user's events are split in time into history T_u and targets S_u (section 4.2).

"last_items" takes the user's last items as targets, always the same ones, as the paper does.
"random_time" (ours) draws a time, and the targets are what comes within a horizon after it, which asks
what a recommender is asked: what comes in the next days?

Shapes: B users, E events, I items.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numba
import numpy as np

from heedful.kernels.rng import next_random

__all__ = [
    "ALL",
    "LAST_ITEMS",
    "NEW",
    "RANDOM_TIME",
    "REPEAT",
    "SPLITS",
    "TARGETS",
    "Events",
    "Marks",
    "Plan",
    "SplitRule",
    "is_wanted",
    "plan_splits",
    "seeded",
]

SPLITS = ("last_items", "random_time")
LAST_ITEMS, RANDOM_TIME = range(2)
TARGETS = ("new", "repeat", "all")
NEW, REPEAT, ALL = range(3)
# Times that are drawn for a user before it is left out of an epoch.
_TRIES = 4


class Events(NamedTuple):
    """The log.

    Attributes:
        items: item rows, int32 [E].
        times: unix seconds, int64 [E].
        targets: whether an event may make its item a target, bool [E].
        seen: whether an event makes its item a seen one, bool [E].
    """

    items: np.ndarray
    times: np.ndarray
    targets: np.ndarray
    seen: np.ndarray


class SplitRule(NamedTuple):
    """How to split.

    Attributes:
        kind: `LAST_ITEMS` or `RANDOM_TIME`.
        positives: most targets of "last_items".
        horizon: length of the target period in seconds, of "random_time".
        since: no time is earlier than this, unix seconds, of "random_time".
        seed: of all draws.
        target: `NEW`, `REPEAT` or `ALL`, of "random_time"; "last_items" has new items alone.
    """

    kind: int
    positives: int
    horizon: int
    since: int
    seed: int
    target: int = 0


class Plan(NamedTuple):
    """Instances to be made, int64 [B] each.

    Attributes:
        users: positions of the users in the log.
        starts: first event of the history.
        cuts: first event after the history; -1 for a user without one that has a target after it.
        stops: first event after the targets.
        now: time of ranking, unix seconds.
    """

    users: np.ndarray
    starts: np.ndarray
    cuts: np.ndarray
    stops: np.ndarray
    now: np.ndarray

    def take(self, places: np.ndarray) -> Plan:
        """Some of the instances."""
        return Plan(*(column[places] for column in self))


class Marks(NamedTuple):
    """An array int64 [I] in which items are marked, and the first mark that nobody has used in it.

    It is never cleared: each user takes fresh marks.
    """

    array: np.ndarray
    first: int

    @staticmethod
    def needed_for(users: int) -> int:
        """How many fresh marks `plan_splits` takes."""
        return users * (_TRIES + 1)


def plan_splits(events: Events, offsets: np.ndarray, users: np.ndarray, epoch: int, rule: SplitRule, marks: Marks) -> Plan:
    """Split the history of each user; users without targets are left out.

    Args:
        events: the log.
        offsets: int64 [U + 1], where each user's events begin and end.
        users: positions of the users, int64 [B].
        epoch: each epoch draws other times.
        rule: how to split.
        marks: `Marks.needed_for(B)` fresh marks.
    """
    starts, ends = offsets[users], offsets[users + 1]
    plan = Plan(users, starts, np.full(len(users), -1, np.int64), ends.copy(), np.zeros(len(users), np.int64))
    _plan(events, ends, epoch, rule, marks, plan)
    return plan.take(np.flatnonzero(plan.cuts > 0))


@numba.njit(inline="always")
def seeded(seed: Any, purpose: Any, epoch: Any, user: Any) -> Any:
    """State of the random numbers of one user in one epoch, whatever batch or thread the user falls to."""
    state = numba.uint64(seed)
    for part in (purpose, epoch, user):
        state, bits = next_random(state ^ numba.uint64(part))
        state = bits
    return state


@numba.njit(nogil=True, cache=True)
def _plan(events: Any, ends: Any, epoch: int, rule: Any, marks: Any, plan: Any) -> None:
    mark = marks.first
    for b in range(len(plan.users)):
        start, end = plan.starts[b], ends[b]
        if rule.kind == LAST_ITEMS:
            cut = _last_items_cut(events, start, end, rule.positives, marks.array, mark)
            mark += 1
            plan.cuts[b], plan.now[b] = cut, events.times[max(cut, 0)]
            continue
        state = seeded(rule.seed, 1, epoch, plan.users[b])
        for _ in range(_TRIES):
            state, bits = next_random(state)
            cut, stop, now = _draw_time(events.times, start, end, rule, bits)
            mark += 1
            if cut > start and _any_target(events, start, cut, stop, rule.target, marks.array, mark):
                plan.cuts[b], plan.stops[b], plan.now[b] = cut, stop, now
                break


@numba.njit(inline="always")
def _draw_time(times: Any, start: Any, end: Any, rule: Any, bits: Any) -> Any:
    """A time, even over all those with a history before and an event within the horizon; cut -1 if there is none."""
    total = numba.int64(0)
    for n in range(start + 1, end):
        total += _seconds_before(times, n, rule)
    if total == 0 and times[start] < rule.since:
        return numba.int64(-1), end, numba.int64(0)
    if total == 0:  # one basket only: split it anywhere
        cut = start + 1 + numba.int64(bits % numba.uint64(end - start - 1))
        return cut, end, times[cut]
    left = numba.int64(bits % numba.uint64(total))
    cut, time = numba.int64(-1), numba.int64(0)
    for n in range(start + 1, end):
        left -= _seconds_before(times, n, rule)
        if left < 0:
            cut, time = n, times[n] + left + 1
            break
    stop = cut
    while stop < end and times[stop] < time + rule.horizon:
        stop += 1
    return cut, stop, time


@numba.njit(inline="always")
def _seconds_before(times: Any, n: Any, rule: Any) -> Any:
    """Times before event n that can be drawn: after the event before it, within the horizon, not before `since`."""
    return max(min(times[n] - times[n - 1], rule.horizon, times[n] - rule.since), 0)


@numba.njit(inline="always")
def is_wanted(target: Any, is_seen: Any) -> Any:
    """Whether an item that was seen before the cut, or not, can be a target."""
    return target == ALL or is_seen == (target == REPEAT)


@numba.njit(inline="always")
def _any_target(events: Any, start: Any, cut: Any, stop: Any, target: Any, marks: Any, mark: Any) -> Any:
    for n in range(start, cut):
        if events.seen[n]:
            marks[events.items[n]] = mark
    for n in range(cut, stop):  # noqa: SIM110, compiled code
        if events.targets[n] and is_wanted(target, marks[events.items[n]] == mark):
            return True
    return False


@numba.njit(inline="always")
def _last_items_cut(events: Any, start: Any, stop: Any, positives: Any, marks: Any, mark: Any) -> Any:
    """Where the set A_u is split: its last items, by first action, are targets, at most half of them."""
    distinct = 0
    for n in range(start, stop):
        if marks[events.items[n]] != mark:
            marks[events.items[n]] = mark
            distinct += events.targets[n]
    targets = min(positives, distinct // 2)
    if targets == 0:
        return -1
    # A second walk needs fresh marks: negative ones are free, since marks only grow.
    seen = 0
    for n in range(start, stop):
        if marks[events.items[n]] != -mark:
            marks[events.items[n]] = -mark
            seen += events.targets[n]
            if events.targets[n] and seen == distinct - targets + 1:
                return n if n > start else -1
    return -1
