"""Recommendations for one user in Python: the best of the catalogue, with reasons."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from heedful.config import require
from heedful.events.histories import Histories
from heedful.rankers.base import Ranker
from heedful.recommending.explanation import Explanation, Reason, explain, explain_items
from heedful.recommending.retrieval import Retriever, default_retrieve

__all__ = ["Recommendations", "Recommender"]


@dataclass(frozen=True)
class Recommendations:
    """The best items for one user.

    Attributes:
        items: ids, best first.
        scores: float32 [k].
        ranker: the ranker that made them.
        history: the user's past actions as the ranker saw them.
        pool_gamma: as in `Ranker.score`.
    """

    items: list[Any]
    scores: np.ndarray
    ranker: Ranker
    history: Histories
    pool_gamma: float | None

    def __len__(self) -> int:
        return len(self.items)

    def __str__(self) -> str:
        rows = self.ranker.items.rows(self.items)
        lines = [f"{place:3d}. {self.ranker.describe(int(row))}" for place, row in enumerate(rows, 1)]
        return "\n".join(lines)

    def explain(self, place: int) -> list[Reason]:
        """The past items behind the item at `place` (0 is the best), the most important first; see `explanation`."""
        row = int(self.ranker.items.rows([self.items[place]])[0])
        return explain(self.ranker, self.history, row, pool_gamma=self.pool_gamma)

    def explanations(self) -> list[Explanation]:
        """Why each of the items was recommended: all of them at once, with attention and words; see `explanation`."""
        return explain_items(self.ranker, self.history, self.ranker.items.rows(self.items), pool_gamma=self.pool_gamma)


class Recommender:
    """Ranks the catalogue for users given by their history.

    Args:
        ranker: any fitted ranker.
        retrieve: score so many retrieved items only, or with 0 every item; None: see `default_retrieve`.
        retriever: one made beforehand, instead.

    Raises:
        ConfigError: `retrieve` for a ranker that does not retrieve.
    """

    def __init__(self, ranker: Ranker, *, retrieve: int | None = None, retriever: Retriever | None = None) -> None:
        self.ranker = ranker
        n = default_retrieve(ranker) if retrieve is None else retrieve
        self._source = retriever or (Retriever(ranker, candidates=n) if n else ranker)

    def recommend(
        self,
        history: Sequence[Any],
        *,
        k: int = 10,
        history_times: Sequence[int] | None = None,
        history_kinds: Sequence[str] | None = None,
        exclude_history: bool = True,
        pool_gamma: float | None = 0.0,
    ) -> Recommendations:
        """The k best items; ids, times and kinds as in `Ranker.score`.

        Raises:
            ConfigError: k is less than 1.
            InputError: times or kinds are not one for each past action.
        """
        require(k >= 1, "k", got=k, expected="1 or more")
        histories = self.ranker.histories_of([history], [history_times], [history_kinds])
        rows, scores = self._source.top_rows(histories, k, pool_gamma=pool_gamma, exclude_history=exclude_history)
        found = rows[0][rows[0] >= 0]
        return Recommendations(
            self.ranker.items.take(found).to_pylist(), scores[0][: len(found)], self.ranker, histories, pool_gamma
        )
