"""The engine without HTTP: live histories, rankings, slots."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from serving_worlds import SLOTS, N, train

from heedful.errors import ConfigError, InputError
from heedful.rankers.base import Ranker
from heedful.rankers.registry import MODELS
from heedful.recommending.recommend import Query, Recommender
from heedful.serving.engine import Engine, NotFoundError
from heedful.serving.selection import SlotBook
from heedful.serving.slots import parse_slots
from heedful.serving.store import Event, Store
from ranking_worlds import log_of, table_of

NOW = 1_600_000_000
ITEMS = [f"item{row}" for row in range(N)]


@pytest.fixture(scope="module")
def ranker() -> Ranker:
    return train()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store.open(str(tmp_path / "shop.sqlite"))
    yield store
    store.close()


@pytest.fixture
def engine(ranker: Ranker, store: Store) -> Engine:
    return Engine(ranker, store, SlotBook(parse_slots(SLOTS), ranker), version="v1", max_history=20, now=lambda: NOW)


def event(number: int, item: str = "item3", *, user: str = "ann", time: int = NOW, kind: str = "view") -> Event:
    return Event(f"e{number}", user, item, time, kind)


def test_ranking_candidates_is_scoring_them(engine: Engine, ranker: Ranker) -> None:
    history, candidates = ["item1", "item2"], ["item9", "item4", "item30", "item12"]
    found = engine.rank(engine.past_of(history), candidates)
    scores = ranker.score(history, candidates)
    order = np.argsort(-scores)
    assert engine.ids(found.rows) == [candidates[place] for place in order]
    np.testing.assert_array_equal(found.scores, scores[order])
    assert engine.rank(engine.past_of(history), candidates, k=2).rows.tolist() == found.rows[:2].tolist()


def test_the_prior_of_the_candidates_is_passed_on(engine: Engine, ranker: Ranker) -> None:
    past = engine.past_of(["item1"])
    for gamma in (None, 0.75):
        found = engine.rank(past, ITEMS, pool_gamma=gamma)
        scores = ranker.score(["item1"], ITEMS, pool_gamma=gamma)
        np.testing.assert_array_equal(np.sort(found.scores), np.sort(scores))


def test_unknown_and_repeated_candidates(engine: Engine) -> None:
    found = engine.rank(engine.past_of([]), ["item5", "nonsense", 7, "item5", "item6"])
    assert sorted(engine.ids(found.rows)) == ["item5", "item6"]
    assert found.unknown == ["nonsense", 7]
    nothing = engine.rank(engine.past_of([]), ["nonsense"])
    assert len(nothing.rows) == 0 and nothing.unknown == ["nonsense"]


def test_a_condition_on_candidates(engine: Engine) -> None:
    found = engine.rank(engine.past_of(["item1"]), ITEMS, where="department = 'BOOKS' and price < 10")
    assert sorted(found.rows.tolist()) == [1, 3, 5, 7, 9]
    with pytest.raises(InputError, match="names an unknown column"):
        engine.rank(engine.past_of([]), ITEMS, where="colour = 'red'")


def test_new_actions_count_at_once(engine: Engine, ranker: Ranker) -> None:
    nobody = engine.rank(engine.past("ann"), ITEMS)
    np.testing.assert_array_equal(nobody.rows, engine.rank(engine.past_of([]), ITEMS).rows)
    done = engine.append([event(1, "item40", time=NOW - 10), event(2, "item41", time=NOW, kind="purchase")])
    assert (done.accepted, done.duplicates, done.unknown_items, done.rejected) == (2, 0, 0, [])
    found = engine.rank(engine.past("ann"), ITEMS)
    expected = ranker.score(["item40", "item41"], ITEMS, history_times=[NOW - 10, NOW], history_kinds=["view", "purchase"])
    np.testing.assert_array_equal(found.scores, np.sort(expected)[::-1])
    assert found.scores.tolist() != nobody.scores.tolist()


def test_an_event_counts_once(engine: Engine) -> None:
    assert engine.append([event(1), event(1)]).duplicates == 1
    done = engine.append([event(1), event(2)])
    assert (done.accepted, done.duplicates) == (1, 1)
    assert len(engine.past("ann")) == 2


def test_events_from_the_future_are_refused(engine: Engine) -> None:
    done = engine.append([event(1, time=NOW + 86_400), event(2, time=NOW + 86_401), event(3, time=-1)])
    assert done.accepted == 1 and [place for place, _ in done.rejected] == [1, 2]
    assert "future" in done.rejected[0][1]


def test_items_that_the_model_does_not_know_are_kept(engine: Engine) -> None:
    assert engine.append([event(1, "brand-new"), event(2, "item2")]).unknown_items == 1
    past = engine.past("ann")
    assert past.unknown == ["brand-new"] and len(past) == 1
    assert engine.store.history("ann", 10).item_ids == ["brand-new", "item2"]


def test_the_latest_actions_are_looked_at(engine: Engine) -> None:
    engine.append([event(n, f"item{n}", time=NOW + n) for n in range(30)])
    assert engine.past("ann").histories.items.tolist() == list(range(10, 30))


def test_a_history_in_the_request_has_one_time_and_kind_an_item(engine: Engine) -> None:
    with pytest.raises(InputError, match="history_times does not fit the history; got: 1 values; expected: 2"):
        engine.past_of(["item1", "item2"], times=[1])
    with pytest.raises(InputError, match="history_kinds does not fit"):
        engine.past_of(["item1"], kinds=[])
    past = engine.past_of(["item1", "nonsense", "item2"], times=[30, 20, 10], kinds=["purchase", None, "never seen"])
    assert past.histories.items.tolist() == [2, 1] and past.histories.kinds.tolist() == [0, 1]
    assert past.unknown == ["nonsense"]


def test_recommending_is_the_best_of_the_catalogue(engine: Engine, ranker: Ranker) -> None:
    past = engine.past_of(["item1", "item2"])
    rows, scores = Recommender(ranker, exact=True).top_rows(past.histories, Query(k=N))
    found = engine.recommend(past, Query(k=N))
    assert found.rows.tolist() == rows[0][: N - 2].tolist()
    np.testing.assert_array_equal(found.scores, scores[0][: N - 2])
    assert len(engine.recommend(past, Query(k=N, exclude_history=False)).rows) == N


@pytest.mark.parametrize("where", ["", "price >= 10"])
def test_pages_add_up(engine: Engine, where: str) -> None:
    past = engine.past_of(["item1", "item11"])
    whole = engine.recommend(past, Query(k=N, where=where)).rows.tolist()
    pages = [engine.recommend(past, Query(k=7, offset=offset, where=where)).rows.tolist() for offset in range(0, N + 7, 7)]
    assert [row for page in pages for row in page] == whole
    assert len(whole) == (N - 2 if not where else N - 11)


def test_recommending_under_a_condition_is_the_rest_of_the_whole(engine: Engine) -> None:
    past = engine.past_of(["item1", "item2"])
    books = [row for row in engine.recommend(past, Query(k=N)).rows.tolist() if row % 2]
    found = engine.recommend(past, Query(k=5, where="department = 'BOOKS'"))
    assert found.rows.tolist() == books[:5]
    assert 1 in engine.recommend(past, Query(k=N, where="department = 'BOOKS'", exclude_history=False)).rows
    assert len(engine.recommend(past, Query(k=5, where="price < 0")).rows) == 0


def test_similar_items(engine: Engine, ranker: Ranker) -> None:
    assert ranker.embeddings is not None
    expected = ranker.embeddings.similar("item3", 5)
    found = engine.similar("item3", k=5)
    assert engine.ids(found.rows) == [name for name, _ in expected]
    np.testing.assert_allclose(found.scores, [cosine for _, cosine in expected], rtol=1e-5)
    assert set(engine.similar("item3", k=N, where="price < 3").rows.tolist()) == {0, 1, 2}
    with pytest.raises(NotFoundError, match="the model does not know this item; got: 'nonsense'"):
        engine.similar("nonsense")


def test_similar_items_need_vectors(store: Store) -> None:
    with pytest.raises(InputError, match="no item vectors"):
        Engine(train("popularity"), store).similar("item3")


def test_explanations_are_those_of_the_ranker(engine: Engine, ranker: Ranker) -> None:
    past = engine.past_of(["item1", "item2"])
    (found,) = engine.explain(past, ["item9"])
    assert found.score == pytest.approx(float(ranker.score(["item1", "item2"], ["item9"])[0]), abs=1e-5)
    without = float(ranker.score(["item2"], ["item9"])[0])
    fall = next(reason.fall for reason in found.reasons if reason.item == "item1")
    assert fall == pytest.approx(found.score - without, abs=1e-5)
    with pytest.raises(NotFoundError, match="nonsense"):
        engine.explain(past, ["item9", "nonsense"])


def test_filling_a_slot_records_the_impression(engine: Engine) -> None:
    filled = engine.fill("books", engine.past("ann"))
    shown = engine.ids(filled.ranking.rows)
    assert len(shown) == 4 and all(int(item.removeprefix("item")) % 2 for item in shown)
    assert engine.fill("books", engine.past("ann")).treatment == filled.treatment  # ann stays in hers
    assert engine.store.mark_shown(filled.impression_id, NOW)
    outcomes = engine.store.outcomes().to_pylist()
    assert [(row["slot"], row["treatment"], row["user_id"], row["items_shown"]) for row in outcomes] == [
        ("books", filled.treatment, "ann", 4)
    ]


def test_visitors_without_a_name_keep_their_treatment_by_the_one_given(engine: Engine) -> None:
    past = engine.past_of(["item1"])
    treatments = {engine.fill("books", past, visitor="session 7").treatment for _ in range(10)}
    assert len(treatments) == 1
    assert len({engine.fill("books", past).treatment for _ in range(60)}) == 2  # nobody is somebody new each time


def test_no_such_slot(engine: Engine, ranker: Ranker, store: Store) -> None:
    with pytest.raises(NotFoundError, match="there is no such slot; got: 'films'"):
        engine.fill("films", engine.past_of([]))
    with pytest.raises(NotFoundError, match="there is no such slot"):
        Engine(ranker, store).fill("books", engine.past_of([]))
    with pytest.raises(ConfigError, match="unknown column"):
        SlotBook(parse_slots(SLOTS.replace("department", "colour")), ranker)


def test_items_in_words(engine: Engine, ranker: Ranker) -> None:
    rows = np.arange(N)
    assert engine.titles(rows) == [ranker.describe(row) for row in rows]
    assert engine.titles(rows)[:1] == ["Title 0 · category 0"]
    assert engine.attributes(rows[:1])[0]["price"] == 0.0
    assert engine.titles(np.array([], np.int64)) == [] and engine.attributes(np.array([], np.int64)) == []


def test_searching_items(engine: Engine, ranker: Ranker) -> None:
    found = engine.search("TITLE 1", 100)
    assert sorted(found.tolist()) == [1, *range(10, 20)]
    assert (np.diff(ranker.users_of_item[found]) <= 0).all()
    assert engine.search("item7", 5).tolist() == [7]
    assert engine.search("title 1", 3).tolist() == found[:3].tolist()
    assert engine.search("%_'\"\\", 3).tolist() == [] and len(engine.search("", 100)) == N


def test_a_catalogue_of_integers(store: Store) -> None:
    log = log_of([[0, 1, 2], [1, 2]], ids=[10, 20, 30])
    engine = Engine(MODELS["popularity"]().fit(log, table_of(log.catalog.items.ids)), store)
    taken = ["10", 20, "30"]
    assert engine.ids(engine.rank(engine.past_of([]), taken).rows) == [20, 30, 10]
    others = ["010", " 10", "1_0", "10.0", "+10", "١٠", "", "-", 10**40, -(10**40), "9" * 30]
    assert engine.rank(engine.past_of([]), others).unknown == [str(name) for name in others]
    assert engine.rows(others * 1000).max() == -1  # as many as are looked up in several parts
    engine.append([event(1, "10")])
    assert engine.past("ann").histories.items.tolist() == engine.rows([10]).tolist()


def test_many_threads_get_what_one_gets(engine: Engine) -> None:
    pasts = [engine.past_of([f"item{n % N}", f"item{3 * n % N}"]) for n in range(200)]
    alone = [engine.rank(past, ITEMS).scores for past in pasts]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda past: engine.rank(past, ITEMS).scores, pasts))
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one, other)
