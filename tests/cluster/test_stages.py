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
from heedful.cluster.storage import Place, here
from heedful.errors import ConfigError, FolderError, InputError, TrainingError
from heedful.recommending.requests import ROW_GROUP_REQUESTS
from heedful.recommending.retrieval import Retriever

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


def test_prepare_gives_the_same_bytes(shop: Shop, storage: Place) -> None:
    (storage / "log").send(shop.log)
    log = cluster.prepare(storage / "log/events", storage / "sequences", items=storage / "log/items.parquet")
    assert bytes_of(here(storage / "sequences")) == bytes_of(shop.sequences)
    alone = heedful.EventLog.load(shop.sequences)
    assert log.folder is not None and alone.folder is not None
    assert log.folder.content_hash == alone.folder.content_hash
    differing = {key for key, value in alone.folder.manifest.items() if log.folder.manifest[key] != value}
    assert differing <= {"created", "seconds"}
    assert storage.names() == {"log", "sequences"}
    with pytest.raises(FolderError, match=f"{storage}/sequences exists already; to fix: pass --overwrite"):
        cluster.prepare(storage / "log/events", storage / "sequences")


def test_one_heavy_user_and_few_others_are_prepared_alike(tmp_path: Path) -> None:
    # The smallest id has most of the rows, so that no row stands before the first border between buckets.
    table = pa.table({"user": [1] * 500 + [2, 3] * 5, "item": list(range(100, 110)) * 51, "time": list(range(510))})
    pq.write_table(table, tmp_path / "events.parquet")
    heedful.prepare(tmp_path / "events.parquet", tmp_path / "here")
    cluster.prepare(tmp_path / "events.parquet", tmp_path / "there")
    assert bytes_of(tmp_path / "there") == bytes_of(tmp_path / "here")


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


def test_ranking_gives_the_same_bytes(
    shop: Shop, storage: Place, tmp_path: Path, one_thread: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranking, "_PART_REQUESTS", ROW_GROUP_REQUESTS)
    model, requests, out = storage / "model", storage / "requests.parquet", storage / "out.parquet"
    heedful.load_ranker(shop.model).save(tmp_path / "packed", pack=True)
    model.send(tmp_path / "packed")
    requests.send(shop.requests)
    ranker = heedful.load_ranker(shop.model)
    report = heedful.score_requests(ranker, shop.requests, tmp_path / "here.parquet")
    assert cluster.score_requests(model, requests, out) == report
    assert (tmp_path / "here.parquet").read_bytes() == here(out).read_bytes()
    report = heedful.recommend_requests(ranker, shop.requests, tmp_path / "here.parquet", k=3)
    assert cluster.recommend_requests(model, requests, out, k=3) == report
    assert (tmp_path / "here.parquet").read_bytes() == here(out).read_bytes()
    assert storage.names() == {"model", "requests.parquet", "out.parquet"}


def test_retrieval_then_ranking_gives_the_same_bytes(
    shop: Shop, far: Place, tmp_path: Path, one_thread: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranking, "_PART_REQUESTS", ROW_GROUP_REQUESTS)
    model, requests, index, out = far / "model", far / "requests.parquet", far / "index", far / "out.parquet"
    heedful.load_ranker(shop.model).save(tmp_path / "packed", pack=True)
    model.send(tmp_path / "packed")
    requests.send(shop.requests)
    ranker = heedful.load_ranker(shop.model)
    lists = Retriever(ranker, candidates=20, index="lists")
    lists.save(tmp_path / "index")
    index.send(tmp_path / "index")
    # Twenty retrieved items of 200 are other answers than the best of all, so that the option is seen to arrive.
    heedful.recommend_requests(ranker, shop.requests, tmp_path / "all.parquet", k=3)
    for retriever, given in ((Retriever(ranker, candidates=20), None), (lists, index)):
        report = heedful.recommend_requests(ranker, shop.requests, tmp_path / "here.parquet", k=3, retriever=retriever)
        assert (tmp_path / "here.parquet").read_bytes() != (tmp_path / "all.parquet").read_bytes()
        assert cluster.recommend_requests(model, requests, out, k=3, retrieve=20, index=given) == report
        assert (tmp_path / "here.parquet").read_bytes() == here(out).read_bytes()


def test_an_error_of_a_worker_is_the_error_of_one_machine(shop: Shop, tmp_path: Path) -> None:
    bad = pa.table({"request_id": [1], "history": [[1, 2]], "history_times": [[5]], "candidates": [[3]]})
    pq.write_table(bad, tmp_path / "bad.parquet")
    with pytest.raises(InputError, match="history_times of request 1 does not fit its history"):
        cluster.score_requests(shop.model, tmp_path / "bad.parquet", tmp_path / "out.parquet")
    assert not (tmp_path / "out.parquet").exists()


def losses(model: Path) -> np.ndarray:
    return np.array(json.loads((model / "config.json").read_text())["report"]["losses"])


def test_training_has_the_loss_curve_of_one_machine(shop: Shop, far: Place) -> None:
    ranker = heedful.AttentionRanker(depth=2, steps=20, validate_every=5)
    (far / "sequences").send(shop.sequences)
    (far / "embeddings").send(shop.embeddings)
    facts = cluster.train(ranker, far / "sequences", far / "embeddings", far / "model")
    assert facts["workers"] == 2 and facts["steps"] == 20
    np.testing.assert_allclose(losses(here(far / "model")), losses(shop.model), rtol=0, atol=1e-5)
    assert far.names() == {"sequences", "embeddings", "model"}
    loaded = heedful.load_ranker(here(far / "model"))
    assert loaded.score([1], [2, 3]).shape == (2,)


def test_training_that_diverges_says_so(shop: Shop, tmp_path: Path) -> None:
    ranker = heedful.AttentionRanker(depth=2, steps=50, validate_every=5, learning_rate=1e30, gradient_norm=1e30)
    with pytest.raises(TrainingError, match="lower --learning-rate"):
        cluster.train(ranker, shop.sequences, shop.embeddings, tmp_path / "model")
    with pytest.raises(ConfigError, match="popularity is not trained on a cluster"):
        cluster.train(heedful.Popularity(), shop.sequences, shop.embeddings, tmp_path / "model")


def test_embeddings_are_as_good_as_those_of_one_machine(shop: Shop, far: Place) -> None:
    (far / "sequences").send(shop.sequences)
    facts = cluster.embed(heedful.SkipGram(width=8, epochs=2, threads=1), far / "sequences", far / "embeddings")
    assert facts["workers"] == 2 and facts["bytes_sent"] > 0
    tables = [heedful.ItemEmbeddings.load(path) for path in (shop.embeddings, here(far / "embeddings"))]
    assert far.names() == {"sequences", "embeddings"}
    final = [table.provenance["training"]["loss_per_pair"][-1] for table in tables]
    assert tables[0].items == tables[1].items
    assert final[1] == pytest.approx(final[0], rel=0.05)


def test_evaluation_gives_the_same_numbers(shop: Shop, storage: Place) -> None:
    log = heedful.EventLog.load(shop.sequences)
    config = heedful.EvaluationConfig(cut="2024-10-01", days=60, resamples=200)
    past, future = config.split(log)
    models = {"popularity": heedful.Popularity().fit(past), "own": lambda histories, candidates: candidates.rows * 1.0}
    alone = heedful.compare(models, future, config=config)
    there = heedful.compare(models, future, config=config, measuring=cluster.measuring(storage / "report"))
    assert there.to_dict() == alone.to_dict()
    assert there.per_user().equals(alone.per_user())
    assert storage.names() == set()
