"""One second is the same second in every unit and type, in files and in Python."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heedful.errors import ConfigError, InputError
from heedful.events.log import parse_time
from heedful.events.preparing import prepare, read_events
from heedful.events.times import LIMITS, NANOSECONDS, second_of, seconds_of

FIRST, LAST = LIMITS["s"]
BERLIN = ZoneInfo("Europe/Berlin")


def read(values, **options) -> list[int]:
    rows = pa.table({"user_id": range(len(values)), "item_id": ["x"] * len(values), "timestamp": values})
    return read_events(rows, **options).histories.times.tolist()


def forms(seconds: list[int]) -> list:
    """Seconds in every unit and type that holds them."""
    moments = [datetime.fromtimestamp(second, UTC) for second in seconds]
    naive = [moment.replace(tzinfo=None) for moment in moments]
    east = [moment.astimezone(timezone(timedelta(hours=5, minutes=30))) for moment in moments]
    found: list = [
        moments,
        naive,
        east,
        pl.Series(naive),
        pd.Series(pd.to_datetime(naive)),
        pd.Series(pd.to_datetime(moments)),
    ]
    found += [[moment.isoformat() for moment in each] for each in (moments, naive, east)]
    found += [[f"{moment} UTC" for moment in naive], [f"{moment}Z" for moment in naive]]
    for unit, factor in NANOSECONDS.items():
        numbers = [second * 10**9 // factor for second in seconds]
        found += [numbers, [str(n) for n in numbers], [Decimal(n) for n in numbers], np.array(numbers)]
        found += [pa.array(numbers), pa.array(numbers, pa.uint64()), pa.array(numbers, pa.timestamp(unit))]
        found += [pa.array(numbers, pa.timestamp(unit, "Asia/Tokyo")), np.array(numbers, f"datetime64[{unit}]")]
        found += [pl.Series(numbers), pd.array(numbers, "Int64"), list(np.array(numbers, f"datetime64[{unit}]"))]
        if unit in ("s", "ms"):
            found += [[float(n) for n in numbers], np.array(numbers, float)]
    return found


@settings(deadline=None, max_examples=15)
@given(st.lists(st.integers(FIRST, LAST), min_size=1, max_size=3))
def test_a_second_is_the_same_in_every_unit_and_type(seconds):
    for given_as in forms(seconds):
        assert seconds_of(given_as, missing=-1).tolist() == seconds, given_as
        assert [second_of(value) for value in given_as] == seconds, given_as


@settings(deadline=None, max_examples=3)
@given(st.lists(st.integers(FIRST, LAST - 1), min_size=1, max_size=3))
def test_files_have_the_seconds_that_python_has(seconds):
    for given_as in forms(seconds):
        if isinstance(given_as, list | pa.Array | np.ndarray):
            array = pa.array(list(given_as)) if not isinstance(given_as, pa.Array) else given_as
            assert read(array) == seconds, given_as


@pytest.mark.parametrize(
    "values",
    [[None, float("nan")], np.array(["NaT"], "datetime64[ns]"), ["", " "], [pd.NaT, pd.NA], pa.array([None], pa.int64())],
)
def test_what_is_missing_is_missing_in_every_type(values):
    assert seconds_of(values, missing=7).tolist() == [7] * len(values)


ABSURD = [
    0, 1, -5, FIRST - 1, LAST + 1, 45322.5, 60, 20240131, 10**10, 5 * 10**12, 2**63 - 1, float("inf"), "0", "20240131",
    date(1969, 12, 31), datetime(2101, 1, 1, tzinfo=UTC), np.datetime64("1950-01-01"), "1950-01-01",
]  # fmt: skip


@pytest.mark.parametrize("value", [*ABSURD, True, "noon", "2024-13-01", [], b"1700000000", "1_700_000_000"])
def test_what_is_no_time_is_refused(value):
    with pytest.raises(InputError, match=r"that is not a time; got: .*; expected: unix times after March 1973"):
        second_of(value)
    with pytest.raises(ConfigError, match="that is not a point in time"):
        parse_time("soon" if value == "20240131" else value)


@pytest.mark.parametrize("value", [value for value in ABSURD if isinstance(value, int)])
@pytest.mark.parametrize("unit", list(NANOSECONDS))
def test_absurd_numbers_are_set_aside_where_few_and_refused_where_all(unit, value):
    good = 1_700_000_000 * 10**9 // NANOSECONDS[unit]
    assert read([value, good, good]) == [1_700_000_000] * 2
    with pytest.raises(InputError, match=r"invalid unix times|read like calendar dates"):
        read([value, value])


def test_seconds_among_milliseconds_are_set_aside():
    rows = pa.table(
        {"user_id": ["u"] * 3, "item_id": ["x"] * 3, "timestamp": [1_700_000_000_000, 1_700_000_000, 1_700_000_001_000]}
    )
    log = read_events(rows)
    assert log.histories.times.tolist() == [1_700_000_000, 1_700_000_001]
    assert log.rejected["reason"].to_pylist() == ["absurd time"]


@pytest.mark.parametrize("kind", ["text", "timestamp", "nanoseconds", "parquet"])
def test_local_times_of_a_zone(tmp_path, kind):
    """An hour that exists twice is the later one, an hour that does not exist the one after it."""
    naive = [datetime(2024, 1, 1, 12), datetime(2024, 7, 1, 12), datetime(2024, 10, 27, 2, 30), datetime(2024, 3, 31, 2, 30)]
    expected = [
        int(moment.replace(tzinfo=BERLIN, fold=fold).timestamp()) for moment, fold in zip(naive, (0, 0, 1, 0), strict=True)
    ]
    assert expected[2:] == [
        int(datetime(2024, 10, 27, 1, 30, tzinfo=UTC).timestamp()), int(datetime(2024, 3, 31, 1, 30, tzinfo=UTC).timestamp())
    ]  # fmt: skip
    values = pa.array([str(moment) for moment in naive] if kind == "text" else naive)
    values = values.cast(pa.timestamp("ns")) if kind == "nanoseconds" else values
    rows = pa.table({"user_id": range(4), "item_id": ["x"] * 4, "timestamp": values})
    if kind == "parquet":
        pq.write_table(rows, tmp_path / "log.parquet")
        log = prepare(tmp_path / "log.parquet", tmp_path / "out")
        assert log.histories.times[0] != expected[0]
        rows = tmp_path / "log.parquet"
    assert read_events(rows, time_zone="Europe/Berlin").histories.times.tolist() == expected


def test_times_with_a_zone_of_their_own_keep_it():
    values = ["2024-01-01T12:00:00Z", "2024-01-01 12:00:00+05:00", "2024-01-01 12:00 UTC", "1704110400", "2024-01-01"]
    noon = int(datetime(2024, 1, 1, 12, tzinfo=UTC).timestamp())
    local_midnight = noon - 13 * 3600
    assert read(values, time_zone="Europe/Berlin") == [noon, noon - 5 * 3600, noon, noon, local_midnight]
    moments = pa.array([noon] * 2, pa.timestamp("s", "Asia/Tokyo"))
    assert read(moments, time_zone="Europe/Berlin") == [noon] * 2


def test_an_unknown_zone_is_refused():
    with pytest.raises(ConfigError, match="there is no such time zone; got: 'Europe/Berlni'"):
        read([1_700_000_000], time_zone="Europe/Berlni")


@pytest.mark.parametrize(
    ("columns", "chosen"),
    [
        ({"date": ["2024-01-01"], "ts": ["2024-01-01 10:00:00"]}, "ts"),
        ({"date": [date(2024, 1, 1)], "event_time": [datetime(2024, 1, 1, 10)]}, "event_time"),
        ({"timestamp": [datetime(2024, 1, 1)], "created_at": [1_704_103_200]}, "created_at"),
        ({"ts": ["2024-01-01 10:00:00"], "date": ["2024-01-01"]}, "ts"),
        ({"date": ["2024-01-01"], "t_dat": ["2024-01-02"]}, "date"),
        ({"time": [datetime(2024, 1, 1, 10)], "ts": [datetime(2024, 1, 1, 11)]}, "time"),
    ],
)
def test_of_several_columns_of_times_the_one_with_a_time_of_day(tmp_path, columns, chosen):
    rows = pa.table({"user_id": ["u"], "item_id": ["x"], **columns})
    pq.write_table(rows, tmp_path / "log.parquet")
    log = prepare(tmp_path / "log.parquet", tmp_path / "out")
    assert log.folder.manifest["columns"]["timestamp"] == chosen


def test_a_column_of_a_file_comes_before_one_of_a_folder(tmp_path):
    folder = tmp_path / "log" / "timestamp=2024-01-01"
    folder.mkdir(parents=True)
    pq.write_table(pa.table({"user_id": ["u"], "item_id": ["x"], "t_dat": ["2024-01-01 10:00:00"]}), folder / "a.parquet")
    log = prepare(tmp_path / "log", tmp_path / "out")
    assert log.folder.manifest["columns"]["timestamp"] == "t_dat"
    assert log.histories.times.tolist() == [1_704_103_200]


def test_the_period_is_said(capsys):
    from heedful.progress import show_progress

    show_progress()
    try:
        read([1_700_000_000, 1_700_600_000])
    finally:
        show_progress(False)
    assert "times from 'timestamp': 2023-11-14 22:13 to 2023-11-21 20:53 UTC" in capsys.readouterr().err
