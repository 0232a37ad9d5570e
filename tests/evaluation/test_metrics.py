"""Metrics against a slow, obvious reference, the examiner's definition of ties, and ranx."""

from __future__ import annotations

import math
import warnings
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heedful.errors import ConfigError, InputError
from heedful.metrics import Ranks, batch_ndcg, hit_rate, ndcg, nested_ranks, ranks, recall


def mean_ranks(scores: list[float], positive: list[bool]) -> list[float]:
    """Mean, over all orders that respect the scores, of each positive's place."""
    return [
        sum(other > own for other in scores) + (sum(other == own for other in scores) - 1) / 2
        for own, flag in zip(scores, positive, strict=True)
        if flag
    ]


def slow_ndcg(places: list[float], k: float = math.inf) -> float:
    gain = sum(1 / math.log2(place + 2) for place in places if place < k)
    return gain / sum(1 / math.log2(place + 2) for place in range(int(min(len(places), k))))


def one(scores: list[float], positive: list[bool]) -> Ranks:
    return ranks(np.array(scores), np.array([0, len(scores)]), np.array(positive))


lists = st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1, max_size=30).filter(lambda x: any(p for _, p in x))


@settings(max_examples=200, deadline=None)
@given(lists, st.integers(1, 12))
def test_ties_share_their_mean_rank_and_the_metrics_follow(pool: list[tuple[int, bool]], k: int) -> None:
    scores, positive = [float(s) for s, _ in pool], [p for _, p in pool]
    expected = mean_ranks(scores, positive)
    found = one(scores, positive)
    assert found.values.tolist() == expected
    assert ndcg(found)[0] == pytest.approx(slow_ndcg(expected), abs=1e-12)
    assert ndcg(found, k)[0] == pytest.approx(slow_ndcg(expected, k), abs=1e-12)
    assert recall(found, k)[0] == pytest.approx(np.mean([r < k for r in expected]))
    assert hit_rate(found, k)[0] == float(min(expected) < k)


@settings(max_examples=100, deadline=None)
@given(lists, st.randoms(use_true_random=False))
def test_the_order_of_candidates_changes_nothing(pool: list[tuple[int, bool]], random: Random) -> None:
    shuffled = list(pool)
    random.shuffle(shuffled)
    first, second = (one([float(s) for s, _ in p], [f for _, f in p]) for p in (pool, shuffled))
    assert sorted(first.values) == sorted(second.values)
    assert ndcg(first)[0] == pytest.approx(ndcg(second)[0], abs=1e-12)


def test_the_mean_rank_is_the_expectation_over_random_orders_of_the_ties() -> None:
    rng = np.random.default_rng(0)
    scores, positive = np.array([2.0, 1, 1, 1, 1, 0, 0]), np.array([0, 1, 0, 0, 0, 1, 0], bool)
    places = np.zeros((20_000, 7))
    for trial in places:
        trial[np.lexsort((rng.random(7), -scores))] = np.arange(7)
    assert one(scores.tolist(), positive.tolist()).values == pytest.approx(places[:, positive].mean(0), abs=0.05)


def test_agreement_with_the_examiner() -> None:
    """The pool metrics of the outside examiner, word for word."""
    rng = np.random.default_rng(1)
    for _ in range(50):
        scores = rng.integers(0, 30, 200).astype(float)
        positive = rng.permutation(200) < rng.integers(1, 8)
        ordered = np.sort(scores)
        low, high = (np.searchsorted(ordered, scores[positive], side) for side in ("left", "right"))
        rank = np.sort(len(scores) - (low + high + 1) / 2)
        expected = (1 / np.log2(rank + 2)).sum() / (1 / np.log2(np.arange(positive.sum()) + 2)).sum()
        found = one(scores.tolist(), positive.tolist())
        assert ndcg(found)[0] == pytest.approx(expected, abs=1e-12)
        assert recall(found, 10)[0] == (rank < 10).mean()
        assert recall(found, 50)[0] == (rank < 50).mean()


