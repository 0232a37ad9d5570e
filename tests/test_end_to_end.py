"""The whole pipeline on real purchases: 150 households of Complete Journey, from the package's own data."""

from __future__ import annotations

import json
from pathlib import Path

import duckdb
import pytest

from heedful.demo import CUT, complete_journey, household_card, requests_of
from heedful.embeddings.skipgram import SkipGram
from heedful.evaluation.measures import Measure, pool_name
from heedful.evaluation.options import EvaluationConfig
from heedful.events.log import EventLog
from heedful.events.preparing import prepare
from heedful.experiment import Experiment, Workspace, run_experiment
from heedful.progress import show_progress
from heedful.rankers.registry import MODELS
from ranking_worlds import chance_ndcg

_FEW_STEPS = {
    "mixed": {"steps": 30, "stage_windows": 1, "stage_users": 100},
    "attention": {"steps": 30},
    "averaging": {"steps": 30},
    "weighted-sum": {"evaluations": 10},
}


def run(folder: Path) -> Experiment:
    events, items = complete_journey(folder / "data")
    few = folder / "few.parquet"
    if not few.exists():
        duckdb.execute(f"copy (select * from '{events}' where user_id::int % 16 = 3) to '{few}' (format parquet)")

    def make(out: Path) -> None:
        prepare(few, out, items=items)

    workspace = Workspace(folder)
    return run_experiment(
        workspace.stage("sequences", {}, make, EventLog.load),
        {name: model(**_FEW_STEPS.get(name, {})) for name, model in MODELS.items()},
        folder / "report",
        workspace=workspace,
        config=EvaluationConfig(cut=CUT, pool=200, catalogue_users=20, resamples=200),
        skipgram=SkipGram(epochs=2, threads=1),
        overwrite=True,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("journey")


@pytest.fixture(scope="module")
def experiment(folder: Path) -> Experiment:
    return run(folder)


def test_the_log_is_split_at_the_cut(experiment: Experiment) -> None:
    cut = 1514073600  # 2017-12-24 00:00 UTC
    assert experiment.past.histories.times.max() < cut <= experiment.future.histories.times.min()
    assert experiment.past.n_events > 50_000


def test_every_model_ranks_better_than_a_random_order(experiment: Experiment) -> None:
    """Among negatives drawn evenly, by far more than the standard error."""
    comparison = experiment.comparison
    chance = chance_ndcg(comparison.pools.positives.lengths, 200)
    assert chance > 0.17  # what one positive gets; users have more
    for name in ("attention", "averaging", "popularity"):
        found = comparison.estimate(name, Measure(pool_name(0.0), 200, "NDCG"))
        assert found is not None and found.mean > chance + 2 * found.error


def test_the_report_is_whole(experiment: Experiment, folder: Path) -> None:
    report = folder / "report"
    assert {path.name for path in report.iterdir()} >= {"report.html", "figure-2.svg", "figure-3.png", "results.json"}
    results = json.loads((report / "results.json").read_text())
    assert set(results["models"]) == set(MODELS)
    assert results["pools"]["hash"] == experiment.comparison.pools.hash


def test_titles_and_reasons_reach_the_reader(experiment: Experiment) -> None:
    card = household_card(experiment, k=3, recent=2)
    assert "because of" in card and "·" in card  # titles with categories, not bare ids
    assert len(requests_of(experiment.past, 5)) == 5


def test_a_second_run_uses_the_finished_stages(
    experiment: Experiment, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = {path: path.stat().st_mtime_ns for path in folder.glob("*/manifest.json") if "report" not in str(path)}
    show_progress()
    try:
        again = run(folder)
    finally:
        show_progress(False)
    assert {path: path.stat().st_mtime_ns for path in made} == made
    assert capsys.readouterr().err.count("is finished already") == 3 + len(MODELS)
    assert again.comparison.to_dict() == experiment.comparison.to_dict()
