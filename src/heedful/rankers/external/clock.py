"""A clock for item-item models: old actions weigh less, and items that are popular lately rank higher.

Shapes: B users, I items, N items of a part of the catalogue.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from heedful.config import Config, option, require
from heedful.events.histories import Histories
from heedful.folders import Folder
from heedful.rankers.external.base import PublicRanker, imported
from heedful.rankers.recent_popularity import recent_users

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

__all__ = ["RELEVANCE_FLOOR", "ClockConfig", "ClockRanker", "decayed_bag", "relative"]

RELEVANCE_FLOOR = 0.02
"""What an item without any relevance has, as a share of a user's 99th percentile, before the logarithm."""
_DAY = 86_400.0
_LEAST_HISTORY_WEIGHT = 0.05


@dataclass(frozen=True, kw_only=True)
class ClockConfig(Config):
    """How time counts; by default it does not."""

    half_life: float = option(0.0, "days after which a training action weighs half; 0: all weigh the same")
    history_half_life: float = option(0.0, "days after which a user's past item weighs half; 0: all weigh the same")
    recency: float = option(0.0, "exponent of the factor recent users / all users of an item; 0: no such factor")
    recent_days: float = option(28.0, "length in days of the end of the log whose users are recent")

    def __post_init__(self) -> None:
        """Check every option."""
        for name in ("half_life", "history_half_life", "recency"):
            value = getattr(self, name)
            require(0 <= value < math.inf, name, got=value, expected="0 or more")
        require(0 < self.recent_days < math.inf, "recent_days", got=self.recent_days, expected="more than 0")


class ClockRanker(PublicRanker):
    """Scores are a sum over the items of the history, each weighted by the age of its last touch.

    With `recency` r a score is log(sum / the user's 99th percentile + 0.02) + r log(recent users / all users), where half a
    user is added to both counts and negative sums count as 0.

    Attributes:
        trend: log(recent users / all users) of each item, float64 [I]; a loaded model has it only with `recency`.
    """

    config: ClockConfig
    trend: np.ndarray

    def _learn(self, histories: Histories) -> None:
        now, n_items = self.last_time + 1, len(self.items)
        recent = recent_users(histories, n_items, now, self.config.recent_days, 0.0)
        self.trend = np.log(recent + 0.5) - np.log(np.asarray(self.users_of_item) + 0.5)
        self._learn_from(decayed_bag(histories, n_items, np.full(len(histories), now), self.config.half_life))

    @abstractmethod
    def _learn_from(self, touched: csr_matrix) -> None:
        """Learn from the users' weights of items, float32 [B, I]."""

    def _past(self, histories: Histories) -> csr_matrix:
        """Weights of the items of histories, float32 [B, I], as of the end of the log or the user's last action."""
        now = np.full(len(histories), self.last_time + 1)
        np.maximum.at(now, np.repeat(np.arange(len(now)), histories.lengths), histories.times)
        return decayed_bag(histories, len(self.items), now, self.config.history_half_life, least=_LEAST_HISTORY_WEIGHT)

    def _with_trend(self, relevance: np.ndarray) -> np.ndarray:
        """Scores from positive relevance, float [B, I]."""
        return np.asarray(np.log(relevance) + self.config.recency * self.trend, np.float32)

    def _write(self, folder: Path) -> None:
        if self.config.recency:
            np.save(folder / "trend.npy", self.trend)

    def _read(self, folder: Folder, settings: dict[str, Any]) -> None:
        if self.config.recency:
            self.trend = np.load(folder.file("trend.npy"))


def decayed_bag(histories: Histories, n_items: int, now: np.ndarray, half_life: float, *, least: float = 0.0) -> csr_matrix:
    """Histories as a sparse matrix float32 [B, I]: 2 ** (-age / half-life) for each item, by its last touch.

    Args:
        histories: in rows of `n_items` items.
        n_items: I.
        now: unix seconds of each user, int64 [B], at or after the last action.
        half_life: in days; 0: all weigh 1.
        least: no weight is below this.
    """
    last = histories.distinct(n_items)
    age = (np.repeat(now, last.lengths) - last.times) / _DAY
    weights = np.maximum(np.exp2(-age / half_life), least) if half_life else np.ones(len(age))
    matrix: csr_matrix = imported("scipy.sparse").csr_matrix(
        (weights.astype(np.float32), last.items.astype(np.int32), last.offsets), shape=(len(histories), n_items)
    )
    matrix.sort_indices()
    return matrix


def relative(sums: np.ndarray) -> np.ndarray:
    """Sums as shares of each user's 99th percentile (the maximum where that is 0), negative ones as 0; float [B, N]."""
    positive = np.maximum(sums, 0)
    scale = np.quantile(positive, 0.99, axis=1)
    scale = np.where(scale > 0, scale, positive.max(axis=1, initial=0))
    return np.asarray(positive / np.maximum(scale, 1e-9)[:, None])
