"""Popularity with a clock: users of the last days, or users who weigh less the longer ago they came.

Shapes: I items, E actions.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from heedful.config import Config, option, require
from heedful.embeddings.table import ItemEmbeddings
from heedful.events.candidates import Candidates
from heedful.events.histories import Histories
from heedful.events.log import EventLog
from heedful.folders import Folder
from heedful.model.shares import log_recent_users
from heedful.model.touches import Touches
from heedful.rankers.popularity import Popularity

__all__ = ["RecentPopularity", "RecentPopularityConfig", "recent_users"]

_DAY = 86_400.0


@dataclass(frozen=True, kw_only=True)
class RecentPopularityConfig(Config):
    """What counts as recent."""

    days: float = option(28.0, "users of the last so many days count; 0: all users")
    half_life: float = option(0.0, "days after which a user's last touch counts half; 0: it counts in full")

    def __post_init__(self) -> None:
        """Check every option."""
        require(self.days >= 0, "days", got=self.days, expected="0 or more")
        require(self.half_life >= 0, "half_life", got=self.half_life, expected="0 or more")


class RecentPopularity(Popularity):
    """Ranks items by their users of the last days, the same for everyone.

    Attributes:
        recent: recent users of the items of the training log, float64.
    """

    name: ClassVar[str] = "recent-popularity"
    config_class: ClassVar[type[Config]] = RecentPopularityConfig
    config: RecentPopularityConfig
    recent: np.ndarray

    def fit(self, log: EventLog, items: ItemEmbeddings | None = None) -> Self:
        """Count the users of each item; with a table, its items are ranked, those that the log lacks last."""
        super().fit(log, items)
        self._recount(log.histories.with_rows(self.items.rows(log.catalog.items.ids)))
        return self

    def cold_start_scores(self, rows: np.ndarray | slice = slice(None)) -> np.ndarray:
        """The scores of users with a history: nothing depends on it."""
        return self._scores(np.arange(len(self.items))[rows])

    def score_for_everyone(self, rows: np.ndarray, *, pool_gamma: float | None = 0.0) -> np.ndarray:
        """The whole score; see `Ranker.score_for_everyone`."""
        return self._scores(rows)

    def _recount(self, histories: Histories) -> None:
        config = self.config
        self.recent = recent_users(histories, len(self.items), self.last_time + 1, config.days, config.half_life)
        # Users who count less the older their touch is are not counted by windows of time.
        self.touches = None if config.half_life else Touches.of(histories, len(self.items))

    def _count_at(self, now: int) -> None:
        assert self.touches is not None
        since = now - self.config.days * _DAY if self.config.days else 0.0
        self.recent = self.touches.last.since(np.array([np.ceil(since)]))[0].astype(np.float64)

    def _logits(self, histories: Histories, candidates: Candidates) -> np.ndarray:
        return self._scores(candidates.rows)

    def _scores(self, rows: np.ndarray) -> np.ndarray:
        """Logarithm of the recent users of items, float32, one for each row; items that came later have none."""
        trained = rows < len(self.recent)
        recent = np.where(trained, self.recent[np.where(trained, rows, 0)], 0.0)
        return log_recent_users(recent, self.users_of_item[rows])

    def _write(self, folder: Path) -> None:
        np.save(folder / "recent.npy", self.recent)

    def _read(self, folder: Folder, settings: dict[str, Any]) -> None:
        self.recent = np.load(folder.file("recent.npy"), mmap_mode="r")


def recent_users(histories: Histories, n_items: int, now: int, days: float, half_life: float) -> np.ndarray:
    """Distinct users of each item by their last touch, float64 [I].

    Args:
        histories: the log, in rows of `n_items` items.
        n_items: I.
        now: unix seconds, after the last action.
        days: touches before the last so many days do not count; 0: all count.
        half_life: days after which a touch counts half; 0: all count in full.
    """
    last = histories.distinct(n_items)
    age = (now - last.times) / _DAY
    weights = np.exp2(-age / half_life) if half_life else np.ones(len(age))
    if days:
        weights = weights * (age <= days)
    return np.bincount(last.items, weights, minlength=n_items)
