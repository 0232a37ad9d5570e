"""A model that was trained for some kinds, or for repeats, is asked in the same way: nobody has to say it again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from heedful.errors import ConfigError
from heedful.events.log import EventLog
from heedful.rankers.base import Ranker
from heedful.rankers.mixed import MixedRanker
from heedful.rankers.registry import load_ranker, new_ranker
from heedful.recommending.recommend import Query, Recommender
from ranking_worlds import QUICK, random_log, table_of

KINDS = ("view", "purchase")
N = 60


@pytest.fixture(scope="module")
def log() -> EventLog:
    return random_log(users=120, items=N, kind_names=KINDS)


def fitted(log: EventLog, name: str = "mixed", **options: Any) -> Ranker:
    return new_ranker(name, options={**QUICK[name], **options}).fit(log, table_of(log.catalog.items.ids))


@pytest.fixture(scope="module")
def shop(log: EventLog, tmp_path_factory: pytest.TempPathFactory) -> Ranker:
    """A model, saved and loaded, for which purchases alone count."""
    folder = tmp_path_factory.mktemp("models") / "shop"
    fitted(log, target_kinds=("purchase",), seen_kinds=("purchase",)).save(folder)
    return load_ranker(folder)


def test_a_viewed_item_may_be_recommended_and_a_purchased_one_not(shop: Ranker) -> None:
    top = Recommender(shop).recommend(["item3", "item8"], history_kinds=["view", "purchase"], k=N)
    assert "item3" in top.items and "item8" not in top.items and len(top) == N - 1
    both = Recommender(shop).recommend(
        ["item3", "item8", "item3"], history_kinds=["view", "purchase", "purchase"], k=N, exclude_history=None
    )
    assert set(both.items) == {f"item{row}" for row in range(N)} - {"item3", "item8"}


def test_retrieved_candidates_keep_to_what_counts_as_seen(shop: Ranker) -> None:
    histories = shop.histories_of([["item3", "item8"]], None, [["view", "purchase"]])
    rows, _ = Recommender(shop, retrieve=8).top_rows(histories, Query(k=2))
    assert 8 not in rows
    found = Recommender(shop, retrieve=8).retriever
    assert found is not None and 8 not in found.retrieve(histories, N).rows


@pytest.mark.parametrize("retrieve", [None, 8])
def test_repeats_alone_and_all_items(log: EventLog, retrieve: int | None) -> None:
    history = ["item3", "item8", "item5"]
    again = Recommender(fitted(log, target="repeat"), retrieve=retrieve)
    assert set(again.recommend(history, k=10).items) == set(history)
    assert len(again.recommend([], k=10)) == 0
    everything = Recommender(fitted(log, target="all"), retrieve=retrieve)
    assert set(everything.recommend(history, k=N).items) == {f"item{row}" for row in range(N)}
    assert not set(history) & set(everything.recommend(history, k=N, exclude_history=True).items)


def test_own_items_are_among_the_candidates_put_forward(log: EventLog) -> None:
    ranker = fitted(log, target="all")
    retriever = Recommender(ranker, retrieve=8).retriever
    assert retriever is not None
    histories = ranker.histories_of([["item57", "item58", "item59"]])
    assert {57, 58, 59} <= set(retriever.retrieve(histories, 4, exclude_history=False).rows.tolist())
    assert not {57, 58, 59} & set(retriever.retrieve(histories, 4).rows.tolist())


def test_the_history_has_the_kinds_of_training_whoever_sends_more(log: EventLog, tmp_path: Path) -> None:
    for name in ("attention", "mixed"):
        ranker = fitted(log, name, history_kinds=("purchase",))
        ranker.save(tmp_path / name)
        ranker = load_ranker(tmp_path / name)
        kinds = ["view", "purchase", "view", "purchase"]
        history = ["item3", "item8", "item5", "item9"]
        mixed = ranker.score(history, history, history_kinds=kinds)
        bought = ranker.score(["item8", "item9"], history, history_kinds=["purchase", "purchase"])
        np.testing.assert_array_equal(mixed, bought)
        rows = log.histories.take(np.arange(9))
        filtered = rows.where(rows.kinds == 1)
        np.testing.assert_array_equal(ranker.score_catalogue(rows), ranker.score_catalogue(filtered))
        assert ranker.targets.seen == (1,)


def test_the_last_stage_learns_of_the_kinds_that_the_history_has(log: EventLog) -> None:
    whole, some = fitted(log), fitted(log, history_kinds=("purchase",))
    assert isinstance(whole, MixedRanker) and isinstance(some, MixedRanker) and whole.stage and some.stage
    assert some.stage.snapshot.items.users.sum() < 0.8 * whole.stage.snapshot.items.users.sum()


def test_kinds_that_the_log_does_not_have_are_refused(log: EventLog) -> None:
    for option in ("target_kinds", "seen_kinds", "history_kinds"):
        with pytest.raises(ConfigError, match="no events of that kind; got: gift; expected: view, purchase"):
            fitted(log, "attention", **{option: ("gift",)})
    with pytest.raises(ConfigError, match=r"option 'split' .* expected: random_time for the target all"):
        new_ranker("attention", preset="paper", options={"target": "all"})
