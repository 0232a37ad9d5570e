"""Why an item was recommended: the exact fall of its score without each past item, the attention, and it in words.

Shapes: Q items to explain, P distinct past items, N actions, K layers of attention, M null tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from heedful.errors import InputError
from heedful.events.candidates import Candidates
from heedful.events.histories import Histories
from heedful.rankers.base import Ranker
from heedful.recommending.words import in_words, popularity_lead

__all__ = ["Explanation", "Reason", "explain", "explain_items"]

# Actions of shortened histories that are scored together, so that memory does not grow with the length of a history.
_BATCH_ACTIONS = 2**20


@dataclass(frozen=True)
class Reason:
    """What one past item did for a score.

    Attributes:
        item: id of the past item.
        fall: how much the score falls when all actions with the item are left out; negative when it held the score down.
        title: the past item in words.
        attention: the weight of the past item in each layer, [K]; None for a ranker without attention.
        by_term: how much of each term that divides among past items is due to this one.
    """

    item: Any
    fall: float
    title: str = ""
    attention: tuple[float, ...] | None = None
    by_term: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Explanation:
    """Why one item has its score for one user.

    Attributes:
        item: id of the explained item.
        row: its row.
        title: the item in words.
        score: its score.
        past: rows of the user's distinct past items, the newest first, int64 [P].
        falls: of each past item, how much the score falls without it, float32 [P]. They need not add up to the score:
            two past items can say the same, and without its last one a history is ranked by popularity.
        attention: weights float32 [K, P + M], each layer's sum to 1: past items in the order of `past` (0 for those older
            than the ranker's memory), then the null tokens. None for a ranker without attention.
        parts: the terms that add up to the score, by name; see `Ranker.contributions`.
        reasons: the past items, the greatest fall first.
        text: the explanation in words: what raises the score, and by how much.
    """

    item: Any
    row: int
    title: str
    score: float
    past: np.ndarray
    falls: np.ndarray
    attention: np.ndarray | None
    parts: dict[str, float]
    reasons: list[Reason]
    text: str

    @property
    def null_attention(self) -> np.ndarray | None:
        """Each layer's weight on its null tokens, that is on no past item at all, float32 [K]."""
        return None if self.attention is None else np.asarray(self.attention[:, len(self.past) :].sum(axis=1))


def explain(ranker: Ranker, history: Histories, row: int, *, pool_gamma: float | None) -> list[Reason]:
    """The past items of one user by what they did for the score of item `row`, the greatest fall first."""
    return explain_items(ranker, history, [row], pool_gamma=pool_gamma)[0].reasons


def explain_items(
    ranker: Ranker, history: Histories, rows: Sequence[int] | np.ndarray, *, pool_gamma: float | None = 0.0
) -> list[Explanation]:
    """Explain the scores of several items for one user.

    Costs (P + 1) Q scorings, P being no more than the ranker's `max_history`, done as one batch of P + 1 histories (or a
    few, when they are very long).

    Args:
        ranker: the ranker that made the recommendation.
        history: the one user's past actions in rows of the ranker.
        rows: rows of the items, [Q].
        pool_gamma: as in `Ranker.score`.

    Raises:
        InputError: the history is not that of one user, or an item is unknown to the ranker.
    """
    rows_Q = np.asarray(rows, np.int64)
    _check(ranker, history, rows_Q)
    if not len(rows_Q):
        return []
    past_P = _distinct(history)
    scores_Q, falls_PQ = _leave_one_out(ranker, history, past_P, rows_Q, pool_gamma)
    attention = _attention(ranker, history, len(past_P), rows_Q)
    parts = ranker.contributions(history, rows_Q, pool_gamma=pool_gamma)
    by_item = _by_item(ranker, history, len(past_P), rows_Q)
    leads_Q = popularity_lead(ranker, rows_Q, pool_gamma)
    explanations = []
    for q, (item, row) in enumerate(zip(ranker.items.take(rows_Q).to_pylist(), rows_Q.tolist(), strict=True)):
        weights = attention[q] if attention is not None else None
        divided = {name: part[q] for name, part in by_item.items()}
        reasons = _reasons(ranker, past_P, falls_PQ[:, q], weights, divided)
        terms = {name: float(term[q]) for name, term in parts.items()}
        text = in_words(ranker, row, item, reasons, float(leads_Q[q]))
        title, score = ranker.describe(row), float(scores_Q[q])
        explanations.append(Explanation(item, row, title, score, past_P, falls_PQ[:, q], weights, terms, reasons, text))
    return explanations


