"""`backtest`: day by day a frozen model against models that are kept up to date, on a log whose items live for a day."""

from __future__ import annotations

import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from updating_worlds import DAY, START, settings_file

from heedful.cli import main
from heedful.errors import ConfigError, FolderError, InputError
from heedful.events.log import EventLog
from heedful.events.preparing import read_events
from heedful.events.times import iso
from heedful.rankers.registry import load_ranker
from heedful.updating.backtest import backtest, stages_of
from heedful.updating.days import NDCG, POOLED, Backtest, Day
from heedful.updating.options import MODES, BacktestConfig
from heedful.updating.training import Recipe

FIRST = 5
CUT = iso(START + FIRST * DAY)
EMPTY = START + 6 * DAY
HALF = DAY // 2
TRAINED = ("frozen", "updated-2")


def news(*, empty: bool = False) -> pa.Table:
    """Nine days; each has 20 items that are out from noon to noon, of which some are read much more than the others."""
    randoms = np.random.default_rng(5)
    n = 9 * 500
    when = np.sort(START + randoms.integers(HALF, 9 * DAY, n))
    edition = (when - START - HALF) // DAY
    item = edition * 20 + np.minimum(randoms.geometric(0.15, n) - 1, 19)
    table = pa.table(
        {
            "user_id": [f"u{user}" for user in randoms.integers(80, size=n)],
            "item_id": [f"item {one}" for one in item],
            "timestamp": when,
            "event": np.where(randoms.random(n) < 0.8, "read", "share"),
        }
    )
    return table.filter((when < EMPTY) | (when >= EMPTY + DAY)) if empty else table


@pytest.fixture(scope="module")
def log() -> EventLog:
    return read_events(news())


@pytest.fixture(scope="module")
def week(log: EventLog, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Backtest]:
    """A finished backtest of four days with all models."""
    out = tmp_path_factory.mktemp("week") / "report"
    return out, run(log, out)


def run(log: EventLog, out: Path, **options: Any) -> Backtest:
    given = {"cut": CUT, "days": 4, "model": "attention", "models": MODES, "pool": 30}
    more = {name: options.pop(name) for name in ("start", "overwrite") if name in options}
    return backtest(log, out, config=BacktestConfig(**{**given, **options}), settings=settings_file(out.parent), **more)


def test_counts_of_the_night_find_the_items_of_the_day(week: tuple[Path, Backtest]) -> None:
    _, found = week
    assert [day.number for day in found.days] == [1, 2, 3, 4]
    assert all(day.users > 20 and day.pool == 30 for day in found.days)
    for measure in (NDCG, POOLED):
        test = found.differences[measure]["refreshed", "frozen"]
        assert test.low > 0.05
        assert found.mean("frozen", measure) + test.difference == pytest.approx(found.mean("refreshed", measure))
        assert found.differences[measure]["updated", "frozen"].low > 0
    assert found.mean("frozen", NDCG) < 0.05  # none of the items that it knows is out any more


def test_on_the_first_day_all_are_the_frozen_model(week: tuple[Path, Backtest]) -> None:
    first, second = week[1].days[:2]
    for mode in MODES[1:]:
        assert first.of_model(mode, NDCG).tolist() == first.of_model("frozen", NDCG).tolist()
        assert second.of_model(mode, NDCG).tolist() != second.of_model("frozen", NDCG).tolist()
    assert first.mean("frozen", NDCG) > 0.1


def test_seconds_are_those_of_each_night(week: tuple[Path, Backtest]) -> None:
    _, found = week
    assert [sorted(day.seconds) for day in found.days] == [["frozen"], *[["refreshed", "scratch", "updated"]] * 3]
    assert len(found.seconds("updated")) == 3 and min(found.seconds("updated", "weights")) > 0
    share = found.share_of_time()
    assert share == pytest.approx(sum(found.seconds("updated")) / sum(found.seconds("scratch")))
    assert f"updated takes {share:.0%} of the time of scratch" in str(found)


def test_the_report(week: tuple[Path, Backtest]) -> None:
    out, found = week
    results = json.loads((out / "results.json").read_text())
    assert results["means"][NDCG] == {mode: found.mean(mode, NDCG) for mode in MODES}
    assert [day["users"] for day in results["days"]] == [day.users for day in found.days]
    assert results["differences"][NDCG]["updated - scratch"]["users"] == 80
    page = (out / "report.md").read_text()
    assert "![NDCG by day](week.png)" in page and f"| 2, {iso(START + 6 * DAY)} | {found.days[1].users} |" in page
    assert (out / "week.png").read_bytes()[:4] == b"\x89PNG" and "<svg" in (out / "week.svg").read_text()
    per_user = pq.read_table(out / "per_user.parquet")
    assert len(per_user) == sum(day.users for day in found.days)
    assert "updated - scratch" in str(found) and "95% interval" in str(found)


