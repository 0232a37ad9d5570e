import json
import os
import signal
import subprocess
import sys
import time
from datetime import UTC, date, datetime

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heedful.errors import ConfigError, FolderError, InputError
from heedful.events.log import EventLog
from heedful.events.preparing import PrepareConfig, prepare, read_events
from heedful.events.session import open_session
from heedful.events.times import LIMITS, choose_unit, count_magnitudes

DAY = 86400
START = 1_600_000_000


def table(rows, kinds=True):
    """Rows of (user, item, time[, kind]) as an Arrow table."""
    names = ["user_id", "item_id", "timestamp", "event"][: 4 if kinds else 3]
    return pa.table(dict(zip(names, map(list, zip(*rows, strict=True)), strict=True)))


def decoded(log):
    """(user, item, time, kind) of every event in the order of the log, with ids and names."""
    owner = np.repeat(np.arange(len(log.users)), log.histories.lengths)
    users = log.users.take(owner).to_pylist()
    items = log.catalog.items.take(log.histories.items).to_pylist()
    return list(zip(users, items, log.histories.times.tolist(), [log.kinds[k] for k in log.histories.kinds], strict=True))


def times_of(values, **options):
    """What `timestamp` values are read as: unix seconds or the reason of the refusal, in their order."""
    n = len(values)
    rows = pa.table({"user_id": range(n), "item_id": ["x"] * n, "timestamp": values})
    log = read_events(rows, **options)
    found = dict(zip(log.users.ids.to_pylist(), log.histories.times.tolist(), strict=True))
    found |= {int(row["user_id"]): row["reason"] for row in log.rejected.to_pylist()}
    return [found[row] for row in range(n)]


ids = st.sampled_from(["a", "b", "c", "", None, "é", " a"])
moments = st.one_of(st.integers(START, START + 5), st.sampled_from([None, -5, 10**11]))
kinds = st.sampled_from(["view", "buy", None])
logs = st.lists(st.tuples(ids, ids, moments, kinds), min_size=1, max_size=40)


def reference(rows, config):
    """The slow and obvious preparation: kept events in order, items in order, reasons."""
    reasons = {}

    def refuse(reason, refused):
        if refused:
            reasons[reason] = reasons.get(reason, 0) + len(refused)

    good = []
    for user, item, moment, kind in rows:
        if user is None or user == "":
            refuse("missing user_id" if user is None else "empty user_id", [user])
        elif item is None or item == "":
            refuse("missing item_id" if item is None else "empty item_id", [item])
        elif moment is None or not 0 <= moment <= 4102444800:
            refuse("missing time" if moment is None else "absurd time", [moment])
        else:
            good.append((user, item, moment, kind or "unknown"))
    if config.duplicates == "drop":
        good = sorted(set(good))
    if limit := config.max_user_events:
        bots = {user for user, *_ in good if sum(row[0] == user for row in good) > limit}
        refuse(f"user with more than {limit} events", [row for row in good if row[0] in bots])
        good = [row for row in good if row[0] not in bots]
    counts = {row[1]: sum(other[1] == row[1] for other in good) for row in good}
    rare = [row for row in good if counts[row[1]] < config.min_item_events]
    refuse(f"item with fewer than {config.min_item_events} events", rare)
    good = [row for row in good if row not in rare]
    items = sorted({row[1] for row in good}, key=lambda item: (-counts[item], item.encode()))
    names = sorted({row[3] for row in good}, key=lambda kind: (-sum(row[3] == kind for row in good), kind))
    order = sorted(good, key=lambda row: (row[0].encode(), row[2], items.index(row[1]), names.index(row[3])))
    return order, items, tuple(names), reasons


@settings(max_examples=40, deadline=None)
@given(logs, st.sampled_from(["keep", "drop"]), st.sampled_from([0, 3, 8]), st.sampled_from([1, 2, 3]))
def test_as_the_reference_does(rows, duplicates, limit, least):
    config = PrepareConfig(duplicates=duplicates, max_user_events=limit, min_item_events=least, time_unit="s", threads=1)
    expected, items, names, reasons = reference(rows, config)
    schema = pa.schema([("user_id", "string"), ("item_id", "string"), ("timestamp", "int64"), ("event", "string")])
    given_rows = table(rows).cast(schema)
    if not expected:
        with pytest.raises(InputError, match=r"no row is left; got: \d+ rows, rejected for "):
            read_events(given_rows, **config.to_dict())
        return
    log = read_events(given_rows, **config.to_dict())
    assert decoded(log) == expected
    assert log.catalog.items.ids.to_pylist() == items
    assert log.kinds == names
    assert log.catalog.events.tolist() == [sum(row[1] == item for row in expected) for item in items]
    assert log.catalog.users.tolist() == [len({row[0] for row in expected if row[1] == item}) for item in items]
    counts = log.rejected["reason"].value_counts().to_pylist()
    assert {entry["values"]: entry["counts"] for entry in counts} == reasons


