"""Factors against numpy's singular values, on logs of any size."""

from __future__ import annotations

import numpy as np
import pytest

from heedful.events.candidates import Candidates
from heedful.events.histories import Histories
from heedful.rankers.mixing.factors import Factors
from ranking_worlds import histories_of, random_log

N_ITEMS = 60


def past() -> Histories:
    return random_log(users=70, items=N_ITEMS).histories.distinct(N_ITEMS)


def test_scores_are_the_projection_on_the_largest_singular_vectors() -> None:
    histories = past()
    x = np.zeros((len(histories), N_ITEMS))
    x[np.repeat(np.arange(len(histories)), histories.lengths), histories.items] = 1
    scale = np.maximum(x.sum(0), 1) ** 0.25
    _, _, vectors = np.linalg.svd(x / scale)
    scaled = (x / scale) @ vectors[:32].T @ vectors[:32]
    expected = np.stack([scaled * scale, scaled], axis=2).reshape(-1, 2)
    candidates = Candidates.same_for_all(len(histories), np.arange(N_ITEMS))
    np.testing.assert_allclose(Factors.of(histories, N_ITEMS).scores(histories, candidates), expected, atol=1e-4)


def test_the_same_each_time() -> None:
    np.testing.assert_array_equal(Factors.of(past(), N_ITEMS).items, Factors.of(past(), N_ITEMS).items)


@pytest.mark.parametrize(
    "histories", [[[0, 1]], [[0], [1]], [[0], [0], [0]], [[], [], []], [[0, 1, 2], [0, 1, 2], [0, 1, 2]]]
)
def test_small_logs_have_few_factors_or_none(histories: list[list[int]]) -> None:
    past = histories_of(histories)
    candidates = Candidates.same_for_all(len(past), np.arange(5))
    assert np.isfinite(Factors.of(past, 5).scores(past, candidates)).all()


def test_new_items_fit_nobody() -> None:
    longer = Factors.of(past(), N_ITEMS).extended(N_ITEMS + 2)
    candidates = Candidates.same_for_all(len(past()), np.array([N_ITEMS, N_ITEMS + 1]))
    assert (longer.scores(past(), candidates) == 0).all()
