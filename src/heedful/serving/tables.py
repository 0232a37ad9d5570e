"""The tables of the store; docs/store.md describes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    ForeignKey,
    Identity,
    Index,
    Insert,
    Integer,
    MetaData,
    Table,
    Text,
    bindparam,
    func,
    select,
)
from sqlalchemy.dialects import postgresql, sqlite

__all__ = [
    "SCHEMA_VERSION",
    "UPGRADES",
    "clicks",
    "deleted_users",
    "events",
    "impressions",
    "insert_events",
    "insert_new",
    "metadata",
    "schema",
]

SCHEMA_VERSION = 1
"""Rises with each change of the tables."""

UPGRADES: dict[int, tuple[str, ...]] = {}
"""Statements, for both systems, that make tables of a version those of the next. None has been needed yet."""

# Texts compare by their code points on both systems; SQLite does so anyway. The names begin with heedful_ because a
# PostgreSQL database may well have an `events` of its own.
_ID = Text().with_variant(Text(collation="C"), "postgresql")
# Rows are numbered in the order they arrive: that settles which of two events of the same second is the later.
_NUMBER = BigInteger().with_variant(Integer(), "sqlite")

metadata = MetaData()

schema = Table("heedful_schema", metadata, Column("version", Integer, nullable=False))

events = Table(
    "heedful_events",
    metadata,
    Column("id", _NUMBER, Identity(), primary_key=True),
    Column("event_id", _ID, nullable=False, unique=True),
    Column("user_id", _ID, nullable=False),
    Column("item_id", _ID, nullable=False),
    Column("time", BigInteger, nullable=False),
    Column("kind", _ID, nullable=False),
)
Index("heedful_events_history", events.c.user_id, events.c.time, events.c.id)

impressions = Table(
    "heedful_impressions",
    metadata,
    Column("id", _NUMBER, Identity(), primary_key=True),
    Column("impression_id", _ID, nullable=False, unique=True),
    Column("slot", _ID, nullable=False),
    Column("treatment", _ID, nullable=False),
    Column("user_id", _ID, nullable=False, index=True),
    Column("items", Text, nullable=False, comment="JSON list of item ids, in the order shown"),
    Column("n_items", Integer, nullable=False),
    Column("time", BigInteger, nullable=False, comment="when it was chosen"),
    Column("shown_time", BigInteger, index=True, comment="when the visitor saw it; null: not yet, or never"),
    Column("model", _ID, nullable=False),
    Column("salt", _ID, nullable=False),
)

clicks = Table(
    "heedful_clicks",
    metadata,
    Column("impression", _NUMBER, ForeignKey(impressions.c.id, ondelete="CASCADE"), primary_key=True),
    Column("item_id", _ID, primary_key=True),
    Column("click_id", _ID, nullable=False, comment="of the first click; the same again is a repeated request"),
    Column("time", BigInteger, nullable=False, comment="of the first click"),
    Column("repeated", Integer, nullable=False, comment="further clicks on the same item"),
)

deleted_users = Table(
    "heedful_deleted_users",
    metadata,
    Column("user_hash", _ID, primary_key=True, comment="SHA-256 of the id: a load of a training log leaves them out"),
)


def insert_new(connection: Connection, table: Table) -> Insert:
    """A statement that inserts rows but for those that are there already; its `rowcount` is of those it inserted."""
    insert = sqlite.insert if connection.dialect.name == "sqlite" else postgresql.insert
    return insert(table).on_conflict_do_nothing().execution_options(preserve_rowcount=True)


_EVENT = [column.name for column in events.columns if column.name != "id"]


def insert_events(connection: Connection, rows: Sequence[Sequence[Any]]) -> int:
    """Insert events (event_id, user_id, item_id, time, kind) but for those that are there; returns how many were not."""
    new = insert_new(connection, events)
    if connection.dialect.name == "sqlite":
        statement = str(new.compile(connection, column_keys=_EVENT))
        return connection.exec_driver_sql(statement, list(map(tuple, rows))).rowcount
    # One statement with an array for each column: PostgreSQL takes many times longer over a statement for each row. Rows are
    # numbered as given, but inserted by their event ids: batches that overlap take their locks in one order, and so never
    # wait for each other in a circle.
    columns = dict(zip(_EVENT, map(list, zip(*rows, strict=True)), strict=True))
    arrays = [bindparam(name, type_=postgresql.ARRAY(events.c[name].type)) for name in _EVENT]
    given = func.unnest(*arrays).table_valued(*_EVENT, with_ordinality="place").render_derived(name="given")
    number = func.nextval(func.pg_get_serial_sequence(events.name, "id")).label("id")
    numbered = select(number, *(given.c[name] for name in _EVENT)).order_by(given.c.place).cte("numbered")
    rows_in_order = select(*numbered.c).order_by(numbered.c.event_id, numbered.c.id)
    return connection.execute(new.from_select(["id", *_EVENT], rows_in_order), columns).rowcount
