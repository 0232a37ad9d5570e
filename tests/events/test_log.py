import dataclasses
from datetime import UTC, date, datetime, timedelta, timezone

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heedful.errors import ConfigError, FolderError, InputError
from heedful.events.log import EventLog, parse_time
from heedful.events.preparing import read_events

DAY = 86400
START = 1_500_000_000

events = st.lists(
    st.tuples(st.sampled_from("uvwx"), st.sampled_from("abcde"), st.integers(0, 9), st.sampled_from(["view", "buy"])),
    min_size=1,
    max_size=40,
)


def log_of(rows, **options):
    users, items, days, kinds = zip(*rows, strict=True)
    times = [START + day * DAY for day in days]
    return read_events(pa.table({"user": users, "item": items, "time": times, "kind": kinds}), **options)


def rows_of(log):
    """The events as sorted (user, item, time, kind), with ids."""
    owner = np.repeat(np.arange(len(log.users)), log.histories.lengths)
    ids = (log.users.take(owner).to_pylist(), log.catalog.items.take(log.histories.items).to_pylist())
    return sorted(zip(*ids, log.histories.times.tolist(), [log.kinds[k] for k in log.histories.kinds], strict=True))


def same(a, b):
    pairs = zip(vars(a.histories).values(), vars(b.histories).values(), strict=True)
    return (
        a.users == b.users
        and a.catalog.items == b.catalog.items
        and np.array_equal(a.catalog.events, b.catalog.events)
        and np.array_equal(a.catalog.users, b.catalog.users)
        and a.catalog.attributes.equals(b.catalog.attributes)
        and all(np.array_equal(x, y) for x, y in pairs)
    )


ROWS = [("u", "a", 0, "view"), ("u", "b", 3, "buy"), ("v", "b", 1, "view"), ("v", "c", 5, "view"), ("w", "c", 6, "view")]


@settings(max_examples=15, deadline=None)
@given(events, st.integers(1, 9))
def test_the_past_is_what_its_events_alone_would_give(rows, day):
    before = [row for row in rows if row[2] < day]
    after = [row for row in rows if day <= row[2] < day + 3]
    if not before or not after:
        with pytest.raises(InputError, match=r"no event (before|in the 3 days after) the cut"):
            log_of(rows).split(START + day * DAY, days=3)
        return
    log = log_of(rows)
    past, future = log.split(START + day * DAY, days=3)
    alone = log_of(before)
    assert rows_of(past) == rows_of(alone) == sorted((u, i, START + d * DAY, k) for u, i, d, k in before)
    assert rows_of(future) == sorted((u, i, START + d * DAY, k) for u, i, d, k in after)
    assert future.users == log.users
    assert past.kinds == log.kinds
    kindless = [
        dataclasses.replace(x, histories=dataclasses.replace(x.histories, kinds=x.histories.kinds * 0))
        for x in (past, alone)
    ]
    assert same(*kindless)


def test_the_past_of_a_log_knows_nothing_of_the_future():
    past, future = log_of(ROWS).split(START + 4 * DAY, days=7)
    assert past.catalog.items.ids.to_pylist() == ["b", "a"]
    assert past.users.ids.to_pylist() == ["u", "v"]
    assert future.n_events == 2
    assert past.catalog.items.rows(future.catalog.items.take(future.histories.items)).tolist() == [-1, -1]


def test_a_saved_log_is_the_same_after_loading(tmp_path):
    log = log_of(ROWS, items=None)
    log.save(tmp_path / "log")
    loaded = EventLog.load(tmp_path / "log")
    assert same(log, loaded)
    assert loaded.kinds == log.kinds == ("view", "buy")
    assert loaded.facts() == log.facts()
    assert isinstance(loaded.histories.items, np.memmap)


def test_saving_over_a_log_needs_leave(tmp_path):
    log_of(ROWS).save(tmp_path / "log")
    with pytest.raises(FolderError, match="exists already"):
        log_of(ROWS).save(tmp_path / "log")
    log_of(ROWS[:2]).save(tmp_path / "log", overwrite=True)
    assert EventLog.load(tmp_path / "log").n_events == 2


def test_select_keeps_rows_and_counts_anew():
    log = log_of(ROWS)
    buys = log.select(["buy"])
    assert rows_of(buys) == [("u", "b", START + 3 * DAY, "buy")]
    assert buys.catalog.items == log.catalog.items
    assert buys.catalog.events.tolist() == buys.catalog.users.tolist() == [1, 0, 0]
    assert log.select(None) is log
    with pytest.raises(ConfigError, match="no events of that kind; got: click; expected: view, buy"):
        log.select(["click"])


def test_facts_of_a_log():
    assert log_of(ROWS).facts() == {
        "n_events": 5,
        "n_users": 3,
        "n_items": 3,
        "kinds": ["view", "buy"],
        "first_time": START,
        "last_time": START + 6 * DAY,
    }


@pytest.mark.parametrize(
    ("value", "moment"),
    [
        ("1970-01-02", DAY),
        ("1970-01-02T00:00:00", DAY),
        ("1970-01-02T00:00:00Z", DAY),
        ("1970-01-02T00:00:00+02:00", DAY - 7200),
        ("1500000000", START),
        (START, START),
        (date(1970, 1, 2), DAY),
        (datetime(1970, 1, 2), DAY),
        (datetime(1970, 1, 2, tzinfo=UTC), DAY),
        (datetime(1970, 1, 2, tzinfo=timezone(timedelta(hours=-1))), DAY + 3600),
    ],
)
def test_moments(value, moment):
    assert parse_time(value) == moment


def test_no_moment():
    with pytest.raises(ConfigError, match="not a point in time; got: 'tomorrow'"):
        parse_time("tomorrow")
