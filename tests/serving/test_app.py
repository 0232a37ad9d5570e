"""The HTTP interface in this process: what it answers, and how it refuses."""

from __future__ import annotations

import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from fastapi.testclient import TestClient
from serving_worlds import N, client, error_of, shop_attributes, shop_log, train

from heedful.rankers.attention import AttentionRanker
from ranking_worlds import QUICK, START, table_of

JSON = {"content-type": "application/json"}
HISTORY = ["item1", "item2"]
ITEMS = [f"item{row}" for row in range(N)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "model"
    train().save(path)
    return path


@pytest.fixture
def shop(model: Path, tmp_path: Path) -> Iterator[TestClient]:
    with client(model, tmp_path) as opened:
        yield opened


@pytest.fixture(scope="module")
def still(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """For requests that change nothing that another test looks at."""
    with client(model, tmp_path_factory.mktemp("shop")) as opened:
        yield opened


def good(answer: Any) -> Any:
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_events_change_the_next_ranking(shop: TestClient) -> None:
    body = {"user_id": "ann", "candidates": ITEMS}
    before = good(shop.post("/rank", json=body))
    assert before["history_length"] == 0 and len(before["items"]) == N
    event = {"event_id": "e1", "user_id": "ann", "item_id": "item40", "event": "purchase"}
    assert good(shop.post("/events", json=event)) == {"accepted": 1, "duplicates": 0, "unknown_items": 0, "rejected": []}
    after = good(shop.post("/rank", json=body))
    assert after["history_length"] == 1 and after["items"] != before["items"]
    assert good(shop.post("/rank", json=body)) == after
    assert set(after["items"][0]) == {"item_id", "score", "title"} and after["model"] == before["model"]


def test_many_events_at_once(shop: TestClient) -> None:
    events = [{"event_id": f"e{n}", "user_id": "ann", "item_id": f"item{n}", "timestamp": START + n} for n in range(5)]
    events += [events[0], {"event_id": "x", "user_id": "bob", "item_id": 17, "timestamp": int(time.time()) + 10**6}]
    events += [{"event_id": "y", "user_id": "bob", "item_id": 17, "timestamp": "2017-12-24T12:00:00"}]
    done = good(shop.post("/events", json={"events": events}))
    assert (done["accepted"], done["duplicates"], done["unknown_items"]) == (6, 1, 1)
    assert done["rejected"] == [{"index": 6, "reason": "timestamp absurd or in the future"}]
    assert good(shop.get("/users", params={"prefix": "a"})) == {"users": [{"user_id": "ann", "actions": 5}]}
    history = good(shop.get("/users/bob/history"))["history"]
    assert history == [{"item_id": "17", "title": "17", "timestamp": 1514116800, "event": history[0]["event"]}]
    newest = good(shop.get("/users/ann/history", params={"limit": 2}))["history"]
    assert [action["item_id"] for action in newest] == ["item4", "item3"]
    assert newest[0]["title"] == "Title 4 · category 4"


def test_a_user_is_forgotten(shop: TestClient) -> None:
    user = "a/b c%?#ü"
    shop.post("/events", json={"event_id": "e1", "user_id": user, "item_id": "item4"})
    filled = good(shop.get("/slots/books", params={"user": user}))
    good(shop.post("/impressions", json={"impression_id": filled["impression_id"]}))
    address = "/users/a%2Fb%20c%25%3F%23%C3%BC"
    assert len(good(shop.get(f"{address}/history"))["history"]) == 1
    assert good(shop.delete(address))["deleted"]["events"] == 1
    assert good(shop.get(f"{address}/history"))["history"] == []
    assert error_of(shop.delete(address), 404)["code"] == "not_found"
    assert good(shop.get("/users"))["users"] == []


def test_recommending(still: TestClient) -> None:
    whole = good(still.post("/recommend", json={"history": HISTORY, "k": 6}))
    page = good(still.post("/recommend", json={"history": HISTORY, "k": 3, "offset": 3}))
    assert page["items"] == whole["items"][3:]
    assert not {item["item_id"] for item in whole["items"]} & set(HISTORY)
    books = good(still.post("/recommend", json={"history": [*HISTORY, "new"], "where": "department = 'BOOKS'"}))
    assert books["unknown"] == ["new"] and books["history_length"] == 2
    assert {item["item_id"] for item in books["items"]} <= set(ITEMS[1::2])


def test_explaining(still: TestClient) -> None:
    body = {"history": HISTORY, "items": ["item9", "item4"]}
    first, second = good(still.post("/explain", json=body))["explanations"]
    assert (first["item_id"], second["item_id"]) == ("item9", "item4")
    assert {reason["item_id"] for reason in first["because"]} == set(HISTORY)
    for layer, null in enumerate(first["null_attention"]):
        assert null + sum(reason["attention"][layer] for reason in first["because"]) == pytest.approx(1, abs=1e-5)
    scores = good(still.post("/rank", json={"history": HISTORY, "candidates": ["item9"]}))["items"]
    assert first["score"] == pytest.approx(scores[0]["score"], abs=1e-4)
    assert sum(first["parts"].values()) == pytest.approx(first["score"], abs=1e-3)
    assert error_of(still.post("/explain", json={"items": ["nonsense"]}), 404)["message"].endswith("'nonsense'")


def test_slots_impressions_and_clicks(shop: TestClient) -> None:
    (declared,) = good(shop.get("/slots"))["slots"]
    assert declared["name"] == "books" and declared["title"] == "Books for you" and declared["shown"] == 4
    filled = good(shop.get("/slots/books", params={"user": "ann"}))
    assert [item["position"] for item in filled["items"]] == [1, 2, 3, 4]
    assert filled["items"][0]["attributes"]["department"] == "BOOKS"
    click = {"impression_id": filled["impression_id"], "item_id": filled["items"][1]["item_id"], "click_id": "c1"}
    shown = {"impression_id": filled["impression_id"]}
    assert good(shop.post("/impressions", json=shown)) == {"counted": True}
    assert good(shop.post("/clicks", json=click)) == {"outcome": "recorded"}
    assert good(shop.post("/clicks", json=click)) == {"outcome": "duplicate"}
    assert good(shop.post("/clicks", json={**click, "item_id": "item0", "click_id": "c2"}))["outcome"] == "not in impression"
    assert good(shop.post("/clicks", json={**click, "impression_id": "x"}))["outcome"] == "unknown impression"
    (slot,) = good(shop.get("/clicks/report"))["slots"]
    (treatment,) = slot["treatments"]
    assert (slot["slot"], treatment["treatment"]) == ("books", filled["treatment"])
    assert (treatment["impressions"], treatment["clicks"]) == (1, 1)


def test_a_slot_for_a_history(still: TestClient) -> None:
    filled = good(still.post("/slots/books", json={"history": [*HISTORY, "new"], "visitor": "session"}))
    assert filled["unknown"] == ["new"] and filled["history_length"] == 2
    again = good(still.post("/slots/books", json={"history": [], "visitor": "session"}))
    assert again["treatment"] == filled["treatment"] and again["impression_id"] != filled["impression_id"]
    assert error_of(still.post("/slots/films", json={}), 404)["fix"] == "GET /slots lists them"
    assert error_of(still.get("/slots/books"), 422)["message"] == "query.user: Field required"


def test_declaring_slots_anew(shop: TestClient, tmp_path: Path) -> None:
    text = shop.get("/slots.toml").text
    assert text == (tmp_path / "slots.toml").read_text()
    more = text + '\n[[slot]]\nname = "müsic"\n'
    refused = error_of(shop.put("/slots", content=more.encode()), 422)
    assert "no proper name" in refused["message"]
    assert shop.get("/slots.toml").text == text
    saved = good(shop.put("/slots", content=more.replace("ü", "u").encode()))
    assert [slot["name"] for slot in saved["slots"]] == ["books", "music"]
    assert (tmp_path / "slots.toml").read_text() == more.replace("ü", "u")
    assert good(shop.get("/slots/music", params={"user": "ann"}))["slot"] == "music"
    assert error_of(shop.put("/slots", content=b"\xff"), 400)["code"] == "invalid_text"


SHOP_SLOTS = """
[[slot]]
name = "new"
where = "stock > 0 AND price < 40"
rule = "newest"
column = "listed"
shown = 5
max_candidates = 5
treatments = { model = 1.0 }

[[slot]]
name = "loved"
where = "rating >= 3 AND listed >= DATE '2024-01-15' AND department = 'BOOKS'"
rule = "best_rated"
column = "rating"
shown = 6
max_candidates = 12
at_most = { category = 2 }
treatments = { popularity = 1.0 }
"""


def test_slots_by_listing_date_rating_stock_and_price(tmp_path: Path) -> None:
    """The attributes come with the log's items, as a shop has them."""
    randoms = np.random.default_rng(4)
    facts = pa.table(
        {
            "listed": [date(2024, 1, 1) + timedelta(days=int(day)) for day in randoms.permutation(N)],
            "rating": np.round(randoms.uniform(1, 5, N), 2),
            "stock": randoms.integers(0, 3, N),
        }
    )
    log = shop_log()
    attributes = shop_attributes()
    for name in facts.column_names:
        attributes = attributes.append_column(name, facts[name])
    ranker = AttentionRanker(**QUICK["attention"]).fit(log, table_of(log.catalog.items.ids, attributes=attributes))
    ranker.save(tmp_path / "model", pack=True)
    rows = [{"row": row, **known} for row, known in enumerate(attributes.to_pylist())]
    with client(tmp_path / "model", tmp_path) as shop:
        assert shop.put("/slots", content=SHOP_SLOTS).status_code == 200
        filled = good(shop.get("/slots/new", params={"user": "ann"}))["items"]
        buyable = [row for row in rows if row["stock"] > 0 and row["price"] < 40]
        newest = sorted(buyable, key=lambda row: row["listed"], reverse=True)[:5]
        assert {item["item_id"] for item in filled} == {f"item{row['row']}" for row in newest}
        assert [item["score"] for item in filled] == sorted((item["score"] for item in filled), reverse=True)
        filled = good(shop.get("/slots/loved", params={"user": "ann"}))["items"]
        liked = [r for r in rows if r["rating"] >= 3 and r["listed"] >= date(2024, 1, 15) and r["department"] == "BOOKS"]
        best = {f"item{row['row']}" for row in sorted(liked, key=lambda row: row["rating"], reverse=True)[:12]}
        assert filled and {item["item_id"] for item in filled} <= best
        categories = Counter(item["attributes"]["category"] for item in filled)
        assert max(categories.values()) <= 2


def test_a_server_without_a_file_of_slots(model: Path, tmp_path: Path) -> None:
    with client(model, tmp_path) as shop:
        shop.app.state.serving.config = shop.app.state.serving.config.from_dict({})  # type: ignore[attr-defined]
        assert "--slots FILE" in error_of(shop.put("/slots", content=b""), 422)["fix"]


def test_items(still: TestClient) -> None:
    found = good(still.get("/items", params={"search": "title 1", "limit": 3}))["items"]
    assert len(found) == 3 and all(item["title"].startswith("Title 1") for item in found)
    several = good(still.get("/items", params={"ids": "item3,nonsense,item1"}))["items"]
    assert [item["item_id"] for item in several] == ["item3", "item1"]
    one = good(still.get("/items/item3"))
    assert one == several[0] and one["attributes"]["price"] == 3.0
    similar = good(still.get("/items/item3/similar", params={"k": 2, "where": "price > 30"}))["items"]
    assert len(similar) == 2 and all(int(item["item_id"][4:]) > 30 for item in similar)
    assert error_of(still.get("/items/nonsense"), 404)["code"] == "not_found"
    assert error_of(still.get("/items/nonsense/similar"), 404)["code"] == "not_found"


def test_new_items_are_ranked_at_once(shop: TestClient) -> None:
    described = {"title": "Title 99", "department": "BOOKS", "price": 3}
    new = [{"item_id": "new-1", "attributes": described}, {"item_id": "new-2"}]
    before = good(shop.post("/rank", json={"history": HISTORY, "candidates": ITEMS}))
    done = good(shop.post("/items", json={"items": new}))
    assert done["added"] == 2 and done["model"] != before["model"]
    after = good(shop.post("/rank", json={"history": HISTORY, "candidates": [*ITEMS, "new-1", "new-2"]}))
    assert after["unknown"] == [] and len(after["items"]) == N + 2
    assert [item for item in after["items"] if item["item_id"] in ITEMS] == before["items"]  # whose scores stay
    assert good(shop.get("/items/new-1"))["attributes"]["price"] == 3.0
    books = good(shop.post("/recommend", json={"k": 100, "where": "department = 'BOOKS'"}))["items"]
    assert "new-1" in {item["item_id"] for item in books}
    event = {"event_id": "e", "user_id": "ann", "item_id": "new-1"}
    assert good(shop.post("/events", json=event))["unknown_items"] == 0
    for wrong, words in (
        ([{"item_id": "new-3", "attributes": {"colour": "red"}}], "unknown attributes; got: colour"),
        ([{"item_id": "new-3", "attributes": {"price": "dear"}}], "does not fit the catalogue"),
        ([{"item_id": "new-3"}, {"item_id": "new-3"}], "repeated"),
    ):
        assert words in error_of(shop.post("/items", json={"items": wrong}), 422)["message"]


def test_facts_of_the_model(still: TestClient) -> None:
    facts = good(still.get("/model"))
    assert (facts["name"], facts["items"], facts["problems"]) == ("attention", N, {})
    assert facts["kinds"] == ["view", "purchase"] and "price" in facts["columns"]
    assert facts["training"]["n_items"] == N and re.fullmatch(r"[0-9a-f]{12}-[0-9a-f]{8}", facts["version"])
    assert good(still.get("/health/live")) == {"status": "alive"} and good(still.get("/health/ready")) == {"status": "ready"}


def test_the_page_and_its_headers(still: TestClient) -> None:
    page = still.get("/")
    assert page.status_code == 200 and page.headers["content-type"].startswith("text/html")
    policy = page.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'") and "unsafe" not in policy
    for name in re.findall(r'(?:src|href)="(static/[^"]+)"', page.text):
        assert still.get(f"/{name}").status_code == 200, name
    assert still.get("/static/app.js").headers["content-type"].startswith("text/javascript")
    for answer in (page, still.get("/model"), still.get("/nothing")):
        assert answer.headers["x-content-type-options"] == "nosniff" and answer.headers["x-frame-options"] == "DENY"
        assert "access-control-allow-origin" not in answer.headers
        assert re.fullmatch("[0-9a-f]{32}", answer.headers["x-request-id"])
    error_of(still.get("/static/../app.py"), 404)
    error_of(still.get("/static/%2e%2e/app.py"), 404)
    error_of(still.get("/docs"), 404)


def test_other_pages_get_no_access(still: TestClient) -> None:
    """No CORS: a browser asks first, and is told nothing."""
    asked = {"origin": "http://elsewhere.example", "access-control-request-method": "POST"}
    preflight = still.options("/events", headers=asked)
    error_of(preflight, 403)
    assert not [name for name in preflight.headers if name.startswith("access-control")]
    # What a form of another page can send without asking is not read as JSON.
    event = b'{"event_id": "e", "user_id": "u", "item_id": "item1"}'
    refused = error_of(still.post("/events", content=event, headers={"content-type": "text/plain"}), 422)
    assert "Content-Type: application/json" in refused["fix"]


@pytest.mark.parametrize(
    ("headers", "allowed"),
    [
        ({"sec-fetch-site": "cross-site", "sec-fetch-dest": "image"}, False),
        ({"sec-fetch-site": "same-site"}, False),  # another port of this machine
        ({"sec-fetch-site": "same-origin", "origin": "http://localhost"}, True),
        ({"sec-fetch-site": "none"}, True),
        ({"origin": "http://elsewhere.example"}, False),
        ({"origin": "http://localhost:3000"}, False),
        ({"origin": "null"}, False),
        ({"referer": "http://elsewhere.example/page"}, False),
        ({"referer": "http://localhost/page"}, True),
        ({}, True),
    ],
)
def test_pages_of_another_origin_write_nothing(shop: TestClient, headers: dict[str, str], allowed: bool) -> None:
    before = shop.get("/model").json()["store"]
    event = {"event_id": "e", "user_id": "u", "item_id": "item1"}
    answers = [shop.get("/slots/books?user=u", headers=headers), shop.post("/events", json=event, headers=headers)]
    assert {answer.status_code for answer in answers} == {200 if allowed else 403}
    if not allowed:
        assert {error_of(answer, 403)["code"] for answer in answers} == {"wrong_origin"}
        shop.app.state.serving.engine.store._counted = (0.0, {})  # type: ignore[attr-defined]
        assert shop.get("/model").json()["store"] == before
    assert shop.get("/", headers=headers).status_code == 200  # a link to the page itself is followed


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("DELETE", "/slots", "GET, PUT"),
        ("PATCH", "/items", "GET, POST"),
        ("GET", "/rank", "POST"),
        ("PUT", "/slots/x", "GET, POST"),
    ],
)
def test_other_methods_are_told_which_there_are(still: TestClient, method: str, path: str, allowed: str) -> None:
    answer = still.request(method, path)
    error_of(answer, 405)
    assert answer.headers["allow"] == allowed


