"""Items that arrive while a model is served: vectors from attributes, then from what visitors did with them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from fastapi.testclient import TestClient
from serving_worlds import PATIENT, N, client, error_of, shop_attributes, shop_log

from heedful.embeddings.onboarding import extend_table
from heedful.embeddings.table import ItemEmbeddings
from heedful.errors import InputError
from heedful.events.log import EventLog
from heedful.events.preparing import read_events
from heedful.rankers.attention import AttentionRanker
from heedful.serving.models import Choice, Serving
from heedful.serving.options import ServeConfig
from ranking_worlds import DAY, QUICK, START

ITEMS = [f"item{row}" for row in range(N)]
COMPANIONS = ["item3", "item8", "item13"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose table has context vectors; those of items five apart point the same way."""
    log, randoms = shop_log(), np.random.default_rng(5)
    groups = np.array([int(name[4:]) % 5 for name in log.catalog.items.ids.to_pylist()])
    vectors, contexts = (randoms.normal(size=(5, 8))[groups] + randoms.normal(0, 0.3, (N, 8)) for _ in range(2))
    table = ItemEmbeddings.from_arrays(
        log.catalog.items.ids, vectors.astype(np.float32), contexts.astype(np.float32), attributes=shop_attributes()
    )
    path = tmp_path_factory.mktemp("models") / "model"
    AttentionRanker(**QUICK["attention"]).fit(log, table).save(path, pack=True)
    return path


@pytest.fixture
def shop(model: Path, tmp_path: Path) -> Iterator[TestClient]:
    with client(model, tmp_path) as opened:
        yield opened


def good(answer: Any) -> Any:
    assert answer.status_code == 200, answer.text
    return answer.json()


def add(shop: TestClient, *items: dict[str, Any]) -> dict[str, Any]:
    return dict(good(shop.post("/items", json={"items": list(items)})))


def visits(new: str, users: int, first: int = 0) -> list[dict[str, Any]]:
    """Visitors who take a new item together with items that are known."""
    return [
        {"event_id": f"{new}-{user}-{place}", "user_id": f"visitor-{user}", "item_id": item, "event": "purchase",
         "timestamp": START + DAY * user + place}
        for user in range(first, first + users) for place, item in enumerate([*COMPANIONS[:2], new, COMPANIONS[2]])
    ]  # fmt: skip


def vector(shop: TestClient, item: str) -> np.ndarray:
    engine = shop.app.state.serving.engine  # type: ignore[attr-defined]
    return np.asarray(engine.ranker.embeddings.vector(item))


def log_of(events: list[dict[str, Any]]) -> EventLog:
    return read_events(pa.Table.from_pylist(events).drop_columns(["event_id"]))


def test_first_visitors_say_where_a_new_item_belongs(shop: TestClient, model: Path) -> None:
    described = {"title": "Title 99", "department": "BOOKS"}
    before = good(shop.post("/rank", json={"history": ITEMS[:3], "candidates": ITEMS}))
    done = add(shop, {"item_id": "new", "attributes": described})
    assert (done["added"], done["new_items"], done["fitted"]) == (1, 1, 0)
    by_attributes = vector(shop, "new")
    events = visits("new", 12)
    assert good(shop.post("/events", json={"events": events}))["unknown_items"] == 0
    done = add(shop)
    assert (done["added"], done["new_items"], done["fitted"]) == (0, 1, 1)
    # What `heedful extend` makes of the same events and attributes.
    ranker = shop.app.state.serving.engine.ranker  # type: ignore[attr-defined]
    named = pa.table({"item_id": ["new"], **{name: [value] for name, value in described.items()}})
    base = ItemEmbeddings.load(model / "embeddings")
    expected = extend_table(base, log_of(events), attributes=named, counts=ranker.users_of_item[:N])
    np.testing.assert_allclose(vector(shop, "new"), expected.table.vector("new"), atol=1e-6)
    assert not np.allclose(vector(shop, "new"), by_attributes, atol=1e-3)
    assert ranker.users_of_item[N:].tolist() == [12]
    # The attributes were kept, and the known items' scores stay.
    assert good(shop.get("/items/new"))["attributes"]["department"] == "BOOKS"
    after = good(shop.post("/rank", json={"history": ITEMS[:3], "candidates": [*ITEMS, "new"]}))
    assert [item for item in after["items"] if item["item_id"] != "new"] == before["items"] and after["unknown"] == []


def test_actions_on_an_item_that_nobody_has_described_yet(shop: TestClient) -> None:
    assert good(shop.post("/events", json={"events": visits("later", 5)}))["unknown_items"] == 5
    assert add(shop, {"item_id": "later"})["fitted"] == 1


def test_items_that_came_before_are_kept_and_may_be_described_again(shop: TestClient) -> None:
    add(shop, {"item_id": "one", "attributes": {"title": "First", "price": 1.0}}, {"item_id": "two"})
    done = add(shop, {"item_id": "three"}, {"item_id": "one", "attributes": {"title": "Better"}})
    assert done["added"] == 2 and done["new_items"] == 3
    found = good(shop.get("/items", params={"ids": "one,two,three"}))["items"]
    assert {item["item_id"] for item in found} == {"one", "two", "three"}
    known = good(shop.get("/items/one"))["attributes"]
    assert known["title"] == "Better" and known["price"] is None
    provenance = shop.app.state.serving.engine.ranker.embeddings.provenance  # type: ignore[attr-defined]
    assert len(provenance["extensions"]) == 1  # of the trained table, each time


def test_what_cannot_be_added(shop: TestClient) -> None:
    for items, words in (
        ([], "there are no new items"),
        ([{"item_id": "item1"}, {"item_id": "new"}], "the model was trained on these items; got: item1"),
        ([{"item_id": "new"}, {"item_id": "new"}], "repeated"),
    ):
        assert words in error_of(shop.post("/items", json={"items": items}), 422)["message"]


def test_workers_that_add_items_at_once_do_not_lose_them(model: Path, tmp_path: Path) -> None:
    """The second has not yet seen what the first has done."""
    config = ServeConfig(database=str(tmp_path / "shop.sqlite"), threads=1, **PATIENT)
    first, second = (Serving(Choice(str(model)), config, tmp_path) for _ in range(2))
    for worker in (first, second):
        worker.start()
    try:
        columns = first.loaded.ranker.attributes.schema
        nothing = {field.name: pa.nulls(1, field.type) for field in columns}
        first.add_items(pa.table({"item_id": ["one"], **nothing}))
        second.add_items(pa.table({"item_id": ["two"], **nothing}))
        first.refresh()
        for worker in (first, second):
            assert (worker.engine.rows(["one", "two"]) >= 0).all()
        with pytest.raises(InputError):
            first.add_items(pa.table({"item_id": ["item1"], **nothing}))
    finally:
        first.close()
        second.close()
