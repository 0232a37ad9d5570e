"""The experiment on a small log: stages that are used again, and only when they may be."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from heedful.embeddings.skipgram import SkipGram
from heedful.errors import ConfigError, InputError, TrainingError
from heedful.evaluation.measures import Measure
from heedful.evaluation.options import EvaluationConfig
from heedful.events.log import EventLog
from heedful.experiment import Experiment, Workspace, run_experiment, write_requests
from heedful.folders import new_folder, open_folder
from heedful.progress import show_progress
from heedful.rankers.attention import AttentionRanker
from heedful.rankers.neural import NeuralRanker
from heedful.rankers.registry import MODELS
from ranking_worlds import DAY, QUICK, START, random_log, table_of


@pytest.fixture
def shown() -> Iterator[None]:
    show_progress()
    yield
    show_progress(False)


@pytest.fixture(scope="module")
def log() -> EventLog:
    return random_log(users=100)


def run(log: EventLog, path: Path, *, names: tuple[str, ...] = ("attention", "popularity"), **options: Any) -> Experiment:
    rankers = {name: MODELS[name](**{**QUICK[name], **options.pop("model", {})}) for name in names}
    cut = options.pop("cut", START + 80 * DAY)
    return run_experiment(
        log,
        rankers,
        path / "report",
        workspace=Workspace(path / "stages"),
        config=EvaluationConfig(**{"cut": str(cut), "days": 20, "pool": 15, "resamples": 100, **options.pop("config", {})}),
        skipgram=SkipGram(**{"width": 6, "epochs": 1, "threads": 1, **options.pop("skipgram", {})}),
        overwrite=True,
        **options,
    )


def made(err: str) -> list[str]:
    return [line.rsplit("/", 1)[1] for line in err.splitlines() if line.startswith("making ")]


@pytest.mark.usefixtures("shown")
def test_stages_are_used_again_when_nothing_changed(
    log: EventLog, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = run(log, tmp_path)
    assert made(capsys.readouterr().err) == ["past", "embeddings", "attention", "popularity"]
    second = run(log, tmp_path)
    assert made(capsys.readouterr().err) == []
    assert str(second.comparison) == str(first.comparison)
    assert list(second.rankers) == ["attention", "popularity"] and second.items.width == 6
    assert int(first.past.histories.times.max()) < START + 80 * DAY <= int(first.future.histories.times.min())
    open_folder(tmp_path / "report", kind="report").verify()

    run(log, tmp_path, model={"seed": 5}, names=("attention",))
    assert made(capsys.readouterr().err) == ["attention"]
    run(log, tmp_path, skipgram={"seed": 7})
    assert made(capsys.readouterr().err) == ["embeddings", "attention", "popularity"]
    run(log, tmp_path, cut=START + 70 * DAY)
    assert made(capsys.readouterr().err) == ["past", "embeddings", "attention", "popularity"]
    run(random_log(3, users=100), tmp_path, cut=START + 70 * DAY)
    assert "past" in made(capsys.readouterr().err)


@pytest.mark.usefixtures("shown")
def test_a_damaged_stage_is_made_again(log: EventLog, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(log, tmp_path)
    weights = tmp_path / "stages" / "attention" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    (tmp_path / "stages" / "popularity" / "manifest.json").unlink()
    capsys.readouterr()
    run(log, tmp_path)
    err = capsys.readouterr().err
    assert made(err) == ["attention", "popularity"] and "weights.safetensors is damaged" in err
    (tmp_path / "stages" / "stages.json").write_text("{ half")
    run(log, tmp_path)
    assert made(capsys.readouterr().err) == ["past", "embeddings", "attention", "popularity"]


def test_given_embeddings_are_used(log: EventLog, tmp_path: Path) -> None:
    table = table_of(log.catalog.items.ids)
    found = run(log, tmp_path, items=table)
    assert found.items is table and not (tmp_path / "stages" / "embeddings").exists()
    assert found.rankers["attention"].items == table.items


def test_training_that_was_killed_goes_on(log: EventLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run(log, tmp_path / "whole", names=("attention",))

    class Killed(BaseException):
        pass

    from heedful.ranking import training

    save = training._Run._save

    def save_and_die(self: Any) -> None:
        save(self)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(training._Run, "_save", save_and_die)
        with pytest.raises(Killed):
            run(log, tmp_path / "killed", names=("attention",))
    assert len(list((tmp_path / "killed" / "stages" / "attention.training").glob("*/checkpoint.safetensors"))) == 1
    steps = []
    update = training._Run._update

    def counted(self: Any, batch: Any) -> float:
        steps.append(1)
        return update(self, batch)

    monkeypatch.setattr(training._Run, "_update", counted)
    again = run(log, tmp_path / "killed", names=("attention",))
    assert len(steps) == 10  # of 20
    assert str(again.comparison) == str(whole.comparison)
    assert not (tmp_path / "killed" / "stages" / "attention.training").exists()


def test_a_checkpoint_of_other_options_is_not_in_the_way(
    log: EventLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that failed leaves its checkpoint; the next, with other options, must not trip over it."""
    from heedful.ranking import neural

    good, calls = neural._TrainingPass.__call__, []

    def poisoned(self: Any, batch: Any) -> Any:
        calls.append(1)
        return good(self, batch) * (float("nan") if len(calls) > 15 else 1.0)

    with monkeypatch.context() as patch:
        patch.setattr(neural._TrainingPass, "__call__", poisoned)
        with pytest.raises(TrainingError, match="loss became nan"):
            run(log, tmp_path, names=("attention",))
    assert (tmp_path / "stages" / "attention.training").exists()
    ranker = run(log, tmp_path, names=("attention",), model={"learning_rate": 0.001}).rankers["attention"]
    assert isinstance(ranker, NeuralRanker) and ranker.config.learning_rate == 0.001
    assert not (tmp_path / "stages" / "attention.training").exists()