def _reasons(
    ranker: Ranker,
    past_P: np.ndarray,
    falls_P: np.ndarray,
    weights_KN: np.ndarray | None,
    divided: Mapping[str, np.ndarray],
) -> list[Reason]:
    """The past items, the greatest fall first."""
    ids, titles = ranker.items.take(past_P).to_pylist(), [ranker.describe(int(row)) for row in past_P]
    return [
        Reason(
            ids[p],
            float(falls_P[p]),
            titles[p],
            tuple(weights_KN[:, p].tolist()) if weights_KN is not None else None,
            {name: float(part[p]) for name, part in divided.items()},
        )
        for p in np.argsort(-falls_P, kind="stable")
    ]


def _check(ranker: Ranker, history: Histories, rows_Q: np.ndarray) -> None:
    if len(history) != 1:
        raise InputError("one user's scores are explained at a time", got=f"{len(history)} histories", expected="one")
    unknown = (rows_Q < 0) | (rows_Q >= len(ranker.items))
    if unknown.any():
        raise InputError(
            "an item that the ranker does not know cannot be explained",
            got=f"row {rows_Q[unknown][0]}",
            expected=f"rows from 0 to {len(ranker.items) - 1}",
        )


def _distinct(history: Histories) -> np.ndarray:
    """Rows of the distinct past items, the newest first."""
    newest_first = np.asarray(history.items[::-1], np.int64)
    _, first = np.unique(newest_first, return_index=True)
    return newest_first[np.sort(first)]


def _leave_one_out(
    ranker: Ranker, history: Histories, past_P: np.ndarray, rows_Q: np.ndarray, pool_gamma: float | None
) -> tuple[np.ndarray, np.ndarray]:
    """(scores of the items [Q], how much they fall without each past item [P, Q])."""
    # A ranker that looks at the latest items alone does not see the older ones: their fall is 0, and costs nothing.
    seen = _seen_items(ranker, len(past_P))
    scores = [
        ranker.score_rows(shortened, Candidates.same_for_all(len(shortened), rows_Q), pool_gamma=pool_gamma)
        for shortened in _shortened(history, np.concatenate([[-1], past_P[:seen]]))
    ]
    scores_XQ = np.concatenate(scores).reshape(-1, len(rows_Q))
    falls_PQ = np.zeros((len(past_P), len(rows_Q)), np.float32)
    falls_PQ[: len(scores_XQ) - 1] = scores_XQ[0] - scores_XQ[1:]
    return scores_XQ[0], falls_PQ


def _shortened(history: Histories, left_out: np.ndarray) -> Iterator[Histories]:
    """The history without each of some items (-1: nothing is left out), in batches."""
    size = max(_BATCH_ACTIONS // max(len(history.items), 1), 1)
    for start in range(0, len(left_out), size):
        items = left_out[start : start + size]
        repeated = history.take(np.zeros(len(items), np.int64))
        yield repeated.where(repeated.items != np.repeat(items, repeated.lengths))


def _attention(ranker: Ranker, history: Histories, n_past: int, rows_Q: np.ndarray) -> np.ndarray | None:
    """Weights [Q, K, P + M]; zeros for past items older than the ranker's memory. None without attention or without past."""
    weights = ranker.attention_weights(history, rows_Q) if n_past else None
    if weights is None:
        return None
    seen = min(n_past, _seen_items(ranker, n_past))
    return np.insert(weights, [seen] * (n_past - seen), 0, axis=2)


def _by_item(ranker: Ranker, history: Histories, n_past: int, rows_Q: np.ndarray) -> dict[str, np.ndarray]:
    """[Q, P] of each term that divides among past items; zeros for those older than the ranker's memory."""
    parts = ranker.by_history_item(history, rows_Q) if n_past else {}
    return {name: np.pad(part, ((0, 0), (0, n_past - part.shape[1]))) for name, part in parts.items()}


def _seen_items(ranker: Ranker, n_past: int) -> int:
    """Distinct past items that the ranker looks at; all of them, unless it has a limit."""
    return int(getattr(ranker.config, "max_history", n_past))
