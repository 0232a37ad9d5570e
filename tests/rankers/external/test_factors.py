"""ALS and BPR: the user's vector comes from the history that is asked about."""

from __future__ import annotations

import implicit.cpu.als
import implicit.cpu.bpr
import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from heedful.errors import ConfigError
from heedful.events.log import EventLog
from heedful.rankers.external.base import bag
from heedful.rankers.external.factors import ALS, BPR, _fold_in
from ranking_worlds import log_of, random_log


def two_tastes(seed: int = 0) -> EventLog:
    """Users touch items of the first or the second half, ten of twenty each."""
    randoms = np.random.default_rng(seed)
    return log_of([(20 * (user % 2) + randoms.choice(20, 10, replace=False)).tolist() for user in range(120)], n_items=40)


def test_als_gives_the_vectors_of_implicit() -> None:
    log = random_log(users=60, items=30)
    ranker = ALS(factors=8, alpha=3.0, iterations=4, penalty=0.1, seed=5).fit(log)
    touched = bag(log.histories, 30)
    with threadpool_limits(1, "blas"):
        model = implicit.cpu.als.AlternatingLeastSquares(
            factors=8, alpha=3.0, iterations=4, regularization=0.1, random_state=5, num_threads=1
        )
        model.fit(touched, show_progress=False)
        users = model.recalculate_user(np.arange(60), touched)
    np.testing.assert_array_equal(ranker.item_factors, model.item_factors)
    np.testing.assert_allclose(ranker.score_catalogue(log.histories), users @ model.item_factors.T, atol=1e-3)


def test_als_solves_the_normal_equations() -> None:
    ranker = ALS(factors=4, alpha=3.0, iterations=3).fit(random_log(users=60, items=30))
    y = ranker.item_factors.astype(float)
    confidence = np.ones(30)
    confidence[[3, 7]] = 3.0
    wanted = np.zeros(30)
    wanted[[3, 7]] = 1
    user = np.linalg.solve(y.T @ (confidence[:, None] * y) + 0.01 * np.eye(4), y.T @ (confidence * wanted))
    names = ranker.items.ids.to_pylist()
    np.testing.assert_allclose(ranker.score([names[3], names[7], names[3]], names), y @ user, atol=1e-4)


def test_bpr_items_are_those_of_implicit() -> None:
    log = random_log(users=60, items=30)
    ranker = BPR(factors=8, iterations=5, step=0.05, penalty=0.02, seed=5).fit(log)
    with threadpool_limits(1, "blas"):
        model = implicit.cpu.bpr.BayesianPersonalizedRanking(
            factors=8, learning_rate=0.05, regularization=0.02, iterations=5, random_state=5, num_threads=1
        )
        model.fit(bag(log.histories, 30), show_progress=False)
    np.testing.assert_array_equal(ranker.item_factors, model.item_factors)


@pytest.mark.parametrize("model", [ALS(factors=2), BPR(factors=2, iterations=60, step=0.05)], ids=["als", "bpr"])
def test_a_new_user_is_ranked_by_taste(model: ALS | BPR) -> None:
    model.fit(two_tastes())
    names = model.items.ids.to_pylist()
    for start in (0, 20):
        scores = model.score([names[start], names[start + 3], names[start + 5]], names)
        own, others = scores[start : start + 20], np.delete(scores, np.arange(start, start + 20))
        assert (own[:, None] > others[None]).mean() > 0.95


def test_folding_in_goes_downhill() -> None:
    """The pairs' loss of a user falls to that of the best vector, found by gradient descent over all pairs."""
    randoms = np.random.default_rng(0)
    items = randoms.normal(size=(30, 5)).astype(np.float32)
    past, actions = np.array([1, 4, 9]), np.cumsum(np.ones(30, np.int64))
    others = np.setdiff1d(np.arange(30), past)

    def loss(user: np.ndarray) -> float:
        scores = items[:, :4] @ user + items[:, 4]
        return float(np.logaddexp(0, scores[others][None] - scores[past][:, None]).mean() + 0.05 * user @ user)

    best = np.zeros(4)
    for _ in range(3000):
        scores = items[:, :4] @ best + items[:, 4]
        pull = 1 / (1 + np.exp(scores[past][:, None] - scores[others][None]))
        slope = (pull[..., None] * (items[past, None, :4] - items[None, others, :4])).mean(axis=(0, 1))
        best += 0.05 * (slope - 0.1 * best)
    users = np.zeros((1, 5), np.float32)
    _fold_in(np.array([0, 3]), past, items, actions, 20_000, 0.005, 0.1, 1, users)
    assert loss(best) <= loss(users[0, :4]) < loss(best) + 0.02 < loss(np.zeros(4))


@pytest.mark.parametrize(
    ("model", "options"),
    [(ALS, {"alpha": 0.0}), (ALS, {"penalty": 0.0}), (ALS, {"factors": 0}), (BPR, {"step": 0.0}), (BPR, {"iterations": 0})],
)
def test_options_out_of_range(model: type[ALS | BPR], options: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="is out of range"):
        model(**options)