def test_bodies_without_a_content_type(still: TestClient) -> None:
    event = b'{"event_id": "e", "user_id": "u", "item_id": "item1"}'
    assert "Content-Type: application/json" in error_of(still.post("/events", content=event), 422)["fix"]


def test_slots_are_not_replaced_by_accident(shop: TestClient) -> None:
    found = shop.get("/slots.toml")
    tag, other = found.headers["etag"], found.text.replace('"books"', '"novels"')
    assert "would remove all" in error_of(shop.put("/slots", content=b""), 422)["message"]
    assert good(shop.put("/slots?preview=true", content=other.encode()))["slots"][0]["name"] == "novels"
    assert shop.get("/slots.toml").text == found.text
    changed = shop.put("/slots", content=other.encode(), headers={"if-match": tag})
    assert good(changed)["slots"][0]["name"] == "novels" and changed.headers["etag"] != tag
    assert changed.headers["etag"] == shop.get("/slots.toml").headers["etag"]
    late = shop.put("/slots", content=found.text.encode(), headers={"if-match": tag})
    assert error_of(late, 412)["code"] == "changed_meanwhile" and shop.get("/slots.toml").text == other
    assert good(shop.put("/slots?empty=true", content=b"", headers={"if-match": "*"})) == {"slots": [], "notes": []}
    assert good(shop.get("/slots")) == {"slots": []}


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"", 422, "Field required"),
        (b"{", 400, "the body is not JSON"),
        (b'{"candidates": ["item1"], "pool_gamma": NaN}', 400, "the body is not JSON"),
        (b'{"candidates": ["item1"], "pool_gamma": 1e999}', 422, "pool_gamma"),
        (b'{"candidates": ["\\ud800"]}', 400, "the body is not JSON"),
        (b'{"candidates": ["\xff"]}', 400, "the body is not JSON"),
        (b"[" * 100_000, 400, "the body is not JSON"),
        (b'{"candidates": ' + b"[" * 150 + b"]" * 150 + b"}", 422, "candidates"),
        (b"null", 422, "body"),
        (b"[]", 422, "body"),
        (b'{"candidates": []}', 422, "at least 1 item"),
        (b'{"candidates": [true]}', 422, "candidates.0"),
        (b'{"candidates": [1.5]}', 422, "candidates.0"),
        (b'{"candidates": [%s]}' % (b"9" * 400), 422, "candidates.0"),
        (b'{"candidates": ["a"], "history": ["b"], "history_times": [7]}', 422, "that is not a time"),
        (b'{"candidates": [null]}', 422, "candidates.0"),
        (b'{"candidates": [{}]}', 422, "candidates.0"),
        (b'{"candidates": ["a\\u0000b"]}', 422, "candidates.0"),
        (b'{"candidates": ["' + b"a" * 4097 + b'"]}', 422, "candidates.0"),
        (b'{"candidates": ["a"], "k": 0}', 422, "k: "),
        (b'{"candidates": ["a"], "k": 1e30}', 422, "k: "),
        (b'{"candidates": ["a"], "pool_gamma": "x"}', 422, "pool_gamma"),
        (b'{"candidates": ["a"], "user_id": "u", "history": []}', 422, "user_id or history, not both"),
        (b'{"candidates": ["a"], "history_times": [1700000000]}', 422, "need a history"),
        (b'{"candidates": ["a"], "history": ["b"], "history_times": []}', 422, "history_times does not fit"),
        (b'{"candidates": ["a"], "history": ["b"], "history_times": [99999999999999]}', 422, "history_times.0"),
        (b'{"candidates": ["a"], "nonsense": 1}', 422, "nonsense"),
        (b'{"candidates": ["a"], "where": "1; drop table items"}', 422, "the condition"),
        (b'{"candidates": ["a"], "where": "exists(select * from read_csv(\'/etc/passwd\'))"}', 422, "the condition"),
        (b'{"candidates": ["item1"], "where": "(((((((("}', 422, "the condition"),
    ],
)  # fmt: skip
def test_requests_that_are_wrong(still: TestClient, body: bytes, status: int, words: str) -> None:
    assert words in error_of(still.post("/rank", content=body, headers=JSON), status)["message"]


