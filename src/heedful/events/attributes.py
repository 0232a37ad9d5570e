"""Item attributes: a second source of rows, one of which stands for each item of the log."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa

from heedful.events.columns import ITEM, Rows, find_column, need_column
from heedful.events.ids import id_as_sql, like_ids
from heedful.events.reading import Source, open_source, read_errors
from heedful.events.session import Session, identifier, open_session

__all__ = ["RESERVED", "read_items", "stage_attributes"]

RESERVED = ("item_id", "events", "users")
# Types that Arrow or Parquet cannot hold as they are.
_AS_TEXT = ("ENUM(", "INTERVAL", "UNION(", "VARIANT", "BIT", "UUID")


def read_items(source: Source) -> pa.Table:
    """Read an item file by itself: `item_id` and the other columns, one row an item, the first; rows without id are not.

    Args:
        source: the rows (see `heedful.events.reading.open_source`).

    Raises:
        InputError: no id column, an id type that cannot be used, or rows that cannot be read.

    """
    with (
        tempfile.TemporaryDirectory(prefix="heedful-") as folder,
        open_session(Path(folder), memory_limit="1GB", threads=1) as s,
    ):
        rows = open_source(source, s)
        item = need_column(rows.names, ITEM, None)
        with read_errors(rows):
            relation = rows.relation(rows.names)
            types = s.types(relation)
            columns = [f"{id_as_sql(item, types[item], ITEM)[0]} AS item_id"]
            columns += [f"{_storable(name, types[name])} AS {identifier(to)}" for name, to in _named(rows.names, item)]
            s.run(f"CREATE TABLE described AS SELECT {', '.join(columns)} FROM {relation}")
        first = "SELECT min(rowid) FROM described WHERE item_id IS NOT NULL AND item_id::VARCHAR != '' GROUP BY item_id"
        query = f"SELECT * FROM described WHERE rowid IN ({first}) ORDER BY rowid"
        return pa.Table.from_batches(list(s.batches(query)), s.schema(query))


def stage_attributes(rows: Rows, session: Session, *, id_type: str, item_column: str | None) -> dict[str, int]:
    """Make the table `attributes`: item_id and the other columns, one row for each item that the log and the source have.

    Args:
        rows: the item file.
        session: a session with the table `items` of the log.
        id_type: SQL type of the ids of the log; those of the source are converted to it, by their decimal text.
        item_column: the id column of the log, when it was named; the item file may call it so too.

    Returns:
        Counts for the manifest: rows; without_id; repeated, further rows of an item, which are dropped; unknown, items
        that the log lacks, which are ignored; described, items of the log that have a row.

    Raises:
        InputError: no id column, an id type that cannot be used, or rows that cannot be read.

    """
    item = find_column(rows.names, ITEM, item_column) if item_column in rows.names else need_column(rows.names, ITEM, None)
    assert item is not None, "named or needed"
    # The first row of an item counts, so here the order of the rows matters.
    session.run("SET preserve_insertion_order = true")
    with read_errors(rows):
        relation = rows.relation(rows.names)
        types = session.types(relation)
        columns = [f"{like_ids(*id_as_sql(item, types[item], ITEM), id_type)} AS item_id"]
        columns += [f"{_storable(n, types[n])} AS {identifier(to)}" for n, to in _named(rows.names, item)]
        session.run(f"CREATE TABLE described AS SELECT {', '.join(columns)} FROM {relation}")
    session.run("CREATE TABLE first_rows AS SELECT item_id, min(rowid) AS first FROM described GROUP BY item_id")
    session.run(
        "CREATE TABLE attributes AS SELECT described.* FROM described "
        "JOIN first_rows ON described.rowid = first_rows.first SEMI JOIN items ON items.item_id = described.item_id"
    )
    session.run("SET preserve_insertion_order = false")
    return _count(session, id_type)


def _storable(name: str, kind: str) -> str:
    return f"{identifier(name)}::VARCHAR" if kind.startswith(_AS_TEXT) else identifier(name)


def _named(names: Iterable[str], item: str) -> list[tuple[str, str]]:
    """The other columns and their names in the catalogue, free of its own names."""
    others = [name for name in names if name != item]
    taken = {name.lower() for name in others} | set(RESERVED)
    named = []
    for name in others:
        to = name
        if name.lower() in RESERVED:
            while to.lower() in taken:
                to += "_attribute"
            taken.add(to.lower())
        named.append((name, to))
    return named


def _count(session: Session, id_type: str) -> dict[str, int]:
    missing = "item_id IS NULL" + (" OR item_id = ''" if id_type == "VARCHAR" else "")
    rows, without = session.run(f"SELECT count(*), count(*) FILTER ({missing}) FROM described")[0]
    distinct = session.value(f"SELECT count(*) FROM first_rows WHERE NOT ({missing})")
    known = session.value("SELECT count(*) FROM attributes")
    return {
        "rows": rows,
        "without_id": without,
        "repeated": rows - without - distinct,
        "unknown": distinct - known,
        "described": known,
    }
