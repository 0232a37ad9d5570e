"""Candidates laid end to end."""

from __future__ import annotations

import numpy as np

from heedful.events.candidates import Candidates


def lists(candidates: Candidates) -> list[list[int]]:
    return [candidates.rows[a:b].tolist() for a, b in zip(candidates.offsets[:-1], candidates.offsets[1:], strict=True)]


def test_every_view_agrees_with_lists() -> None:
    candidates = Candidates.of([np.array([3, 1]), np.array([], int), np.array([2, -1, 0])])
    assert len(candidates) == 3 and candidates.lengths.tolist() == [2, 0, 3]
    assert candidates.owners.tolist() == [0, 0, 2, 2, 2]
    assert lists(candidates.take(np.array([2, 0]))) == [[2, -1, 0], [3, 1]]
    assert lists(candidates.part(slice(1, 3))) == [[], [2, -1, 0]]
    assert lists(candidates.where(candidates.rows > 0)) == [[3, 1], [], [2]]
    assert lists(candidates.with_rows(np.array([10, -1, 12, 13]))) == [[13, -1], [], [12, -1, 10]]
    assert lists(candidates.with_rows(np.array([], int))) == [[-1, -1], [], [-1, -1, -1]]
    assert lists(Candidates.same_for_all(2, np.array([5, 6]))) == [[5, 6], [5, 6]]
    assert len(Candidates.of([])) == 0
