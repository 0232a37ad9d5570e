"""Drawing negatives without replacement from the smoothed popularity P_gamma (paper, equation 5 and section 5.3).

Every user has a random stream of its own, made from the seed and the user's row, so that a user's pool depends neither on
which other users are tested nor on how large the largest pool is: a smaller pool is the beginning of a larger one.
"""

from __future__ import annotations

import struct

import numba
import numpy as np

from heedful.events.candidates import Candidates
from heedful.kernels.rng import GOLDEN, scatter

__all__ = ["draw_negatives", "hide_positives", "reveal_positives", "stream_keys", "weights"]

# Draws that a user may spend, for each negative wanted, before the rest is drawn by exponential keys instead.
_PATIENCE = 8


def weights(counts: np.ndarray, gamma: float) -> np.ndarray:
    """Unnormalised P_gamma of each item from its number of distinct users, float64 [I]; 0 ** 0 is 1.

    An item that nobody touched in training can thus be drawn for gamma 0 only.
    """
    return np.asarray(counts, np.float64) ** gamma


def stream_keys(seed: int, purpose: float, users: np.ndarray) -> np.ndarray:
    """Start of each user's random stream, uint64 [B], for a seed and a purpose (such as gamma)."""
    bits = np.uint64(struct.unpack("<Q", struct.pack("<d", purpose))[0])
    with np.errstate(over="ignore"):
        start = _mix(np.uint64(seed % 2**64) + GOLDEN) ^ _mix(bits + GOLDEN)
        return np.asarray(_mix(start + users.astype(np.uint64) * GOLDEN), np.uint64)


def draw_negatives(keys: np.ndarray, weight: np.ndarray, banned: Candidates, size: int | np.ndarray) -> Candidates:
    """Draw up to `size` distinct items for each user, in proportion to `weight`, one after the other.

    Args:
        keys: random streams, uint64 [B].
        weight: unnormalised probabilities, float64 [I].
        banned: for each user distinct items that must not be drawn.
        size: how many to draw, the same for all or int64 [B]; a user for whom fewer items are left gets all of them.

    Returns:
        The items in the order in which they were drawn, int32.
    """
    possible = weight > 0
    blocked = np.bincount(banned.owners, weights=possible[banned.rows], minlength=len(banned)).astype(np.int64)
    drawn = Candidates.from_lengths(np.minimum(size, possible.sum() - blocked), np.empty(0, np.int32))
    rows = np.empty(drawn.offsets[-1], np.int32)
    if len(rows):
        cumulative = np.cumsum(weight / weight.sum())
        cumulative /= cumulative[-1]
        # A draw u looks up where the search begins, so that it takes about one step whatever the number of items.
        guide = np.searchsorted(cumulative, np.arange(len(weight)) / len(weight), side="right")
        _draw(keys, weight, cumulative, guide, banned.offsets, banned.rows, drawn.offsets, rows)
    return Candidates(drawn.offsets, rows)


def hide_positives(candidates: Candidates, n_positive: np.ndarray, keys: np.ndarray) -> Candidates:
    """Move each user's positives, which come first, to random places, so that a place tells a model nothing."""
    rows = candidates.rows.copy()
    _swap(rows, candidates.offsets, n_positive, keys, False)
    return Candidates(candidates.offsets, rows)


def reveal_positives(scores: np.ndarray, offsets: np.ndarray, n_positive: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Undo `hide_positives` for the scores of hidden candidates; returns a new array."""
    scores = scores.copy()
    _swap(scores, offsets, n_positive, keys, True)
    return scores


@numba.vectorize(["uint64(uint64)"], cache=True)  # type: ignore[no-untyped-call]
def _mix(x: np.uint64) -> np.uint64:
    """`scatter` for whole arrays."""
    return scatter(x)


@numba.njit(cache=True, nogil=True)
def _uniform(state: np.uint64) -> float:
    """A number in [0, 1) with 53 random bits."""
    return float(scatter(state) >> np.uint64(11)) * (1.0 / 9007199254740992.0)


@numba.njit(cache=True, nogil=True)
def _draw(
    keys: np.ndarray,
    weight: np.ndarray,
    cumulative: np.ndarray,
    guide: np.ndarray,
    banned_offsets: np.ndarray,
    banned: np.ndarray,
    offsets: np.ndarray,
    out: np.ndarray,
) -> None:
    """Rejection while it is cheap, then exponential keys for the rest; both draw successively without replacement."""
    n_items = len(weight)
    taken = np.zeros(n_items, np.int64)  # the last user, counted from 1, for whom the item was banned or drawn
    for user in range(len(keys)):
        for j in range(banned_offsets[user], banned_offsets[user + 1]):
            taken[banned[j]] = user + 1
        state = keys[user]
        at, end = offsets[user], offsets[user + 1]
        tries = _PATIENCE * (end - at) + 100
        while at < end and tries > 0:
            tries -= 1
            state += GOLDEN
            u = _uniform(state)
            row = guide[int(u * n_items)]
            while cumulative[row] <= u:
                row += 1
            if taken[row] != user + 1:
                taken[row] = user + 1
                out[at] = row
                at += 1
        if at < end:
            _draw_rest(state, weight, taken, user + 1, out[at:end])


@numba.njit(cache=True, nogil=True)
def _draw_rest(state: np.uint64, weight: np.ndarray, taken: np.ndarray, stamp: int, out: np.ndarray) -> None:
    """Order what is left by Exp(1) / weight: the order of successive draws without replacement."""
    left = np.flatnonzero((taken != stamp) & (weight > 0))
    arrival = np.empty(len(left))
    for j in range(len(left)):
        state += GOLDEN
        arrival[j] = -np.log1p(-_uniform(state)) / weight[left[j]]
    order = np.argsort(arrival)
    for j in range(len(out)):
        out[j] = left[order[j]]


@numba.njit(cache=True, nogil=True)
def _swap(values: np.ndarray, offsets: np.ndarray, n_positive: np.ndarray, keys: np.ndarray, undo: bool) -> None:
    """Swap the j-th of each user's values with one at or after it, for j below n_positive; backwards to undo."""
    for user in range(len(n_positive)):
        start, length = offsets[user], offsets[user + 1] - offsets[user]
        for step in range(n_positive[user]):
            j = n_positive[user] - 1 - step if undo else step
            other = j + int(_uniform(keys[user] + np.uint64(j + 1) * GOLDEN) * (length - j))
            values[start + j], values[start + other] = values[start + other], values[start + j]