def random_rows(n=3000, seed=0):
    random = np.random.default_rng(seed)
    times = (START + random.integers(0, 20, n)).astype(str).astype(object)
    times[random.integers(0, n, 50)] = "never"
    return pa.table(
        {
            "user_id": [f"u{u}" for u in random.integers(0, 50, n)],
            "item_id": [f"i{i}" for i in random.zipf(1.5, n) % 40],
            "timestamp": times,
            "event": random.choice(["view", "buy"], n),
        }
    )


def test_the_order_of_rows_files_and_threads_changes_no_byte(tmp_path):
    rows = random_rows()
    config = {"duplicates": "drop", "min_item_events": 20, "max_user_events": 55}
    shuffled = rows.take(np.random.default_rng(1).permutation(len(rows)))
    pq.write_table(rows, tmp_path / "whole.parquet")
    (tmp_path / "parts").mkdir()
    pq.write_table(shuffled[:100], tmp_path / "parts" / "b.parquet", row_group_size=7)
    pq.write_table(shuffled[100:], tmp_path / "parts" / "a.parquet", row_group_size=500)
    one = prepare(tmp_path / "whole.parquet", tmp_path / "one", config=PrepareConfig(threads=1, **config))
    two = prepare(tmp_path / "parts", tmp_path / "two", config=PrepareConfig(threads=4, **config))
    assert one.folder.content_hash == two.folder.content_hash
    assert set(one.rejected["reason"].to_pylist()) == {
        "unreadable time", "user with more than 55 events", "item with fewer than 20 events"
    }  # fmt: skip


def test_the_manifest_accounts_for_every_row(tmp_path):
    rows = random_rows()
    pq.write_table(rows, tmp_path / "log.parquet")
    config = PrepareConfig(duplicates="drop", min_item_events=10, max_user_events=28, kinds=("view",))
    log = prepare(tmp_path / "log.parquet", tmp_path / "out", config=config)
    manifest = log.folder.manifest
    assert log.facts() == {name: manifest[name] for name in log.facts()}
    assert manifest["rows_read"] == 3000
    assert manifest["duplicates"]["found"] == manifest["duplicates"]["dropped"] > 0
    assert sum(manifest["rejected"].values()) == len(log.rejected) > 0
    lost = sum(manifest["rejected"].values()) + sum(manifest["kinds_left_out"].values()) + manifest["duplicates"]["dropped"]
    assert manifest["n_events"] == 3000 - lost > 0
    assert list(manifest["kinds_left_out"]) == ["buy"]
    assert manifest["users_set_aside"] > 0
    assert manifest["items_set_aside"] > 0
    assert PrepareConfig.from_dict(manifest["config"]) == config
    assert manifest["source"]["files"] == [{"name": "log.parquet", "bytes": (tmp_path / "log.parquet").stat().st_size}]
    assert str(tmp_path) not in json.dumps(manifest)
    assert not [path for path in tmp_path.iterdir() if path.name not in ("log.parquet", "out")]


def test_duplicates_are_counted_when_they_are_kept(tmp_path):
    rows = [("u", "x", START, "view")] * 3 + [("u", "x", START, "buy"), ("v", "x", START, "view")]
    log = prepare(table(rows), tmp_path / "out")
    assert log.n_events == 5
    assert log.folder.manifest["duplicates"] == {"found": 2, "dropped": 0}


def test_rejected_rows_are_kept_as_read():
    rows = pa.table(
        {
            "user": ["", "u", "u"],
            "sku": ["x", "x", "x"],
            "ts": ["1600000000", " soon ", "1600000000"],
            "kind": [None, "a", "b"],
        }
    )
    assert read_events(rows).rejected.to_pylist() == [
        {"user_id": "", "item_id": "x", "timestamp": "1600000000", "event": None, "reason": "empty user_id"},
        {"user_id": "u", "item_id": "x", "timestamp": " soon ", "event": "a", "reason": "unreadable time"},
    ]


