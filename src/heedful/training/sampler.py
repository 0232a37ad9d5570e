"""Batches of training instances, in an order that a resumed run repeats exactly.

Shapes: B users in a batch, E events, I items, U users.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np

from heedful.errors import TrainingError
from heedful.events.histories import Histories
from heedful.events.targets import Targets
from heedful.kernels.alias import alias_table
from heedful.model.encode import HistoryBatch, encode
from heedful.model.popularity import PopularityIndex
from heedful.training.batch import Batch, BatchShare
from heedful.training.negatives import (
    DrawRule,
    candidate_popularity,
    draw_as_of,
    fill_candidates,
    smoothed_popularity,
    weigh,
)
from heedful.training.own_items import OWN_SHARE, draw_own, own_probability
from heedful.training.splits import NEW, SPLITS, TARGETS, Events, Marks, Plan, SplitRule, plan_splits

__all__ = ["InstanceSampler", "Position", "Recipe", "SamplingConfig"]

_SHARD_USERS = 65_536
_VALIDATION_EPOCH = 2**31


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """How instances are made.

    Attributes:
        batch_users: users in a batch.
        split: "random_time" or "last_items"; see `heedful.training.splits`.
        positives: most positives of an instance.
        negatives: negatives of an instance.
        gamma: exponent of the negatives' distribution P_gamma.
        avoid_history: negatives are never items of T_u either (they are never items of S_u).
        max_history: most recent distinct items of a history that are used.
        validation_users: users set aside for validation.
        seed: of all random choices.
        horizon: length of the target period in seconds, for "random_time".
        since: no time is drawn before this, unix seconds, for "random_time"; None: any time.
    """

    batch_users: int
    split: Literal["random_time", "last_items"]
    positives: int
    negatives: int
    gamma: float
    avoid_history: bool
    max_history: int
    validation_users: int
    seed: int
    horizon: float = np.inf
    since: int | None = None

    def rule(self, target: int) -> SplitRule:
        """How to split, for one of `TARGETS`."""
        horizon = int(self.horizon) if np.isfinite(self.horizon) else 2**62
        since = -(2**62) if self.since is None else self.since
        return SplitRule(SPLITS.index(self.split), self.positives, horizon, since, self.seed, target)


@dataclass(frozen=True)
class Position:
    """Where in the endless row of batches: epoch, shard of users, batch in the shard."""

    epoch: int = 0
    shard: int = 0
    batch: int = 0


Recipe = tuple[Callable[[], Batch], Position]
"""What makes a batch, and the position of the one after it."""


class InstanceSampler:
    """Makes batches; the same seed and position give the same batch, so training can be resumed exactly.

    Args:
        histories: the training log in table rows.
        targets: which events make positives, and whether seen items can be positives.
        users_of_item: distinct users of each item, int64 [I].
        config: how instances are made.
        popularity: draw negatives as they were known at the time of ranking, instead of from P_gamma.
        worker: (rank, size) of one of several workers who share the batches: of each it makes its own
            users' share only, and of the validation instances every size-th batch.

    Raises:
        TrainingError: no user has two events, or there are fewer than two items.
    """

    def __init__(
        self,
        histories: Histories,
        targets: Targets,
        users_of_item: np.ndarray,
        config: SamplingConfig,
        *,
        popularity: PopularityIndex | None = None,
        worker: tuple[int, int] | None = None,
    ) -> None:
        self._histories, self._config = histories, config
        is_target, is_seen = targets.is_target(histories.kinds), targets.is_seen(histories.kinds)
        self._events = Events(histories.items, histories.times, is_target, is_seen)
        self._target = TARGETS.index(targets.target)
        self._offsets = np.asarray(histories.offsets, np.int64)
        self._popularity, self._worker = popularity, worker
        eligible = np.flatnonzero(histories.lengths >= 2)
        _check_learnable(eligible, users_of_item)
        self._alias = alias_table(smoothed_popularity(users_of_item, config.gamma))
        self._n_items, self._scratch = len(users_of_item), threading.local()
        shuffled = np.random.default_rng([config.seed, 0]).permutation(eligible)
        self._validation = np.sort(shuffled[: config.validation_users])
        self._users = np.sort(shuffled[config.validation_users :])

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
        seed = self._config.seed
        while True:
            order = np.random.default_rng([seed, 1, epoch]).permutation(self._users)
            made = number > 0 or shard > 0
            while shard * _SHARD_USERS < len(order):
                users = order[shard * _SHARD_USERS : (shard + 1) * _SHARD_USERS]
                for plan in self._plan(users, epoch, np.random.default_rng([seed, 2, epoch, shard]))[number:]:
                    number += 1
                    made = True
                    yield partial(self._batch, plan, epoch), Position(epoch, shard, number)
                shard, number = shard + 1, 0
            if not made:
                raise TrainingError(
                    "there is nothing to learn from", got="no user with anything new after a history",
                    fix="give a longer log",
                )  # fmt: skip
            epoch, shard = epoch + 1, 0

    def validation(self) -> list[Batch]:
        """The same validation instances at every call, from users that are never trained on."""
        rank, size = self._worker or (0, 1)
        plans = self._plan(self._validation, _VALIDATION_EPOCH, None)[rank::size]
        return [self._make(plan, _VALIDATION_EPOCH, np.arange(len(plan.users)), None) for plan in plans]

    def _plan(self, users: np.ndarray, epoch: int, shuffle: np.random.Generator | None) -> list[Plan]:
        """Split every user's events, then batch users by length: padding to the longest of a mixed batch is costly."""
        marks = self._fresh_marks(Marks.needed_for(len(users)))
        plan = plan_splits(self._events, self._offsets, users, epoch, self._config.rule(self._target), marks)
        lengths = plan.cuts - plan.starts
        order = np.argsort(np.minimum(lengths, 4 * self._config.max_history), kind="stable")
        size = self._config.batch_users
        parts = [order[i : i + size] for i in range(0, len(order), size)]
        if shuffle is not None:
            shuffle.shuffle(parts)
        return [plan.take(part) for part in parts]

    def _batch(self, plan: Plan, epoch: int) -> Batch:
        n = len(plan.users)
        if self._worker is None:
            return self._make(plan, epoch, np.arange(n), None)
        rank, size = self._worker
        # Users are in order of the length of their history: dealt out in turn, every worker has as much to do.
        places = np.arange(rank, n, size)
        weight = len(places) * size / n
        # A batch with fewer users than workers leaves some with a user who counts for nothing.
        places = places if len(places) else np.zeros(1, np.int64)
        return self._make(plan, epoch, places, BatchShare(places, n, weight))

    def _make(self, whole: Plan, epoch: int, places: np.ndarray, share: BatchShare | None) -> Batch:
        plan, config = whole.take(places), self._config
        history = encode(self._histories, plan.now, max_items=config.max_history, users=plan.users, ends=plan.cuts)
        only_new = self._target == NEW
        rule = DrawRule(config.positives, config.avoid_history and only_new, config.seed, epoch, self._target)
        marks = self._fresh_marks(2 * len(plan.users))
        drawn = self._drawn(whole, epoch, places, history)
        filled = fill_candidates(self._events, plan, rule, config.negatives, drawn, self._alias, marks)
        candidates, positive, weights = weigh(*filled, config.positives)
        seed = int(np.random.default_rng([config.seed, 4, epoch, int(whole.users[0])]).integers(2**63))
        index = self._popularity
        own = None if only_new else own_probability(history, candidates)
        popularity = candidate_popularity(index, candidates, plan.now, own) if index is not None else None
        return Batch(history, candidates, positive, weights, plan.now, seed, share, popularity)

    def _drawn(self, whole: Plan, epoch: int, places: np.ndarray, history: HistoryBatch) -> np.ndarray:
        """Items as they were known at each time, more than are needed since some must be left out; int64 [B, 2 N].

        Where repeats are targets, items of the history come first.
        """
        if self._popularity is None:
            return np.empty((len(places), 0), np.int64)
        width = 2 * self._config.negatives
        randoms = np.random.default_rng([self._config.seed, 3, epoch, int(whole.users[0])])
        bits = randoms.integers(2**64, size=(len(whole.users), width), dtype=np.uint64)[places]
        times = np.repeat(whole.now[places], width)
        drawn = draw_as_of(self._popularity, times, bits.ravel()).reshape(len(places), -1)
        if self._target != NEW:
            n_own = round(OWN_SHARE * self._config.negatives)
            drawn[:, :n_own] = draw_own(history, randoms.random((len(whole.users), n_own))[places])
        return drawn

    def _fresh_marks(self, n: int) -> Marks:
        """This thread's array [I], and the first of `n` marks that nobody has used in it."""
        scratch = self._scratch
        if not hasattr(scratch, "marks"):
            scratch.marks, scratch.mark = np.zeros(self._n_items, np.int64), 0
        first = scratch.mark + 1
        scratch.mark += n
        return Marks(scratch.marks, first)


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
