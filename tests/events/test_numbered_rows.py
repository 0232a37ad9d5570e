"""Of a table with numbered rows, those of a range are read."""

from __future__ import annotations

import contextlib
import sqlite3
from dataclasses import replace
from pathlib import Path

import duckdb
import pytest

from heedful.errors import InputError
from heedful.events.databases import Numbered, TableUrl, highest_number, split_url
from heedful.events.preparing import read_events

ROWS = [(number, f"u{number}", "x", 1_600_000_000 + number) for number in range(1, 6)]
MAKE = "CREATE TABLE events (number BIGINT, user_id TEXT, item_id TEXT, timestamp BIGINT)"


def make(system: str, folder: Path, rows: list[tuple[int, str, str, int]] = ROWS) -> TableUrl:
    path = folder / "shop.db"
    connect = sqlite3.connect if system == "sqlite" else duckdb.connect
    with contextlib.closing(connect(str(path))) as connection:
        connection.execute(MAKE)
        if rows:
            connection.executemany("INSERT INTO events VALUES (?, ?, ?, ?)", rows)
        connection.commit()
    url = split_url(f"{system}:///{path}?table=events")
    assert url is not None
    return url


@pytest.mark.parametrize("system", ["sqlite", "duckdb"])
def test_rows_above_one_number_and_up_to_another_are_read(system: str, tmp_path: Path) -> None:
    url = make(system, tmp_path)
    assert highest_number(url, "number") == 5
    log = read_events(replace(url, rows=Numbered("number", 2, 4)))
    assert log.users.ids.to_pylist() == ["u3", "u4"]


@pytest.mark.parametrize("system", ["sqlite", "duckdb"])
def test_a_table_without_rows_has_number_0(system: str, tmp_path: Path) -> None:
    assert highest_number(make(system, tmp_path, []), "number") == 0


@pytest.mark.parametrize("system", ["sqlite", "duckdb"])
def test_a_column_of_texts_numbers_nothing(system: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="column 'user_id' of table 'events' has no whole numbers"):
        highest_number(make(system, tmp_path), "user_id")


@pytest.mark.parametrize("system", ["sqlite", "duckdb"])
def test_a_column_that_is_missing_is_named(system: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot be read.*lost_column"):
        highest_number(make(system, tmp_path), "lost_column")