def test_a_cut_with_nothing_on_one_side(log: EventLog, tmp_path: Path) -> None:
    for cut, side in ((START - DAY, "before"), (START + 200 * DAY, "in the 20 days after")):
        with pytest.raises(InputError, match=f"no event {side} the cut"):
            run(log, tmp_path, cut=cut)
    assert not (tmp_path / "report").exists()


def test_depths_and_models_of_ones_own(log: EventLog, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Attention at each depth is a stage; one that a model of the comparison is already is not trained again."""
    config = EvaluationConfig(cut=str(START + 80 * DAY), days=20, pool=15, resamples=100)
    asked = write_requests(log, tmp_path / "requests.parquet", config=config)
    requests = pq.read_table(tmp_path / "requests.parquet")
    scores = [[float(len(item)) for item in candidates] for candidates in requests["candidates"].to_pylist()]
    pq.write_table(pa.table({"request_id": requests["request_id"], "scores": scores}), tmp_path / "scores.parquet")
    others = {"by name": tmp_path / "scores.parquet", "constant": lambda h, c: np.zeros(len(c.rows))}
    depths = {depth: AttentionRanker(**{**QUICK["attention"], "depth": depth}) for depth in (1, 2, 3)}
    show_progress()
    found = run(log, tmp_path, others=others, depths=depths)
    show_progress(False)
    assert found.comparison.pools.hash == asked.hash
    assert made(capsys.readouterr().err)[2:] == ["attention", "popularity", "attention-depth-1", "attention-depth-3"]
    assert list(found.comparison.results) == ["attention", "popularity", "by name", "constant"]
    assert found.depths is not None and found.depths.depths == (1, 2, 3)
    measure = Measure("gamma 1", 15, "NDCG")
    same = [result.best.by_user[measure] for result in (found.depths.results[2], found.comparison.results["attention"])]
    assert same[0] == pytest.approx(same[1], abs=1e-3)
    open_folder(tmp_path / "report", kind="report").verify()
    assert (tmp_path / "report" / "figure-4.png").exists()


def test_what_is_wrong_is_said_before_training(log: EventLog, tmp_path: Path) -> None:
    def never(*arguments: Any) -> None:
        raise AssertionError("trained")

    pq.write_table(pa.table({"request_id": [0], "scores": [[1.0]]}), tmp_path / "scores.parquet")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(AttentionRanker, "fit", never)
        patch.setattr(SkipGram, "fit", never)
        with pytest.raises(ConfigError, match="two models have the same name; got: popularity"):
            run(log, tmp_path, others={"popularity": lambda h, c: c.rows})
        with pytest.raises(ConfigError, match="these depths cannot be compared; got: 0, 1"):
            run(log, tmp_path, depths={0: AttentionRanker(depth=0), 1: AttentionRanker(depth=1)})
        with pytest.raises(ConfigError, match="a pool of 500 negatives is larger than the catalogue"):
            run(log, tmp_path, config={"pool": 500})
        table = table_of(log.catalog.items.ids)
        with pytest.raises(InputError, match="does not answer the requests of these pools"):
            run(log, tmp_path, items=table, others={"mine": tmp_path / "scores.parquet"})


def test_a_workspace_remembers_by_inputs(tmp_path: Path) -> None:
    workspace, count = Workspace(tmp_path / "w"), []

    def make(folder: Path) -> None:
        count.append(1)
        with new_folder(folder, kind="report"):
            pass

    def load(folder: Path) -> str:
        return open_folder(folder, kind="report").content_hash

    for inputs in ({"a": 1}, {"a": 1}, {"a": 2}, {"a": 1}):
        assert len(workspace.stage("stage", inputs, make, load)) == 64
    assert len(count) == 3
    assert list(json.loads((tmp_path / "w" / "stages.json").read_text())) == ["stage"]
