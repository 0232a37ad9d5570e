"""What is known of items changes while they are served: stock, price, hidden ones."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from fastapi.testclient import TestClient
from serving_worlds import N, client, error_of, served, shop_attributes, shop_log, wait_for

from heedful.rankers.registry import MODELS, load_ranker
from heedful.recommending.recommend import Recommender
from ranking_worlds import QUICK, table_of

SLOTS = """
[[slot]]
name = "stocked"
where = "stock > 0"
shown = 60
pinned = ["item7"]
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    attributes = shop_attributes().append_column("stock", pa.array([5] * N, pa.int64()))
    attributes = attributes.append_column("hidden", pa.array([row == 9 or None for row in range(N)], pa.bool_()))
    log = shop_log()
    place = tmp_path_factory.mktemp("items") / "model"
    ranker = MODELS["attention"](**QUICK["attention"])
    ranker.fit(log, table_of(log.catalog.items.ids, attributes=attributes)).save(place, pack=True)
    return place


@pytest.fixture
def shop(model: Path, tmp_path: Path) -> Iterator[TestClient]:
    (tmp_path / "slots.toml").write_text(SLOTS)
    with client(model, tmp_path) as opened:
        yield opened


def good(answer: Any) -> Any:
    assert answer.status_code == 200, answer.text
    return answer.json()


def ids_of(answer: Any) -> set[str]:
    return {item["item_id"] for item in good(answer)["items"]}


def patch(shop: TestClient, item: str, **attributes: Any) -> Any:
    return good(shop.patch(f"/items/{item}", json={"attributes": attributes}))


def test_a_patch_is_seen_at_once(shop: TestClient) -> None:
    assert patch(shop, "item3", stock=0, price=0.5)["attributes"]["stock"] == 0
    assert "item3" not in ids_of(shop.post("/recommend", json={"k": N, "where": "stock > 0"}))
    assert ids_of(shop.post("/recommend", json={"k": N, "where": "price = 0.5"})) == {"item3"}
    assert "item3" not in ids_of(shop.post("/slots/stocked", json={"preview": True}))
    assert good(shop.get("/items/item3"))["attributes"]["title"] == "Title 3"


def test_what_is_answered_can_be_sent_back(shop: TestClient) -> None:
    for item in ("item3", "item7", "item9"):  # one without a title, one that is hidden
        known = good(shop.get(f"/items/{item}"))
        assert good(shop.patch(f"/items/{item}", json=known)) == known
        assert good(shop.get(f"/items/{item}")) == known


def test_null_removes_and_an_empty_patch_changes_nothing(shop: TestClient) -> None:
    version = good(shop.get("/model"))["version"]
    before = good(shop.get("/items/item4"))
    assert good(shop.patch("/items/item4", json={})) == before and good(shop.get("/model"))["version"] == version
    assert patch(shop, "item4", category=None)["attributes"] == {**before["attributes"], "category": None}


@pytest.mark.parametrize(
    "attributes", [{"stock": "many"}, {"stock": 1.5}, {"hidden": "yes"}, {"price": [1]}, {"colour": "red"}]
)
def test_what_does_not_fit_the_catalogue_is_refused(shop: TestClient, attributes: dict[str, Any]) -> None:
    before = good(shop.get("/items/item4"))
    error_of(shop.patch("/items/item4", json={"attributes": {**attributes, "title": "Other"}}), 422)
    assert good(shop.get("/items/item4")) == before


def test_unknown_items_and_other_bodies(shop: TestClient) -> None:
    error_of(shop.patch("/items/nonsense", json={"attributes": {"stock": 1}}), 404)
    assert "another item" in error_of(shop.patch("/items/item4", json={"item_id": "item5"}), 422)["message"]
    error_of(shop.patch("/items/item4", json={"stock": 1}), 422)


def test_hidden_items_are_never_shown(shop: TestClient) -> None:
    """Neither recommended, nor in a slot, even pinned, nor ranked, nor similar."""
    assert "item9" not in ids_of(shop.post("/recommend", json={"k": N}))
    patch(shop, "item7", hidden=True)
    hidden = {"item7", "item9"}
    for history in ([], ["item1", "item2"]):
        for more in ({}, {"where": "stock > 0"}):
            found = ids_of(shop.post("/recommend", json={"k": N, "history": history, "exclude_history": False, **more}))
            assert len(found) == N - 2 and not found & hidden
    assert not ids_of(shop.post("/slots/stocked", json={"preview": True})) & hidden
    assert not ids_of(shop.get("/items/item1/similar", params={"k": N})) & hidden
    ranked = shop.post("/rank", json={"history": ["item1"], "candidates": ["item7", "item9", "item3"]})
    assert ids_of(ranked) == {"item3"}
    assert good(shop.get("/items/item7"))["attributes"]["hidden"] is True
    patch(shop, "item7", hidden=None)
    patch(shop, "item9", hidden=False)
    assert len(ids_of(shop.post("/recommend", json={"k": N}))) == N


def test_new_items_are_patched_too(shop: TestClient) -> None:
    good(shop.post("/items", json={"items": [{"item_id": "new", "attributes": {"title": "New", "stock": 1}}]}))
    assert patch(shop, "new", hidden=True)["attributes"]["stock"] == 1
    assert "new" not in ids_of(shop.post("/recommend", json={"k": N + 1}))
    patch(shop, "new", hidden=False)
    assert "new" in ids_of(shop.post("/recommend", json={"k": N + 1, "where": "stock > 0"}))


def test_it_stays_after_a_restart_and_with_all_workers(model: Path, tmp_path: Path) -> None:
    with served(model, tmp_path, "--workers", "2") as server:
        assert server.ask("PATCH", "/items/item3", {"attributes": {"stock": 77, "hidden": True}})[0] == 200
        stock = lambda: server.ask("GET", "/items/item3")[1]["attributes"]["stock"]  # noqa: E731
        wait_for(lambda: all(stock() == 77 for _ in range(20)), "not all workers know")
        server.stop()
    with client(model, tmp_path) as shop:
        assert good(shop.get("/items/item3"))["attributes"]["stock"] == 77
        assert "item3" not in ids_of(shop.post("/recommend", json={"k": N}))


def test_thousands_at_once(shop: TestClient) -> None:
    items = [{"item_id": f"item{n % N}" if n < N else f"more{n}", "attributes": {"stock": n}} for n in range(3000)]
    begun = time.perf_counter()
    done = good(shop.post("/items", json={"items": items}))
    assert (done["corrected"], done["added"]) == (N, 3000 - N)
    assert time.perf_counter() - begun < 60
    assert good(shop.get("/items/item59"))["attributes"]["stock"] == 59


def test_hidden_items_without_a_server(model: Path) -> None:
    recommender = Recommender(load_ranker(model))
    assert "item9" not in recommender.recommend(["item1"], k=N).items
    assert recommender.eligibility.mask("")[9] == np.False_
