"""Popularity, the simplest model of section 5.2."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from heedful.config import Config
from heedful.embeddings.table import ItemEmbeddings
from heedful.events.candidates import Candidates
from heedful.events.histories import Histories
from heedful.events.log import EventLog
from heedful.rankers.base import Ranker
from heedful.rankers.given import attributes_of
from heedful.rankers.prior import LogShares

__all__ = ["Popularity", "PopularityConfig"]


@dataclass(frozen=True, kw_only=True)
class PopularityConfig(Config):
    """Popularity has no options."""


class Popularity(Ranker):
    """Ranks items by their distinct users in the training log, the same for everyone (section 5.2)."""

    name: ClassVar[str] = "popularity"
    needs_embeddings: ClassVar[bool] = False
    config_class: ClassVar[type[Config]] = PopularityConfig

    def fit(self, log: EventLog, items: ItemEmbeddings | None = None) -> Self:
        """Count the users of each item; with a table, its items are ranked, those that the log lacks last."""
        self._learn_catalogue(log, None)
        if items is not None:
            rows = log.catalog.items.rows(items.items.ids)
            users = np.where(rows >= 0, self.users_of_item[rows], 0)
            self.items, self.attributes = items.items, attributes_of(log, items)
            self.log_shares = LogShares(users)
        return self

    def score_for_everyone(self, rows: np.ndarray, *, pool_gamma: float | None = 0.0) -> np.ndarray:
        """The whole score; see `Ranker.score_for_everyone`."""
        return self.log_shares[rows]

    def _recount(self, histories: Histories) -> None:
        """The counts of `log_shares` are all that there is."""

    def _logits(self, histories: Histories, candidates: Candidates) -> np.ndarray:
        return np.asarray(self.log_shares[candidates.rows])
