"""What is said of items while they are served is durable, and belongs to no model."""

from __future__ import annotations

import json
import logging
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from fastapi.testclient import TestClient
from serving_worlds import N, client, error_of, served, shop_attributes, shop_log, wait_for

from heedful.errors import ConfigError
from heedful.rankers.registry import MODELS
from heedful.serving import item_changes
from heedful.serving.models import Choice, Serving
from heedful.serving.options import ServeConfig
from heedful.serving.preparing import prepare
from heedful.serving.routes.items import _told
from heedful.serving.wire import NewItem
from ranking_worlds import log_of, table_of

SLOTS = """
[[slot]]
name = "stocked"
where = "stock > 0"
shown = 60
"""


def attributes() -> pa.Table:
    known = shop_attributes().append_column("stock", pa.array([5] * N, pa.int64()))
    return known.append_column("hidden", pa.nulls(N, pa.bool_()))


def save(place: Path, known: pa.Table, *, seed: int = 0, name: str = "last-item") -> None:
    log = shop_log()
    MODELS[name]().fit(log, table_of(log.catalog.items.ids, seed=seed, attributes=known)).save(place, pack=True)


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """Two models with other vectors, so that items which were added to one do not come with the other."""
    for seed, name in enumerate(("first", "second")):
        save(tmp_path / name, attributes(), seed=seed)
    return tmp_path


def worker(model: Path, folder: Path, slots: str = SLOTS) -> Serving:
    (folder / "slots.toml").write_text(slots)
    config = ServeConfig(database=str(folder / "shop.sqlite"), slots=str(folder / "slots.toml"), threads=1)
    serving = Serving(Choice(str(model)), config, folder / "state")
    serving.start()
    return serving


@contextmanager
def two_workers(model: Path, folder: Path) -> Iterator[tuple[Serving, Serving]]:
    first, second = worker(model, folder), worker(model, folder)
    try:
        yield first, second
    finally:
        first.close()
        second.close()


def tell(serving: Serving, item: str, **said: Any) -> None:
    serving.add_items(_told(serving.engine, [NewItem(item_id=item, attributes=said)]))


def known_of(serving: Serving, item: str) -> dict[str, Any]:
    (found,) = serving.engine.attributes(serving.engine.rows([item]))
    return found


def shown(serving: Serving) -> set[Any]:
    engine = serving.engine
    return set(engine.ids(engine.fill("stocked", engine.past_of([]), preview=True).ranking.rows))


def good(answer: Any) -> Any:
    assert answer.status_code == 200, answer.text
    return answer.json()


def changes_of(folder: Path) -> Path:
    return folder / "state" / "item-changes.jsonl"


def test_the_other_worker_knows_without_a_new_model(models: Path) -> None:
    with two_workers(models / "first", models) as (first, second):
        vectors, recommender = second.loaded.ranker.embeddings, second.loaded.recommender
        tell(first, "item3", stock=0, title="Three")
        assert "item3" not in shown(first) and known_of(first, "item3")["title"] == "Three"
        assert "item3" in shown(second)
        second.refresh()
        assert "item3" not in shown(second) and known_of(second, "item3")["title"] == "Three"
        assert second.loaded.ranker.embeddings is vectors and second.loaded.recommender.retriever is recommender.retriever
        tell(second, "item4", stock=0)  # each worker adds to what the other has said
        tell(first, "item5", stock=0)
        second.refresh()
        for one in (first, second):
            assert not shown(one) & {"item3", "item4", "item5"} and len(shown(one)) == N - 3


def test_what_was_answered_survives_a_kill(models: Path) -> None:
    with served(models / "first", models, "--workers", "2") as server:
        for row in range(10):
            assert server.ask("PATCH", f"/items/item{row}", {"attributes": {"stock": 100 + row}})[0] == 200
        batch = [{"item_id": f"item{row}", "attributes": {"hidden": True, "title": None}} for row in range(20, 30)]
        assert server.ask("POST", "/items", {"items": batch})[1]["corrected"] == 10
        server.stop(signal.SIGKILL)
    with served(models / "first", models, "--workers", "2") as server:
        stocks = [server.ask("GET", f"/items/item{row}")[1]["attributes"]["stock"] for row in range(10)]
        assert stocks == list(range(100, 110))
        assert server.ask("GET", "/items/item25")[1]["attributes"]["title"] is None
        found = server.ask("POST", "/recommend", {"k": N})[1]["items"]
        assert {item["item_id"] for item in found} == {f"item{row}" for row in range(N)} - {
            f"item{row}" for row in range(20, 30)
        }


