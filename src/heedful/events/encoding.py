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
from heedful.events.session import Session
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
    codes = session.register(pa.table({"kind": pa.array(kinds, pa.string()), "code": np.arange(len(kinds), dtype=np.uint8)}))
    session.run(f"CREATE TABLE kind_codes AS FROM {codes}")
    session.run(
        "CREATE TABLE users AS SELECT user_id, (row_number() OVER (ORDER BY user_id) - 1)::INTEGER AS row "
        "FROM (SELECT DISTINCT user_id FROM kept)"
    )
    n_users, n_items = (int(session.value(f"SELECT count(*) FROM {table}")) for table in ("users", "items"))
    write_parquet(session, "SELECT user_id FROM users ORDER BY row", folder / "users.parquet")
    encoded, reach = Encoded(0, n_users, n_items, kinds, 2**62, 0, 0), _Reach(n_items)
    _write_events(session, folder, encoded, reach)
    session.run(f"CREATE TABLE reach AS FROM {session.register(reach.table())}")
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


class _Reach:
    """Counts the distinct users of each item in events that come user by user."""

    def __init__(self, n_items: int) -> None:
        self._users: np.ndarray = np.zeros(n_items, np.int64)
        self._pairs: np.ndarray = np.empty(0, np.int64)  # of the last user so far, who may have more

    def add(self, users: np.ndarray, items: np.ndarray) -> None:
        """Events in the order of their users, int64 [N] each."""
        n_items = len(self._users)
        pairs = np.sort(np.concatenate([self._pairs, users * n_items + items]))
        pairs = pairs[np.diff(pairs, prepend=-1) > 0]  # `np.unique` hashes integers, which takes thirty times as long
        finished = np.searchsorted(pairs, users[-1] * n_items)
        self._count(pairs[:finished])
        self._pairs = pairs[finished:]

    def table(self) -> pa.Table:
        """The rows of the items that have users, and how many these are."""
        self._count(self._pairs)
        rows = np.flatnonzero(self._users)
        return pa.table({"item": rows.astype(np.int32), "users": self._users[rows]})

    def _count(self, pairs: np.ndarray) -> None:
        np.add.at(self._users, pairs % len(self._users), 1)


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


def _write_events(session: Session, folder: Path, encoded: Encoded, reach: _Reach) -> None:
    rows = session.batches(
        "SELECT users.row AS user, kept.moment, items.row AS item, kind_codes.code AS kind "
        "FROM kept JOIN users USING (user_id) JOIN items USING (item_id) JOIN kind_codes USING (kind) "
        "ORDER BY user, moment, item, kind"
    )
    before: np.ndarray = np.full((4, 1), -1, np.int64)
    with (
        ArrayFile(folder / "offsets.npy", np.int64) as offsets,
        ArrayFile(folder / "items.npy", np.int32) as items,
        ArrayFile(folder / "times.npy", np.int64) as times,
        ArrayFile(folder / "kinds.npy", np.uint8) as kinds,
        progress("encoding", encoded.n_users, "users") as meter,
    ):
        for batch in rows:
            block = np.stack([column.to_numpy().astype(np.int64) for column in batch.columns])
            steps = np.diff(np.concatenate([before, block], axis=1), axis=1)
            begins = np.flatnonzero(steps[0])
            offsets.append(begins + encoded.n_events)
            reach.add(block[0], block[2])
            encoded.duplicates += int((~steps.any(axis=0)).sum())
            seconds = block[1] // 10**9
            encoded.first_time = min(encoded.first_time, int(seconds.min()))
            encoded.last_time = max(encoded.last_time, int(seconds.max()))
            items.append(block[2])
            times.append(seconds)
            kinds.append(block[3])
            before = block[:, -1:]
            encoded.n_events += block.shape[1]
            meter.advance(len(begins))
        offsets.append(np.array([encoded.n_events]))