def test_agreement_with_ranx() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from ranx import Qrels, Run, evaluate
    rng = np.random.default_rng(2)
    n_users, n = 40, 150
    scores = np.stack([rng.permutation(n) for _ in range(n_users)]).astype(np.float64)
    positive = rng.random((n_users, n)) < 0.05
    positive[:, 0] = True
    found = ranks(scores.ravel(), np.arange(n_users + 1) * n, positive.ravel())
    truth = Qrels({f"u{u:02d}": {f"i{i}": 1 for i in np.flatnonzero(positive[u])} for u in range(n_users)})
    run = Run({f"u{u:02d}": {f"i{i}": float(scores[u, i]) + 1 for i in range(n)} for u in range(n_users)})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = evaluate(truth, run, ["ndcg", "ndcg@10", "recall@10", "recall@50", "hit_rate@10"], return_mean=False)
    ours = [ndcg(found), ndcg(found, 10), recall(found, 10), recall(found, 50), hit_rate(found, 10)]
    for name, mine in zip(theirs, ours, strict=True):
        assert np.asarray(theirs[name]) == pytest.approx(mine, abs=1e-9), name


def test_float32_scores_and_users_without_candidates() -> None:
    found = ranks(np.array([0.1, 0.2], np.float32), np.array([0, 0, 2, 2]), np.array([True, False]))
    assert found.counts.tolist() == [0, 1, 0]
    assert np.isnan(ndcg(found)[[0, 2]]).all() and np.isnan(recall(found, 1)[0]) and np.isnan(hit_rate(found, 1)[2])
    assert found.values.tolist() == [1.0]


def test_a_candidate_whose_score_is_nan_takes_no_part() -> None:
    assert one([np.nan, 1.0, 0.0, np.nan], [False, False, True, False]).values.tolist() == [1.0]


def test_nested_pools_equal_pools_ranked_alone() -> None:
    rng = np.random.default_rng(3)
    n_positive, n_negative, sizes = np.array([2, 1, 4]), np.array([50, 7, 30]), (5, 10, 50)
    lengths = n_positive + n_negative
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    scores = rng.integers(0, 20, offsets[-1]).astype(np.float32)
    for size, nested in zip(sizes, nested_ranks(scores, offsets, n_positive, sizes), strict=True):
        for user in range(3):
            own = scores[offsets[user] : offsets[user] + n_positive[user] + min(size, n_negative[user])]
            alone = one(own.tolist(), (np.arange(len(own)) < n_positive[user]).tolist())
            assert nested.values[nested.offsets[user] : nested.offsets[user + 1]].tolist() == alone.values.tolist()


def test_clear_errors() -> None:
    with pytest.raises(InputError, match="do not belong together"):
        ranks(np.zeros(3), np.array([0, 3]), np.zeros(2, bool))
    with pytest.raises(InputError, match="do not belong together"):
        ranks(np.zeros(3), np.array([0, 2]), np.zeros(3, bool))
    with pytest.raises(ConfigError, match="must rise"):
        nested_ranks(np.zeros(3), np.array([0, 3]), np.array([1]), (2, 1))


def test_restricting_to_some_positives_keeps_their_ranks() -> None:
    found = one([3.0, 2.0, 1.0], [True, False, True])
    assert found.where(np.array([False, True])).values.tolist() == [2.0]


def test_ndcg_of_padded_lists_by_hand() -> None:
    scores = np.array([[0.1, 0.9, 0.5, -np.inf], [0.1, 0.9, 0.5, 7.0], [0.9, 0.1, 9.0, 9.0]])
    positive = np.array([[False, True, False, False], [True, False, True, False], [False, True, False, False]])
    used = np.array([[True] * 4, [True, True, True, False], [True, True, False, False]])
    expected = [1.0, (1 / np.log2(3) + 1 / 2) / (1 + 1 / np.log2(3)), 1 / np.log2(3)]
    assert batch_ndcg(scores, positive, used).tolist() == pytest.approx(expected)


def test_some_of_the_positives_keep_their_ranks() -> None:
    """Ranks are among all candidates, and each user keeps its own positives."""
    found = Ranks(np.array([0, 2, 2, 5]), np.array([0.0, 7.0, 1.0, 2.0, 3.0]))
    kept = found.where(np.array([False, True, True, False, True]))
    assert kept.offsets.tolist() == [0, 1, 1, 3] and kept.values.tolist() == [7.0, 1.0, 3.0]
    assert recall(kept, 3)[[0, 2]].tolist() == [0.0, 0.5] and np.isnan(recall(kept, 3)[1])
