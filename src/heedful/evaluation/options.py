"""How models are compared: the options of the evaluation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from heedful.config import option, require, require_gammas
from heedful.errors import InputError
from heedful.events.log import EventLog
from heedful.events.targets import TargetConfig

__all__ = ["RECALL_CURVE", "EvaluationConfig"]

_USUAL_POOL = 1000
_LARGEST_POOL = 10_000
_SIZE_STEPS = (10, 30, 100, 300, 1000, 3000, 10_000, 30_000, 100_000)
RECALL_CURVE = (1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 70, 100)
"""The K of figure 3."""


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig(TargetConfig):
    """How models are compared; the defaults follow section 5 of the paper."""

    cut: str | None = option(
        None, "train before this ISO date or time (UTC), test after it; none: the last `days` of the log"
    )
    days: float = option(7.0, "length of the test period in days")
    gammas: tuple[float, ...] = option((1.0, 0.75, 0.0), "negatives are drawn in proportion to popularity ** gamma")
    pool: int | None = option(
        None, "negatives in the pools of the tables; none: 1,000, or the catalogue where it is smaller"
    )
    pool_sizes: tuple[int, ...] = option(
        (),
        "numbers of negatives in figure 2, those above the pool for catalogue_users alone; empty: 10, 30, 100, ... up to "
        "10,000 or the catalogue",
    )
    ks: tuple[int, ...] = option((10, 50), "K of Recall@K in the tables")
    max_users: int = option(2000, "test users, a random sample; 0: all")
    catalogue_users: int = option(
        500, "test users ranked against the whole catalogue and in pools above `pool`, a random sample; 0: all"
    )
    alpha: float = option(0.01, "significance level, after correction for the number of comparisons")
    resamples: int = option(10_000, "resamples of the bootstrap, and at least so many sign flips")
    seed: int = option(0, "seed of users, pools and tests")

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.days > 0, "days", got=self.days, expected="more than 0")
        require_gammas(self.gammas)
        require(self.pool is None or self.pool > 0, "pool", got=self.pool, expected="1 or more")
        require(all(n > 0 for n in self.pool_sizes), "pool_sizes", got=self.pool_sizes, expected="1 or more each")
        require(len(self.ks) > 0 and all(k > 0 for k in self.ks), "ks", got=self.ks, expected="one or more, 1 or more each")
        require(self.max_users >= 0, "max_users", got=self.max_users, expected="0 or more")
        require(self.catalogue_users >= 0, "catalogue_users", got=self.catalogue_users, expected="0 or more")
        require(0 < self.alpha < 1, "alpha", got=self.alpha, expected="between 0 and 1")
        require(self.resamples >= 100, "resamples", got=self.resamples, expected="100 or more")

    def split(self, log: EventLog) -> tuple[EventLog, EventLog]:
        """The log's (past, future) by `cut` and `days`.

        Raises:
            InputError: nothing lies before the cut, or nothing in the days after it.
        """
        if self.cut is not None:
            return log.split(self.cut, days=self.days)
        if not log.n_events:
            raise InputError("the log has no events", fix="check the log that was prepared")
        return log.split(int(log.histories.times.max()) + 1 - round(self.days * 86400), days=self.days)

    def fitted(self, drawable: int) -> Self:
        """The same with `pool` and `pool_sizes` filled in, where so many items can be drawn as negatives."""
        pool = min(_USUAL_POOL, max(drawable - 1, 1)) if self.pool is None else self.pool
        largest = max(pool, min(_LARGEST_POOL, drawable - 1))
        sizes = self.pool_sizes or (*(size for size in _SIZE_STEPS if size < largest), largest)
        return type(self)(**{**vars(self), "pool": pool, "pool_sizes": tuple(sorted({*sizes, pool}))})
