"""Item-item neighbours: what implicit is given and gives, against sums by hand."""

from __future__ import annotations

import numpy as np
import pytest

from heedful.errors import ConfigError
from heedful.rankers.external.neighbours import BM25Neighbours, CosineNeighbours
from ranking_worlds import log_of, random_log

LOG = log_of([[0, 1, 1], [0, 1], [0, 2], [3], [2, 3]])


def columns(sequences: list[list[int]], n_items: int) -> np.ndarray:
    matrix = np.zeros((len(sequences), n_items))
    for user, items in enumerate(sequences):
        matrix[user, items] = 1
    return matrix


def test_cosine_is_the_sum_of_cosines_by_hand() -> None:
    ranker = CosineNeighbours().fit(LOG)
    # Users of 0: {0, 1, 2}, of 1: {0, 1}, of 2: {2, 4}, of 3: {3, 4}; a repeated action counts once.
    cosines = {(0, 1): 2 / np.sqrt(6), (0, 2): 1 / np.sqrt(6), (2, 3): 1 / 2}
    got = ranker.score(["item0"], [f"item{n}" for n in range(4)])
    np.testing.assert_allclose(got, [1, cosines[0, 1], cosines[0, 2], 0], atol=1e-6)
    got = ranker.score(["item0", "item3", "item3"], ["item2", "item1"])
    np.testing.assert_allclose(got, [cosines[0, 2] + cosines[2, 3], cosines[0, 1]], atol=1e-6)


def test_cosine_against_a_slow_reference() -> None:
    log = random_log(users=40, items=25)
    ranker = CosineNeighbours(neighbours=25).fit(log)
    x = columns([part.items.tolist() for _, part in log.histories.chunks(1)], 25)
    unit = x / np.linalg.norm(x, axis=0)
    expected = x[:7] @ (unit.T @ unit)
    np.testing.assert_allclose(ranker.score_catalogue(log.histories.take(np.arange(7))), expected, atol=1e-4)


def test_bm25_against_a_slow_reference() -> None:
    log = random_log(users=40, items=25)
    ranker = BM25Neighbours(neighbours=25, saturation=2.0, length_weight=0.5).fit(log)
    x = columns([part.items.tolist() for _, part in log.histories.chunks(1)], 25)
    users, lengths = x.sum(axis=0), x.sum(axis=1)
    rarity = np.log(25) - np.log1p(lengths)
    weight = x * 3 / (2 * (0.5 + 0.5 * users / users.mean()) + x) * rarity[:, None]
    expected = x[:7] @ (weight.T @ weight)
    np.testing.assert_allclose(ranker.score_catalogue(log.histories.take(np.arange(7))), expected, atol=1e-3, rtol=1e-4)


def test_only_the_nearest_are_kept() -> None:
    log = random_log(users=60, items=30)
    near = CosineNeighbours(neighbours=3).fit(log)
    far = CosineNeighbours(neighbours=30).fit(log)
    names = log.catalog.items.ids.to_pylist()
    few, many = near.score([names[4]], names), far.score([names[4]], names)
    assert np.count_nonzero(few) <= 30 and np.count_nonzero(many) > np.count_nonzero(few)
    assert set(np.diff(near.similarity.indptr)) == {3}


@pytest.mark.parametrize("options", [{"neighbours": 0}, {"saturation": -1.0}, {"length_weight": 1.5}])
def test_options_out_of_range(options: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="is out of range"):
        BM25Neighbours(**options)