@pytest.mark.parametrize("name", ["😀", "null", "a\nb,c", "' or 1=1 --", "../../etc/passwd", "ﷺ" * 80, "item1 ", "\ufffe"])
def test_strange_ids_are_only_unknown(still: TestClient, name: str) -> None:
    found = good(still.post("/rank", json={"user_id": name, "candidates": [name, 2**64, -1]}))
    assert found["unknown"] == [name, str(2**64), -1] and found["items"] == []
    event = {"event_id": name, "user_id": name, "item_id": name, "event": name.replace("\n", "")}
    assert good(still.post("/events", json=event))["unknown_items"] == 1
    (action,) = good(still.get(f"/users/{_quoted(name)}/history"))["history"]
    assert (action["item_id"], action["event"]) == (name, name.replace("\n", ""))
    assert good(still.get("/users", params={"prefix": name}))["users"] == [{"user_id": name, "actions": 1}]


def _quoted(name: str) -> str:
    return "".join(f"%{byte:02X}" for byte in name.encode())


def test_limits(model: Path, tmp_path: Path) -> None:
    limits = {"max_candidates": 3, "max_history": 2, "max_items": 4, "max_events": 1}
    with client(model, tmp_path, **limits) as shop:
        event = {"event_id": "e", "user_id": "u", "item_id": "item1"}
        for path, body in (
            ("/rank", {"candidates": ITEMS[:4]}),
            ("/rank", {"candidates": ["item1"], "history": ITEMS[:3]}),
            ("/recommend", {"k": 5}),
            ("/events", {"events": [event, event]}),
        ):
            assert "expected: at most" in error_of(shop.post(path, json=body), 413)["message"]
        good(shop.post("/rank", json={"candidates": ITEMS[:3], "history": ITEMS[:2]}))


