"""From validated rows to the files of a folder of sequences, all of it streamed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from heedful.errors import InputError
from heedful.events.session import Session, literal
from heedful.events.sorting import Events, Spool
from heedful.progress import progress

__all__ = ["ArrayFile", "Encoded", "encode", "name_kinds", "write_items", "write_parquet"]

_MOST_KINDS = 255
_ROW_GROUP = 131_072


@dataclass
class Encoded:
    """What the encoding of events found, in the words of `EventLog.facts`."""

    n_events: int
    n_users: int
    n_items: int
    kinds: tuple[str, ...]
    first_time: int
    last_time: int
    duplicates: int


def encode(session: Session, folder: Path, kinds: tuple[str, ...]) -> Encoded:
    """Write `users.parquet`, `offsets.npy`, `items.npy`, `times.npy` and `kinds.npy` from the tables of `validate`.

    Makes `reach`, the number of distinct users of each item that has any, by the row of the item.
    """
    codes = ", ".join(f"({literal(kind)}, {code}::UTINYINT)" for code, kind in enumerate(kinds))
    session.run(f"CREATE TABLE kind_codes AS FROM (VALUES {codes}) AS codes(kind, code)")
    session.run(
        "CREATE TABLE users AS SELECT user_id, (row_number() OVER (ORDER BY user_id) - 1)::INTEGER AS row "
        "FROM (SELECT DISTINCT user_id FROM kept)"
    )
    n_users, n_items = (int(session.value(f"SELECT count(*) FROM {table}")) for table in ("users", "items"))
    write_parquet(session, "SELECT user_id FROM users ORDER BY row", folder / "users.parquet")
    n_events = int(session.value("SELECT coalesce(sum(events), 0)::BIGINT FROM counted SEMI JOIN items USING (item_id)"))
    encoded = Encoded(0, n_users, n_items, kinds, 2**62, 0, 0)
    with Spool(folder, n_users=n_users, n_events=n_events) as spool:
        _spool_events(session, spool)
        users_of_item = _write_events(spool, folder, encoded)
    rows = np.flatnonzero(users_of_item)
    # Arrays, not Arrow: DuckDB imports pandas to take over an Arrow table.
    reach = session.register({"item": rows.astype(np.int32), "users": users_of_item[rows]})
    session.run(f"CREATE TABLE reach AS FROM {reach}")
    return encoded


def write_items(session: Session, folder: Path, *, attributes: bool) -> None:
    """Write `items.parquet` from the tables `items` and `reach`, and with `attributes` from the table of that name."""
    more = ", attributes.* EXCLUDE (item_id)" if attributes else ""
    join = "LEFT JOIN attributes ON attributes.item_id = items.item_id" if attributes else ""
    write_parquet(
        session,
        f"SELECT items.item_id, items.events, reach.users{more} FROM items JOIN reach ON reach.item = items.row {join} "
        "ORDER BY items.row",
        folder / "items.parquet",
    )


def write_parquet(session: Session, sql: str, path: Path) -> None:
    """Stream a result into a Parquet file whose bytes depend on the rows and their order alone."""
    with pq.ParquetWriter(path, session.schema(sql)) as writer:
        for table in _regroup(session.batches(sql), _ROW_GROUP):
            writer.write_table(table)


def _regroup(batches: Iterator[pa.RecordBatch], rows: int) -> Iterator[pa.Table]:
    """The same rows in tables of exactly `rows` rows each but the last, whatever the sizes of the batches."""
    waiting: list[pa.RecordBatch] = []
    for batch in batches:
        waiting.append(batch)
        while sum(map(len, waiting)) >= rows:
            table = pa.Table.from_batches(waiting)
            yield table.slice(0, rows).combine_chunks()
            waiting = table.slice(rows).to_batches()
    if waiting:
        yield pa.Table.from_batches(waiting).combine_chunks()


class ArrayFile:
    """An .npy file, written piece by piece: what `numpy.save` writes, without the array in memory."""

    def __init__(self, path: Path, dtype: type[np.generic]) -> None:
        self._dtype, self._length = np.dtype(dtype), 0
        self._stream = path.open("wb")
        self._write_header()

    def _write_header(self) -> None:
        # numpy leaves room for more digits of the length, so that the header keeps its size.
        header = {"descr": np.lib.format.dtype_to_descr(self._dtype), "fortran_order": False, "shape": (self._length,)}
        np.lib.format.write_array_header_1_0(self._stream, header)

    def append(self, values: np.ndarray) -> None:
        """Write the next values."""
        self._length += len(values)
        self._stream.write(np.ascontiguousarray(values, self._dtype).data)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stream.seek(0)
        self._write_header()
        self._stream.close()


def name_kinds(session: Session) -> tuple[str, ...]:
    """The kinds of the events that are kept, most frequent first, from `counted` and `items`.

    Raises:
        InputError: more than 255 kinds of events.

    """
    found = (
        "SELECT kind FROM counted SEMI JOIN items USING (item_id) GROUP BY kind ORDER BY sum(events) DESC, kind LIMIT 1000"
    )
    kinds = [row[0] for row in session.run(found)]
    if len(kinds) > _MOST_KINDS:
        raise InputError(
            "too many kinds of events",
            got=f"{len(kinds)}{'+' if len(kinds) == 1000 else ''} ({', '.join(kinds[:5])}, ...)",
            expected=f"at most {_MOST_KINDS}",
            fix="name the right column with event_column, or keep the ones that count with kinds",
        )
    return tuple(kinds)


def _spool_events(session: Session, spool: Spool) -> None:
    rows = session.batches(
        "SELECT users.row AS user, kept.instant, items.row AS item, kind_codes.code AS kind "
        "FROM kept JOIN users USING (user_id) JOIN items USING (item_id) JOIN kind_codes USING (kind)"
    )
    # Arrow's own conversion to numpy imports pandas.
    spool.fill(Events(*map(np.from_dlpack, batch.columns)) for batch in rows)


def _write_events(spool: Spool, folder: Path, encoded: Encoded) -> np.ndarray:
    """Write the arrays; distinct users of each item, int64 [I]."""
    users_of_item = np.zeros(encoded.n_items, np.int64)
    with (
        ArrayFile(folder / "offsets.npy", np.int64) as offsets,
        ArrayFile(folder / "items.npy", np.int32) as items,
        ArrayFile(folder / "times.npy", np.int64) as times,
        ArrayFile(folder / "kinds.npy", np.uint8) as kinds,
        progress("encoding", encoded.n_users, "users") as meter,
    ):
        for events in spool.buckets():
            begins = np.flatnonzero(np.diff(events.users, prepend=-1))
            offsets.append(begins + encoded.n_events)
            _count_users(events, users_of_item)
            encoded.duplicates += _count_repeated(events)
            seconds = events.instants // 10**9
            encoded.first_time = min(encoded.first_time, int(seconds.min()))
            encoded.last_time = max(encoded.last_time, int(seconds.max()))
            items.append(events.items)
            times.append(seconds)
            kinds.append(events.kinds)
            encoded.n_events += len(events)
            meter.advance(len(begins))
        offsets.append(np.array([encoded.n_events]))
    return users_of_item


def _count_users(events: Events, users_of_item: np.ndarray) -> None:
    """Add the distinct users of each item in events of whole users."""
    n_items = len(users_of_item)
    pairs = np.sort((events.users - events.users[0]).astype(np.int64) * n_items + events.items)
    pairs = pairs[np.diff(pairs, prepend=-1) > 0]  # `np.unique` hashes integers, which takes thirty times as long
    np.add.at(users_of_item, pairs % n_items, 1)


def _count_repeated(events: Events) -> int:
    """Number of events in order that equal the one before them."""
    same = np.ones(len(events) - 1, bool)
    for column in events.columns:
        same &= column[1:] == column[:-1]
    return int(np.count_nonzero(same))