@pytest.mark.parametrize(
    "left", [b'{"item_id":"item3","attributes":{"stock":', b'{"item_id":"item3"', b"\x00\xff\x00", b'"item3"', b"[" * 9999]
)
def test_half_a_line_at_the_end_harms_nothing(models: Path, left: bytes, caplog: pytest.LogCaptureFixture) -> None:
    first = worker(models / "first", models)
    tell(first, "item3", stock=7)
    with changes_of(models).open("ab") as file:
        file.write(left)
    first.refresh()
    assert known_of(first, "item3")["stock"] == 7 and first.problems == {}
    with caplog.at_level(logging.WARNING, "heedful.serving"):
        tell(first, "item4", stock=8)
        first.close()
        again = worker(models / "first", models)
    assert known_of(again, "item3")["stock"] == 7 and known_of(again, "item4")["stock"] == 8
    assert [record.facts["damaged_lines"] for record in caplog.records if "left out" in record.message] == [1]  # type: ignore[attr-defined]
    again.close()


def test_damage_in_the_middle_costs_that_line_alone(models: Path) -> None:
    first = worker(models / "first", models)
    for row in range(3):
        tell(first, f"item{row}", stock=row + 10)
    first.close()
    lines = changes_of(models).read_bytes().splitlines(keepends=True)
    changes_of(models).write_bytes(b"".join([*lines[:2], b"\xff" + lines[2][1:], *lines[3:]]))
    again = worker(models / "first", models)
    assert [known_of(again, f"item{row}")["stock"] for row in range(3)] == [10, 5, 12]
    again.close()


def test_a_change_outlives_the_model_that_it_was_said_to(models: Path) -> None:
    with two_workers(models / "first", models) as (first, second):
        tell(first, "item3", hidden=True)
        tell(first, "item4", price=None, stock=1)
        first.swap("second")
        second.refresh()
        for one in (first, second):
            assert one.loaded.ranker.embeddings is not None
            assert "item3" not in shown(one) and "item4" in shown(one)
            assert known_of(one, "item4")["price"] is None and known_of(one, "item4")["stock"] == 1
        tell(second, "item3", hidden=None)
        first.refresh()
        assert "item3" in shown(first)


def test_a_hidden_item_stays_hidden_when_a_link_is_turned_to_the_model_of_tonight(models: Path) -> None:
    (models / "current").symlink_to("first")
    with two_workers(models / "current", models) as (first, second):
        tell(second, "item3", hidden=True)
        before = first.loaded.version
        (models / "next").symlink_to("second")
        (models / "next").rename(models / "current")
        for one in (first, second):
            one.refresh()
            assert one.loaded.version != before and "item3" not in shown(one) and len(shown(one)) == N - 1
            assert known_of(one, "item3")["hidden"] is True


def test_columns_that_another_model_lacks_are_left_out_and_kept(models: Path, caplog: pytest.LogCaptureFixture) -> None:
    other = attributes().drop_columns(["price"])
    other = other.set_column(other.column_names.index("title"), "title", pa.array(range(N)))
    save(models / "third", other, seed=2)
    first = worker(models / "first", models)
    tell(first, "item3", price=0.5, stock=77, title="Three")
    tell(first, "item4", title="4")
    with caplog.at_level(logging.WARNING, "heedful.serving"):
        first.swap("third")
    assert known_of(first, "item3") == {
        "category": "category 3",
        "department": "BOOKS",
        "hidden": None,
        "stock": 77,
        "title": 3,
    }
    facts = [record.facts["by_column"] for record in caplog.records if "left out" in record.message]  # type: ignore[attr-defined]
    assert facts == [{"price": 1, "title": 1}]
    assert known_of(first, "item4")["title"] == 4  # as JSON of the new type
    first.swap("first")
    assert known_of(first, "item3")["price"] == 0.5 and known_of(first, "item3")["title"] == "Three"
    first.close()


