"""Random numbers inside compiled code: splitmix64 streams (Steele, Lea and Flood 2014), one for each purpose.

A stream begins at a state that depends on what it is for (seed, epoch, user), not on the thread or batch that reads it.
"""

from __future__ import annotations

import numpy as np
from numba import njit

__all__ = ["GOLDEN", "first_state", "next_place", "next_random", "scatter"]

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
"""What a stream adds to its state in each step."""


@njit(inline="always")
def scatter(z: np.uint64) -> np.uint64:
    """The output function of splitmix64: a bijection of 64 bits that scatters neighbouring numbers."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@njit(inline="always")
def next_random(state: np.uint64) -> tuple[np.uint64, np.uint64]:
    """(next state, 64 random bits) of a stream."""
    state = state + GOLDEN
    return state, scatter(state)


@njit(inline="always")
def next_place(state: np.uint64) -> tuple[np.uint64, np.uint64]:
    """(next state, the same as 64 bits) of Weyl's sequence, steps of the golden ratio: more even than chance."""
    state = state + GOLDEN
    return state, state


@njit(inline="always")
def first_state(seed: int, epoch: int, user: int) -> np.uint64:
    """Where the stream of a user begins in an epoch."""
    return scatter(scatter(scatter(np.uint64(seed)) + np.uint64(epoch)) + np.uint64(user))
