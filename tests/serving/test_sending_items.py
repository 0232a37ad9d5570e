"""`heedful items load`: a file's attributes reach a running server, in requests that it takes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from serving_worlds import Server, served, train

from heedful.cli import main
from heedful.serving import sending


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("sending")
    train().save(folder / "model", pack=True)
    with served(folder / "model", folder) as running:
        yield running


def address(server: Server) -> str:
    return f"http://127.0.0.1:{server.port}"


def attributes_of(server: Server, item: str) -> dict[str, object]:
    status, found = server.ask("GET", f"/items/{item}")
    assert status == 200, found
    known: dict[str, object] = found["attributes"]
    return known


def test_a_file_corrects_known_items_and_adds_new_ones(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prices = {"item_id": ["item3", "item4", "fresh"], "price": [9.5, None, 2.0], "title": ["Three", "Four", "Fresh"]}
    pq.write_table(pa.table(prices), tmp_path / "prices.parquet")
    for added in (1, 0):  # sending again changes nothing
        with pytest.raises(SystemExit) as ended:
            main(["--quiet", "items", "load", str(tmp_path / "prices.parquet"), "--server", address(server)])
        assert ended.value.code == 0
        assert f"{added} items added, {3 - added} corrected" in capsys.readouterr().out
    assert attributes_of(server, "item3") | {"price": 9.5, "title": "Three"} == attributes_of(server, "item3")
    assert attributes_of(server, "item4").get("price") is None and attributes_of(server, "fresh")["price"] == 2.0
    assert attributes_of(server, "item3")["department"] in ("BOOKS", "MUSIC")  # what the file does not name stays


def test_only_the_columns_that_are_named_are_sent(server: Server, tmp_path: Path) -> None:
    (tmp_path / "prices.csv").write_text("item_id,price,note\nitem5,7.25,unknown to the shop\n")
    options = ["--server", address(server), "--columns", "price", "--numbers", "price"]
    with pytest.raises(SystemExit) as ended:
        main(["--quiet", "items", "load", str(tmp_path / "prices.csv"), *options])
    assert ended.value.code == 0 and attributes_of(server, "item5")["price"] == 7.25


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], r"answered 422; got: unknown attributes.*note"),
        (["--columns", "prise"], "there is no such column; got: prise; expected: price, note"),
        (["--columns", "note", "--numbers", "note"], "column 'note' is not of numbers"),
        (["--server", "localhost:8000"], "invalid address of a server"),
        (["--server", "http://127.0.0.1:9"], "nothing answers at http://127.0.0.1:9/items"),
    ],
)
def test_what_goes_wrong_is_said(
    server: Server, tmp_path: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "prices.csv").write_text("item_id,price,note\nitem5,8,x\n")
    asked = ["--quiet", "items", "load", str(tmp_path / "prices.csv"), "--server", address(server), *options]
    with pytest.raises(SystemExit) as ended:
        main(asked)
    assert ended.value.code == 1
    assert re.search(message, capsys.readouterr().err)


def test_numbers_of_text() -> None:
    assert sending.numbers_of(pa.chunked_array([["1", "", None, "-3"]]), "n").to_pylist() == [1, None, None, -3]
    assert sending.numbers_of(pa.chunked_array([["1", "2.5"]]), "n").to_pylist() == [1.0, 2.5]


def test_requests_are_as_large_as_the_server_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    bodies: list[bytes] = []

    def post(_address: str, body: bytes, _key: str | None) -> dict[str, int]:
        bodies.append(body)
        return {"added": body.count(b"item_id"), "corrected": 0}

    monkeypatch.setattr(sending, "_post", post)
    items = pa.table({"item_id": [f"i{n}" for n in range(25_000)], "title": ["x" * 300] * 25_000})
    assert sending.send_items(items, "http://localhost") == {"added": 25_000, "corrected": 0}
    assert max(map(len, bodies)) <= 4 * 2**20 and len(bodies) == 3
