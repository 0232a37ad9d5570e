"""What a mixture learns from: targets of users in a window, and negatives whose probabilities are known.

Shapes: B users, C rows laid end to end, I items, S kinds of negatives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from heedful.errors import InputError
from heedful.events.candidates import Candidates
from heedful.events.targets import Target

__all__ = ["Examples", "check_rows", "draw_examples"]

# Negatives of each user, drawn in proportion to users ** gamma.
_DRAWS = ((1.0, 120), (0.75, 100), (0.0, 100))
# Negatives of each user that are seen items, where these can be positives.
_SEEN = 100


@dataclass(frozen=True)
class Examples:
    """Rows of B users.

    Attributes:
        candidates: items, positives first, [B].
        labels: 1 for a positive, float32 [C].
        expected: probability that the item is among the negatives of a user, float64 [C].
    """

    candidates: Candidates
    labels: np.ndarray
    expected: np.ndarray


def draw_examples(
    seen: Candidates,
    positives: Candidates,
    users_of_item: np.ndarray,
    randoms: np.random.Generator,
    target: Target = "new",
) -> Examples:
    """Draw negatives for each user: never a positive.

    For new items they are drawn by popularity, and never seen. For repeats they are seen items. For all they are both.

    Args:
        seen: what B users had seen before a window; a row may be there several times.
        positives: their targets in it.
        users_of_item: popularity at the start of the window, [I]; items without users are not drawn.
        randoms: where the draws come from.
        target: what the positives are.
    """
    draws = [] if target == "repeat" else [(_shares(users_of_item, gamma), count) for gamma, count in _DRAWS]
    cumulative = [(np.cumsum(share), count) for share, count in draws]
    rows, labels, expected = [], [], []
    for user in range(len(seen)):
        wanted = positives.rows[positives.offsets[user] : positives.offsets[user + 1]]
        own = np.unique(seen.rows[seen.offsets[user] : seen.offsets[user + 1]])
        drawn = [_draw(one, count, randoms) for one, count in cumulative]
        taken = np.union1d(wanted, own) if target == "new" else wanted
        n_own = 0 if target == "new" else min(_SEEN, len(own))
        drawn.append(randoms.choice(own, n_own, replace=False) if n_own else own[:0])
        negatives = np.setdiff1d(np.concatenate(drawn), taken)
        rows.append(np.concatenate([wanted, negatives]))
        labels.append(np.arange(len(rows[-1])) < len(wanted))
        missed_own = np.where(np.isin(rows[-1], own), 1 - n_own / max(len(own), 1), 1.0)
        expected.append(_expected(rows[-1], draws, missed_own))
    return Examples(Candidates.of(rows), np.concatenate(labels).astype(np.float32), np.concatenate(expected))


def _shares(users_of_item: np.ndarray, gamma: float) -> np.ndarray:
    weights = np.where(users_of_item > 0, np.maximum(users_of_item, 1.0) ** gamma, 0.0)
    return np.asarray(weights / weights.sum())


def _draw(cumulative: np.ndarray, count: int, randoms: np.random.Generator) -> np.ndarray:
    rows = np.searchsorted(cumulative, randoms.random(count) * cumulative[-1], side="right")
    return np.unique(np.minimum(rows, len(cumulative) - 1))


def _expected(rows: np.ndarray, draws: list[tuple[np.ndarray, int]], missed: np.ndarray) -> np.ndarray:
    """Probability that a row is among the distinct negatives, float64: 1 - prod(probability of not being drawn).

    Args:
        rows: of items.
        draws: probability of each item in one draw, and the number of draws, of each kind.
        missed: probability that the row is not drawn in another way.
    """
    missed = missed.copy()
    for share, count in draws:
        missed *= (1 - share[rows]) ** count
    return np.asarray(np.maximum(1 - missed, 1e-12))


def check_rows(columns: np.ndarray, labels: np.ndarray, expected: np.ndarray, names: Sequence[str]) -> None:
    """Refuse rows that nothing can be learnt from.

    Raises:
        InputError: the arrays do not fit together, there is no positive or no negative, or an expected count is not above 0.
    """
    if columns.shape != (len(labels), len(names)) or len(labels) != len(expected):
        raise InputError(
            "rows and columns of the mixture do not fit together",
            got=f"columns {columns.shape}, {len(labels)} labels, {len(expected)} expected counts, {len(names)} names",
            expected="one label and one expected count for each row, one name for each column",
        )
    if not (0 < np.count_nonzero(labels) < len(labels)):
        raise InputError(
            "the mixture has nothing to tell apart",
            got=f"{np.count_nonzero(labels)} positives of {len(labels)} rows",
            expected="positives and negatives",
        )
    if not (np.asarray(expected) > 0).all():
        raise InputError("an expected count is out of range", got=float(np.min(expected)), expected="more than 0")
