"""Recommenders of public libraries on the command line: trained without embeddings, then like any other model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from heedful.cli import main
from heedful.rankers.registry import load_ranker
from ranking_worlds import DAY, START


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["--quiet", *map(str, arguments)])
    assert isinstance(ended.value.code, int)
    return ended.value.code


@pytest.fixture(scope="module")
def sequences(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("public")
    randoms = np.random.default_rng(0)
    n = 1500
    table = {
        "user_id": [f"u{u}" for u in randoms.integers(0, 60, n)],
        "item_id": [f"i{i}" for i in randoms.integers(0, 40, n)],
        "timestamp": START + randoms.integers(0, 100 * DAY, n),
    }
    pq.write_table(pa.table(table), path / "events.parquet")
    assert run("prepare", path / "events.parquet", "--out", path / "sequences") == 0
    return path / "sequences"


@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("ease", ["--top-items", 30, "--regularization", 5]),
        ("als", ["--factors", 4, "--alpha", 2]),
        ("bpr", ["--factors", 4, "--iterations", 3]),
        ("cosine", ["--neighbours", 5]),
        ("bm25", ["--neighbours", 5, "--saturation", 2]),
        ("sasrec", ["--factors", 8, "--session-length", 10, "--epochs", 1]),
        ("gsasrec", ["--factors", 8, "--calibration", 0.5, "--epochs", 1]),
        ("esasrec", ["--factors", 8, "--blocks", 1, "--epochs", 1]),
        ("hstu", ["--factors", 8, "--session-length", 10, "--epochs", 1]),
        ("popularity", []),
    ],
)
def test_train_score_and_recommend(model: str, options: list[object], sequences: Path, tmp_path: Path) -> None:
    assert run("train", model, sequences, *options, "--out", tmp_path / "model") == 0
    ranker = load_ranker(tmp_path / "model")
    assert ranker.name == model and ranker.embeddings is None
    requests = {"request_id": [1, 2], "history": [["i1", "i2"], ["i3", "who"]], "candidates": [["i4", "i5"], ["i6", "what"]]}
    pq.write_table(pa.table(requests), tmp_path / "requests.parquet")
    assert run("score", tmp_path / "model", tmp_path / "requests.parquet", "--out", tmp_path / "scores.parquet") == 0
    scores = pq.read_table(tmp_path / "scores.parquet")["scores"].to_pylist()
    np.testing.assert_allclose(scores[0], ranker.score(["i1", "i2"], ["i4", "i5"]), rtol=1e-4, atol=1e-4)
    assert scores[1][1] < scores[1][0]
    recommended = tmp_path / "recommendations.parquet"
    assert run("recommend", tmp_path / "model", tmp_path / "requests.parquet", "--out", recommended, "-k", 5) == 0
    items = pq.read_table(recommended)["items"].to_pylist()
    assert [len(one) for one in items] == [5, 5] and not {"i1", "i2"} & set(items[0])


def test_the_default_needs_embeddings(sequences: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("train", sequences, "--out", tmp_path / "model") == 1
    message = "mixed needs embeddings; got: no --embeddings; to fix: name a folder of `heedful embed`"
    assert message in capsys.readouterr().err and not (tmp_path / "model").exists()


def test_options_of_another_model(sequences: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("train", "ease", sequences, "--alpha", 3, "--out", tmp_path / "model") == 2
    assert "No such option '--alpha'" in capsys.readouterr().err
    assert run("train", "ease", sequences, "--embeddings", tmp_path, "--out", tmp_path / "model") == 2
    assert "No such option '--embeddings'" in capsys.readouterr().err


def test_evaluate_compares_them(sequences: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cut = START + 80 * DAY
    arguments = ["--cut", cut, "--days", 20, "--pool", 10, "--models", "popularity,ease,bm25"]
    assert run("evaluate", sequences, *arguments, "--out", tmp_path / "report") == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in ("popularity", "ease", "bm25"))
