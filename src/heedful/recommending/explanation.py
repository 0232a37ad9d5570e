"""Why an item was recommended: the exact fall of its score when each past item is left out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from heedful.events.candidates import Candidates
from heedful.events.histories import Histories
from heedful.ranking.ranker import Ranker

__all__ = ["Reason", "explain"]


@dataclass(frozen=True)
class Reason:
    """What one past item did for a score.

    Attributes:
        item: id of the past item.
        fall: how much the score falls when all actions with the item are left out; negative when it held the score down.
    """

    item: Any
    fall: float


def explain(ranker: Ranker, history: Histories, row: int, *, pool_gamma: float | None) -> list[Reason]:
    """The past items of one user by what they did for the score of item `row`, the greatest fall first.

    Costs one scoring of one candidate for each distinct past item, done as one batch. Without its last past item a
    history is empty and the score is that of an item nobody is asked about, so the falls need not add up to the score.

    Args:
        ranker: the ranker that made the recommendation.
        history: the one user's past actions in rows of the ranker.
        row: row of the recommended item.
        pool_gamma: as in `Ranker.score`.
    """
    past = np.unique(history.items)
    candidates = Candidates(np.arange(len(past) + 2), np.full(len(past) + 1, row))
    repeated = history.take(np.zeros(len(past) + 1, np.int64))
    left_out = np.concatenate([[-1], past])
    owner = np.repeat(np.arange(len(past) + 1), repeated.lengths)
    shortened = repeated.where(repeated.items != left_out[owner])
    scores = ranker.score_rows(shortened, candidates, pool_gamma=pool_gamma)
    falls = scores[0] - scores[1:]
    ids = ranker.items.take(past).to_pylist()
    return [Reason(ids[place], float(falls[place])) for place in np.argsort(-falls, kind="stable")]
