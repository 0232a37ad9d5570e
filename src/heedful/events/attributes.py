"""Item attributes: a second source of rows, one of which describes each item of the log."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa

from heedful.events.columns import ITEM, Rows, find_column, need_column
from heedful.events.ids import id_as_sql, like_ids
from heedful.events.reading import Source, open_source, read_errors
from heedful.events.session import Session, identifier, open_session
from heedful.events.vocabulary import Vocabulary
from heedful.progress import say

__all__ = ["RESERVED", "lookalikes", "read_items", "stage_attributes"]

RESERVED = ("item_id", "events", "users")
_COMPARED = 100_000  # ids of each side, where none is the same
_AS_READ = '"item_id as read"'
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
        found = id_as_sql(item, types[item], ITEM)
        columns = [f"{like_ids(*found, id_type)} AS item_id", f"{found[0]} AS {_AS_READ}"]
        columns += [f"{_storable(n, types[n])} AS {identifier(to)}" for n, to in _named(rows.names, item)]
        session.run(f"CREATE TABLE described AS SELECT {', '.join(columns)} FROM {relation}")
    session.run(f"CREATE VIEW source_ids AS SELECT {_AS_READ} AS item_id FROM described")
    session.run("CREATE TABLE first_rows AS SELECT item_id, min(rowid) AS first FROM described GROUP BY item_id")
    session.run(
        f"CREATE TABLE attributes AS SELECT described.* EXCLUDE ({_AS_READ}) FROM described "
        "JOIN first_rows ON described.rowid = first_rows.first SEMI JOIN items ON items.item_id = described.item_id"
    )
    session.run("SET preserve_insertion_order = false")
    counts = _count(session, id_type)
    _say(session, counts)
    return counts


def lookalikes(ours: Vocabulary, theirs: Vocabulary) -> str | None:
    """Two ids, one of each side, that differ in their form alone (blanks, case, zeros, a fraction .0), in words."""
    plain = {_plain(name): name for name in ours.ids.to_pylist()}
    both = ((plain.get(_plain(name)), name) for name in theirs.ids.to_pylist())
    return next((f"{a!r} here, {b!r} in the item file" for a, b in both if a is not None and a != b), None)


def _plain(name: str | int) -> str:
    return re.sub(r"[.]0+$", "", str(name).strip().lower()).lstrip("0") or "0"


def _say(session: Session, counts: dict[str, int]) -> None:
    """How many items of the log the file describes, with a warning where there are none."""
    of = session.value("SELECT count(*) FROM items")
    say(f"the item file describes {counts['described']:,} of {of:,} items")
    if counts["described"]:
        return
    alike = lookalikes(*(_some_ids(session, side) for side in ("items", "source_ids")))
    hint = f"ids differ in form alone, such as {alike}" if alike else "is it the right file, and the right id column?"
    say(f"warning: no item of the log has a row in the item file; {hint}")


def _some_ids(session: Session, relation: str) -> Vocabulary:
    query = f"SELECT DISTINCT item_id FROM {relation} WHERE item_id IS NOT NULL ORDER BY item_id LIMIT {_COMPARED}"
    return Vocabulary(pa.Table.from_batches(session.batches(query), session.schema(query))["item_id"])


def _storable(name: str, kind: str) -> str:
    """SQL of an attribute in a type that Arrow and Parquet can hold; NaN is unknown."""
    column = identifier(name)
    if kind in ("FLOAT", "DOUBLE"):
        return f"CASE WHEN NOT isnan({column}) THEN {column} END"
    return f"{column}::VARCHAR" if kind.startswith(_AS_TEXT) else column


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
