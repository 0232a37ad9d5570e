"""The same ids, times and attributes by every door: prepare, files of requests, Python, HTTP and slots."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from time import sleep
from typing import Any
from urllib.parse import quote
from uuid import UUID

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fastapi.testclient import TestClient
from serving_worlds import client, error_of

from heedful.errors import InputError
from heedful.events.log import EventLog
from heedful.events.preparing import prepare, read_events
from heedful.rankers.base import Ranker
from heedful.rankers.registry import MODELS, load_ranker
from heedful.recommending.recommend import Query, Recommender
from heedful.recommending.requests import recommend_requests, score_requests
from ranking_worlds import table_of

N = 6
NOON = 1_700_000_000
IDS = {
    "uint64": pa.array([2**64 - 1, 2**63, 2**53 + 1, 5, 6, 0], pa.uint64()),
    "int64": pa.array([-(2**63), 2**63 - 1, -1, 0, 7, 2**53 + 1], pa.int64()),
    "int8": pa.array([-128, 127, 0, 1, 2, 3], pa.int8()),
    "decimal": pa.array([Decimal(10**37 + n) for n in range(N)], pa.decimal128(38, 0)),
    "uuid": pa.array([UUID(int=n * 2**100 + 7).bytes for n in range(N)], pa.uuid()),
    "date": pa.array([date(2024, 1, 1 + n) for n in range(N)], pa.date32()),
    "binary": pa.array([b"a", b"\xc3\xa9", b"x/y", b" ", b"0", b"z"], pa.binary()),
    "categories": pa.array(["a", "b", "007", " c", "d ", "7"]).dictionary_encode(),
    "whole numbers as categories": pa.array([5, 6, 7, 8, 9, 10]).dictionary_encode(),
    "large text": pa.array(["a/b", "100%", 'q"q', "n\nl", "😀", " 7 "], pa.large_string()),
    "numbers as text": pa.array(["1", "01", " 1", "1.0", "1e3", "+1"]),
}


def shop_of(ids: pa.Array, folder: Path, items: pa.Table | None = None) -> tuple[EventLog, Ranker]:
    """A log with these items, prepared from files, and a ranker that was saved and loaded."""
    rows = [row for user in range(8) for row in range(N if user % 2 else N // 2)]
    users = [user for user in range(8) for _ in range(N if user % 2 else N // 2)]
    times = [NOON + 60 * n for n in range(len(rows))]
    pq.write_table(
        pa.table({"user_id": users, "item_id": ids.take(pa.array(rows)), "timestamp": times}), folder / "log.parquet"
    )
    if items is None:
        items = pa.table({"title": [f"title {row}" for row in range(N)]})
    pq.write_table(items.append_column("item_id", ids), folder / "items.parquet")
    prepare(folder / "log.parquet", folder / "sequences", items=folder / "items.parquet")
    read = EventLog.load(folder / "sequences")
    table = table_of(read.catalog.items.ids, attributes=read.catalog.attributes)
    MODELS["last-item"]().fit(read, table).save(folder / "model", pack=True)
    return read, load_ranker(folder / "model")


def requests_of(folder: Path, **columns: Any) -> Path:
    pq.write_table(pa.table({"request_id": list(range(len(columns["history"]))), **columns}), folder / "requests.parquet")
    return folder / "requests.parquet"


def lists(values: pa.Array, *ends: int) -> pa.Array:
    return pa.ListArray.from_arrays([0, *ends], values)


def good(answer: Any) -> Any:
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.mark.parametrize("kind", IDS)
def test_an_id_is_found_by_every_door(tmp_path: Path, kind: str) -> None:
    ids = IDS[kind]
    log, ranker = shop_of(ids, tmp_path)
    found = log.catalog.items.rows(ids)
    assert sorted(found.tolist()) == list(range(N))
    assert log.catalog.attributes["title"].take(pa.array(found)).to_pylist() == [f"title {row}" for row in range(N)]
    recommender, plain = Recommender(ranker), ids.to_pylist()
    for form in (ids, plain, tuple(plain), np.array(plain, object), pa.chunked_array([ids])):
        assert len(recommender.recommend(form, k=10)) == 0
    assert len(recommender.recommend(ids[:1], k=10)) == N - 1
    file = requests_of(tmp_path, history=lists(ids, 2, N), candidates=lists(ids, 2, N))
    scored = score_requests(ranker, file, tmp_path / "out.parquet")
    assert (scored.unknown_candidates, scored.unknown_history) == (0, 0)
    assert recommend_requests(recommender, file, tmp_path / "out.parquet").candidates == N - 2 + 2
    names = ranker.items.ids.to_pylist()
    (tmp_path / "slots.toml").write_text("")
    with client(tmp_path / "model", tmp_path) as shop:
        by_http(shop, [names, list(map(str, names))])


def by_http(shop: TestClient, forms: list[list[Any]]) -> None:
    for names in forms:
        assert good(shop.post("/rank", json={"candidates": names}))["unknown"] == []
        slots = {"slot": [{"name": "all", "pinned": names[:3], "blocked": names[3:4], "shown": N}]}
        assert good(shop.put("/slots", json=slots))["notes"] == []
        shown = good(shop.get("/slots/all", params={"user": "new"}))
        assert [str(one["item_id"]) for one in shown["items"][:3]] == list(map(str, names[:3]))
        assert len(shown["items"]) == N - 1
        click = {"impression_id": shown["impression_id"], "item_id": shown["items"][0]["item_id"]}
        assert good(shop.post("/clicks", json=click)) == {"outcome": "recorded"}
    for name in forms[1]:
        assert str(good(shop.get("/items/" + quote(name, safe="")))["item_id"]) == name
        good(shop.post("/events", json={"event_id": name, "user_id": name, "item_id": name}))
        history = good(shop.get(f"/users/{quote(name, safe='')}/history"))["history"]
        assert [one["item_id"] for one in history] == [name]
        assert len(good(shop.post("/recommend", json={"user_id": name}))["items"]) == N - 1


SAME = {
    "microseconds": pa.array([NOON * 10**6]), "nanoseconds": pa.array([NOON * 10**9], pa.uint64()),
    "float": pa.array([float(NOON)]), "decimal": pa.array([Decimal(NOON)], pa.decimal128(14, 2)),
    "a zone": pa.array([NOON * 1000], pa.timestamp("ms", "America/New_York")),
    "no zone": pa.array([NOON], pa.timestamp("s")),
    "digits": pa.array([str(NOON * 1000)]), "offset": pa.array(["2023-11-15T07:43:20+09:30"]),
    "blank before the offset": pa.array(["2023-11-14 17:13:20 -0500"]), "comma": pa.array(["2023-11-14 22:13:20,123"]),
    "comma and offset": pa.array(["2023-11-14T22:13:20,5 +00:00"]), "fraction": pa.array(["2023-11-14 22:13:20.123456789"]),
    "UTC": pa.array(["2023-11-14 22:13:20 UTC"]), "short offset": pa.array(["2023-11-14T23:13:20+01"]),
    "categories": pa.array(["2023-11-14T22:13:20Z"]).dictionary_encode(),
}  # fmt: skip


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small")
    shop_of(pa.array([f"i{row}" for row in range(N)]), folder)
    (folder / "slots.toml").write_text("")
    return folder


@pytest.fixture(scope="module")
def shop(small: Path) -> Iterator[TestClient]:
    with client(small / "model", small) as opened:
        yield opened


@pytest.mark.parametrize("form", SAME)
def test_a_time_is_the_same_by_every_door(tmp_path: Path, small: Path, shop: TestClient, form: str) -> None:
    times, ranker = SAME[form], load_ranker(small / "model")
    rows = pa.table({"user_id": ["u"], "item_id": ["i1"], "timestamp": times})
    for zone in ("UTC", "Europe/Berlin"):
        hour = 3600 if zone != "UTC" and form in ("no zone", "comma", "fraction") else 0
        assert read_events(rows, time_zone=zone).histories.times.tolist() == [NOON - hour]
    pq.write_table(rows, tmp_path / "log.parquet")
    prepare(tmp_path / "log.parquet", tmp_path / "sequences")
    assert EventLog.load(tmp_path / "sequences").histories.times.tolist() == [NOON]
    assert ranker.histories_of([["i1"]], [times.to_pylist()]).times.tolist() == [NOON]
    file = requests_of(tmp_path, history=[["i1"]], history_times=lists(times, 1), candidates=[["i2"]])
    assert score_requests(ranker, file, tmp_path / "out.parquet").unknown_history == 0
    value = times[0].as_py()
    value = value.isoformat() if isinstance(value, datetime) else float(value) if isinstance(value, Decimal) else value
    event = {"event_id": form, "user_id": form, "item_id": "i1", "timestamp": value}
    assert good(shop.post("/events", json=event))["rejected"] == []
    assert good(shop.get(f"/users/{form}/history"))["history"][0]["timestamp"] == NOON
    good(shop.post("/rank", json={"history": ["i1"], "history_times": [value], "candidates": ["i2"]}))


@pytest.mark.parametrize(
    "absurd",
    [
        pa.array([45_322.5]), pa.array([20_240_131]), pa.array(["20240131"]), pa.array([19_753]), pa.array([0]),
        pa.array([datetime(1900, 1, 1)]), pa.array([datetime(2262, 4, 11, tzinfo=UTC)]), pa.array([date(1969, 12, 31)]),
    ],
)  # fmt: skip
def test_an_absurd_time_is_refused_by_every_door(tmp_path: Path, small: Path, shop: TestClient, absurd: pa.Array) -> None:
    ranker = load_ranker(small / "model")
    with pytest.raises(InputError, match=r"absurd|calendar dates"):
        read_events(pa.table({"user_id": ["u"], "item_id": ["i1"], "timestamp": absurd}))
    with pytest.raises(InputError, match="not a time"):
        ranker.histories_of([["i1"]], [absurd])
    file = requests_of(tmp_path, history=[["i1"]], history_times=lists(absurd, 1), candidates=[["i2"]])
    with pytest.raises(InputError, match="not a time"):
        score_requests(ranker, file, tmp_path / "out.parquet")
    value = absurd[0].as_py()
    value = value.isoformat() if isinstance(value, date) else value
    body = {"history": ["i1"], "history_times": [value], "candidates": ["i2"]}
    assert "not a time" in error_of(shop.post("/rank", json=body), 422)["message"]
    event = {"event_id": "absurd", "user_id": "u", "item_id": "i1", "timestamp": value}
    assert len(good(shop.post("/events", json=event))["rejected"]) == 1


def test_categories_in_requests_are_their_texts(tmp_path: Path, small: Path) -> None:
    ranker = load_ranker(small / "model")
    values = pa.array(["i1", "i2", "i1"])
    kinds = pa.array(["view", None, "view"])
    plain = {"history": lists(values, 1, 3), "history_kinds": lists(kinds, 1, 3), "candidates": lists(values, 2, 3)}
    coded = {
        name: lists(column.values.dictionary_encode(), *column.offsets.to_pylist()[1:]) for name, column in plain.items()
    }
    answers = []
    for number, columns in enumerate((plain, coded)):
        out = tmp_path / f"{number}.parquet"
        assert score_requests(ranker, requests_of(tmp_path, **columns), out).unknown_history == 0
        answers.append(pq.read_table(out)["scores"].to_pylist())
    assert answers[0] == answers[1]


ITEMS = pa.table(
    {
        "Title": ["One", None, "Three", "Four", "Five", "Six"],
        "tags": [["a", "b"], [], None, ["c"], ["a"], ["a"]],
        "size": [{"w": 1.5, "h": None}, None, {"w": float("nan"), "h": 2}, {"w": 1.5, "h": 1}, None, None],
        "price": pa.array(
            [Decimal("1.50"), None, Decimal("0.00"), Decimal("9.99"), None, Decimal("-1.00")], pa.decimal128(8, 2)
        ),
        "rating": [float("nan"), float("inf"), 4.5, None, -float("inf"), 1.0],
        "added": pa.array([1, None, 2**62, -(2**62), 0, 5], pa.timestamp("ns", "Asia/Tokyo")),
        "listed": pa.array([0, 19_000, -(10**6), None, 5, 6], pa.date32()),
        "lasts": pa.array([1, None, 3, 4, 5, 6], pa.duration("ms")),
        "code": pa.array([b"a", b"\xff", None, b"", b"e", b"f"], pa.binary()),
    }
)


def test_attributes_by_every_door(tmp_path: Path) -> None:
    _, ranker = shop_of(pa.array([f"i{row}" for row in range(N)]), tmp_path, ITEMS)
    recommender = Recommender(ranker)
    for where, names in (
        ("rating > 0", {"i1", "i2", "i5"}), ("rating = rating", {"i1", "i2", "i4", "i5"}), ("price >= 1.5", {"i0", "i3"}),
        ("list_contains(tags, 'a')", {"i0", "i4", "i5"}), ("added > TIMESTAMP '2100-01-01'", {"i2"}),
        ("title IS NULL", {"i1"}),
    ):  # fmt: skip
        assert set(recommender.recommend([], k=9, where=where).items) == names, where
        file = requests_of(tmp_path, history=[["i0"]])
        query = Query(k=9, where=where, exclude_history=False)
        assert recommend_requests(recommender, file, tmp_path / "out.parquet", query=query).candidates == len(names)
    (tmp_path / "slots.toml").write_text("")
    with client(tmp_path / "model", tmp_path) as shop:
        listed = {item["item_id"]: item["attributes"] for item in good(shop.get("/items", params={"limit": 9}))["items"]}
        assert (
            listed["i1"]["rating"] is None
            and listed["i2"]["size"] == {"w": None, "h": 2}
            and listed["i0"]["price"] == "1.50"
        )
        sent = [{"item_id": f"new {name}", "attributes": known} for name, known in listed.items()]
        assert good(shop.post("/items", json={"items": sent}))["added"] == N
        for rule, column, best in (("newest", "added", "i2"), ("newest", "Listed", "i1"), ("best_rated", "price", "i3")):
            slots = {"slot": [{"name": "s", "rule": rule, "column": column, "max_candidates": 2, "shown": 2}]}
            good(shop.put("/slots", json=slots))
            shown = {one["item_id"] for one in good(shop.get("/slots/s", params={"user": "u"}))["items"]}
            assert shown == {best, f"new {best}"}, (rule, column)
        for column in ("tags", "size"):
            slots = {"slot": [{"name": "s", "rule": "newest", "column": column}]}
            assert "cannot sort by" in error_of(shop.put("/slots", json=slots), 422)["message"]


def test_shares_that_are_changed_back_go_on_with_that_experiment(shop: TestClient) -> None:
    """And what was shown in between is never added up with it."""
    for number, share in enumerate((0.5, 0.9, 0.5)):
        slot = {"name": "s", "treatments": {"model": share, "popularity": round(1 - share, 1)}}
        good(shop.put("/slots", json={"slot": [slot]}))
        sleep(1.1)  # the latest is told by the second
        for visit in range(4):
            shown = good(shop.get("/slots/s", params={"user": f"user {number} {visit}"}))
            assert good(shop.post("/impressions", json={"impression_id": shown["impression_id"]})) == {"counted": True}
    report = good(shop.get("/clicks/report"))
    (now,), (before,) = report["slots"], report["earlier"]
    counts = [sum(one["impressions"] for one in each["treatments"]) for each in (now, before)]
    assert counts == [8, 4] and before["shares"] == {"model": 0.9, "popularity": 0.1}


def test_clicks_that_do_not_count_say_why(shop: TestClient) -> None:
    good(shop.put("/slots", json={"slot": [{"name": "s", "shown": 2}, {"name": "none", "where": "users > 1000"}]}))
    empty = good(shop.get("/slots/none", params={"user": "u"}))
    assert (empty["items"], empty["impression_id"]) == ([], None)
    shown = good(shop.get("/slots/s", params={"user": "u"}))
    names = [one["item_id"] for one in shown["items"]]
    (other, *_) = {f"i{row}" for row in range(N)} - set(names)
    outcomes = [
        good(shop.post("/clicks", json={"impression_id": impression, "item_id": item, "click_id": click}))["outcome"]
        for impression, item, click in (
            ("nobody's", names[0], 1), (shown["impression_id"], other, 2), (shown["impression_id"], names[0], 3),
            (shown["impression_id"], names[0], 3),
        )
    ]  # fmt: skip
    assert len(set(outcomes)) == 4 and outcomes[2] == "recorded", outcomes


def test_more_than_the_catalogue_costs_no_more_than_the_catalogue(tmp_path: Path, small: Path, shop: TestClient) -> None:
    ranker = load_ranker(small / "model")
    recommender, names = Recommender(ranker), ranker.items.ids.to_pylist()
    assert len(recommender.recommend([], k=2**62)) == N
    assert len(recommender.recommend([], k=10, offset=2**62)) == 0
    assert recommender.recommend([], k=10, offset=N - 1).items == recommender.recommend([], k=10).items[-1:]
    long = names[:2] * 50_000
    assert set(recommender.recommend(long, k=10).items) == set(names[2:])
    file = requests_of(tmp_path, history=[long, ["nobody"] * 100_000], candidates=[names * 20_000, []])
    scored = score_requests(ranker, file, tmp_path / "out.parquet")
    assert (scored.candidates, scored.unknown_history) == (N * 20_000, 100_000)
    assert recommend_requests(recommender, file, tmp_path / "out.parquet", query=Query(k=2**40)).candidates == N - 2 + N
    assert good(shop.post("/recommend", json={"k": 1000, "offset": 100_000}))["items"] == []
    error_of(shop.post("/recommend", json={"history": long}), 413)
    error_of(shop.post("/recommend", json={"k": 2**62}), 413)
    events = [{"event_id": n, "user_id": "heavy", "item_id": names[n % 2]} for n in range(5000)]
    good(shop.post("/events", json={"events": events}))
    assert {one["item_id"] for one in good(shop.post("/recommend", json={"user_id": "heavy"}))["items"]} == set(names[2:])