def test_failures_of_the_server_say_nothing_of_it(
    shop: TestClient, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise ZeroDivisionError("secret of ann")

    monkeypatch.setattr(shop.app.state.serving.engine, "rank", fail)  # type: ignore[attr-defined]
    answer = shop.post("/rank", json={"candidates": ["item1"]})
    error = error_of(answer, 500)
    assert error["code"] == "internal" and answer.headers["x-request-id"] in error["fix"]
    assert "secret" not in answer.text and "ZeroDivisionError" not in answer.text
    assert "secret" not in capfd.readouterr().err


def test_the_database_is_gone_and_comes_back(shop: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    from heedful.serving.store import StoreUnavailable

    def gone(*arguments: object, **options: object) -> None:
        raise StoreUnavailable("the database cannot be reached")

    serving = shop.app.state.serving  # type: ignore[attr-defined]
    with monkeypatch.context() as patch:
        for name in ("history", "append", "ping"):
            patch.setattr(serving.engine.store, name, gone)
        for answer in (
            shop.post("/rank", json={"user_id": "ann", "candidates": ["item1"]}),
            shop.post("/events", json={"event_id": "e", "user_id": "u", "item_id": "item1"}),
            shop.get("/health/ready"),
        ):
            assert error_of(answer, 503)["code"] == "database_unavailable"
            assert int(answer.headers["retry-after"]) >= 1
        good(shop.post("/rank", json={"history": HISTORY, "candidates": ["item1"]}))  # which needs no database
        good(shop.get("/health/live"))
    good(shop.get("/health/ready"))


def test_answers_that_take_too_long(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with client(model, tmp_path, request_seconds=0.2) as shop:
        shop.get("/health/live")  # the first request prepares the routes
        waiting = threading.Event()
        monkeypatch.setattr(shop.app.state.serving.engine, "rank", lambda *past, **options: waiting.wait(30))  # type: ignore[attr-defined]
        answer = shop.post("/rank", json={"candidates": ["item1"]})
        assert error_of(answer, 503)["code"] == "overdue" and int(answer.headers["retry-after"]) >= 1
        waiting.set()
        good(shop.get("/health/live"))


def test_a_clock_that_jumps(shop: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """A year ahead, then back: nothing fails, each action is taken, and clicks count while their window is open."""
    now = time.time()

    def visit(name: str, *, clicked: float) -> str:
        filled = good(shop.get("/slots/books", params={"user": name}))
        impression = {"impression_id": filled["impression_id"]}
        assert good(shop.post("/impressions", json=impression)) == {"counted": True}
        monkeypatch.setattr(time, "time", lambda: clicked)
        return str(good(shop.post("/clicks", json={**impression, "item_id": filled["items"][0]["item_id"]}))["outcome"])

    year = 365 * 86_400
    for number, (clock, later) in enumerate([(now, now - 3600), (now + year, now), (now, now + year)]):
        monkeypatch.setattr(time, "time", lambda clock=clock: clock)
        event = {"event_id": f"e{number}", "user_id": "ann", "item_id": ITEMS[number]}
        assert good(shop.post("/events", json=event))["accepted"] == 1
        # A click before its impression counts; one that seems to come a year after it is past the window.
        assert visit(f"visitor-{number}", clicked=later) == ("recorded" if later < clock else "too late")
    assert good(shop.post("/rank", json={"user_id": "ann", "candidates": ITEMS}))["history_length"] == 3
    shown = [one["impressions"] for slot in good(shop.get("/clicks/report"))["slots"] for one in slot["treatments"]]
    assert sum(shown) == 3


def test_requests_are_described(still: TestClient) -> None:
    document = good(still.get("/openapi.json"))
    assert "/users/{user_id}/history" in document["paths"]
    examples = {"Event", "Rank", "Recommend", "Explain", "Visit", "NewModel"}
    assert all(document["components"]["schemas"][name]["examples"] for name in examples)
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            assert operation["description"], (method, path)
            refused = operation["responses"].get("422")
            assert refused is None or refused["content"]["application/json"]["schema"]["$ref"].endswith("/Failure"), path


def test_each_request_is_in_the_documentation(still: TestClient) -> None:
    """Each is named with its method; that of a GET may be that of the cell before it."""
    told = (Path(__file__).parents[2] / "docs" / "serving.md").read_text()
    for path, methods in good(still.get("/openapi.json"))["paths"].items():
        named = path.replace("{name}", "NAME")
        named = re.sub(r"\{\w+\}", "ID", named)
        for method in methods:
            pattern = rf"[` ]{re.escape(named)}[`? ]" if method == "get" else rf"`{method.upper()} {re.escape(named)}[`?]"
            assert re.search(pattern, told), (method, named)
