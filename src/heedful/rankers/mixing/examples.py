"""What a mixture learns from: new items of users in a window, and negatives whose probabilities are known.

Shapes: B users, C rows laid end to end, I items, S kinds of negatives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from heedful.errors import InputError
from heedful.events.candidates import Candidates
from heedful.events.histories import Histories

__all__ = ["Examples", "check_rows", "draw_examples"]

# Negatives of each user, drawn in proportion to users ** gamma.
_DRAWS = ((1.0, 120), (0.75, 100), (0.0, 100))


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
    histories: Histories,
    positives: Candidates,
    users_of_item: np.ndarray,
    randoms: np.random.Generator,
) -> Examples:
    """Draw negatives for each user: never an item of the history or a positive.

    Args:
        histories: what B users did before a window.
        positives: what they newly touched in it.
        users_of_item: popularity at the start of the window, [I]; items without users are not drawn.
        randoms: where the draws come from.
    """
    shares = [_shares(users_of_item, gamma) for gamma, _ in _DRAWS]
    cumulative = [np.cumsum(share) for share in shares]
    rows, labels, expected = [], [], []
    for user in range(len(histories)):
        wanted = positives.rows[positives.offsets[user] : positives.offsets[user + 1]]
        taken = np.union1d(wanted, histories.items[histories.offsets[user] : histories.offsets[user + 1]])
        drawn = [_draw(one, count, randoms) for one, (_, count) in zip(cumulative, _DRAWS, strict=True)]
        negatives = np.setdiff1d(np.concatenate(drawn), taken)
        rows.append(np.concatenate([wanted, negatives]))
        labels.append(np.arange(len(rows[-1])) < len(wanted))
        expected.append(_expected(rows[-1], shares))
    return Examples(Candidates.of(rows), np.concatenate(labels).astype(np.float32), np.concatenate(expected))


def _shares(users_of_item: np.ndarray, gamma: float) -> np.ndarray:
    weights = np.where(users_of_item > 0, np.maximum(users_of_item, 1.0) ** gamma, 0.0)
    return np.asarray(weights / weights.sum())


def _draw(cumulative: np.ndarray, count: int, randoms: np.random.Generator) -> np.ndarray:
    rows = np.searchsorted(cumulative, randoms.random(count) * cumulative[-1], side="right")
    return np.unique(np.minimum(rows, len(cumulative) - 1))


def _expected(rows: np.ndarray, shares: list[np.ndarray]) -> np.ndarray:
    """Probability that a row is among the distinct negatives, float64: 1 - prod(probability of not being drawn)."""
    missed = np.ones(len(rows))
    for share, (_, count) in zip(shares, _DRAWS, strict=True):
        missed *= (1 - share[rows]) ** count
    return np.maximum(1 - missed, 1e-12)


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
