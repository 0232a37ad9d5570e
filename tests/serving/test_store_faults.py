"""The store when things go wrong: killed writers, locks, full disks, servers and files that are gone."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
from store_worlds import PASSWORD, PATIENCE, click, event, impression, program, rows

from heedful.errors import ConfigError, MissingExtraError
from heedful.serving import database
from heedful.serving.store import Appended, Store, StoreUnavailable
from heedful.serving.tables import SCHEMA_VERSION

WRITER = """
import sys
from heedful.serving.store import Click, Event, Impression, Store
place, name, several = sys.argv[1:]
store = Store.open(place, lock_seconds=60)
print("ready", flush=True)
sys.stdin.readline()
number = 0
while True:
    batch = [Event(f"{name}-{number}-{i}", f"user-{i % 7}", str(i), number, "view") for i in range(int(several))]
    done = store.append(batch)
    print("events", number, done.accepted, done.duplicates, flush=True)
    store.add_impression(Impression(f"{name}-{number}", "home", "model", "ann", ("1", "2"), number, "v1", ""))
    print("impression", number, flush=True)
    store.mark_shown(f"{name}-{number}", number)
    print("shown", number, flush=True)
    print("click", number, store.add_click(Click(f"{name}-{number}", f"{name}-{number}", "2", number)), flush=True)
    number += 1