def test_a_run_that_was_stopped_gives_the_same_numbers(
    log: EventLog, week: tuple[Path, Backtest], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, save = tmp_path / "report", Day.save

    def stopped(day: Day, path: Path) -> None:
        if day.number == 3:
            raise KeyboardInterrupt
        save(day, path)

    with monkeypatch.context() as patch:
        patch.setattr(Day, "save", stopped)
        with pytest.raises(KeyboardInterrupt):
            run(log, out)
    assert not out.exists() and (stages_of(out) / "day-2.parquet").exists()
    found = run(log, out)
    for one, other in zip(found.days, week[1].days, strict=True):
        assert one.values.equals(other.values)
    assert found.differences == week[1].differences
    assert sorted(place.name for place in stages_of(out).iterdir() if place.is_dir()) == ["frozen", "updated-4"]


def test_a_training_that_was_taken_up_again_has_no_seconds(
    log: EventLog, week: tuple[Path, Backtest], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, train = tmp_path / "report", Recipe.train

    def stopped(recipe: Recipe, log: EventLog, table: Any, before: Path | None, out: Path, **options: Any) -> Any:
        if out.parent.name == "updated-2":
            raise KeyboardInterrupt
        return train(recipe, log, table, before, out, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Recipe, "train", stopped)
        with pytest.raises(KeyboardInterrupt):
            run(log, out, days=2)
    found = run(log, out, days=2)
    assert found.days[1].values.equals(week[1].days[1].values)
    assert sorted(found.days[1].seconds) == ["refreshed", "scratch"]
    assert found.seconds("updated") == [] and found.share_of_time() is None
    assert "Seconds of each training" in str(found)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"users": 10}, "users"),
        ({"seed": 3}, "seed"),
        ({"models": ("frozen", "refreshed")}, "models"),
        ({"cut": None}, "cut"),
    ],
)
def test_other_options_are_refused(
    log: EventLog, week: tuple[Path, Backtest], tmp_path: Path, options: dict[str, Any], named: str
) -> None:
    out = tmp_path / "report"
    shutil.copytree(stages_of(week[0]), stages_of(out))
    with pytest.raises(ConfigError, match=f"other options; got: different: {named}; expected: the same log and options"):
        run(log, out, **options)


def test_another_log_and_other_settings_are_refused(log: EventLog, week: tuple[Path, Backtest], tmp_path: Path) -> None:
    out = tmp_path / "report"
    shutil.copytree(stages_of(week[0]), stages_of(out))
    with pytest.raises(ConfigError, match="got: different: log;"):
        run(read_events(news().slice(3)), out)
    with pytest.raises(ConfigError, match="got: different: training;"):
        backtest(log, out, config=BacktestConfig(cut=CUT, days=4, model="attention", models=MODES, pool=30))


def test_more_days_go_on(log: EventLog, week: tuple[Path, Backtest], tmp_path: Path) -> None:
    out = tmp_path / "report"
    run(log, out, days=3)
    before = (stages_of(out) / "day-3.parquet").stat().st_mtime_ns
    with pytest.raises(FolderError, match="exists already; to fix: pass --overwrite"):
        run(log, out)
    found = run(log, out, overwrite=True)
    assert (stages_of(out) / "day-3.parquet").stat().st_mtime_ns == before
    assert found.days[3].values.equals(week[1].days[3].values)


def test_an_empty_day_is_left_out(tmp_path: Path) -> None:
    found = run(read_events(news(empty=True)), tmp_path / "report", models=("frozen", "updated"))
    # At the end of the empty day nobody knows any item that is out.
    assert [day.users > 0 for day in found.days] == [True, False, False, True]
    assert "no event in the 1 days after" in found.days[1].note and "nobody can be tested" in found.days[2].note
    assert [sorted(day.seconds) for day in found.days] == [["frozen"], [], [], ["updated"]]
    assert math.isnan(found.days[1].mean("frozen", NDCG)) and len(found.later) == 1
    assert found.differences[NDCG]["updated", "frozen"].low > 0
    assert "Day 2 is left out: no event" in str(found) and "| – | – |" in (tmp_path / "report" / "report.md").read_text()
    assert json.loads((tmp_path / "report" / "results.json").read_text())["days"][1]["users"] == 0


