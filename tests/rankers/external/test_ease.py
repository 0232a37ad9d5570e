"""EASE against its formula, and what happens to the items that it does not learn."""

from __future__ import annotations

import numpy as np
import pytest

from heedful.errors import ConfigError
from heedful.events.log import EventLog
from heedful.rankers.external.ease import EASE
from ranking_worlds import random_log


def touched(log: EventLog) -> np.ndarray:
    matrix = np.zeros((len(log.users), len(log.catalog)))
    for user, part in enumerate(part for _, part in log.histories.chunks(1)):
        matrix[user, part.items] = 1
    return matrix


def formula(x: np.ndarray, regularization: float) -> np.ndarray:
    inverse = np.linalg.inv(x.T @ x + regularization * np.eye(x.shape[1]))
    weights = -inverse / np.diag(inverse)
    np.fill_diagonal(weights, 0)
    return weights


def test_it_is_its_formula() -> None:
    log = random_log(users=70, items=40)
    ranker = EASE(regularization=5.0).fit(log)
    x = touched(log)
    np.testing.assert_allclose(ranker.weights, formula(x, 5.0), atol=1e-5)
    expected = x[:9] @ formula(x, 5.0)
    np.testing.assert_allclose(ranker.score_catalogue(log.histories.take(np.arange(9))), expected, atol=1e-4)


def test_items_that_are_not_learnt_stand_below_by_popularity() -> None:
    log = random_log(users=70, items=40)
    ranker = EASE(top_items=12, regularization=5.0).fit(log)
    users = log.catalog.users
    assert len(ranker.rows) == 12
    assert users[ranker.rows].min() >= np.delete(users, ranker.rows).max()
    x = touched(log)[:, ranker.rows]
    scores = ranker.score_catalogue(log.histories.take(np.arange(20)))
    np.testing.assert_allclose(scores[:, ranker.rows], x[:20] @ formula(x, 5.0), atol=1e-4)
    others = np.setdiff1d(np.arange(40), ranker.rows)
    assert scores[:, others].max() < scores[:, ranker.rows].min()
    order = others[np.argsort(-scores[0, others], kind="stable")]
    assert (np.diff(users[order]) <= 0).all() and len(np.unique(scores[0, others])) > 3


def test_whatever_the_history_the_order_of_the_two_parts_holds() -> None:
    log = random_log(users=70, items=40, seed=3)
    ranker = EASE(top_items=12, regularization=0.1).fit(log)
    others = np.setdiff1d(np.arange(40), ranker.rows)
    randoms = np.random.default_rng(0)
    names = log.catalog.items.ids.to_pylist()
    histories = [[names[row] for row in randoms.choice(40, n, replace=False)] for n in range(1, 41)]
    scores = ranker.score_catalogue(ranker.histories_of(histories))
    assert (scores[:, others].max(axis=1) < scores[:, ranker.rows].min(axis=1)).all()


@pytest.mark.parametrize("options", [{"top_items": 1}, {"regularization": 0.0}])
def test_options_out_of_range(options: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="is out of range"):
        EASE(**options)
