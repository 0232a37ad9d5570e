"""Training instances of section 4.2: each user's items parted in time into observed T_u and future S_u, plus negatives N_u.

Three ways to part them (`cuts`): "last" holds out the user's last items, always the same ones, as the paper does;
"fresh" draws one of the user's events anew in each epoch, which makes many instances out of few users; "moments" draws a
moment in time, and the future ends after a horizon, which asks what a recommender is asked: what comes in the next days?

Shapes: B users in a batch, C = P + N candidates (P places for positives, N negatives), E events, I items, U users.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numba
import numpy as np

from heedful.errors import TrainingError
from heedful.events.histories import Histories
from heedful.kernels.alias import alias_table, draw, smoothed_weights
from heedful.kernels.rng import next_random
from heedful.ranking.memory import Memory, build_memory
from heedful.ranking.trend import Known, TrendIndex

__all__ = ["Batch", "InstanceSampler", "Part", "Position", "Recipe", "smoothed_popularity"]

_SHARD_USERS = 65_536
_TRIES = 4
# Draws after which a user who has nearly everything is given any item that is no positive.
_DRAWS = 100
_HOLDOUT_EPOCH = 2**31
_CUTS = ("last", "fresh", "moments")
_LAST, _FRESH, _MOMENTS = range(3)


@dataclass(frozen=True)
class Part:
    """Which users of a batch that several workers share are in hand.

    Attributes:
        places: their places in the whole batch, int64 [B].
        users: users of the whole batch.
        share: what the mean loss of this part counts for, so that the mean over workers is that over all users.
        longest: L of the whole batch; 0 until the workers have agreed on it.
    """

    places: np.ndarray
    users: int
    share: float
    longest: int = 0


@dataclass(frozen=True)
class Batch:
    """Training instances of B users.

    Attributes:
        memory: the observed items T_u.
        candidates: item rows, int64 [B, C]: P places for positives, then N negatives; 0 in unused places.
        positive: bool [B, C].
        weights: 1 / (2 |S_u|), 1 / (2 |N_u|), or 0 in unused places, float32 [B, C].
        now: moment of ranking, unix seconds, int64 [B].
        seed: of the random numbers of the forward pass, so that a batch made again is treated the same.
        part: where the users stand in a batch shared with other workers; None for a whole batch.
        known: what was known of the candidates at `now`; None where training knows no trend.
    """

    memory: Memory
    candidates: np.ndarray
    positive: np.ndarray
    weights: np.ndarray
    now: np.ndarray
    seed: int
    part: Part | None = None
    known: Known | None = None


@dataclass(frozen=True)
class Position:
    """Where in the endless row of batches: epoch, shard of users, batch in the shard."""

    epoch: int = 0
    shard: int = 0
    batch: int = 0


Recipe = tuple[Callable[[], Batch], Position]
"""What makes a batch, and the position of the one after it."""


@dataclass(frozen=True)
class _Plan:
    """Instances to be made: user, first event of the future, event after its end, moment of ranking; int64 [B] each."""

    users: np.ndarray
    cuts: np.ndarray
    stops: np.ndarray
    now: np.ndarray

    def take(self, places: np.ndarray) -> _Plan:
        return _Plan(self.users[places], self.cuts[places], self.stops[places], self.now[places])


def smoothed_popularity(users: np.ndarray, gamma: float) -> np.ndarray:
    """P_gamma of equation 5: (distinct users of each item) ** gamma, normalised; items without users get 0. float64 [I]."""
    weights = smoothed_weights(users, gamma)
    return np.asarray(weights / weights.sum())


class InstanceSampler:
    """Makes batches of instances; the same seed and position give the same batch, so training can be resumed exactly.

    Args:
        histories: the training log in table rows.
        targets: which events may be positives, bool [E].
        users_of_item: distinct users of each item, int64 [I].
        batch_users: users in a batch.
        cuts: "moments", "fresh" or "last".
        positives: most positives of an instance.
        negatives: negatives of an instance.
        gamma: exponent of the negatives' distribution P_gamma.
        avoid_history: negatives are never items of T_u either (they are never items of S_u).
        max_history: most recent distinct items that are kept as memory.
        holdout_users: users set aside for assessment.
        seed: of all random choices.
        horizon: length of the future in seconds, for "moments".
        since: no moment is earlier than this, unix seconds, for "moments"; None: any moment.
        trend: draw negatives as they were found at the moment of ranking, instead of from P_gamma.
        team: (rank, size) of one of several workers who share the batches: of each it makes its own users' part only, and
            of the assessment instances every size-th batch.

    Raises:
        TrainingError: no user has two events, or there are fewer than two items.
    """

    def __init__(
        self,
        histories: Histories,
        targets: np.ndarray,
        users_of_item: np.ndarray,
        *,
        batch_users: int,
        cuts: Literal["moments", "fresh", "last"],
        positives: int,
        negatives: int,
        gamma: float,
        avoid_history: bool,
        max_history: int,
        holdout_users: int,
        seed: int,
        horizon: float = np.inf,
        since: int | None = None,
        trend: TrendIndex | None = None,
        team: tuple[int, int] | None = None,
    ) -> None:
        self._team = team
        self._histories, self._targets = histories, np.asarray(targets, np.bool_)
        self._offsets = np.asarray(histories.offsets, np.int64)
        self._batch_users, self._cuts, self._seed = batch_users, cuts, seed
        self._positives, self._negatives = positives, negatives
        self._avoid_history, self._max_history, self._trend = avoid_history, max_history, trend
        self._horizon = int(horizon) if np.isfinite(horizon) else 2**62
        self._since = -(2**62) if since is None else since
        eligible = np.flatnonzero(histories.lengths >= 2)
        _check_learnable(eligible, users_of_item)
        self._table = alias_table(smoothed_popularity(users_of_item, gamma))
        self._n_items, self._scratch = len(users_of_item), threading.local()
        shuffled = np.random.default_rng([seed, 0]).permutation(eligible)
        self._holdout, self._users = np.sort(shuffled[:holdout_users]), np.sort(shuffled[holdout_users:])

    def batches(self, start: Position) -> Iterator[tuple[Batch, Position]]:
        """Batches without end from `start` on, each with the position of the batch after it.

        Raises:
            TrainingError: a whole epoch has no instance.
        """
        return ((make(), position) for make, position in self.recipes(start))

    def recipes(self, start: Position) -> Iterator[Recipe]:
        """What makes each of `batches`; several threads may make some at once, one at a time may take the next.

        Raises:
            TrainingError: a whole epoch has no instance.
        """
        epoch, shard, number = start.epoch, start.shard, start.batch
        while True:
            order = np.random.default_rng([self._seed, 1, epoch]).permutation(self._users)
            made = number > 0 or shard > 0
            while shard * _SHARD_USERS < len(order):
                users = order[shard * _SHARD_USERS : (shard + 1) * _SHARD_USERS]
                for plan in self._plan(users, epoch, np.random.default_rng([self._seed, 2, epoch, shard]))[number:]:
                    number += 1
                    made = True
                    yield partial(self._batch, plan, epoch), Position(epoch, shard, number)
                shard, number = shard + 1, 0
            if not made:
                raise TrainingError(
                    "there is nothing to learn from", got="no user with anything new after a past", fix="give a longer log"
                )
            epoch, shard = epoch + 1, 0

    def holdout(self) -> list[Batch]:
        """The same assessment instances at every call, from users that are never trained on."""
        rank, size = self._team or (0, 1)
        plans = self._plan(self._holdout, _HOLDOUT_EPOCH, None)[rank::size]
        return [self._make(plan, _HOLDOUT_EPOCH, np.arange(len(plan.users)), None) for plan in plans]

    def _plan(self, users: np.ndarray, epoch: int, shuffle: np.random.Generator | None) -> list[_Plan]:
        """Cut every user's history, then batch users by length: padding to the longest of a mixed batch is costly."""
        h = self._histories
        plan = _Plan(users, *(np.empty(len(users), np.int64) for _ in range(3)))
        marks, first = self._fresh_marks(len(users) * (_TRIES + 1))
        _plan_cuts(
            h.items, h.times, self._targets, self._offsets[users], self._offsets[users + 1], users, epoch, self._seed,
            _CUTS.index(self._cuts), self._positives, self._horizon, self._since, marks, first,
            plan.cuts, plan.stops, plan.now,
        )  # fmt: skip
        plan = plan.take(np.flatnonzero(plan.cuts > 0))
        lengths = plan.cuts - self._offsets[plan.users]
        order = np.argsort(np.minimum(lengths, 4 * self._max_history), kind="stable")
        parts = [order[i : i + self._batch_users] for i in range(0, len(order), self._batch_users)]
        if shuffle is not None:
            shuffle.shuffle(parts)
        return [plan.take(part) for part in parts]

    def _batch(self, plan: _Plan, epoch: int) -> Batch:
        n = len(plan.users)
        if self._team is None:
            return self._make(plan, epoch, np.arange(n), None)
        rank, size = self._team
        # Users stand by the length of their history: dealt out in turn, every worker has as much to do.
        places = np.arange(rank, n, size)
        share = len(places) * size / n
        # A batch with fewer users than workers leaves some with a user who counts for nothing.
        places = places if len(places) else np.zeros(1, np.int64)
        return self._make(plan, epoch, places, Part(places, n, share))

    def _make(self, whole: _Plan, epoch: int, places: np.ndarray, part: Part | None) -> Batch:
        plan = whole.take(places)
        h, starts = self._histories, self._offsets[plan.users]
        memory = build_memory(
            h, now=plan.now, max_items=self._max_history, users=plan.users, ends=plan.cuts, scratch=self._slots()
        )
        candidates = np.full((len(plan.users), self._positives + self._negatives), -1, np.int64)
        n_positives = np.zeros(len(plan.users), np.int64)
        marks, first = self._fresh_marks(2 * len(plan.users))
        _fill_candidates(
            h.items, self._targets, starts, plan.cuts, plan.stops, plan.users, epoch, self._seed,
            self._avoid_history, self._positives, self._drawn(whole, epoch, places), *self._table, marks, first,
            candidates, n_positives,
        )  # fmt: skip
        seed = int(np.random.default_rng([self._seed, 4, epoch, int(whole.users[0])]).integers(2**63))
        candidates, positive, weights = _weigh(candidates, n_positives, self._positives)
        known = self._trend.known(candidates, plan.now) if self._trend is not None else None
        return Batch(memory, candidates, positive, weights, plan.now, seed, part, known)

    def _drawn(self, whole: _Plan, epoch: int, places: np.ndarray) -> np.ndarray:
        """Items as they were found at each moment, more than are needed since some must be left out; int64 [B, 2 N]."""
        if self._trend is None:
            return np.empty((len(places), 0), np.int64)
        randoms = np.random.default_rng([self._seed, 3, epoch, int(whole.users[0])])
        bits = randoms.integers(2**64, size=(len(whole.users), 2 * self._negatives), dtype=np.uint64)[places]
        moments = np.repeat(whole.now[places], 2 * self._negatives)
        return self._trend.negatives(moments, bits.ravel()).reshape(len(places), -1)

    def _fresh_marks(self, n: int) -> tuple[np.ndarray, int]:
        """This thread's array [I] and the first of `n` marks that nobody has used in it, so that it is never cleared."""
        scratch = self._scratch
        if not hasattr(scratch, "marks"):
            scratch.marks, scratch.mark = np.zeros(self._n_items, np.int64), 0
        first = scratch.mark + 1
        scratch.mark += n
        return scratch.marks, first

    def _slots(self) -> np.ndarray:
        """This thread's array [I] of -1."""
        if not hasattr(self._scratch, "slots"):
            self._scratch.slots = np.full(self._n_items, -1, np.int64)
        slots: np.ndarray = self._scratch.slots
        return slots


