"""Looking over HTTP writes nothing, what a test wrote is taken back, and slots are changed with a preview and a history."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from serving_worlds import SLOTS, client, error_of

from heedful.serving.treatments import assign

TABLES = ("events", "impressions", "clicks", "repeated_clicks", "experiments", "click_counts", "visitors", "user_counts")
SHARES = {"model": 0.5, "popularity": 0.5}
OTHER = {"model": "popularity", "popularity": "model"}


@pytest.fixture
def shop(trained: Path, tmp_path: Path) -> Iterator[TestClient]:
    with client(trained / "first", tmp_path) as opened:
        yield opened


def good(answer: Any) -> Any:
    assert answer.status_code == 200, answer.text
    return answer.json()


def written(folder: Path) -> dict[str, list[Any]]:
    """All rows of the database that a visit can change."""
    with closing(sqlite3.connect(folder / "shop.sqlite")) as database:
        return {table: database.execute(f"SELECT * FROM heedful_{table}").fetchall() for table in TABLES}


def items_of(answer: Any) -> list[str]:
    return [item["item_id"] for item in good(answer)["items"]]


def figures(shop: TestClient, **of: int) -> dict[str, Any]:
    """The report, but for when something was shown last: running sums know no time before that."""
    found: dict[str, Any] = good(shop.get("/clicks/report", params=of))
    for slot in found["slots"]:
        assert slot.pop("latest") >= slot["begun"]
    return found


def test_looking_at_a_slot_writes_nothing(shop: TestClient, tmp_path: Path) -> None:
    good(shop.post("/events", json={"event_id": "e1", "user_id": "ann", "item_id": "item3"}))
    untouched = written(tmp_path)
    assert len(untouched["events"]) == 1
    own = assign("ann", "books", SHARES)
    other = OTHER[own]
    asked = [
        (own, shop.get("/slots/books?user=ann&preview=true")),
        (own, shop.post("/slots/books", json={"user_id": "ann", "preview": True})),
        (other, shop.get(f"/slots/books?user=ann&treatment={other}")),  # a treatment by name is a preview by itself
        (other, shop.post("/slots/books", json={"user_id": "ann", "treatment": other})),
        (other, shop.post("/slots/books", json={"history": ["item3"], "visitor": "ann", "treatment": other})),
        (own, shop.post("/slots/books", json={"history": ["item3"], "visitor": "ann", "preview": True})),
    ]
    for treatment, answer in asked:
        found = good(answer)
        assert (found["treatment"], found["impression_id"], found["note"]) == (treatment, None, None)
        assert len(found["items"]) == 4
    assert items_of(asked[0][1]) != items_of(asked[2][1])
    assert written(tmp_path) == untouched
    # What is looked at is what is filled.
    filled = good(shop.get("/slots/books?user=ann"))
    assert [item["item_id"] for item in filled["items"]] == items_of(asked[0][1]) and filled["impression_id"]
    assert len(written(tmp_path)["impressions"]) == 1


@pytest.mark.parametrize("preview", [True, False])
def test_a_treatment_that_the_slot_lacks(shop: TestClient, tmp_path: Path, preview: bool) -> None:
    untouched = written(tmp_path)
    body = {"history": ["item3"], "treatment": "editorial", "preview": preview}
    told = error_of(shop.post("/slots/books", json=body), 404)
    assert "no such treatment; got: 'editorial'; expected: model, popularity" in told["message"]
    error_of(shop.get(f"/slots/books?user=ann&treatment=editorial&preview={preview}"), 404)
    error_of(shop.get("/slots/none?user=ann&preview=true"), 404)
    assert written(tmp_path) == untouched


def test_an_impression_is_taken_back_with_all_that_came_of_it(shop: TestClient, tmp_path: Path) -> None:
    kept = good(shop.get("/slots/books?user=bob"))
    good(shop.post("/impressions", json={"impression_id": kept["impression_id"]}))
    before, report = written(tmp_path), figures(shop)
    for shown, clicks in ((False, 0), (True, 0), (True, 2)):
        filled = good(shop.get("/slots/books?user=ann"))
        name, first = filled["impression_id"], filled["items"][0]["item_id"]
        if shown:
            good(shop.post("/impressions", json={"impression_id": name}))
        for number in range(clicks):  # the second is a repeated click
            click = {"impression_id": name, "item_id": first, "click_id": f"click {number}"}
            good(shop.post("/clicks", json=click))
        assert written(tmp_path)["impressions"] != before["impressions"]
        assert good(shop.delete(f"/impressions/{name}")) == {"removed": True}
        assert good(shop.delete(f"/impressions/{name}")) == {"removed": False}
        now = written(tmp_path)
        for table in ("impressions", "clicks", "repeated_clicks"):
            assert now[table] == before[table], (shown, clicks, table)
        assert figures(shop) == report
        # The figures from all impressions say the same as the running sums.
        assert figures(shop, since=0)["slots"] == report["slots"]
        late = good(shop.post("/clicks", json={"impression_id": name, "item_id": first}))
        assert late["outcome"] not in ("recorded", "duplicate")


@pytest.mark.parametrize("name", ["order-17-1", "a/b c?", "über\nzwei", "x" * 256])
def test_an_action_is_taken_back(shop: TestClient, tmp_path: Path, name: str) -> None:
    event = {"user_id": "ann", "item_id": "item3", "timestamp": 1_700_000_000}
    good(shop.post("/events", json={**event, "event_id": "kept"}))
    before, history = written(tmp_path), good(shop.get("/users/ann/history"))
    ranked = good(shop.post("/recommend", json={"user_id": "ann"}))
    good(shop.post("/events", json={**event, "event_id": name, "item_id": "item9"}))
    assert good(shop.get("/users/ann/history")) != history
    address = "/events/" + "".join(f"%{byte:02X}" for byte in name.encode())
    assert good(shop.delete(address)) == {"removed": True}
    assert good(shop.delete(address)) == {"removed": False}
    assert written(tmp_path) == before and good(shop.get("/users/ann/history")) == history
    assert good(shop.post("/recommend", json={"user_id": "ann"})) == ranked
    # The id is free again.
    assert good(shop.post("/events", json={**event, "event_id": name}))["accepted"] == 1


def test_ids_that_cannot_be_taken_back(shop: TestClient) -> None:
    for address in (f"/events/{'x' * 257}", "/events/a%00b", f"/impressions/{'x' * 257}", "/impressions/a%00b"):
        error_of(shop.delete(address), 422)


def test_a_preview_of_slots_shows_each_treatment_and_saves_nothing(shop: TestClient, tmp_path: Path) -> None:
    good(shop.post("/events", json={"event_id": "e1", "user_id": "ann", "item_id": "item3"}))
    untouched, tag = written(tmp_path), shop.get("/slots.toml").headers["etag"]
    slot = {"name": "cheap", "where": "price < 20", "shown": 3, "treatments": {"model": 0.5, "last_item": 0.5}}
    toml = (
        '[[slot]]\nname = "cheap"\nwhere = "price < 20"\nshown = 3\ntreatments = { model = 0.5, last_item = 0.5 }\n'
        'pinned = ["item2", "nonsense"]\n'
    )
    as_json = good(shop.post("/slots.toml/preview?user=ann", json={"slot": [{**slot, "pinned": ["item2", "nonsense"]}]}))
    headers = {"content-type": "application/toml"}
    assert good(shop.post("/slots.toml/preview?user=ann", content=toml, headers=headers)) == as_json
    shown = {one["treatment"]: [item["item_id"] for item in one["items"]] for one in as_json["shown"]}
    assert [one["share"] for one in as_json["shown"]] == [0.5, 0.5]
    assert list(shown) == ["model", "last_item"] and shown["model"] != shown["last_item"]
    for items in shown.values():
        assert len(items) == 3 and items[0] == "item2" and "item3" not in items
        assert all(int(item.removeprefix("item")) < 20 for item in items)
    assert len(as_json["notes"]) == 1 and "pinned items are unknown: nonsense" in as_json["notes"][0]
    # A history that the model never saw changes what is shown, so that it is the user's that was used.
    nobody = good(shop.post("/slots.toml/preview", json={"slot": [slot]}))
    assert [one["items"] for one in nobody["shown"]] != [one["items"] for one in as_json["shown"]]
    assert written(tmp_path) == untouched and shop.get("/slots.toml").headers["etag"] == tag
    assert good(shop.get("/slots.toml/versions")) == {"versions": []}
    # And what was previewed is what is served once it is saved.
    good(shop.put("/slots", json={"slot": [slot]}))
    own = assign("ann", "cheap", slot["treatments"])  # type: ignore[arg-type]
    previewed = good(shop.post("/slots.toml/preview?user=ann", json={"slot": [slot]}))["shown"]
    [expected] = [one["items"] for one in previewed if one["treatment"] == own]
    assert items_of(shop.get("/slots/cheap?user=ann")) == [item["item_id"] for item in expected]


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({}, 422, 'expected: {"slot": [...]}'),
        ({"slot": 3}, 422, 'expected: {"slot": [...]}'),
        ({"slot": [], "more": 1}, 422, 'expected: {"slot": [...]}'),
        ([], 422, "got: list"),
        ({"slot": ["books"]}, 422, "a slot is not an object"),
        ({"slot": [{"title": "x"}]}, 422, "slot number 1 has no name"),
        ({"slot": [{"name": "a", "shown": "4"}]}, 422, "shown"),
        ({"slot": [{"name": "a", "colour": "red"}]}, 422, "unknown option for Slot; got: colour"),
        ({"slot": [{"name": "a", "where": "colour = 1"}]}, 422, "colour"),
        ({"slot": [{"name": "a", "treatments": {"model": 0.5}}]}, 422, "do not add up"),
        ({"slot": [{"name": "a", "treatments": {"other": 1}}]}, 422, "unknown treatment"),
        (b'{"slot": [{"name": "a", "pool_gamma": NaN}]}', 400, "neither TOML nor JSON"),
        (b'{"slot": ', 400, "neither TOML nor JSON"),
        (b"\xff", 400, "neither TOML nor JSON"),
    ],
)
def test_slots_as_json_that_are_refused(shop: TestClient, body: Any, status: int, words: str) -> None:
    before = shop.get("/slots.toml").text
    content = body if isinstance(body, bytes) else json.dumps(body)
    headers = {"content-type": "application/json"}
    for method, address in (("PUT", "/slots"), ("PUT", "/slots?preview=true"), ("POST", "/slots.toml/preview")):
        told = error_of(shop.request(method, address, content=content, headers=headers), status)
        assert words in told["message"], (method, address)
    assert shop.get("/slots.toml").text == before


def test_slots_as_json_are_those_of_the_same_file(shop: TestClient) -> None:
    declared = good(shop.get("/slots"))["slots"]
    saved = shop.put("/slots", json={"slot": declared})
    assert good(saved)["slots"] == declared == good(shop.get("/slots"))["slots"]
    text = shop.get("/slots.toml").text
    again = shop.put("/slots", content=text, headers={"content-type": "application/toml"})
    assert good(again)["slots"] == declared and again.headers["etag"] == saved.headers["etag"]


def test_versions_of_the_slots(shop: TestClient, tmp_path: Path) -> None:
    texts = [SLOTS.replace("Books for you", title) for title in ("Spring", "Summer")]
    toml = {"content-type": "application/toml"}
    for text in texts:
        good(shop.put("/slots", content=text, headers=toml))
    good(shop.put("/slots", content=texts[-1], headers=toml))  # no change is no version
    error_of(shop.put("/slots", content="[[slot]", headers=toml), 422)
    found = good(shop.get("/slots.toml/versions"))["versions"]
    assert [one["text"] for one in found] == [texts[1], texts[0], SLOTS]  # what was there before the first change, too
    numbers = [one["version"] for one in found]
    assert numbers == sorted(numbers, reverse=True) and all(one["time"] > 1_700_000_000 for one in found)
    # A file that was edited by hand is kept as soon as it is replaced.
    edited = SLOTS.replace("Books for you", "By hand")
    (tmp_path / "slots.toml").write_text(edited)
    shop.app.state.serving.refresh()  # type: ignore[attr-defined]
    assert shop.get("/slots.toml").text == edited
    good(shop.put("/slots", content=SLOTS, headers=toml))
    kept = good(shop.get("/slots.toml/versions"))["versions"]
    assert [one["text"] for one in kept] == [SLOTS, edited, texts[1], texts[0], SLOTS]


def test_slots_are_changed_by_whoever_read_them_last(shop: TestClient) -> None:
    """`If-Match`, whichever way slots are sent; and nobody removes all of them without saying so."""
    tag = shop.get("/slots.toml").headers["etag"]
    slot = {"name": "books", "shown": 2}
    first = shop.put("/slots", json={"slot": [slot]}, headers={"if-match": tag})
    assert good(first)["slots"][0]["shown"] == 2 and first.headers["etag"] != tag
    for body in ({"slot": [{**slot, "shown": 3}]}, {"slot": []}):
        late = error_of(shop.put("/slots", json=body, headers={"if-match": tag}), 412)
        assert late["code"] == "changed_meanwhile" and late["fix"]
    assert good(shop.get("/slots"))["slots"][0]["shown"] == 2
    assert shop.get("/slots.toml").headers["etag"] == first.headers["etag"]
    for content, kind in (
        (b"", "application/toml"),
        (b"# none\n", "application/toml"),
        (b'{"slot": []}', "application/json"),
    ):
        refused = error_of(shop.put("/slots", content=content, headers={"content-type": kind}), 422)
        assert "would remove all" in refused["message"]
    assert len(good(shop.get("/slots"))["slots"]) == 1
    assert good(shop.put("/slots?empty=true", json={"slot": []}))["slots"] == []
    assert good(shop.get("/slots")) == {"slots": []}