def test_fractions_of_seconds_decide_the_order():
    rows = [("u", "late", START + 0.75, "view"), ("u", "early", START + 0.25, "view"), ("u", "late", START - 9.5, "view")]
    log = read_events(table(rows))
    assert [(item, at) for _, item, at, _ in decoded(log)] == [("late", START - 10), ("early", START), ("late", START)]


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("form", [int, str, float])
def test_units_are_told_by_magnitude(unit, form):
    factor = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[unit]
    values = [form(START * factor), form((START + DAY) * factor), form(1)]
    assert times_of(values) == [START, START + DAY, "absurd time"]
    assert times_of(values, time_unit=unit) == [START, START + DAY, 1 if unit == "s" else 0]


@pytest.mark.parametrize(
    ("values", "dates", "unit"),
    [
        ([START, START + DAY], 0, "s"),  # one unit, told by the bounds
        ([START * 1000, START * 1000 + 5], 0, "ms"),
        ([START, START * 1000, START * 1000 + 5], 0, "ms"),  # two units: most decide
        ([0, 0, 0, 5, START * 1000], 0, "ms"),  # however many are no times
        ([-START, START * 1000, START * 1000], 0, "ms"),
        ([20240131, START], 1, "s"),  # one looks like a calendar date
        ([5, 20240131, START], 1, "s"),
        ([-20240131, 20240131, START * 10**6], 1, "us"),
        ([START * 10**9, None], 0, "ns"),
        ([None, None], 0, "s"),
    ],
)
def test_the_bounds_of_times_tell_the_unit_that_all_of_them_tell(tmp_path, values, dates, unit):
    with open_session(tmp_path, memory_limit="500MB", threads=1) as session:
        session.run("CREATE TABLE staged (whole BIGINT, real DOUBLE)")
        listed = ", ".join(f"({'NULL' if value is None else value}, NULL)" for value in values)
        session.run(f"INSERT INTO staged VALUES {listed}")
        counted = count_magnitudes(session, "staged")
    numbers = [value for value in values if value is not None]
    within = [sum(first <= number <= last for number in numbers) for first, last in LIMITS.values()]
    assert counted == [len(numbers), dates, *within]
    assert choose_unit(counted) == unit


def test_parquet_that_is_damaged_somewhere_is_refused(tmp_path):
    events = pa.table({"user_id": np.arange(5000), "item_id": np.arange(5000) % 70, "timestamp": START + np.arange(5000)})
    pq.write_table(events, tmp_path / "log.parquet", compression="zstd")
    content = bytearray((tmp_path / "log.parquet").read_bytes())
    column = pq.read_metadata(tmp_path / "log.parquet").row_group(0).column(1)
    begin = column.data_page_offset + 40
    content[begin : begin + 400] = bytes(400)
    (tmp_path / "log.parquet").write_bytes(content)
    with pytest.raises(InputError, match="the parquet source cannot be read"):
        prepare(tmp_path / "log.parquet", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["log.parquet"]


def test_the_unit_can_be_given():
    assert times_of([1000, 2500], time_unit="ms") == [1, 2]
    assert times_of([START * 1000], time_unit="ms") == [START]
    with pytest.raises(InputError, match="no row is left; got: 1 rows, rejected for absurd time: 1"):
        times_of([START * 1000], time_unit="s")


NEW_YEAR = 1577836800


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2020-01-01", NEW_YEAR),
        (" 2020-01-01T00:00:00 ", NEW_YEAR),
        ("2020-01-01 00:00:00.999999999", NEW_YEAR),
        ("2020-01-01T00:00:00Z", NEW_YEAR),
        ("2020-01-01T02:00:00+02:00", NEW_YEAR),
        ("2019-12-31 18:30:00-0530", NEW_YEAR),
        ("1577836800", NEW_YEAR),
        ("1577836800.9", NEW_YEAR),
        ("1.5778368e9", NEW_YEAR),
        ("", "missing time"),
        ("  ", "missing time"),
        (None, "missing time"),
        ("soon", "unreadable time"),
        ("2020-02-30", "unreadable time"),
        ("infinity", "unreadable time"),
        ("epoch", "unreadable time"),
        ("0x10", "unreadable time"),
        ("1_000", "unreadable time"),
        ("inf", "unreadable time"),
        ("-1", "absurd time"),
        ("99999999999999999999", "absurd time"),
        ("1969-12-31", "absurd time"),
        ("2100-01-02", "absurd time"),
        ("99999-01-01", "absurd time"),
    ],
)
def test_text_is_read_row_by_row(text, expected):
    assert times_of(["1577836800", "2020-01-01", "1577836801", text])[3] == expected


