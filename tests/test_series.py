"""Several cuts and seeds in one report, on a small log."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from heedful.embeddings.skipgram import SkipGram
from heedful.errors import ConfigError, HeedfulError, InputError
from heedful.evaluation.measures import CATALOGUE, Measure
from heedful.evaluation.options import EvaluationConfig
from heedful.evaluation.series import Series
from heedful.events.log import EventLog
from heedful.experiment import Workspace, run_series
from heedful.folders import open_folder
from heedful.progress import show_progress
from heedful.rankers.registry import MODELS
from ranking_worlds import DAY, QUICK, START, random_log

CUTS = (str(START + 60 * DAY), str(START + 80 * DAY))
NDCG = Measure("gamma 1", 15, "NDCG")
TOP = Measure(CATALOGUE, 0, "NDCG@10")


@pytest.fixture
def shown() -> Iterator[None]:
    show_progress()
    yield
    show_progress(False)


@pytest.fixture(scope="module")
def log() -> EventLog:
    return random_log(users=100)


def run(log: EventLog, path: Path, *, names: tuple[str, ...] = ("attention", "popularity"), **options: Any) -> Series:
    small = {"days": 15, "pool": 15, "resamples": 200, "max_users": 60, "catalogue_users": 30, "gammas": (1.0,)}
    given: dict[str, Any] = {"cuts": CUTS, "seeds": 2, "overwrite": True, **options}
    config = EvaluationConfig(**{**small, **given.pop("config", {})})
    return run_series(
        log,
        {name: MODELS[name](**QUICK[name]) for name in names},
        path / "report",
        workspace=Workspace(path / "stages"),
        config=config,
        skipgram=SkipGram(width=6, epochs=1, threads=1),
        **given,
    )


@pytest.fixture(scope="module")
def world(log: EventLog, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Series]:
    path = tmp_path_factory.mktemp("series")
    return path, run(log, path)


def made(err: str) -> list[str]:
    return [line.partition("/stages/")[2] for line in err.splitlines() if line.startswith("making ")]


def test_means_and_variances_by_hand(world: tuple[Path, Series]) -> None:
    path, series = world
    rows = pq.read_table(path / "report" / "per_user.parquet").to_pylist()
    for model, prior in (("attention", True), ("popularity", False)):
        for measure in (NDCG, TOP):
            by_cut, variances = [], []
            for cut in CUTS:
                cells: dict[int, list[float]] = {0: [], 1: []}
                users: dict[str, list[float]] = {}
                for row in rows:
                    value = row[str(measure)]
                    if (row["cut"], row["model"], row["prior"]) == (cut, model, prior) and value is not None:
                        cells[row["seed"]].append(value)
                        users.setdefault(row["user_id"], []).append(value)
                by_cut.append(np.mean([np.mean(values) for values in users.values()]))
                variances.append(np.var([np.mean(cell) for cell in cells.values()], ddof=1))
            spread = series.spread(model, measure)
            assert spread is not None
            assert spread.mean == pytest.approx(np.mean(by_cut)) and spread.by_cut == pytest.approx(tuple(by_cut))
            assert spread.sd_of_cuts == pytest.approx(np.std(by_cut, ddof=1))
            assert spread.sd_of_seeds == pytest.approx(np.sqrt(np.mean(variances))) and spread.sd_of_seeds > 0


def test_the_tests_are_of_the_means(world: tuple[Path, Series]) -> None:
    _, series = world
    assert [str(v.measure) for v in series.verdicts] == [str(NDCG), str(TOP)]
    for verdict in series.verdicts:
        first, second = (series.spread(model, verdict.measure) for model in ("attention", "popularity"))
        assert first is not None and second is not None
        assert verdict.test.difference == pytest.approx(first.mean - second.mean)
        assert verdict.test.low < verdict.test.difference < verdict.test.high
    # A user counts once, however many cuts and seeds measure them.
    assert 60 <= series.verdicts[0].test.users <= 100


def test_the_report(world: tuple[Path, Series]) -> None:
    path, series = world
    assert set(open_folder(path / "report", kind="report").manifest["files"]) == {
        "report.html", "results.json", "per_user.parquet"}  # fmt: skip
    results = json.loads((path / "report" / "results.json").read_text())
    assert results["cuts"] == list(CUTS) and results["seeds"] == [0, 1] and len(results["pools"]) == 4
    found = results["models"]["attention"][str(NDCG)]
    assert np.shape(found["by_cut_and_seed"]) == (2, 2) and found["mean"] == series.spread("attention", NDCG)[0]  # type: ignore[index]
    lead = series.leads()[0]
    assert (lead.model, lead.rival) == ("attention", "popularity")
    page = (path / "report" / "report.html").read_text()
    assert page.index("best rival popularity") < page.index("SD of seeds</th>")
    assert str(series).startswith(lead.sentence(0.01)) and "SD of cuts" in str(series)


@pytest.mark.usefixtures("shown")
def test_a_run_that_was_stopped_goes_on(
    log: EventLog, world: tuple[Path, Series], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(world[0], tmp_path, dirs_exist_ok=True)
    again = run(log, tmp_path)
    assert made(capsys.readouterr().err) == [] and str(again) == str(world[1])
    shutil.rmtree(tmp_path / "stages" / CUTS[1] / "report-seed-1")
    assert str(run(log, tmp_path)) == str(again)
    assert made(capsys.readouterr().err) == [f"{CUTS[1]}/report-seed-1"]
    # Another seed needs embeddings and the network anew, but neither the past nor popularity with the same items.
    run(log, tmp_path, seeds=3, cuts=CUTS[:1])
    assert made(capsys.readouterr().err)[:4] == [
        f"{CUTS[0]}/{name}-seed-2" for name in ("report", "embeddings", "attention", "popularity")
    ]


def test_one_cut_and_one_seed(log: EventLog, tmp_path: Path) -> None:
    series = run(log, tmp_path, cuts=[None], seeds=1, names=("popularity",))
    spread = series.spread("popularity", NDCG)
    assert series.cuts == ("last 15 days",) and spread is not None
    assert spread.sd_of_cuts is None and spread.sd_of_seeds is None and series.leads() == [] and series.verdicts == ()


def test_pools_of_several_sizes_are_named(tmp_path: Path) -> None:
    late = random_log(users=60, items=40)
    early = late.histories.times < START + 60 * DAY
    items = np.where(early, late.histories.items % 20, late.histories.items).astype(np.int32)
    histories = type(late.histories)(late.histories.offsets, items, late.histories.times, late.histories.kinds)
    log = EventLog(late.catalog, late.users, histories, late.kinds)
    series = run(log, tmp_path, names=("popularity", "recent-popularity"), seeds=1, config={"pool": None})
    assert f"19 at {CUTS[0]}, 39 at {CUTS[1]}. Give --pool" in series.notes()[-1]
    assert len(series.verdicts) == 2


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"names": ()}, ConfigError, "there is nothing to compare"),
        ({"cuts": []}, ConfigError, "option 'cuts' is out of range"),
        ({"cuts": [CUTS[0], CUTS[0]]}, ConfigError, "option 'cuts' is out of range"),
        ({"seeds": 0}, ConfigError, "option 'seeds' is out of range; got: 0"),
        ({"cuts": [CUTS[0], "2099-01-01"]}, InputError, "no event in the 15 days after the cut"),
        ({"cuts": [CUTS[0], "soon"]}, ConfigError, "that is not a point in time"),
    ],
)
def test_what_is_refused(
    log: EventLog, tmp_path: Path, options: dict[str, Any], error: type[HeedfulError], message: str
) -> None:
    with pytest.raises(error, match=message):
        run(log, tmp_path, **options)
    assert not (tmp_path / "stages").exists()
