"""Every stage on Ray gives what it gives on one machine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from cluster_worlds import Counter, Shop

import heedful
from heedful import cluster
from heedful.cluster import ranking
from heedful.cluster.parts import open_work, run_parts
from heedful.cluster.storage import Place
from heedful.errors import ConfigError, InputError, TrainingError
from heedful.recommending.requests import BATCH_REQUESTS

pytestmark = [
    pytest.mark.usefixtures("ray_session"),
    # Ray warns of what it does itself.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.*", "ignore::FutureWarning:ray.*"),
]


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As many threads as a worker has: products are added up in another order in more, and differ in the last digit."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.name != "manifest.json"}


def test_a_worker_that_dies_costs_its_parts_only_and_a_second_run_none(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.mkdir()
    work = Place.of(tmp_path / "work")
    open_work(work, {"a": 1})
    done = run_parts(work, "count", list(range(8)), Counter, {"log": str(log)})
    assert [one["part"] for one in done] == list(range(8))
    assert (log / "killed").exists()
    left = len(list(log.iterdir()))
    open_work(work, {"a": 1})
    (tmp_path / "work" / "count-00005.json").unlink()
    assert run_parts(work, "count", list(range(8)), Counter, {"log": str(log)}) == done
    assert len(list(log.iterdir())) == left + 1
    open_work(work, {"a": 2})  # another run
    assert [file.name for file in (tmp_path / "work").iterdir()] == ["inputs.json"]


def test_prepare_gives_the_same_bytes(shop: Shop, tmp_path: Path) -> None:
    log = cluster.prepare(shop.log / "events", tmp_path / "sequences", items=shop.log / "items.parquet")
    assert bytes_of(tmp_path / "sequences") == bytes_of(shop.sequences)
    here = heedful.EventLog.load(shop.sequences)
    assert log.folder is not None and here.folder is not None
    assert log.folder.content_hash == here.folder.content_hash
    differing = {key for key, value in here.folder.manifest.items() if log.folder.manifest[key] != value}
    assert differing <= {"created", "seconds"}
    assert not (tmp_path / "sequences.parts").exists()


def test_prepare_sets_aside_what_one_machine_sets_aside(tmp_path: Path) -> None:
    random = np.random.default_rng(5)
    n = 4000
    table = pa.table({
        "user": pa.array([f"u{u}" if u else None for u in random.integers(0, 200, n)]),
        "item": [f"i{i}" for i in (60 * random.random(n) ** 3).astype(int)],
        "time": [["2024-01-05", "2024-02-07 12:30:00", "rubbish", "1890-01-01"][c] for c in random.integers(0, 4, n)],
        "event": [["view", "buy", "", None, "error"][c] for c in random.integers(0, 5, n)],
    })  # fmt: skip
    for number in range(4):
        part = table.slice(number * 1000, 1000)
        # One file lacks the kinds, one has its columns in another order.
        part = part.drop_columns(["event"]) if number == 1 else part.select(part.column_names[:: -1 if number == 2 else 1])
        pq.write_table(part, tmp_path / f"part{number}.parquet")
    config = heedful.PrepareConfig(
        duplicates="drop", kinds=("view", "buy", "unknown"), min_item_events=9, max_user_events=14, threads=1
    )
    files = sorted(tmp_path.glob("part*.parquet"))
    here = heedful.prepare(files, tmp_path / "here", config=config)
    there = cluster.prepare(files, tmp_path / "there", config=config)
    assert bytes_of(tmp_path / "there") == bytes_of(tmp_path / "here")
    assert here.folder is not None and there.folder is not None
    for fact in ("rejected", "kinds_left_out", "duplicates", "users_set_aside", "items_set_aside", "rows_read", "kinds"):
        assert there.folder.manifest[fact] == here.folder.manifest[fact] != 0, fact
    with pytest.raises(ConfigError, match="no events of that kind"):
        cluster.prepare(files, tmp_path / "none", config=heedful.PrepareConfig(kinds=("nonsense",)))
    with pytest.raises(ConfigError, match="a cluster reads files only"):
        cluster.prepare("duckdb:///x?table=t", tmp_path / "none")


def test_ranking_gives_the_same_bytes(shop: Shop, tmp_path: Path, one_thread: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranking, "_PART_REQUESTS", 2 * BATCH_REQUESTS)
    ranker = heedful.load_ranker(shop.model)
    report = heedful.score_requests(ranker, shop.requests, tmp_path / "here.parquet")
    assert cluster.score_requests(shop.model, shop.requests, tmp_path / "there.parquet") == report
    assert (tmp_path / "here.parquet").read_bytes() == (tmp_path / "there.parquet").read_bytes()
    report = heedful.recommend_requests(ranker, shop.requests, tmp_path / "here.parquet", k=3)
    assert cluster.recommend_requests(shop.model, shop.requests, tmp_path / "there.parquet", k=3) == report
    assert (tmp_path / "here.parquet").read_bytes() == (tmp_path / "there.parquet").read_bytes()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["here.parquet", "there.parquet"]


def test_an_error_of_a_worker_is_the_error_of_one_machine(shop: Shop, tmp_path: Path) -> None:
    bad = pa.table({"request_id": [1], "history": [[1, 2]], "history_times": [[5]], "candidates": [[3]]})
    pq.write_table(bad, tmp_path / "bad.parquet")
    with pytest.raises(InputError, match="history_times of request 1 does not fit its history"):
        cluster.score_requests(shop.model, tmp_path / "bad.parquet", tmp_path / "out.parquet")
    assert not (tmp_path / "out.parquet").exists()


def losses(model: Path) -> np.ndarray:
    return np.array(json.loads((model / "config.json").read_text())["report"]["losses"])


def test_training_has_the_loss_curve_of_one_machine(shop: Shop, tmp_path: Path) -> None:
    ranker = heedful.AttentionRanker(depth=2, steps=20, assess_every=5)
    facts = cluster.train(ranker, shop.sequences, shop.embeddings, tmp_path / "model")
    assert facts["workers"] == 2 and facts["steps"] == 20
    np.testing.assert_allclose(losses(tmp_path / "model"), losses(shop.model), rtol=0, atol=1e-5)
    assert not (tmp_path / "model.training").exists()
    loaded = heedful.load_ranker(tmp_path / "model")
    assert loaded.score([1], [2, 3]).shape == (2,)


def test_training_that_diverges_says_so(shop: Shop, tmp_path: Path) -> None:
    ranker = heedful.AttentionRanker(depth=2, steps=50, assess_every=5, learning_rate=1e30, gradient_norm=1e30)
    with pytest.raises(TrainingError, match="lower --learning-rate"):
        cluster.train(ranker, shop.sequences, shop.embeddings, tmp_path / "model")
    with pytest.raises(ConfigError, match="popularity is not trained on a cluster"):
        cluster.train(heedful.Popularity(), shop.sequences, shop.embeddings, tmp_path / "model")


def test_embeddings_are_as_good_as_those_of_one_machine(shop: Shop, tmp_path: Path) -> None:
    facts = cluster.embed(heedful.SkipGram(width=8, epochs=2, threads=1), shop.sequences, tmp_path / "embeddings")
    assert facts["workers"] == 2 and facts["bytes_sent"] > 0
    tables = [heedful.ItemEmbeddings.load(path) for path in (shop.embeddings, tmp_path / "embeddings")]
    final = [table.provenance["training"]["loss_per_pair"][-1] for table in tables]
    assert tables[0].items == tables[1].items
    assert final[1] == pytest.approx(final[0], rel=0.05)


def test_evaluation_gives_the_same_numbers(shop: Shop, tmp_path: Path) -> None:
    log = heedful.EventLog.load(shop.sequences)
    config = heedful.EvaluationConfig(cut="2024-10-01", days=60, resamples=200)
    past, future = config.split(log)
    models = {"popularity": heedful.Popularity().fit(past), "own": lambda histories, candidates: candidates.rows * 1.0}
    here = heedful.compare(models, future, config=config)
    there = heedful.compare(models, future, config=config, measuring=cluster.measuring(tmp_path / "report"))
    assert there.to_dict() == here.to_dict()
    assert there.per_user().equals(here.per_user())
    assert list(tmp_path.iterdir()) == []
