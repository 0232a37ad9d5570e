"""Ranking metrics from the ranks of the positives alone (paper, section 5.3).

No list is ever sorted: the rank of a positive is the number of scores above its own. Candidates with the same score share
the mean of the ranks they cover, so an order that a model did not decide is neither rewarded nor punished. Ranks count
from 0. Everything is ragged: user b owns `offsets[b]:offsets[b + 1]` of a flat array.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np

from heedful.errors import ConfigError, InputError

__all__ = ["Ranks", "batch_ndcg", "hit_rate", "ndcg", "nested_ranks", "ranks", "recall"]


@dataclass(frozen=True)
class Ranks:
    """Ranks of the positives of B users, P in all, in the order in which the positives were given.

    Attributes:
        offsets: int64 [B + 1], from 0 to P.
        values: rank among the user's candidates, counted from 0; halves occur where scores tie; float64 [P].
    """

    offsets: np.ndarray
    values: np.ndarray

    @property
    def counts(self) -> np.ndarray:
        """Number of positives of each user, int64 [B]."""
        return np.diff(self.offsets)

    def where(self, keep: np.ndarray) -> Ranks:
        """Only the positives where `keep` (bool [P]) holds; their ranks among all candidates stay as they are."""
        kept = np.concatenate([[0], np.cumsum(keep, dtype=np.int64)])
        return Ranks(kept[self.offsets], self.values[keep])

    def total(self, values: np.ndarray) -> np.ndarray:
        """Sum over each user's positives of `values` (float64 [P]), float64 [B]."""
        owners = np.repeat(np.arange(len(self.offsets) - 1), self.counts)
        return np.bincount(owners, weights=values, minlength=len(self.offsets) - 1)


def ranks(scores: np.ndarray, offsets: np.ndarray, is_positive: np.ndarray) -> Ranks:
    """Rank of each positive among all candidates of its user.

    Args:
        scores: float [N], higher is better; a candidate whose score is NaN takes no part.
        offsets: int64 [B + 1], where each user's candidates begin and end.
        is_positive: bool [N].

    Raises:
        InputError: the shapes do not belong together.
    """
    if scores.shape != is_positive.shape or scores.ndim != 1 or (len(offsets) and offsets[-1] != len(scores)):
        raise InputError(
            "scores, offsets and positives do not belong together",
            got=f"{scores.shape}, last offset {offsets[-1] if len(offsets) else None}, {is_positive.shape}",
            expected="one score and one flag for each candidate",
        )
    positions = np.flatnonzero(is_positive)
    kept = np.searchsorted(positions, offsets)
    values = np.empty((1, kept[-1]))
    ends = np.diff(offsets)[None, :]
    _count_above(np.ascontiguousarray(scores), offsets, positions, kept, ends, values)
    return Ranks(kept, values[0])


def nested_ranks(scores: np.ndarray, offsets: np.ndarray, n_positive: np.ndarray, sizes: tuple[int, ...]) -> list[Ranks]:
    """Ranks in nested pools: all positives of a user with the first `size` of its negatives, for each size.

    Args:
        scores: float [N]; each user's positives first, then its negatives in the order in which they were drawn.
        offsets: int64 [B + 1].
        n_positive: positives of each user, int64 [B].
        sizes: numbers of negatives, rising; a user with fewer keeps what there is.

    Returns:
        One `Ranks` for each size.
    """
    if list(sizes) != sorted(sizes):
        raise ConfigError("pool sizes must rise", got=sizes)
    ends = np.minimum(n_positive + np.array(sizes, np.int64)[:, None], np.diff(offsets))
    kept = np.concatenate([[0], np.cumsum(n_positive)]).astype(np.int64)
    positions = np.arange(kept[-1]) + np.repeat(offsets[:-1] - kept[:-1], n_positive)
    values = np.empty((len(sizes), kept[-1]))
    _count_above(np.ascontiguousarray(scores), offsets, positions, kept, ends, values)
    return [Ranks(kept, row) for row in values]


def ndcg(positives: Ranks, k: int | None = None) -> np.ndarray:
    """Normalised discounted cumulative gain with binary gain and discount 1 / log2(rank + 2), float64 [B].

    Over the whole list, as in the paper, or over its first `k` places, where the ideal list is filled by
    min(k, positives) hits. NaN for a user without positives.
    """
    discounts = 1 / np.log2(positives.values + 2)
    counts = positives.counts
    if k is not None:
        discounts = np.where(positives.values < k, discounts, 0.0)
        counts = np.minimum(counts, k)
    ideal = np.concatenate([[0.0], np.cumsum(1 / np.log2(np.arange(max(counts.max(initial=0), 1)) + 2))])[counts]
    return _divide(positives.total(discounts), ideal)


def batch_ndcg(scores_BC: np.ndarray, positive_BC: np.ndarray, used_BC: np.ndarray) -> np.ndarray:
    """NDCG of padded lists, float64 [B].

    Args:
        scores_BC: higher is better.
        positive_BC: bool.
        used_BC: bool, False in the padding.
    """
    scores = np.where(used_BC, scores_BC, np.nan).ravel()
    offsets = np.arange(len(scores_BC) + 1, dtype=np.int64) * scores_BC.shape[1]
    return ndcg(ranks(scores, offsets, positive_BC.ravel()))


def recall(positives: Ranks, k: int) -> np.ndarray:
    """Share of each user's positives in the first `k` places, float64 [B]; NaN for a user without positives."""
    return _divide(positives.total((positives.values < k).astype(np.float64)), positives.counts)


def hit_rate(positives: Ranks, k: int) -> np.ndarray:
    """1 where any positive is in the first `k` places, else 0, float64 [B]; NaN for a user without positives."""
    hits = positives.total((positives.values < k).astype(np.float64))
    return np.where(positives.counts > 0, (hits > 0).astype(np.float64), np.nan)


def _divide(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    quotient = np.full(len(numerator), np.nan)
    np.divide(numerator, denominator, out=quotient, where=denominator > 0)
    return quotient


_COUNTED_AT_ONCE = 1 << 30


@numba.njit(cache=True, nogil=True)
def _count_above(
    scores: np.ndarray,
    offsets: np.ndarray,
    positions: np.ndarray,
    kept: np.ndarray,
    ends: np.ndarray,
    out: np.ndarray,
) -> None:
    """Fill out[s, p] with the mean rank of positive p among the first ends[s, b] candidates of its user b."""
    for user in range(len(offsets) - 1):
        start = offsets[user]
        for p in range(kept[user], kept[user + 1]):
            own = scores[positions[p]]
            above = 0
            equal = 0
            done = start
            for s in range(len(ends)):
                stop = start + ends[s, user]
                while done < stop:
                    part = min(done + _COUNTED_AT_ONCE, stop)
                    higher, same = _count(scores[done:part], own)
                    above, equal, done = above + int(higher), equal + int(same), part
                # The positive itself is among the equal; the ranks above .. above + equal - 1 are shared.
                out[s, p] = above + (equal - 1) / 2


@numba.njit(cache=True, nogil=True)
def _count(scores: np.ndarray, own: float) -> tuple[int, int]:
    """How many scores are above and how many equal; in 32 bits, as long as a score, so that the loop vectorises."""
    above, equal = np.int32(0), np.int32(0)
    for j in range(len(scores)):
        above = np.int32(above + np.int32(scores[j] > own))
        equal = np.int32(equal + np.int32(scores[j] == own))
    return int(above), int(equal)
