"""The best of many scores against sorting them all."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heedful.rankers.topk import top_places

SCORES = st.sampled_from([-np.inf, np.inf, np.nan, -1.0, 0.0, 0.5, 0.5, 2.0, 3.25])


@settings(max_examples=300, deadline=None)
@given(st.lists(SCORES.filter(lambda score: not np.isnan(score)), max_size=30), st.integers(0, 35))
def test_it_is_the_start_of_the_sorted_finite_ones(scores: list[float], k: int) -> None:
    finite = [place for place, score in enumerate(scores) if np.isfinite(score)]
    expected = sorted(finite, key=lambda place: (-scores[place], place))[:k]
    # An infinite score counts among the k, and is then left out.
    above = sum(score == np.inf for score in scores)
    got = top_places(np.array(scores, np.float32), k)
    assert got.dtype == np.int64
    assert got.tolist() == expected[: len(got)] and len(got) >= min(max(k - above, 0), len(finite))
    if not above:
        assert got.tolist() == expected


def test_equal_scores_are_in_the_order_of_their_place() -> None:
    scores = np.array([1, 2, 1, 2, 1], np.float32)
    assert [top_places(scores, k).tolist() for k in range(1, 6)] == [
        [1], [1, 3], [1, 3, 0], [1, 3, 0, 2], [1, 3, 0, 2, 4],
    ]  # fmt: skip


@pytest.mark.parametrize("k", [1, 3, 9])
def test_what_is_excluded_is_never_among_the_best(k: int) -> None:
    scores = np.array([-np.inf, 4, -np.inf, 5], np.float32)
    assert top_places(scores, k).tolist() == [3, 1][:k]
    assert top_places(np.full(4, -np.inf, np.float32), k).tolist() == []
    assert top_places(np.empty(0, np.float32), k).tolist() == []