@pytest.mark.parametrize(
    ("cut", "message"),
    [
        (START - DAY, "no event before the cut .*; expected: a cut inside the log's period, "),
        (START + 30 * DAY, "no event in the 4 days after the cut .*; to fix: choose another cut"),
        (START + 8 * DAY, "nobody can be tested after the first day; got: no event in the 1 days after"),
    ],
)
def test_a_cut_outside_the_log(log: EventLog, tmp_path: Path, cut: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        run(log, tmp_path / "report", cut=str(cut))
    assert not (tmp_path / "report").exists()


def test_a_cut_that_is_not_a_time(log: EventLog, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not a point in time; got: 'Tuesday'"):
        run(log, tmp_path / "report", cut="Tuesday")


def test_without_a_cut_it_is_the_end_of_the_log(log: EventLog, tmp_path: Path) -> None:
    found = run(log, tmp_path / "report", cut=None, days=2, models=("frozen", "refreshed"))
    assert found.cut == int(log.histories.times.max()) + 1 - 2 * DAY and len(found.days) == 2


def test_a_model_of_one_s_own_is_the_frozen_one(log: EventLog, week: tuple[Path, Backtest], tmp_path: Path) -> None:
    frozen = stages_of(week[0]) / "frozen" / "model"
    found = run(log, tmp_path / "report", start=frozen, model="mixed")
    assert found.config.model == "attention" and found.days[0].seconds == {}
    for one, other in zip(found.days, week[1].days, strict=True):
        assert one.values.equals(other.values)
    assert not (stages_of(tmp_path / "report") / "frozen").exists()


def test_the_mixed_ranker_goes_on_with_its_periods(log: EventLog, tmp_path: Path) -> None:
    found = run(log, tmp_path / "report", model="mixed", days=2, models=("frozen", "updated"))
    stages = stages_of(tmp_path / "report")
    assert load_ranker(stages / "updated-2" / "model").name == "mixed"
    before, after = (sorted(place.name for place in (stages / name / "model.periods").iterdir()) for name in TRAINED)
    assert before and after == before  # the ranker of the last period is not yet a whole period old
    assert found.differences[NDCG]["updated", "frozen"].low > 0


def test_a_model_that_knows_the_days_is_refused(log: EventLog, week: tuple[Path, Backtest], tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"trained on events after the cut; got: events up to .*; to fix: choose a later cut"
    ):
        run(log, tmp_path / "report", start=stages_of(week[0]) / "updated-4" / "model")


def test_targets_are_those_of_training_and_of_the_days(log: EventLog, week: tuple[Path, Backtest], tmp_path: Path) -> None:
    out = tmp_path / "report"
    found = run(log, out, days=2, models=("frozen", "refreshed"), target_kinds=("share",))
    assert found.days[1].users < week[1].days[1].users
    assert load_ranker(stages_of(out) / "frozen" / "model").config.to_dict()["target_kinds"] in (("share",), ["share"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"models": ("refreshed",)}, "'models' is out of range; got: .*expected: frozen, and some of refreshed, updated"),
        ({"models": ("frozen", "best")}, "'models' is out of range"),
        ({"models": ("frozen", "frozen")}, "'models' is out of range"),
        ({"days": 1}, "'days' is out of range; got: 1; expected: 2 or more"),
        ({"model": "ease"}, "'model' is out of range; got: 'ease'; expected: mixed or attention or averaging"),
        ({"alpha": 1.0}, "'alpha' is out of range"),
        ({"users": -1}, "'users' is out of range"),
        ({"pool": 0}, "'pool' is out of range"),
    ],
)
def test_options_out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        BacktestConfig(**options)


def test_a_pool_larger_than_the_catalogue_is_refused_before_training(log: EventLog, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="a pool of 5000 negatives is larger than the catalogue"):
        run(log, tmp_path / "report", pool=5000)
    assert not stages_of(tmp_path / "report").exists()


def test_a_damaged_day_is_an_error(log: EventLog, week: tuple[Path, Backtest], tmp_path: Path) -> None:
    out = tmp_path / "report"
    shutil.copytree(stages_of(week[0]), stages_of(out))
    (stages_of(out) / "day-2.parquet").write_bytes(b"nothing")
    with pytest.raises(FolderError, match=r"day-2.parquet cannot be read; .*to fix: remove it"):
        run(log, out)


def test_the_command(log: EventLog, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log.save(tmp_path / "sequences")
    arguments = ["backtest", tmp_path / "sequences", "--out", tmp_path / "week", "--cut", CUT, "--days", 2, "--pool", 30]
    arguments += ["--model", "attention", "--models", "frozen,refreshed", "--config", settings_file(tmp_path)]
    with pytest.raises(SystemExit) as ended:
        main([*map(str, arguments)])
    shown = capsys.readouterr()
    assert ended.value.code == 0
    assert re.search(r"refreshed - frozen +\+0\.\d{4} ", shown.out) and f"{tmp_path / 'week'}: report.md" in shown.out
    assert re.search(r"backtest: 100 % of 2 days, .* \(20\d\d-\d\d-\d\d: frozen 0", shown.err)
