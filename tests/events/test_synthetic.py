"""The synthetic log: the same however it is cut, and with the habits that it promises."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import heedful
from heedful.cli import main
from heedful.errors import ConfigError
from heedful.events.synthetic import SyntheticConfig, synthesize

SMALL = {"users": 3000, "items": 600, "categories": 6, "styles": 4, "events_per_user": 12.0}


def made(folder: Path, **options: float) -> pa.Table:
    synthesize(folder, config=SyntheticConfig(**{**SMALL, **options}))  # type: ignore[arg-type]
    return pq.read_table(folder / "events")


@pytest.fixture(scope="module")
def events(tmp_path_factory: pytest.TempPathFactory) -> pa.Table:
    return made(tmp_path_factory.mktemp("synth") / "log")


def test_the_parts_are_one_log(tmp_path: Path, events: pa.Table) -> None:
    cut = made(tmp_path / "cut", part_users=700)
    assert len(list((tmp_path / "cut" / "events").iterdir())) == 5
    by = [("user_id", "ascending"), ("timestamp", "ascending"), ("item_id", "ascending"), ("event", "ascending")]
    plain = [table.set_column(3, "event", table["event"].cast(pa.string())).sort_by(by) for table in (cut, events)]
    assert plain[0].equals(plain[1])
    assert not made(tmp_path / "other", seed=2).equals(events)


def test_sizes_and_times(events: pa.Table) -> None:
    users, times = events["user_id"].to_numpy(), events["timestamp"].to_numpy()
    assert len(np.unique(users)) == 3000
    assert 10 < len(events) / 3000 < 14  # 12 on average
    start = SyntheticConfig().start
    assert start <= times.min() and times.max() < start + 365 * 86400
    hours = (times // 3600) % 24
    assert np.isin(hours, range(8, 16)).mean() > 2 * np.isin(hours, [20, 21, 22, 23, 0, 1, 2, 3]).mean()


def test_popularity_and_activity_are_skewed(events: pa.Table) -> None:
    for column, share in (("item_id", 0.3), ("user_id", 0.3)):
        counts = np.sort(np.unique(events[column].to_numpy(), return_counts=True)[1])[::-1]
        assert counts[: len(counts) // 10].sum() > share * counts.sum()


def repeats(table: pa.Table) -> float:
    pairs = table.select(["user_id", "item_id"]).group_by(["user_id", "item_id"]).aggregate([([], "count_all")])
    return 1 - len(pairs) / len(table)


def test_revisits(tmp_path: Path) -> None:
    assert repeats(made(tmp_path / "often", revisits=0.5)) > repeats(made(tmp_path / "never", revisits=0.0)) + 0.2


def favourite(table: pa.Table, items: pa.Table, late: bool) -> dict[int, str]:
    """Each user's most frequent category in the first or the last quarter of the year."""
    times = table["timestamp"].to_numpy()
    low, high = np.quantile(times, [0.25, 0.75])
    joined = table.filter(pa.array(times > high if late else times < low)).join(items, "item_id")
    counts = joined.group_by(["user_id", "category"]).aggregate([([], "count_all")]).sort_by("count_all")
    return dict(zip(counts["user_id"].to_pylist(), counts["category"].to_pylist(), strict=True))


def test_tastes_drift(tmp_path: Path) -> None:
    kept = []
    for days in (1e9, 30.0):
        table = made(tmp_path / f"{days}", drift_days=days, events_per_user=40.0)
        items = pq.read_table(tmp_path / f"{days}" / "items.parquet")
        first, last = favourite(table, items, late=False), favourite(table, items, late=True)
        both = [first[user] == last[user] for user in first if user in last]
        kept.append(np.mean(both))
    assert kept[0] > kept[1] + 0.2


def test_what_is_on_top_goes_out_of_fashion(tmp_path: Path) -> None:
    overlap = []
    for turnover in (0.0, 0.9):
        table = made(tmp_path / f"{turnover}", turnover=turnover, revisits=0.0)
        times, items = table["timestamp"].to_numpy(), table["item_id"].to_numpy()
        low, high = np.quantile(times, [0.2, 0.8])
        tops = [
            set(np.argsort(-np.bincount(part, minlength=601))[:20]) for part in (items[times < low], items[times > high])
        ]
        overlap.append(len(tops[0] & tops[1]))
    assert overlap[0] >= 15 and overlap[1] <= 8


def test_every_item_has_a_title_and_every_event_an_item(tmp_path: Path) -> None:
    table = made(tmp_path / "log")
    items = pq.read_table(tmp_path / "log" / "items.parquet")
    assert sorted(items["item_id"].to_pylist()) == list(range(1, 601))
    assert set(table["item_id"].to_pylist()) <= set(range(1, 601))
    assert items["category"].value_counts().to_pylist()[0]["counts"] > 100


def test_the_command_and_what_follows_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "synth"
    options = ["--users", "300", "--items", "100", "--categories", "5", "--styles", "4"]
    with pytest.raises(SystemExit) as ended:
        main(["--quiet", "synth", "--out", str(out), *options])
    assert ended.value.code == 0
    assert "events of 300 users on 100 items" in capsys.readouterr().out
    log = heedful.prepare(out / "events", tmp_path / "sequences", items=out / "items.parquet")
    assert len(log.users) == 300 and log.kinds == ("view", "purchase")
    assert log.catalog.attributes.column_names == ["title", "category"]


@pytest.mark.parametrize(("option", "value"), [("users", 0), ("revisits", 1.0), ("items", 10), ("drift_days", 0.0)])
def test_options_out_of_range(option: str, value: float) -> None:
    with pytest.raises(ConfigError, match=option):
        SyntheticConfig(**{option: value})  # type: ignore[arg-type]