@pytest.mark.parametrize(
    "values",
    [
        pa.array([NEW_YEAR * 10**9 + 1, None, -1, 2**62], pa.timestamp("ns")),
        pa.array([NEW_YEAR * 10**6, None, -1, 2**62], pa.timestamp("us", "Europe/Berlin")),
        pa.array([NEW_YEAR * 10**9, None, -1, 2**62], pa.timestamp("ns", "Europe/Berlin")),
        pa.array([NEW_YEAR, None, -1, 10**11], pa.timestamp("s")),
        pa.array([date(2020, 1, 1), None, date(1, 1, 1), date(9999, 1, 1)]),
        pa.array([NEW_YEAR, None, -1, 10**10], pa.int64()),
        pa.array([NEW_YEAR * 10**9, None, 2**63, 2**64 - 1], pa.uint64()),
        pa.array([NEW_YEAR, float("nan"), float("inf"), -0.5], pa.float64()),
        pa.array([NEW_YEAR, None, -1, 10**10]).cast(pa.decimal128(30, 6)),
    ],
    ids=lambda values: str(values.type),
)
def test_times_of_other_types(values):
    assert times_of(values) == [NEW_YEAR, "missing time", "absurd time", "absurd time"]


def test_python_datetimes():
    assert times_of([datetime(2020, 1, 1), None]) == [NEW_YEAR, "missing time"]
    assert times_of([datetime(2020, 1, 1, tzinfo=UTC), None]) == [NEW_YEAR, "missing time"]


@pytest.mark.parametrize("values", [[20200101, 20200102], ["20200101", "20200102"]])
def test_calendar_dates_as_numbers_are_no_unix_times(values):
    with pytest.raises(InputError, match="calendar dates written as numbers"):
        times_of(values)
    assert times_of(values, time_unit="s") == [int(value) for value in values]


def test_types_that_are_no_times():
    with pytest.raises(InputError, match="'timestamp' has a type that cannot be a time; got: BOOLEAN"):
        times_of([True, False])


def test_kinds():
    assert read_events(table([("u", "x", START)], kinds=False)).kinds == ("event",)
    rows = [("u", "x", START, kind) for kind in ("b", "a", "", None, "c", "c")]
    assert read_events(table(rows)).kinds == ("c", "unknown", "a", "b")
    assert decoded(read_events(table(rows), kinds=["a"])) == [("u", "x", START, "a")]
    with pytest.raises(ConfigError, match="no events of that kind; got: d; expected: some of c, unknown, a, b"):
        read_events(table(rows), kinds=["a", "d"])


def test_at_most_255_kinds():
    rows = [("u", "x", START, f"k{n:03}") for n in range(256)]
    assert read_events(table(rows[:255])).histories.kinds.tolist() == list(range(255))
    with pytest.raises(InputError, match=r"too many kinds of events; got: 256 \(k000, k001"):
        read_events(table(rows))


ROWS = [("u", "x", START, "view"), ("u", "y", START + 1, "view"), ("v", "x", START, "view")]


def test_item_attributes(tmp_path):
    attributes = pa.table(
        {
            "SKU": ["y", "z", "x", "x", None, ""],
            "title": ["Why", "Zed", "Ex", "Ex again", "?", "?"],
            "Events": [1, 2, 3, 4, 5, 6],
            "events_attribute": [0, 0, 0, 0, 0, 0],
            'a"b': [[1], [2], [3], [4], [5], [6]],
        }
    )
    log = prepare(table(ROWS), tmp_path / "out", items=attributes)
    assert log.catalog.items.ids.to_pylist() == ["x", "y"]
    assert log.catalog.events.tolist() == [2, 1]
    assert log.catalog.attributes.to_pylist() == [
        {"title": "Ex", "Events_attribute_attribute": 3, "events_attribute": 0, 'a"b': [3]},
        {"title": "Why", "Events_attribute_attribute": 1, "events_attribute": 0, 'a"b': [1]},
    ]
    counts = {"rows": 6, "without_id": 2, "repeated": 1, "unknown": 1, "described": 2}
    assert log.folder.manifest["items_source"] == {"type": "pyarrow.Table", **counts}