def _weigh(candidates: np.ndarray, n_positives: np.ndarray, places: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Candidates without gaps, which of them are positive, and the weights of section 4.2; [B, C] each."""
    place = np.arange(candidates.shape[1])[None, :]
    positive = place < n_positives[:, None]
    negative = (place >= places) & (candidates >= 0)
    n_negatives = np.maximum(negative.sum(axis=1), 1)
    weights = positive / (2.0 * n_positives[:, None]) + negative / (2.0 * n_negatives[:, None])
    return np.maximum(candidates, 0), positive, weights.astype(np.float32)


def _check_learnable(eligible: np.ndarray, users_of_item: np.ndarray) -> None:
    if not len(eligible):
        raise TrainingError(
            "there is nothing to learn from",
            got="no user with two or more events",
            expected="users with a history and something after it",
            fix="give a longer log, or check that the embedding table has the log's items",
        )
    if np.count_nonzero(users_of_item) < 2:
        raise TrainingError(
            "there is nothing to rank", got=f"{np.count_nonzero(users_of_item)} item", expected="two or more items"
        )


@numba.njit(inline="always")
def _seeded(seed: Any, purpose: Any, epoch: Any, user: Any) -> Any:
    """State of the random numbers of one user in one epoch, whatever batch or thread the user falls to."""
    state = numba.uint64(seed)
    for part in (purpose, epoch, user):
        state, bits = next_random(state ^ numba.uint64(part))
        state = bits
    return state


@numba.njit(nogil=True, cache=True)
def _plan_cuts(
    items: Any, times: Any, targets: Any, starts: Any, ends: Any, users: Any, epoch: int, seed: int,
    way: int, positives: int, horizon: int, since: int, marks: Any, mark: int, cuts: Any, stops: Any, now: Any,
) -> None:  # fmt: skip
    """First event of each user's future, -1 where a user has no moment with something new after it; its end; its moment."""
    for b in range(len(users)):
        state = _seeded(seed, 1, epoch, users[b])
        cuts[b], stops[b], now[b] = -1, ends[b], 0
        if way == _LAST:
            cut = _last_items_cut(items, targets, starts[b], ends[b], positives, marks, mark)
            mark += 1
            cuts[b], now[b] = cut, times[max(cut, 0)]
            continue
        for _ in range(_TRIES):
            state, bits = next_random(state)
            if way == _MOMENTS:
                cut, stop, moment = _draw_moment(times, starts[b], ends[b], horizon, since, bits)
            else:
                cut = starts[b] + 1 + numba.int64(bits % numba.uint64(ends[b] - starts[b] - 1))
                cut, stop = _at_basket(times, starts[b], cut, ends[b]), ends[b]
                moment = times[cut]
            mark += 1
            if cut > starts[b] and _anything_new(items, targets, starts[b], cut, stop, marks, mark):
                cuts[b], stops[b], now[b] = cut, stop, moment
                break


@numba.njit(inline="always")
def _draw_moment(times: Any, start: Any, end: Any, horizon: Any, since: Any, bits: Any) -> Any:
    """A moment, even over all those with a past before them and an event within the horizon; cut -1 if there is none."""
    total = numba.int64(0)
    for n in range(start + 1, end):
        total += _before_event(times, n, horizon, since)
    if total == 0 and times[start] < since:
        return numba.int64(-1), end, numba.int64(0)
    if total == 0:  # one basket only: part it anywhere
        cut = start + 1 + numba.int64(bits % numba.uint64(end - start - 1))
        return cut, end, times[cut]
    left = numba.int64(bits % numba.uint64(total))
    cut, moment = numba.int64(-1), numba.int64(0)
    for n in range(start + 1, end):
        left -= _before_event(times, n, horizon, since)
        if left < 0:
            cut, moment = n, times[n] + left + 1
            break
    stop = cut
    while stop < end and times[stop] < moment + horizon:
        stop += 1
    return cut, stop, moment


@numba.njit(inline="always")
def _before_event(times: Any, n: Any, horizon: Any, since: Any) -> Any:
    """Seconds before event n that make a moment: after the event before it, within the horizon, not before `since`."""
    return max(min(times[n] - times[n - 1], horizon, times[n] - since), 0)


@numba.njit(inline="always")
def _at_basket(times: Any, start: Any, cut: Any, stop: Any) -> Any:
    """Move a cut to the border of its basket: what was bought together is not known beforehand."""
    low = cut
    while low > start and times[low - 1] == times[low]:
        low -= 1
    if low > start:
        return low
    high = cut
    while high < stop and times[high] == times[high - 1]:
        high += 1
    return high if high < stop else cut  # one basket only: part it where the draw fell


@numba.njit(inline="always")
def _anything_new(items: Any, targets: Any, start: Any, cut: Any, stop: Any, marks: Any, mark: Any) -> Any:
    for n in range(start, cut):
        marks[items[n]] = mark
    for n in range(cut, stop):  # noqa: SIM110, compiled code
        if targets[n] and marks[items[n]] != mark:
            return True
    return False


@numba.njit(inline="always")
def _last_items_cut(items: Any, targets: Any, start: Any, stop: Any, positives: Any, marks: Any, mark: Any) -> Any:
    """Part the set A_u: its last items, by first action, are the future (at most half of them, so that a past is left)."""
    distinct = 0
    for n in range(start, stop):
        if marks[items[n]] != mark:
            marks[items[n]] = mark
            distinct += targets[n]
    held_out = min(positives, distinct // 2)
    if held_out == 0:
        return -1
    # A second walk needs fresh marks: negative ones are free, since marks only grow.
    seen = 0
    for n in range(start, stop):
        if marks[items[n]] != -mark:
            marks[items[n]] = -mark
            seen += targets[n]
            if targets[n] and seen == distinct - held_out + 1:
                return n if n > start else -1
    return -1


@numba.njit(nogil=True, cache=True)
def _fill_candidates(
    items: Any, targets: Any, starts: Any, cuts: Any, stops: Any, users: Any, epoch: int, seed: int,
    avoid_history: bool, positives: int, drawn: Any, probability: Any, alias: Any, marks: Any, mark: int,
    candidates: Any, n_positives: Any,
) -> None:  # fmt: skip
    """Positives: new items after the cut, an even sample if there are too many. Negatives: never a positive."""
    for b in range(len(users)):
        state = _seeded(seed, 2, epoch, users[b])
        old, new = mark + 2 * b, mark + 2 * b + 1
        for n in range(starts[b], cuts[b]):
            marks[items[n]] = old
        found = 0
        for n in range(cuts[b], stops[b]):
            item = items[n]
            if not targets[n] or marks[item] == old or marks[item] == new:
                continue
            marks[item] = new
            if found < positives:
                candidates[b, found] = item
            else:
                state, bits = next_random(state)
                replaced = numba.int64(bits % numba.uint64(found + 1))
                if replaced < positives:
                    candidates[b, replaced] = item
            found += 1
        n_positives[b] = min(found, positives)
        used = 0
        for place in range(positives, candidates.shape[1]):
            item, allowed = numba.int64(-1), False
            tries = drawn.shape[1] - used if drawn.shape[1] else _DRAWS
            for _ in range(tries):
                if drawn.shape[1]:
                    item = drawn[b, used]
                    used += 1
                else:
                    state, bits = next_random(state)
                    item = draw(probability, alias, bits)
                allowed = item >= 0 and marks[item] != new and not (avoid_history and marks[item] == old)
                if allowed:
                    break
            if allowed:
                candidates[b, place] = item
            elif drawn.shape[1] == 0:
                candidates[b, place] = item if marks[item] != new else _any_but(marks, new, item)


@numba.njit(inline="always")
def _any_but(marks: Any, taken: Any, item: Any) -> Any:
    """The next item after `item` that is not a new one of the user's, -1 if all are."""
    for step in range(1, len(marks)):
        other = (item + step) % len(marks)
        if marks[other] != taken:
            return numba.int64(other)
    return numba.int64(-1)