"""


# Processes


def test_what_was_acknowledged_is_there_after_a_kill_and_only_once(place):
    Store.open(place).close()
    said: dict[str, list[str]] = {}
    with contextlib.ExitStack() as stack:
        writers = {name: stack.enter_context(program(WRITER, place, name, "20")) for name in ("a", "b")}
        for writer in writers.values():
            assert writer.stdout.readline() == "ready\n"
        for writer in writers.values():
            writer.stdin.write("go\n")
            writer.stdin.flush()
        for writer in writers.values():  # both write now; they are killed somewhere in the midst
            for _ in range(40):
                assert writer.stdout.readline()
        for writer in writers.values():
            writer.send_signal(signal.SIGKILL)
        for name, writer in writers.items():
            rest = writer.stdout.read()
            said[name] = rest[: rest.rfind("\n") + 1].splitlines()
    with contextlib.closing(Store.open(place)) as store:
        events = Counter(row[0].rpartition("-")[0] for row in rows(place, "SELECT event_id FROM heedful_events"))
        shown = {row[0] for row in rows(place, "SELECT impression_id FROM heedful_impressions WHERE shown_time IS NOT NULL")}
        clicked = [row[0] for row in rows(place, "SELECT click_id FROM heedful_clicks")]
        assert set(events.values()) == {20}  # whole batches, none twice
        assert len(clicked) == len(set(clicked))
        for name, lines in said.items():
            acknowledged = [line.split() for line in lines]
            assert all(words[2:] == ["20", "0"] for words in acknowledged if words[0] == "events")
            assert all(words[2] == "recorded" for words in acknowledged if words[0] == "click")
            last = {words[0]: int(words[1]) for words in acknowledged}
            last = {what: last.get(what, 9) for what in ("events", "shown", "click")}  # 40 lines were read before: 0 to 9
            assert {f"{name}-{number}" for number in range(last["events"] + 1)} <= set(events)
            assert {f"{name}-{number}" for number in range(last["shown"] + 1)} <= shown
            assert {f"{name}-{number}" for number in range(last["click"] + 1)} <= set(clicked)
        store.ping()
        if not place.startswith("postgresql"):
            assert rows(place, "PRAGMA integrity_check") == [("ok",)]


RIVAL = """
import sys
from heedful.serving.store import Event, Store
store = Store.open(sys.argv[1], lock_seconds=60)
print("ready", flush=True)
sys.stdin.readline()
order = range(400) if sys.argv[2] == "up" else range(399, -1, -1)
events = [Event(f"shared-{i}", f"user-{i % 5}", "1", i, "view") for i in order]
accepted = sum(store.append(events[start:start + 40]).accepted for start in range(0, 400, 40))
print(accepted, flush=True)
"""


def test_processes_that_send_the_same_events_at_once_share_them(place):
    """They also open the empty database at once, and insert in opposite orders, which PostgreSQL may see as a deadlock."""
    with contextlib.ExitStack() as stack:
        rivals = [stack.enter_context(program(RIVAL, place, order)) for order in ("up", "down", "up")]
        for rival in rivals:
            assert rival.stdout.readline() == "ready\n"
        for rival in rivals:
            rival.stdin.write("go\n")
            rival.stdin.flush()
        accepted = [int(rival.stdout.readline()) for rival in rivals]
    assert sum(accepted) == 400
    assert rows(place, "SELECT count(*), count(DISTINCT event_id) FROM heedful_events") == [(400, 400)]


def test_threads_share_a_store(place):
    with contextlib.closing(Store.open(place, lock_seconds=60.0)) as store:
        store.add_impressions([impression("shared")], shown=True)
        outcomes: list[object] = []

        def work(thread: int) -> None:
            for number in range(10):
                assert store.append([event(f"{thread}-{number}", time=number), event(f"shared-{number}")]).accepted >= 1
                assert len(store.history("ann", 1000).item_ids) >= number
                outcomes.append(store.add_click(click(f"{thread}-{number}", "shared")))

        threads = [threading.Thread(target=work, args=(thread,)) for thread in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
        assert Counter(outcomes) == {"recorded": 1, "duplicate": 79}
        assert store.stats()["events"] == 90
        assert store.outcomes()["repeated_clicks"].to_pylist() == [79]


# Locks


def test_a_locked_sqlite_file(tmp_path):
    place = str(tmp_path / "shop.sqlite")
    with contextlib.closing(Store.open(place, lock_seconds=0.1)) as store:
        store.append([event(1)])
        with contextlib.closing(sqlite3.connect(place)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(StoreUnavailable, match="now: it is locked by another process; to fix: try again"):
                store.append([event(2)])
            assert store.history("ann", 5).item_ids == ["1"]  # reading goes on
        assert store.append([event(2)]) == Appended(1, 0)


def test_threads_do_not_wait_for_each_other_for_ever(tmp_path):
    with contextlib.closing(Store.open(str(tmp_path / "shop.sqlite"), lock_seconds=0.1)) as store:
        with store._database._my_turn(), pytest.raises(StoreUnavailable, match="the database is busy"):
            store.append([event(1)])
        assert store.append([event(1)]) == Appended(1, 0)


def test_a_locked_table_of_postgresql(postgresql):
    postgresql.empty()
    with contextlib.closing(Store.open(postgresql.url, lock_seconds=0.2)) as store:
        with psycopg.connect(postgresql.url) as other:
            other.execute("LOCK TABLE heedful_events IN ACCESS EXCLUSIVE MODE")
            with pytest.raises(StoreUnavailable, match="now: it is locked; to fix: try again"):
                store.append([event(1)])
            with pytest.raises(StoreUnavailable, match="now: it is locked; to fix: try again"):
                store.history("ann", 1)
        assert store.append([event(1)]) == Appended(1, 0)


# Full disks


def fill(store: Store) -> int:
    """Append events until the disk is full; returns how many were acknowledged."""
    stored = 0
    with pytest.raises(StoreUnavailable, match="now: its disk is full; to fix: try again"):
        while True:
            batch = [event(f"{stored + i}-{'x' * 200}", f"user-{i}", time=stored) for i in range(500)]
            stored += store.append(batch).accepted
            assert stored < 100_000
    return stored


def test_a_full_disk_loses_nothing_and_passes(small_disk):
    place = str(small_disk / "shop.sqlite")
    with contextlib.closing(Store.open(place)) as store:
        stored = fill(store)
        assert store.stats()["events"] == stored > 1000
        subprocess.run(["mount", "-o", "remount,size=16m", small_disk], check=True)
        assert store.append([event("after")]) == Appended(1, 0)
        assert store.stats()["events"] == stored + 1
    assert rows(place, "PRAGMA integrity_check") == [("ok",)]


def test_a_full_sqlite_file(tmp_path):
    """The same where nothing can be mounted."""
    with contextlib.closing(Store.open(str(tmp_path / "shop.sqlite"))) as store:
        limit = "PRAGMA max_page_count"
        store._database.read(lambda connection: connection.exec_driver_sql(f"{limit} = 300").all())
        stored = fill(store)
        assert store.stats()["events"] == stored > 0
        store._database.read(lambda connection: connection.exec_driver_sql(f"{limit} = 100000").all())
        assert store.append([event("after")]) == Appended(1, 0)


def test_a_full_disk_under_postgresql(postgresql, small_disk):
    space = Path("/tmp") / f"heedful-space-{os.getpid()}"
    space.mkdir()
    subprocess.run(["mount", "--bind", small_disk, space], check=True)
    try:
        if postgresql.who:
            os.chown(space, postgresql.who["user"], postgresql.who["group"])
        subprocess.run(["mount", "-o", "remount,size=16m", small_disk], check=True)
        with psycopg.connect(postgresql.url, autocommit=True) as connection:
            connection.execute(f"CREATE TABLESPACE small LOCATION '{space}'")
            connection.execute("CREATE DATABASE small TABLESPACE small")
        with contextlib.closing(Store.open(postgresql.url.replace("/postgres", "/small"))) as store:
            stored = fill(store)
            assert store.stats()["events"] == stored > 0
            subprocess.run(["mount", "-o", "remount,size=64m", small_disk], check=True)
            assert store.append([event("after")]) == Appended(1, 0)
            assert store.stats()["events"] == stored + 1
        with psycopg.connect(postgresql.url, autocommit=True) as connection:
            connection.execute("DROP DATABASE small")
            connection.execute("DROP TABLESPACE small")
    finally:
        subprocess.run(["umount", space], check=True)
        space.rmdir()


# Gone


def test_a_postgresql_server_that_stops_and_comes_back(postgresql, caplog):
    postgresql.empty()
    with contextlib.ExitStack() as stack:
        stack.callback(postgresql.start)  # whatever happens here, for the tests that follow
        store = stack.enter_context(contextlib.closing(Store.open(postgresql.url)))
        store.append([event(1)])
        for how in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
            postgresql.stop(how)
            attempts = [lambda: store.append([event(2)]), lambda: store.history("ann", 1), store.ping, store.outcomes]
            for attempt in attempts:
                with pytest.raises(
                    StoreUnavailable, match=r"(it cannot be reached|does not answer); to fix: try again"
                ) as caught:
                    attempt()
                assert not re.search(f"s3c|event-2|'ann'|127|{postgresql.port}", str(caught.value))
            with pytest.raises(StoreUnavailable):
                Store.open(postgresql.url)
            postgresql.start()
            assert store.history("ann", 5).item_ids == ["1"]
        assert store.append([event(1), event(2)]) == Appended(1, 1)
    assert "s3c" not in caplog.text


def test_a_connection_that_the_server_ends(postgresql):
    postgresql.empty()
    with contextlib.closing(Store.open(postgresql.url)) as store:
        with psycopg.connect(postgresql.url, autocommit=True) as other:
            kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'heedful'"
            other.execute(kill)
        assert store.append([event(1)]) == Appended(1, 0)


def test_a_wrong_password_is_not_shown(postgresql):
    url = postgresql.url.replace("s3c%20ret%25", "wr0ng%20secret")
    with pytest.raises(StoreUnavailable, match=r"password authentication failed for user \"me\"") as caught:
        Store.open(url)
    assert "wr0ng" not in str(caught.value)
    with pytest.raises(StoreUnavailable) as caught:
        Store.open(f"postgresql://me@127.0.0.1:{postgresql.port}/postgres?password=wr0ng%20secret")
    assert "wr0ng" not in str(caught.value)


def test_a_password_in_the_environment(postgresql, monkeypatch):
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    with contextlib.closing(Store.open(f"postgresql://me@127.0.0.1:{postgresql.port}/postgres")) as store:
        store.ping()


def test_a_server_that_is_not_there():
    began = time.monotonic()
    with pytest.raises(StoreUnavailable, match="connection"):
        Store.open("postgresql://me:s3cret@127.0.0.1:1/shop")
    assert time.monotonic() - began < 60


def test_a_sqlite_file_that_is_gone_and_comes_back(tmp_path):
    place, aside = tmp_path / "shop.sqlite", tmp_path / "aside"
    with contextlib.closing(Store.open(str(place))) as store:
        store.append([event(1)])
        store.close()  # its log is written back into the file
        place.rename(aside)
        for attempt in (lambda: store.append([event(2)]), lambda: store.history("ann", 5), store.ping):
            with pytest.raises(StoreUnavailable, match="file is gone; to fix: put it back"):
                attempt()
        assert not place.exists()
        aside.rename(place)
        assert store.append([event(1), event(2)]) == Appended(1, 1)


def test_a_sqlite_file_that_was_replaced_is_the_one_used(tmp_path):
    place, other = tmp_path / "shop.sqlite", tmp_path / "other.sqlite"
    with contextlib.closing(Store.open(str(other))) as store:
        store.append([event(7, item="other")])
    with contextlib.closing(Store.open(str(place))) as store:
        store.append([event(1)])
        store.close()
        other.replace(place)
        assert store.history("ann", 5).item_ids == ["other"]
        assert store.append([event(8, time=1)]) == Appended(1, 0)
    assert rows(str(place), "SELECT count(*) FROM heedful_events") == [(2,)]


def test_a_damaged_file(tmp_path):
    place = tmp_path / "shop.sqlite"
    with contextlib.closing(Store.open(str(place))) as store:
        store.append([event(number) for number in range(2000)])
    with place.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * (place.stat().st_size - 4096))
    with pytest.raises(StoreUnavailable, match="malformed"), contextlib.closing(Store.open(str(place))) as store:
        store.history("ann", 5)


def test_a_folder_is_no_database(tmp_path):
    with pytest.raises(ConfigError, match="a database is a file, and this is a folder"):
        Store.open(str(tmp_path))


# Opening


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("", "a store needs a file"),
        (":memory:", "a store needs a file"),
        ("sqlite://", "not used here; got: sqlite://"),
        ("mysql://me:s3cret@h/db", "not used here; got: mysql://"),
        ("postgresql://me:s3cret@h:port/db", "URL of the database cannot be read"),
        ("nowhere/at/all/shop.sqlite", "no such folder for the database; got: .*nowhere/at/all"),
    ],
)
def test_places_that_cannot_be_a_store(place, message):
    with pytest.raises(ConfigError, match=message) as caught:
        Store.open(place)
    assert "s3cret" not in str(caught.value)


def test_a_file_that_is_something_else(tmp_path):
    place = tmp_path / "shop.csv"
    place.write_text("user_id,item_id\n" * 1000)
    with pytest.raises(ConfigError, match=r"this file is not a database; got: .*shop\.csv"):
        Store.open(str(place))
    assert place.read_text().startswith("user_id")


def test_nothing_is_made_unless_asked(tmp_path):
    place = tmp_path / "shop.sqlite"
    with pytest.raises(ConfigError, match="there is no such database file"):
        Store.open(str(place), create=False)
    assert list(tmp_path.iterdir()) == []


def test_tables_are_not_made_unless_asked(place):
    if not place.startswith("postgresql"):
        with contextlib.closing(sqlite3.connect(place)) as connection:
            connection.execute("CREATE TABLE events (mine)")
    with pytest.raises(ConfigError, match=r"this database has no tables of heedful; got: .*(shop|127)"):
        Store.open(place, create=False)


def set_version(place, version):
    change = f"UPDATE heedful_schema SET version = {version}"
    if place.startswith("postgresql"):
        with psycopg.connect(place) as connection:
            connection.execute(change)
    else:
        with contextlib.closing(sqlite3.connect(place)) as connection:
            connection.execute(change)
            connection.commit()


def test_tables_of_another_version_are_refused(place):
    Store.open(place).close()
    set_version(place, 99)
    with pytest.raises(ConfigError, match=r"version of heedful; got: version 99 in .*; expected: version 2; to .* newer"):
        Store.open(place)
    set_version(place, 0)
    with pytest.raises(ConfigError, match=r"version of heedful; got: version 0 in .*; expected: version 2; to"):
        Store.open(place)


def test_older_tables_are_brought_up_to_date(place, monkeypatch):
    """Two versions on, by several who open them at once; what is stored stays."""
    now = SCHEMA_VERSION
    with contextlib.closing(Store.open(place)) as store:
        store.append([event(1)])
    monkeypatch.setattr(database, "SCHEMA_VERSION", now + 2)
    steps = {now: ("ALTER TABLE heedful_events ADD COLUMN note TEXT", "UPDATE heedful_events SET note = 'old'"),
             now + 1: ("CREATE INDEX heedful_events_note ON heedful_events (note)",)}  # fmt: skip
    monkeypatch.setattr(database, "UPGRADES", steps)
    with pytest.raises(
        ConfigError, match=rf"got: version {now} in .*; expected: version {now + 2}; .*`heedful serve` brings them up"
    ):
        Store.open(place, create=False)  # a report changes nothing
    with ThreadPoolExecutor(4) as several:
        for store in several.map(Store.open, [place] * 4):
            assert store.history("ann", 5).item_ids == ["1"]
            store.close()
    assert rows(place, "SELECT version FROM heedful_schema") == [(now + 2,)]
    assert rows(place, "SELECT event_id, note FROM heedful_events") == [("event-1", "old")]


def test_an_upgrade_that_fails_changes_nothing(place, monkeypatch):
    Store.open(place).close()
    now = SCHEMA_VERSION
    monkeypatch.setattr(database, "SCHEMA_VERSION", now + 1)
    monkeypatch.setattr(database, "UPGRADES", {now: ("ALTER TABLE heedful_events ADD COLUMN note TEXT", "NONSENSE")})
    with pytest.raises(StoreUnavailable, match="syntax error"):
        Store.open(place)
    assert rows(place, "SELECT version FROM heedful_schema") == [(now,)]
    with pytest.raises((sqlite3.Error, psycopg.Error)):
        rows(place, "SELECT note FROM heedful_events")


def test_a_table_of_somebody_else_is_left_alone(postgresql):
    postgresql.empty()
    with psycopg.connect(postgresql.url) as connection:
        connection.execute("CREATE TABLE events (mine int)")
    with contextlib.closing(Store.open(postgresql.url)) as store:
        store.append([event(1)])
    assert rows(postgresql.url, "SELECT count(*) FROM events") == [(0,)]


def test_files_by_path_and_by_url(tmp_path):
    by_path, by_url = tmp_path / "Zoë's shop?mode=ro#1 %41.sqlite", tmp_path / "shop.sqlite"
    for place in (str(by_path), f"sqlite:///{by_url}"):
        with contextlib.closing(Store.open(place)) as store:
            store.append([event(1)])
    assert {path.name for path in tmp_path.iterdir()} == {by_path.name, by_url.name}


def test_postgresql_needs_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(MissingExtraError, match=r"psycopg.*pip install 'heedful\[serve\]'"):
        Store.open("postgresql://me:s3cret@localhost/shop")


# Durability and privacy


def test_every_commit_of_sqlite_is_forced_to_the_disk(tmp_path):
    with contextlib.closing(Store.open(str(tmp_path / "shop.sqlite"))) as store:
        asked = ["synchronous", "journal_mode", "foreign_keys", "secure_delete"]
        found = store._database.read(lambda c: [c.exec_driver_sql(f"PRAGMA {name}").scalar() for name in asked])
        assert found == [2, "wal", 1, 1]


def test_what_was_deleted_is_not_left_in_the_files(tmp_path):
    with contextlib.closing(Store.open(str(tmp_path / "shop.sqlite"))) as store:
        store.append([event(number, "secret-visitor", f"item-{number}") for number in range(200)] + [event("x", "bob")])
        store.add_impressions([impression(1, "secret-visitor")], shown=True)
        assert any(b"secret-visitor" in path.read_bytes() for path in tmp_path.iterdir())
        store.delete_user("secret-visitor")
        assert not any(b"secret-visitor" in path.read_bytes() for path in tmp_path.iterdir())
