"""Filling slots: candidates, treatments, constraints."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from heedful.embeddings.onboarding import extend_table
from heedful.errors import ConfigError
from heedful.events.candidates import Candidates
from heedful.events.histories import Histories
from heedful.rankers.base import Ranker
from heedful.rankers.cold_items import extended
from heedful.rankers.heuristics import LastItem
from heedful.rankers.popularity import Popularity
from heedful.rankers.registry import MODELS
from heedful.serving.selection import SlotBook
from heedful.serving.slots import Slot, Slots
from ranking_worlds import QUICK, histories_of, random_log, table_of

N = 60
ATTRIBUTES = pa.table(
    {
        "title": [f"title {row}" for row in range(N)],
        "brand": [None if row % 10 == 0 else f"brand {row % 3}" for row in range(N)],
        "rating": [None if row % 7 == 0 else (row * 37 % 50) / 10 for row in range(N)],
        "listed": pa.array([date(2017, 1, 1) + timedelta(days=row * 13 % N) for row in range(N)]),
        "tags": [["a"]] * N,
    }
)
NOBODY = histories_of([[]])


@pytest.fixture(scope="module")
def ranker() -> Ranker:
    log = random_log(items=N)
    return MODELS["attention"](**QUICK["attention"]).fit(log, table_of(log.catalog.items.ids, attributes=ATTRIBUTES))


def book(ranker: Ranker, **keys: Any) -> SlotBook:
    return SlotBook(Slots((Slot(name="s", **keys),)), ranker)


def rows_of(book: SlotBook, history: Histories = NOBODY, treatment: str = "model") -> list[int]:
    return book.select("s", history, treatment).rows.tolist()


def popular(ranker: Ranker, rows: Any = range(N)) -> list[int]:
    return sorted(rows, key=lambda row: (-ranker.users_of_item[row], row))


def test_rules(ranker: Ranker) -> None:
    assert book(ranker, max_candidates=12).candidates("s").tolist() == popular(ranker)[:12]
    newest = sorted(range(N), key=lambda row: row * 13 % N, reverse=True)
    assert book(ranker, rule="newest", column="listed").candidates("s").tolist() == newest
    rating = ATTRIBUTES["rating"].to_pylist()
    rated = sorted(popular(ranker), key=lambda row: -(rating[row] if rating[row] is not None else -1))
    assert book(ranker, rule="best_rated", column="rating").candidates("s").tolist() == rated
    edited = book(
        ranker, rule="editorial", editorial=("item7", "item3", "item7"), treatments={"editorial": 0.5, "model": 0.5}
    )
    assert edited.candidates("s").tolist() == [7, 3]
    assert rows_of(edited, treatment="editorial") == [7, 3] and set(rows_of(edited)) == {7, 3}


def test_only_eligible_items_that_are_not_blocked(ranker: Ranker) -> None:
    chosen = book(ranker, where="brand = 'brand 1' AND rating > 2", blocked=("item4",)).candidates("s")
    rating, brand = ATTRIBUTES["rating"].to_pylist(), ATTRIBUTES["brand"].to_pylist()
    fits = [row for row in range(N) if brand[row] == "brand 1" and (rating[row] or 0) > 2 and row != 4]
    assert 4 < len(fits) < N and chosen.tolist() == popular(ranker, fits)


def test_each_treatment_is_the_ranker_it_says(ranker: Ranker) -> None:
    shares = {"attention": 0.4, "model": 0.1, "popularity": 0.2, "last_item": 0.2, "editorial": 0.1}
    slots = book(ranker, treatments=shares, editorial=("item9", "item8"), exclude_history=False, max_candidates=30, shown=8)
    log = random_log(items=N)
    history = log.histories.take(np.array([5]))
    rows = slots.candidates("s")
    others: dict[str, Ranker] = {
        "attention": ranker,
        "model": ranker,
        "popularity": Popularity().fit(log),
        "last_item": LastItem().fit(log, ranker.embeddings),  # type: ignore[arg-type]
    }
    for treatment, other in others.items():
        scores = other.score_rows(history, Candidates.of([rows]))
        order = np.argsort(-scores, kind="stable")[:8]
        selection = slots.select("s", history, treatment)
        assert selection.rows.tolist() == rows[order].tolist() and selection.treatment == treatment
        assert selection.scores == pytest.approx(scores[order], abs=1e-5)
    editorial = slots.select("s", history, "editorial")
    assert editorial.rows.tolist() == [9, 8, *[row for row in rows.tolist() if row not in (8, 9)][:6]]
    assert (np.diff(editorial.scores) < 0).all()
    assert rows_of(slots, history, "model") != rows_of(slots, history, "last_item")


def test_many_users_are_filled_as_one_by_one(ranker: Ranker) -> None:
    slots = book(ranker, at_most={"brand": 3}, treatments={"model": 0.5, "last_item": 0.5}, max_candidates=40)
    histories = random_log(items=N).histories.take(np.arange(12))
    for treatment in ("model", "last_item"):
        together = slots.select_many("s", histories, treatment)
        for user, selection in enumerate(together):
            alone = slots.select("s", histories.take(np.array([user])), treatment)
            assert selection.rows.tolist() == alone.rows.tolist()
            assert selection.scores == pytest.approx(alone.scores, abs=1e-5)


def test_what_the_user_has_had_is_left_out_or_not(ranker: Ranker) -> None:
    past = popular(ranker)[:3]
    history = histories_of([past])
    assert rows_of(book(ranker, treatments={"popularity": 1}), history, "popularity") == popular(ranker)[3:13]
    kept = book(ranker, treatments={"popularity": 1}, exclude_history=False)
    assert rows_of(kept, history, "popularity") == popular(ranker)[:10]
    everything = histories_of([list(range(N))])
    pinned = f"item{past[0]}"
    assert rows_of(book(ranker), everything) == [] and rows_of(book(ranker, pinned=(pinned,)), everything) == [past[0]]


def test_at_most_so_many_of_a_value(ranker: Ranker) -> None:
    brand = ATTRIBUTES["brand"].to_pylist()
    slots = book(ranker, at_most={"brand": 2}, treatments={"popularity": 1}, shown=9)
    taken: dict[Any, int] = {}
    expected = []
    for row in popular(ranker):
        if brand[row] is None or taken.get(brand[row], 0) < 2:
            expected.append(row)
            taken[brand[row]] = taken.get(brand[row], 0) + 1
    assert rows_of(slots, treatment="popularity") == expected[:9]
    shown = [brand[row] for row in expected[:9]]
    assert shown.count(None) > 2 and max(shown.count(name) for name in set(shown) - {None}) == 2
    both = book(ranker, at_most={"brand": 3, "title": 1}, treatments={"popularity": 1}, shown=50)
    chosen = [brand[row] for row in rows_of(both, treatment="popularity")]
    assert {name: chosen.count(name) for name in chosen} == {None: 6, "brand 0": 3, "brand 1": 3, "brand 2": 3}


def test_pinned_items_stand_first_and_count(ranker: Ranker) -> None:
    slots = book(ranker, pinned=("item41", "item44"), at_most={"brand": 2}, treatments={"popularity": 1}, shown=5)
    chosen = rows_of(slots, treatment="popularity")
    assert chosen[:2] == [41, 44] and len(set(chosen)) == 5
    brand = ATTRIBUTES["brand"].to_pylist()
    assert brand[41] == brand[44] == "brand 2" and "brand 2" not in [brand[row] for row in chosen[2:]]
    full = book(ranker, pinned=tuple(f"item{row}" for row in range(1, 9)), shown=4)
    assert rows_of(full) == [1, 2, 3, 4]


def test_what_is_set_aside_is_said(ranker: Ranker) -> None:
    slots = book(
        ranker, where="rating > 4", pinned=("item0", "item4", "gone"), editorial=("nothing",), blocked=("item4",), shown=3
    )
    assert slots.notes == [
        "slot 's': 1 pinned items are unknown: gone",
        "slot 's': 2 pinned items are not eligible: item0, item4",
        "slot 's': 1 editorial items are unknown: nothing",
    ]
    empty = book(ranker, where="rating > 9")
    assert empty.notes == ["slot 's': no item is eligible"]
    selection = empty.select("s", NOBODY, "model")
    assert selection.rows.tolist() == [] and selection.scores.tolist() == []
    assert book(ranker).notes == []


def test_users_stay_in_their_treatment(ranker: Ranker) -> None:
    shares = {"model": 0.5, "popularity": 0.5}
    slots = SlotBook(Slots((Slot(name="a", treatments=shares), Slot(name="b", treatments=shares))), ranker)
    users = [f"u{n}" for n in range(400)]
    of_a, of_b = [[slots.treatment(name, user) for user in users] for name in ("a", "b")]
    assert of_a == [slots.treatment("a", user) for user in users] and 140 < of_a.count("model") < 260
    assert 120 < sum(a == b for a, b in zip(of_a, of_b, strict=True)) < 280


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            {"where": "ratting > 3"},
            r"slot 's': the condition names an unknown column; got: 'ratting'; expected: title, brand",
        ),
        ({"where": "rating"}, "slot 's': the condition is neither true nor false"),
        ({"at_most": {"colour": 2}}, "slot 's' names an unknown attribute; got: 'colour'; expected: title, brand, rating"),
        ({"at_most": {"tags": 2}}, "slot 's': at_most needs single values"),
        ({"rule": "newest", "column": "date"}, "slot 's' names an unknown attribute; got: 'date'"),
        ({"rule": "newest", "column": "tags"}, "slot 's' cannot sort by 'tags'; got: type list<.*expected: a date"),
        ({"rule": "best_rated", "column": "title"}, "slot 's' cannot sort by 'title'; got: type string; expected: a number"),
        (
            {"treatments": {"averaging": 1.0}},
            "unknown treatment; got: 'averaging'; expected: model, popularity, last_item, attention, editorial; "
            "to fix: the served model is attention",
        ),
    ],
)
def test_declarations_that_do_not_fit_the_catalogue(ranker: Ranker, keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        book(ranker, **keys)


def test_a_treatment_or_slot_that_is_not_there(ranker: Ranker) -> None:
    with pytest.raises(ConfigError, match="slot 's' has no such treatment; got: 'popularity'; expected: model"):
        rows_of(book(ranker), treatment="popularity")
    with pytest.raises(ConfigError, match="there is no such slot; got: 't'; expected: s"):
        book(ranker).select("t", NOBODY, "model")


def test_a_ranker_without_embeddings_has_no_last_item() -> None:
    ranker = Popularity().fit(random_log())
    assert len(rows_of(book(ranker))) == 10
    with pytest.raises(ConfigError, match="the served model is popularity, which has no embeddings"):
        book(ranker, treatments={"last_item": 1.0})


def test_new_items_keep_the_place_of_the_rule_where_popularity_orders(ranker: Ranker) -> None:
    table = ranker.embeddings
    assert table is not None
    days = [date(2016, 1, 1), date(2018, 1, 1), date(2017, 2, 20)]
    new = pa.table({"item_id": ["old", "newest", "between"], "listed": pa.array(days)})
    longer = extended(ranker, extend_table(table, attributes=new).table)
    again = extended(longer, extend_table(longer.embeddings, attributes=pa.table({"item_id": ["later"]})).table)
    for each in (longer, again):
        slots = book(each, rule="newest", column="listed", treatments={"popularity": 1}, shown=100, pinned=("item41",))
        by_rule, shown = slots.candidates("s").tolist(), rows_of(slots, treatment="popularity")
        old, newest, between = each.items.rows(["old", "newest", "between"]).tolist()
        assert shown[:2] == [41, newest] and shown.index(between) == by_rule.index(between) > 5
        assert set(shown[62:]) == set(by_rule[62:]) == set(range(old, len(each.items))) - {newest, between}
        known = [row for row in shown[1:] if row < N]
        assert known == sorted((row for row in by_rule[1:] if row < N), key=lambda row: -ranker.users_of_item[row])
        why = slots.reasons("s", slots.select("s", NOBODY, "popularity"), NOBODY)
        assert why[1] == "newer than the model, at its place by the rule newest"
        assert "users in the training log" in str(why[2])
        seen = histories_of([[newest, 5]])
        assert rows_of(slots, seen, "popularity") == [row for row in shown if row not in (newest, 5)]
        by_users = rows_of(book(each, treatments={"popularity": 1}, shown=100), treatment="popularity")
        assert by_users[:N] == popular(ranker)


def test_a_slot_of_what_the_visitor_has_seen(ranker: Ranker) -> None:
    history = histories_of([[5, 9, 5, 12, 30]])
    again = book(ranker, rule="again", blocked=("item9",))
    assert set(rows_of(again, history)) == {5, 12, 30} and rows_of(again) == []
    scores = ranker.score_rows(history, Candidates.of([np.array([5, 12, 30])]))
    assert rows_of(again, history) == [[5, 12, 30][place] for place in np.argsort(-scores)]
    pinned = book(ranker, rule="again", pinned=("item7",), shown=2, max_candidates=2)
    assert rows_of(pinned, history)[0] == 7 and rows_of(pinned, history)[1] in {5, 9, 12, 30}
    assert again.select("s", history, "model", seen=np.array([1, 2])).rows.tolist() in ([1, 2], [2, 1])
    anything = book(ranker, exclude_history=False, shown=N)
    assert set(rows_of(anything, history)) == set(range(N))
