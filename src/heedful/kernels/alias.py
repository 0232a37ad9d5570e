"""Alias sampling: draws from any discrete distribution in constant time (Walker 1977, construction
by Vose 1991).

Replaces `numpy.random.Generator.choice` with probabilities, which numba does not compile and which
takes O(log I) a draw. Reference: the distribution of the weights. Gain: docs/kernels.md. Delete it
when numba compiles draws in constant time.

Shape suffixes: I items.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from heedful.errors import InputError

__all__ = ["alias_table", "draw", "smoothed_weights"]

_UNIT = 2.0**-53


def alias_table(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The alias table of a distribution given by weights that need not sum to one; O(I).

    Args:
        weights: not negative, finite, at least one above zero, [I].

    Returns:
        (probability float32 [I], alias int32 [I]): a draw picks a row uniformly, keeps it with its probability and
        takes its alias otherwise. The table's distribution is that of the weights to 1e-6.

    Raises:
        InputError: there are no weights, or one is negative or not finite, or all are zero.

    """
    weights_I = np.ascontiguousarray(weights, np.float64)
    total = weights_I.sum() if weights_I.ndim == 1 else np.nan
    if not np.isfinite(total) or total <= 0 or weights_I.min() < 0:
        raise InputError(
            "weights must be finite, non-negative and not all zero",
            got=f"shape {weights_I.shape}, sum {total}",
            expected="one row of finite weights, none negative, not all zero",
        )
    probability_I, alias_I = _fill(weights_I * (len(weights_I) / total))
    return probability_I, alias_I


def smoothed_weights(counts: np.ndarray, exponent: float) -> np.ndarray:
    """Weights proportional to counts ** exponent, the largest being 1; float64 [I].

    A count of zero has weight zero whatever the exponent is: such an item was never seen.
    """
    seen_I = counts > 0
    logs_I = exponent * np.log(np.where(seen_I, counts, 1))
    highest = logs_I[seen_I].max(initial=-np.inf)
    return np.where(seen_I, np.exp(np.minimum(logs_I - highest, 0.0)), 0.0)


@njit(cache=True)
def _fill(scaled_I: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Vose's construction from weights with mean 1: `small` grows from the front of `stack`, `large` from its back."""
    n = len(scaled_I)
    probability_I = np.ones(n, np.float32)
    alias_I = np.arange(n).astype(np.int32)
    stack = np.empty(n, np.int32)
    small, large = 0, n
    for row in range(n):
        if scaled_I[row] < 1.0:
            stack[small] = row
            small += 1
        else:
            large -= 1
            stack[large] = row
    while small > 0 and large < n:
        poor, rich = stack[small - 1], stack[large]
        probability_I[poor] = scaled_I[poor]
        alias_I[poor] = rich
        scaled_I[rich] -= 1.0 - scaled_I[poor]
        small -= 1
        if scaled_I[rich] < 1.0:
            large += 1
            stack[small] = rich
            small += 1
    return probability_I, alias_I


@njit(inline="always")
def draw(probability_I: np.ndarray, alias_I: np.ndarray, random: np.uint64) -> np.int64:
    """One row of the distribution from 64 random bits, for use inside other compiled functions."""
    position = np.float64(random >> np.uint64(11)) * _UNIT * len(probability_I)
    row = np.int64(position)
    # Both are read and one is chosen by arithmetic: half of the branches would be guessed wrongly.
    own, other = np.int64(position - row < probability_I[row]), np.int64(alias_I[row])
    return other + own * (row - other)
