"""Streams of random numbers against splitmix64 on Python's integers."""

from __future__ import annotations

import numpy as np
import pytest
from numba import njit

from heedful.kernels.reference import splitmix64
from heedful.kernels.rng import next_random


@njit
def _next(state: np.uint64) -> tuple[np.uint64, np.uint64]:
    return next_random(state)


@pytest.mark.parametrize("start", [0, 1, 2**63, 2**64 - 1])
def test_streams_are_splitmix64(start: int) -> None:
    state, expected = np.uint64(start), start
    for _ in range(5):
        state, bits = _next(np.uint64(state))
        expected, expected_bits = splitmix64(expected)
        assert (int(state), int(bits)) == (expected, expected_bits)


def test_the_reference_gives_the_published_numbers() -> None:
    """The first outputs for the seed 1234567, as other implementations have them."""
    state, found = 1234567, []
    for _ in range(3):
        state, bits = splitmix64(state)
        found.append(bits)
    assert found == [6457827717110365317, 3203168211198807973, 9817491932198370423]