def test_compacting_keeps_what_is_said(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with two_workers(models / "first", models) as (first, second):
        for round_ in range(30):
            for row in range(5):
                tell(first, f"item{row}", stock=round_, price=None if round_ == 20 else float(round_))
        tell(first, "item0", price=None)
        tell(first, "item1", hidden=True)
        before = [known_of(first, f"item{row}") for row in range(6)]
        size = changes_of(models).stat().st_size
        monkeypatch.setattr(item_changes, "_SLACK_BYTES", 0)
        third = worker(models / "first", models)  # it finds that the file is large
        assert changes_of(models).stat().st_size < size / 10
        monkeypatch.undo()
        tell(third, "item5", stock=55)
        before[5]["stock"] = 55
        for one in (first, second, third):
            one.refresh()
            assert [known_of(one, f"item{row}") for row in range(6)] == before
            assert "item1" not in shown(one)
        tell(second, "item2", stock=0)
        first.refresh()
        assert "item2" not in shown(first)
        third.close()


def test_a_server_that_starts_compacts(models: Path) -> None:
    first = worker(models / "first", models)
    for stock in range(50):
        tell(first, "item3", stock=stock)
    tell(first, "item4", title=None)
    first.close()
    with changes_of(models).open("ab") as file:
        file.write(b'{"item_id":"item5","attri')
    prepare(Choice(str(models / "first")), first.config, models / "state")
    lines = changes_of(models).read_text().splitlines()
    assert [json.loads(line) for line in lines[1:]] == [
        {"item_id": "item3", "attributes": {"stock": 49}}, {"item_id": "item4", "attributes": {"title": None}}
    ]  # fmt: skip
    again = worker(models / "first", models)
    assert known_of(again, "item3")["stock"] == 49 and known_of(again, "item4")["title"] is None
    again.close()


def test_an_item_that_was_added(models: Path) -> None:
    """What is said of it is known after a restart, and to a later model that was trained on it."""
    first = worker(models / "first", models)
    tell(first, "new", title="New", stock=1, hidden=True)
    tell(first, "new", stock=2)
    assert known_of(first, "new") | {"title": "New", "stock": 2, "hidden": True} == known_of(first, "new")
    first.close()
    again = worker(models / "first", models)
    assert known_of(again, "new")["stock"] == 2 and "new" not in shown(again)
    log = log_of([[0, 1, 2], [2, 1]], ids=["item3", "item4", "new"])
    table = table_of(log.catalog.items.ids, attributes=attributes().take([3, 4, 5]))
    MODELS["last-item"]().fit(log, table).save(models / "tonight", pack=True)
    again.swap("tonight")
    assert known_of(again, "new")["title"] == "New" and shown(again) == {"item3", "item4"}
    again.close()


def test_models_without_vectors_take_changes_too(models: Path) -> None:
    save(models / "popular", attributes(), name="popularity")
    first = worker(models / "popular", models)
    tell(first, "item3", stock=0)
    assert "item3" not in shown(first)
    first.close()


def test_a_value_that_a_slot_cannot_use_is_refused_and_not_kept(models: Path) -> None:
    sizes = attributes().append_column("size", pa.array([str(row) for row in range(N)]))
    save(models / "sized", sizes)
    slots = SLOTS + '[[slot]]\nname = "large"\nwhere = "CAST(size AS INTEGER) > 3"\n'
    first = worker(models / "sized", models, slots)
    tell(first, "item3", size="30")
    with pytest.raises(ConfigError, match=r"slot 'large'.*Could not convert"):
        tell(first, "item3", size="large")
    assert known_of(first, "item3")["size"] == "30"
    first.close()
    again = worker(models / "sized", models, slots)
    assert known_of(again, "item3")["size"] == "30" and again.problems == {}
    again.close()


def test_what_cannot_be_written_is_not_answered_and_not_shown(models: Path) -> None:
    with client(models / "first", models, state=str(models / "state")) as shop:
        good(shop.patch("/items/item3", json={"attributes": {"stock": 7}}))
        (file,) = (models / "state").rglob("item-changes.jsonl")
        kept = file.rename(file.with_suffix(".kept"))
        file.mkdir()
        error_of(shop.patch("/items/item3", json={"attributes": {"stock": 8}}), 503)
        assert good(shop.get("/items/item3"))["attributes"]["stock"] == 7
        wait_for(lambda: "items" in good(shop.get("/model"))["problems"], "nobody says so")
        file.rmdir()
        kept.rename(file)
        wait_for(lambda: not good(shop.get("/model"))["problems"], "it is not used again")
        assert good(shop.patch("/items/item3", json={"attributes": {"stock": 9}}))["attributes"]["stock"] == 9


TYPES = {
    "day": pa.array([date(2024, 2, 29), None], pa.date32()),
    "moment": pa.array([datetime(2024, 1, 2, 3, 4, 5, 678901), None], pa.timestamp("us", "UTC")),
    "price": pa.array([Decimal("12.50"), None], pa.decimal128(9, 2)),
    "code": pa.array([2**62 + 1, None], pa.int64()),
    "size": pa.array([2**63 + 9, None], pa.uint64()),
    "label": pa.array([b"abc", None], pa.binary()),
    "kind": pa.array(["x", None], pa.string()).dictionary_encode(),
    "tags": pa.array([["a", None], None], pa.list_(pa.string())),
    "box": pa.array([{"w": 1, "d": date(2024, 1, 1)}, None], pa.struct([("w", pa.int8()), ("d", pa.date32())])),
    "sizes": pa.array([[1, 2], None], pa.list_(pa.int64(), 2)),
    "lasts": pa.array([timedelta(hours=1), None], pa.duration("s")),
    "opens": pa.array([time(9, 30, 1), None], pa.time64("us")),
    "weight": pa.array([0.1, None], pa.float32()),
    "names": pa.array([[("de", "Ö")], None], pa.map_(pa.string(), pa.string())),
}


def test_values_of_every_type_come_back(models: Path) -> None:
    log = log_of([[0, 1], [1, 0]], ids=[f"i{n}" for n in range(2)])
    MODELS["last-item"]().fit(log, table_of(log.catalog.items.ids, attributes=pa.table(TYPES))).save(
        models / "types", pack=True
    )
    options: dict[str, Any] = {"state": str(models / "state"), "slots": None}

    def swapped(shop: TestClient) -> list[Any]:
        return [good(shop.get(f"/items/i{n}"))["attributes"] for n in (1, 0)]

    with client(models / "types", models, **options) as shop:
        one, two = (good(shop.get(f"/items/i{n}"))["attributes"] for n in range(2))
        assert one["price"] == "12.50" and one["size"] == str(2**63 + 9) and one["label"] == "abc"
        good(shop.post("/items", json={"items": [
            {"item_id": "i0", "attributes": two}, {"item_id": "i1", "attributes": one},
        ]}))  # fmt: skip
        assert swapped(shop) == [one, two]
        loaded = shop.app.state.serving.loaded.ranker.attributes  # type: ignore[attr-defined]
    with client(models / "types", models, **options) as shop:
        assert swapped(shop) == [one, two]
        again = shop.app.state.serving.loaded.ranker.attributes  # type: ignore[attr-defined]
        assert again.to_pylist() == loaded.to_pylist() == pa.table(TYPES).take([1, 0]).to_pylist()


def test_a_request_of_known_items_makes_no_table(models: Path) -> None:
    with client(models / "first", models, state=str(models / "state")) as shop:
        version = good(shop.get("/model"))["version"]
        done = good(shop.post("/items", json={"items": [{"item_id": "item3", "attributes": {"stock": 7}}]}))
        assert done == {
            "added": 0, "corrected": 1, "new_items": 0, "fitted": 0, "embeddings": None, "model": version
        }  # fmt: skip
        assert not list((models / "state").rglob("tables/*"))
        new = [{"item_id": name, "attributes": {"stock": 9}} for name in ("new", "item3")]
        done = good(shop.post("/items", json={"items": new}))
        assert (done["added"], done["corrected"], done["new_items"]) == (1, 1, 1) and done["model"] != version
        assert [folder.name for folder in (models / "state").rglob("tables/*")] == [done["embeddings"]]
        again = good(shop.post("/items", json={"items": [{"item_id": "new", "attributes": {"stock": 8}}]}))
        assert again == done | {"added": 0, "corrected": 1}
        assert [good(shop.get(f"/items/{name}"))["attributes"]["stock"] for name in ("new", "item3")] == [8, 9]


def test_ids_that_are_integers(models: Path) -> None:
    log = log_of([[0, 1], [1, 0]], ids=[10, 2**60])
    table = table_of(log.catalog.items.ids, attributes=pa.table({"stock": [1, 2]}))
    MODELS["last-item"]().fit(log, table).save(models / "numbers", pack=True)
    slots = SLOTS
    first = worker(models / "numbers", models, slots)
    first.add_items(_told(first.engine, [NewItem(item_id=10, attributes={"stock": 0})]))
    first.add_items(_told(first.engine, [NewItem(item_id=str(2**60), attributes={"stock": 3})]))
    first.close()
    again = worker(models / "numbers", models, slots)
    assert [known_of(again, item)["stock"] for item in ("10", str(2**60))] == [0, 3]
    assert shown(again) == {str(2**60)}
    again.close()
