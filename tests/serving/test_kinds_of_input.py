"""Ids, times and attributes of every kind, by every address of the server."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow as pa
import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from serving_worlds import client, error_of

from heedful.events.ids import SAFE_INTEGER
from heedful.events.times import LIMITS
from heedful.rankers.registry import MODELS
from heedful.recommending.recommend import Recommender
from heedful.serving.selection import SlotBook
from heedful.serving.slots import parse_slots
from heedful.serving.store import Event, Store
from ranking_worlds import QUICK, log_of, table_of

STRANGE = [
    "a,b", 'say "x"', "line\nbreak", " blank ", "a/similar", "a", "a/b/", "#?%&+;", "é", "e\u0301", "\t", "0", "007",
    "null", "'; drop table items; --", "x" * 300, "y" * 2083, "\ufdfa" * 100, "-1", "end\n",
]  # fmt: skip
LONG = [name for name in STRANGE if len(name) > 256]
BIG = [2**53 - 1, 2**53, 2**63 - 1, -(2**63), 10**18 + 1, 10**18 + 2, 0, 7]
UNSIGNED = [2**64 - 1, 2**63, 2**53 + 1, 5, 6]
ATTRIBUTES = {
    "Title": ["One", None, "Three", "Four"],
    "category": [["a", "b"], [], None, ["c"]],
    "price": pa.array([Decimal("1.50"), None, Decimal("0.00"), Decimal("9.99")], pa.decimal128(8, 2)),
    "listed": [date(2024, 1, 1), None, date(2024, 1, 3), date(2024, 1, 4)],
    "added": pa.array([1, None, 2**62, -(2**62)], pa.timestamp("ns")),
    "far": pa.array([10**12, None, 0, 1], pa.timestamp("s")),
    "rating": [float("nan"), float("inf"), 4.5, None],
    "size": [{"w": 1, "h": 2.5}, None, {"w": None, "h": None}, {"w": 3, "h": float("nan")}],
    "code": [2**60, None, 1, 2],
}
SLOTS = '[[slot]]\nname = "all"\nshown = 100\ntreatments = { popularity = 1.0 }\n'


def serve(folder: Path, ids: Any, attributes: Any = None, **options: Any) -> Any:
    n = len(ids)
    log = log_of([list(range(n)), list(range(0, n, 2))], ids=ids)
    table = table_of(log.catalog.items.ids, attributes=None if attributes is None else pa.table(attributes))
    MODELS["attention"](**QUICK["attention"]).fit(log, table).save(folder / "model")
    (folder / "slots.toml").write_text(SLOTS)
    return client(folder / "model", folder, **options)


def good(answer: Any) -> Any:
    assert answer.status_code == 200, answer.text
    return answer.json()


def has_every_item(shop: TestClient, names: list[Any], said: list[Any]) -> None:
    """By every address that takes items; `names` as given, `said` as answered."""
    ranked = good(shop.post("/rank", json={"candidates": names}))
    assert ranked["unknown"] == [] and {item["item_id"] for item in ranked["items"]} == set(said)
    past = good(shop.post("/rank", json={"candidates": names[:1], "history": names}))
    assert past["history_length"] == len(names)
    listed = ",".join('"' + str(name).replace('"', '""') + '"' for name in names)
    found = good(shop.get("/items", params={"ids": listed}))["items"]
    assert [item["item_id"] for item in found] == said
    best = good(shop.post("/recommend", json={"k": 100}))["items"]
    assert {item["item_id"] for item in best} == set(said)
    why = good(shop.post("/explain", json={"history": names[:2], "items": names}))["explanations"]
    assert [one["item_id"] for one in why] == said
    for name, one in zip(names, said, strict=True):
        address = "/items/" + quote(str(name), safe="")
        if not str(name).endswith("/similar"):
            assert good(shop.get(address))["item_id"] == one
        assert len(good(shop.get(f"{address}/similar", params={"k": 100}))["items"]) == len(said) - 1
        hits = good(shop.get("/items", params={"search": str(name)[:256]}))["items"]
        assert name in LONG or one in [item["item_id"] for item in hits]


@pytest.fixture(scope="module")
def strange(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    with serve(tmp_path_factory.mktemp("strange"), STRANGE) as shop:
        yield shop


def test_an_item_with_any_id_can_be_named_everywhere(strange: TestClient) -> None:
    has_every_item(strange, STRANGE, STRANGE)


@pytest.mark.parametrize("kind", [pa.int64(), pa.uint64()])
def test_integers_of_the_full_range_are_taken_in_both_forms(tmp_path: Path, kind: pa.DataType) -> None:
    ids = BIG if kind == pa.int64() else UNSIGNED
    said = [str(name) if abs(name) > SAFE_INTEGER else name for name in ids]
    with serve(tmp_path, pa.array(ids, kind)) as shop:
        has_every_item(shop, ids, said)
        has_every_item(shop, [str(name) for name in ids], said)
        for number, name in enumerate((ids[0], str(ids[0]))):
            event = {"event_id": number, "user_id": 7, "item_id": name}
            done = good(shop.post("/events", json=event))
            assert (done["accepted"], done["unknown_items"], done["rejected"]) == (1, 0, [])
        assert good(shop.post("/rank", json={"user_id": "7", "candidates": ids}))["history_length"] == 2
        outside = [2**70, -(2**64), "007", "1.0"]
        assert good(shop.post("/rank", json={"candidates": outside}))["unknown"] == [str(name) for name in outside]


def test_what_the_store_cannot_hold_is_left_out_and_counted(strange: TestClient) -> None:
    shown = [item["item_id"] for item in good(strange.get("/slots/all", params={"user": "ann"}))["items"]]
    assert set(shown) == set(STRANGE) - set(LONG)
    ranker = strange.app.state.serving.engine.ranker  # type: ignore[attr-defined]
    (note,) = SlotBook(parse_slots(SLOTS), ranker).notes
    assert "slot 'all': 2 items are left out, since their ids have more than 256 characters" in note
    events = [{"event_id": f"e{n}", "user_id": "bob", "item_id": name} for n, name in enumerate(STRANGE)]
    done = good(strange.post("/events", json={"events": events}))
    assert done["accepted"] == len(STRANGE) - len(LONG)
    assert [STRANGE[one["index"]] for one in done["rejected"]] == LONG
    assert "more than 256 characters" in done["rejected"][0]["reason"]


@pytest.mark.parametrize("user", [7, "7", 2**63, -1, "line\nbreak", "a,b", "a/history", " "])
def test_users_of_any_id(strange: TestClient, user: Any) -> None:
    event = {"event_id": f"of {user!r}", "user_id": user, "item_id": "a"}
    good(strange.post("/events", json=event))
    for path, body in (
        ("/rank", {"candidates": ["a"]}), ("/recommend", {"exclude_history": False}),
        ("/explain", {"items": ["a"]}), ("/slots/all", {}),
    ):  # fmt: skip
        assert good(strange.post(path, json={"user_id": user, **body}))
    assert good(strange.post("/rank", json={"user_id": user, "candidates": ["a"]}))["history_length"] >= 1
    address = f"/users/{quote(str(user), safe='')}"
    assert good(strange.get(f"{address}/history"))["history"][0]["item_id"] == "a"
    assert good(strange.delete(address))["deleted"]["events"] >= 1


@pytest.mark.parametrize("user", [True, 1.5, [], {}, "", "a\0b", "x" * 257])
def test_what_is_no_user(strange: TestClient, user: Any) -> None:
    error_of(strange.post("/rank", json={"user_id": user, "candidates": ["a"]}), 422)


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(second=st.integers(*LIMITS["s"]).filter(lambda s: s < 1_750_000_000), unit=st.sampled_from(list(LIMITS)))
def test_a_time_is_the_same_second_in_every_unit(strange: TestClient, second: int, unit: str) -> None:
    factor = LIMITS[unit][0] // LIMITS["s"][0]
    user = f"at {second} {unit}"
    at = datetime.fromtimestamp(second).astimezone()
    forms = (second, second * factor, at.isoformat(), float(second), f" {second} ")
    for n, time in enumerate(forms):
        event = {"event_id": f"{user} {n}", "user_id": user, "item_id": "a", "timestamp": time}
        assert good(strange.post("/events", json=event))["rejected"] == []
    assert {one["timestamp"] for one in good(strange.get(f"/users/{quote(user)}/history"))["history"]} == {second}
    bodies = [{"history": ["a", "é"], "history_times": [s, s], "candidates": STRANGE} for s in forms]
    first, *others = (good(strange.post("/rank", json=body)) for body in bodies)
    assert others == [first] * len(others)


def test_a_missing_time_is_the_end_of_the_training_log(strange: TestClient) -> None:
    last = strange.app.state.serving.engine.ranker.last_time  # type: ignore[attr-defined]
    bodies = [{"history": ["a", "é"], "history_times": times, "candidates": STRANGE} for times in ([None, ""], None)]
    first, other = (good(strange.post("/rank", json=body)) for body in bodies)
    assert first == other and last > 0


def test_a_float_without_fraction_is_an_integer_as_in_json(tmp_path: Path) -> None:
    with serve(tmp_path, [475, 2**40, 7]) as shop:
        names = [475.0, 2.0**40, 7.0]
        why = good(shop.post("/explain", json={"history": names, "items": names}))["explanations"]
        assert [one["item_id"] for one in why] == [475, 2**40, 7]
        event = {"event_id": 1.0, "user_id": 12.0, "item_id": 475.0, "timestamp": 1.7e9}
        assert good(shop.post("/events", json=event))["unknown_items"] == 0
        body = b'{"user_id": 12, "candidates": [475.0, 7], "k": 1.0, "pool_gamma": 1}'
        found = good(shop.post("/rank", content=body, headers={"content-type": "application/json"}))
        assert found["history_length"] == len(found["items"]) == 1
        slots = {"slot": [{"name": "all", "shown": 2.0, "pinned": [7.0], "max_candidates": 9.0}]}
        assert good(shop.put("/slots", json=slots))["slots"][0]["pinned"] == [7]
        filled = good(shop.post("/slots/all", json={"user_id": 12.0}))
        assert filled["items"][0]["item_id"] == 7
        assert good(shop.delete("/events/1")) == {"removed": True}
        for wrong in (475.5, 2.0**53, 1e300):
            error_of(shop.post("/rank", json={"candidates": [wrong]}), 422)
            error_of(shop.post("/events", json={**event, "user_id": wrong}), 422)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/rank", {"candidates": ["a"], "pool_gamma": True}),
        ("/rank", {"candidates": ["a"], "k": "1"}),
        ("/rank", {"candidates": ["a"], "k": True}),
        ("/recommend", {"exclude_history": 0}),
        ("/recommend", {"offset": "3"}),
        ("/recommend", {"at_most": {"title": True}}),
        ("/explain", {"items": ["a"], "pool_gamma": "0"}),
        ("/slots/all", {"preview": "yes"}),
    ],
)
def test_values_of_another_type_are_refused(strange: TestClient, path: str, body: dict[str, Any]) -> None:
    error_of(strange.post(path, json=body), 422)


@pytest.mark.parametrize("event_id", ["line\nbreak", "\x17", "a/b%", " ", "x" * 256, 7])
def test_an_event_of_any_id_can_be_taken_back(strange: TestClient, event_id: Any) -> None:
    good(strange.post("/events", json={"event_id": event_id, "user_id": "dee", "item_id": "a"}))
    address = "/events/" + quote(str(event_id), safe="")
    assert [good(strange.delete(address))["removed"] for _ in range(2)] == [True, False]


def test_an_unknown_treatment_is_not_found(strange: TestClient) -> None:
    for answer in (
        strange.get("/slots/all", params={"user": "ann", "treatment": "other"}),
        strange.post("/slots/all", json={"treatment": "other"}),
    ):
        assert "no such treatment" in error_of(answer, 404)["message"]


@pytest.mark.parametrize("time", [0, 5, -1, 10**10, 10**30, 1e300, "1960-01-01", "0001-01-01T00:00:00+14:00", "9999-12-31"])
def test_absurd_times_are_counted(strange: TestClient, time: Any) -> None:
    event = {"event_id": "absurd", "user_id": "cy", "item_id": "a", "timestamp": time}
    rejected = good(strange.post("/events", json=event))["rejected"]
    assert rejected == [{"index": 0, "reason": "timestamp absurd or in the future"}]
    body = {"history": ["a"], "history_times": [time], "candidates": ["a"]}
    assert "that is not a time" in error_of(strange.post("/rank", json=body), 422)["message"]


def test_attributes_of_any_type_are_answered_and_may_be_sent_back(tmp_path: Path) -> None:
    with serve(tmp_path, ["i0", "i1", "i2", "i3"], ATTRIBUTES) as shop:
        for path in ("/items", "/items/i0", "/slots/all?user=u"):
            good(shop.get(path))
        items = {item["item_id"]: item for item in good(shop.get("/items"))["items"]}
        assert items["i0"]["title"] == "One · a, b"
        assert items["i1"]["title"] == "i1"
        assert [item["item_id"] for item in good(shop.get("/items", params={"search": "THREE"}))["items"]] == ["i2"]
        first = items["i0"]["attributes"]
        assert first["rating"] is None and first["far"] is None and first["code"] == str(2**60)
        assert (first["price"], first["listed"], first["size"]) == ("1.50", "2024-01-01", {"w": 1, "h": 2.5})
        sent = [{"item_id": f"new-{name}", "attributes": item["attributes"]} for name, item in items.items()]
        assert good(shop.post("/items", json={"items": sent}))["added"] == 4
        for one in sent:
            assert good(shop.get(f"/items/{one['item_id']}"))["attributes"] == one["attributes"]
        unknown = good(shop.post("/recommend", json={"k": 50, "where": "rating > 0 OR rating <= 0"}))["items"]
        assert {item["item_id"] for item in unknown} == {"i1", "i2", "new-i2"}
        for wrong in ({"price": "dear"}, {"listed": "yesterday"}, {"category": "a"}, {"size": {"depth": 1}}, {"code": 1.5}):
            body = {"items": [{"item_id": "bad", "attributes": wrong}]}
            message = error_of(shop.post("/items", json=body), 422)["message"]
            assert "of item 'bad' does not fit the catalogue" in message
        good(shop.get("/items"))


def test_a_correction_counts_and_lasts(tmp_path: Path) -> None:
    attributes = {"title": ["Zero", "One", "Two"], "stock": [5, 5, 5]}
    stocked = {"k": 10, "where": "stock > 0"}
    with serve(tmp_path, ["i0", "i1", "i2"], attributes) as shop:
        scores = good(shop.post("/rank", json={"history": ["i0"], "candidates": ["i0", "i1", "i2"]}))["items"]
        good(shop.post("/items", json={"items": [{"item_id": "n", "attributes": {"title": "Nwe", "stock": 1}}]}))
        done = good(shop.post("/items", json={"items": [{"item_id": "n", "attributes": {"TITLE": "New"}}]}))
        assert (done["added"], done["corrected"]) == (0, 1)
        assert good(shop.get("/items/n"))["attributes"] == {"title": "New", "stock": 1}
        done = good(shop.post("/items", json={"items": [{"item_id": "i1", "attributes": {"stock": 0}}]}))
        assert (done["added"], done["corrected"]) == (0, 1)
        assert good(shop.get("/items/i1"))["attributes"] == {"title": "One", "stock": 0}
        assert {item["item_id"] for item in good(shop.post("/recommend", json=stocked))["items"]} == {"i0", "i2", "n"}
        after = good(shop.post("/rank", json={"history": ["i0"], "candidates": ["i0", "i1", "i2"]}))["items"]
        assert [(item["item_id"], item["score"]) for item in after] == [(item["item_id"], item["score"]) for item in scores]
        good(shop.post("/items", json={"items": [{"item_id": "i0", "attributes": {"title": None}}]}))
        assert good(shop.get("/items/i0"))["attributes"] == {"title": None, "stock": 5}
        assert good(shop.get("/items/i1"))["attributes"]["stock"] == 0  # said before, and still so


def test_a_correction_without_new_items(tmp_path: Path) -> None:
    with serve(tmp_path, ["i0", "i1"], {"title": ["Zero", "One"]}) as shop:
        done = good(shop.post("/items", json={"items": [{"item_id": "i1", "attributes": {"title": "Two"}}]}))
        assert (done["added"], done["corrected"], done["new_items"]) == (0, 1, 0)
        assert good(shop.get("/items/i1"))["title"] == "Two" and good(shop.get("/items/i0"))["title"] == "Zero"


def test_all_that_a_user_saw_is_left_out_however_long_ago(tmp_path: Path) -> None:
    names = [f"i{n}" for n in range(8)]
    with serve(tmp_path, names, max_history=5) as shop:
        events = [
            {"event_id": f"e{n}", "user_id": "heavy", "item_id": item, "timestamp": 1_700_000_000 + n}
            for n, item in enumerate(["i0", *["i1", "i2"] * 4])
        ]
        good(shop.post("/events", json={"events": events}))
        for more in ({}, {"where": "users >= 0"}):
            answer = good(shop.post("/recommend", json={"user_id": "heavy", "k": 10, **more}))
            assert answer["history_length"] == 5
            assert {item["item_id"] for item in answer["items"]} == set(names) - {"i0", "i1", "i2"}
        again = good(shop.post("/recommend", json={"user_id": "heavy", "k": 10, "exclude_history": False}))
        assert len(again["items"]) == 8
        slot = good(shop.get("/slots/all", params={"user": "heavy"}))["items"]
        assert {item["item_id"] for item in slot} == set(names) - {"i0", "i1", "i2"}


def test_a_page_costs_no_more_than_the_catalogue(tmp_path: Path) -> None:
    with serve(tmp_path, ["i0", "i1", "i2"], max_items=10**9) as shop:
        ranker = shop.app.state.serving.engine.ranker  # type: ignore[attr-defined]
        assert len(good(shop.post("/recommend", json={"k": 10**9}))["items"]) == 3
        assert len(good(shop.post("/recommend", json={"k": 10**9, "offset": 2}))["items"]) == 1
        assert good(shop.post("/recommend", json={"k": 5, "offset": 100_000}))["items"] == []
        assert len(Recommender(ranker).recommend(["i0"], k=10**12)) == 2


def test_items_of_a_user_are_each_there_once(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path / "shop.sqlite"))
    store.append([Event(f"e{n}", "ann", f"i{n % 3}", n, "view") for n in range(50)])
    assert sorted({item for item, _ in store.items_of("ann")}) == ["i0", "i1", "i2"] and store.items_of("nobody") == []
    store.close()