def test_items_without_a_row_have_no_attributes():
    log = read_events(table(ROWS), items=pa.table({"item_id": ["y"], "title": ["Why"]}))
    assert log.catalog.attributes["title"].to_pylist() == [None, "Why"]


@pytest.mark.parametrize(("events", "items"), [([1, 10], ["10", "x", "1e0", "1"]), (["1", "10"], [10, 7, 8, 1])])
def test_ids_of_items_match_by_their_decimal_text(events, items):
    log = read_events(
        pa.table({"user": [1, 1], "item": events, "ts": [START, START]}), items=pa.table({"item": items, "n": [0, 1, 2, 3]})
    )
    assert log.catalog.attributes["n"].to_pylist() == [3, 0]


def test_items_need_an_id():
    with pytest.raises(InputError, match="no column looks like item_id; got: the columns title"):
        read_events(table(ROWS), items=pa.table({"title": ["x"]}))


def test_what_was_read_is_in_memory_and_what_was_prepared_is_on_disk(tmp_path):
    read = read_events(table(ROWS))
    assert read.folder is None
    assert type(read.histories.items) is np.ndarray
    prepared = prepare(table(ROWS), tmp_path / "out")
    assert isinstance(prepared.histories.items, np.memmap)
    assert [array.dtype.name for array in vars(prepared.histories).values()] == ["int64", "int32", "int64", "uint8"]
    assert decoded(read) == decoded(prepared) == decoded(EventLog.load(tmp_path / "out"))


def test_a_failure_leaves_what_was_there(tmp_path):
    prepare(table(ROWS), tmp_path / "out")
    with pytest.raises(FolderError, match="exists already"):
        prepare(table(ROWS), tmp_path / "out")
    with pytest.raises(InputError, match="no row is left"):
        prepare(table([(None, "x", START, "view")]), tmp_path / "out", overwrite=True)
    assert EventLog.load(tmp_path / "out").n_events == 3
    assert prepare(table(ROWS[:1]), tmp_path / "out", overwrite=True).n_events == 1
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"time_unit": "m"}, "'time_unit' is out of range; got: 'm'"),
        ({"duplicates": "no"}, "'duplicates' is out of range"),
        ({"kinds": "view"}, "'kinds' is out of range; got: 'view'; expected: a list"),
        ({"min_item_events": 0}, "'min_item_events' is out of range; got: 0"),
        ({"max_user_events": -1}, "'max_user_events' is out of range"),
        ({"memory_limit": "much"}, "'memory_limit' is out of range; got: 'much'; expected: a size such as 4GB"),
        ({"threads": -1}, "'threads' is out of range"),
        ({"thread": 1}, "unknown option for PrepareConfig; got: thread"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(ConfigError, match=message):
        read_events(table(ROWS), **options)


def test_too_little_memory(tmp_path):
    with pytest.raises(ConfigError, match=r"memory limit is too small for this log; got: .*to fix: raise memory_limit"):
        prepare(random_rows(100_000), tmp_path / "out", config=PrepareConfig(memory_limit="1MB"))
    assert not list(tmp_path.iterdir())


INTERRUPTED = """
import sys
import pyarrow as pa
from heedful.events.preparing import prepare

def batches():
    for start in range(0, 2**40, 2**16):
        if start == 2**18:
            print("reading", flush=True)
        numbers = pa.array(range(start, start + 2**16))
        yield pa.record_batch([numbers, numbers, numbers], names=["user", "item", "ts"])

schema = pa.schema([(name, pa.int64()) for name in ("user", "item", "ts")])
prepare(pa.RecordBatchReader.from_batches(schema, batches()), sys.argv[1])
"""


def test_ctrl_c_stops_at_once_and_leaves_nothing(tmp_path):
    command = [sys.executable, "-c", INTERRUPTED, str(tmp_path / "out")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "reading\n"
        assert list(tmp_path.iterdir())
        sent = time.monotonic()
        os.kill(process.pid, signal.SIGINT)
        error = process.communicate(timeout=30)[1]
        assert time.monotonic() - sent < 10
    assert "KeyboardInterrupt" in error
    assert process.returncode not in (0, None)
    assert not list(tmp_path.iterdir())


def test_standard_output_stays_clean(capfd):
    read_events(random_rows(200_000), memory_limit="100MB")
    assert capfd.readouterr() == ("", "")
