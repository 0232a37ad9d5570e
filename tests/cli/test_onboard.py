"""`heedful extend`: from events and item files to a table that a trained model takes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from heedful.cli import main
from heedful.embeddings.table import ItemEmbeddings
from heedful.events.attributes import read_items
from ranking_worlds import DAY, START


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["--quiet", *map(str, arguments)])
    assert isinstance(ended.value.code, int)
    return ended.value.code


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Events with items 0 to 41, of which a table and a model know 0 to 39."""
    path = tmp_path_factory.mktemp("onboard")
    randoms = np.random.default_rng(0)
    n = 1500
    items = randoms.integers(0, 42, n)
    events = pa.table(
        {
            "user_id": [f"u{u}" for u in randoms.integers(0, 60, n)],
            "item_id": [f"i{i}" for i in items],
            "timestamp": START + randoms.integers(0, 100 * DAY, n),
        }
    )
    pq.write_table(events, path / "events.parquet")
    pq.write_table(events.filter(pa.array(items < 40)), path / "old.parquet")
    (path / "items.csv").write_text("product_id,title,brand\ni41,Late,b1\ni99,Never,b2\ni99,Twice,b3\n,None,b4\ni7,Old,b1\n")
    assert run("prepare", path / "old.parquet", "--out", path / "sequences") == 0
    assert run("embed", path / "sequences", "--out", path / "embeddings", "--width", 4, "--epochs", 2, "--threads", 1) == 0
    assert run("train", path / "sequences", "--embeddings", path / "embeddings", "--out", path / "model", "--steps", 5) == 0
    requests = {"request_id": ["r"], "history": [["i1", "i41", "i2"]], "candidates": [["i99", "i40", "i3", "nothing"]]}
    pq.write_table(pa.table(requests), path / "requests.parquet")
    return path


def test_new_items_are_ranked_at_once(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "extended"
    assert (
        run(
            "extend",
            world / "embeddings",
            "--events",
            world / "events.parquet",
            "--items",
            world / "items.csv",
            "--out",
            out,
        )
        == 0
    )
    said = capsys.readouterr().out
    assert f"{out}: 3 new items, 43 in all" in said
    assert "2 fitted to their first actions, 1 from attributes alone" in said
    table = ItemEmbeddings.load(out)
    assert set(table.items.ids.to_pylist()[40:]) == {"i40", "i41", "i99"}
    assert table.extends(ItemEmbeddings.load(world / "embeddings").content_hash, 40)
    for embeddings, unknown in (([], 3), (["--embeddings", out], 1)):
        assert run("score", world / "model", world / "requests.parquet", "--out", tmp_path / "s.parquet", *embeddings) == 0
        scores = pq.read_table(tmp_path / "s.parquet")["scores"][0].as_py()
        assert sum(score == -1e9 for score in scores) == unknown


def test_a_folder_of_sequences_and_options(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("prepare", world / "events.parquet", "--out", tmp_path / "all") == 0
    out = tmp_path / "extended"
    assert run("extend", world / "embeddings", "--events", tmp_path / "all", "--out", out, "--precision", 5) == 0
    assert "2 new items, 42 in all" in capsys.readouterr().out
    assert ItemEmbeddings.load(out).provenance["extensions"][0]["config"]["precision"] == 5


def test_what_goes_wrong(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "extended"
    for arguments, words in (
        ([], "there is nothing to extend the embeddings with; expected: --events, --items or both"),
        (["--events", world / "sequences"], "there are no new items"),
        (["--events", world / "none.parquet"], "there is no file"),
        (["--items", world / "old.parquet", "--shrinkage", 0], "option 'shrinkage' is out of range; got: 0"),
    ):
        assert run("extend", world / "embeddings", "--out", out, *arguments) == 1
        assert words in capsys.readouterr().err
        assert not out.exists()


def test_an_item_file_by_itself(world: Path) -> None:
    table = read_items(world / "items.csv")
    assert table.column_names == ["item_id", "title", "brand"]
    assert table["item_id"].to_pylist() == ["i41", "i99", "i7"] and table["title"].to_pylist() == ["Late", "Never", "Old"]
