"""Recommendations for one user, and the reasons for them."""

from __future__ import annotations

import numpy as np
import pytest

from heedful.errors import ConfigError
from heedful.rankers.base import Ranker
from heedful.rankers.registry import MODELS
from heedful.recommending.recommender import Recommender
from ranking_worlds import DAY, QUICK, START, random_log, table_of

HISTORY = ["item4", "item9", "item4", "item30", "item1"]
TIMES = [START + DAY * day for day in (3, 9, 40, 80, 99)]


@pytest.fixture(scope="module", params=list(MODELS))
def ranker(request: pytest.FixtureRequest) -> Ranker:
    log = random_log(kind_names=("view", "purchase"))
    return MODELS[request.param](**QUICK[request.param]).fit(
        log, table_of(log.catalog.items.ids, attributes=log.catalog.attributes)
    )


def test_the_best_of_the_catalogue(ranker: Ranker) -> None:
    top = Recommender(ranker).recommend(HISTORY, k=5, history_times=TIMES)
    ids = ranker.items.ids.to_pylist()
    scores = ranker.score(HISTORY, ids, history_times=TIMES)
    others = [place for place in np.argsort(-scores, kind="stable") if ids[place] not in HISTORY]
    assert len(top) == 5 and top.scores.dtype == np.float32
    np.testing.assert_allclose(top.scores, scores[others[:5]], atol=1e-4)
    np.testing.assert_allclose(ranker.score(HISTORY, top.items, history_times=TIMES), top.scores, atol=1e-4)
    assert not set(top.items) & set(HISTORY)
    assert str(top).splitlines()[0] == f"  1. title {top.items[0][4:]}"


def test_with_the_history_and_more_than_there_is(ranker: Ranker) -> None:
    top = Recommender(ranker).recommend(HISTORY, k=1000, exclude_history=False)
    assert sorted(top.items) == sorted(ranker.items.ids.to_pylist())
    assert len(Recommender(ranker).recommend(HISTORY, k=1000)) == len(ranker.items) - len(set(HISTORY))


def test_pool_gamma_is_passed_on(ranker: Ranker) -> None:
    top = Recommender(ranker).recommend(HISTORY, k=3, pool_gamma=None)
    np.testing.assert_allclose(ranker.score(HISTORY, top.items, pool_gamma=None), top.scores, atol=1e-4)


def test_a_reason_is_the_fall_of_the_score_without_the_item(ranker: Ranker) -> None:
    kinds = ["view", "purchase", "view", "view", "purchase"]
    top = Recommender(ranker).recommend(HISTORY, k=3, history_times=TIMES, history_kinds=kinds, pool_gamma=1.0)
    for place, item in enumerate(top.items):
        reasons = top.explain(place)
        assert sorted(reason.item for reason in reasons) == sorted(set(HISTORY))
        falls = [reason.fall for reason in reasons]
        assert falls == sorted(falls, reverse=True)
        for reason in reasons:
            kept = [n for n, past in enumerate(HISTORY) if past != reason.item]
            without = ranker.score(
                [HISTORY[n] for n in kept],
                [item],
                history_times=[TIMES[n] for n in kept],
                history_kinds=[kinds[n] for n in kept],
                pool_gamma=1.0,
            )
            assert reason.fall == pytest.approx(float(top.scores[place] - without[0]), abs=1e-3)


def test_a_last_past_item_and_none(ranker: Ranker) -> None:
    one = Recommender(ranker).recommend(["item3"], k=1)
    assert [reason.item for reason in one.explain(0)] == ["item3"]
    fall = one.scores[0] - ranker.score([], one.items)[0]
    assert one.explain(0)[0].fall == pytest.approx(float(fall), abs=1e-4)
    for history in ([], ["unknown"]):
        nothing = Recommender(ranker).recommend(history, k=2)
        assert nothing.explain(0) == [] and len(nothing) == 2
        assert ranker.users_of_item[ranker.items.rows(nothing.items)].tolist() == sorted(ranker.users_of_item)[::-1][:2]


def test_k_must_be_positive(ranker: Ranker) -> None:
    with pytest.raises(ConfigError, match="option 'k' is out of range; got: 0; expected: 1 or more"):
        Recommender(ranker).recommend(HISTORY, k=0)
