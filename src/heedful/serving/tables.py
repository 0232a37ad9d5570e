"""The tables of the store; docs/store.md describes them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
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
    case,
    func,
    select,
)
from sqlalchemy.dialects import postgresql, sqlite

__all__ = [
    "SCHEMA_VERSION",
    "click_counts",
    "clicks",
    "deleted_users",
    "events",
    "experiments",
    "impressions",
    "insert_events",
    "insert_new",
    "insert_or_update",
    "metadata",
    "repeated_clicks",
    "schema",
    "slot_versions",
    "user_counts",
    "visitors",
]

SCHEMA_VERSION = 2
"""Rises with each change of the tables; `heedful.serving.upgrades` makes older ones newer."""

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
    Column("user_id", _ID, nullable=False),
    Column("items", Text, nullable=False, comment="JSON list of item ids, in the order shown"),
    Column("n_items", Integer, nullable=False),
    Column("time", BigInteger, nullable=False, comment="when it was chosen"),
    Column("shown_time", BigInteger, index=True, comment="when the visitor saw it; null: not yet, or never"),
    Column("model", _ID, nullable=False),
    Column("salt", _ID, nullable=False),
    Column("experiment", BigInteger, nullable=False, server_default="0", comment="heedful_experiments.id"),
)
# All of a user, and whether one user saw a slot too often in a day.
Index("heedful_impressions_user", impressions.c.user_id, impressions.c.shown_time)

clicks = Table(
    "heedful_clicks",
    metadata,
    Column("impression", _NUMBER, ForeignKey(impressions.c.id, ondelete="CASCADE"), primary_key=True),
    Column("item_id", _ID, primary_key=True),
    Column("click_id", _ID, nullable=False, comment="of the first click; the same again is a repeated request"),
    Column("time", BigInteger, nullable=False, comment="of the first click"),
    Column("repeated", Integer, nullable=False, comment="further clicks on the same item"),
)

repeated_clicks = Table(
    "heedful_repeated_clicks",
    metadata,
    Column("impression", _NUMBER, ForeignKey(impressions.c.id, ondelete="CASCADE"), primary_key=True),
    Column("item_id", _ID, primary_key=True),
    Column("click_id", _ID, primary_key=True, comment="of a further click: the same again is a repeated request"),
)

experiments = Table(
    "heedful_experiments",
    metadata,
    Column("id", _NUMBER, Identity(), primary_key=True),
    Column("slot", _ID, nullable=False),
    Column("salt", _ID, nullable=False),
    Column("shares", Text, nullable=False, comment="JSON object of declared shares, in order; empty: not recorded"),
    Column("simulated", Boolean, nullable=False),
    Column("begun", BigInteger, nullable=False, comment="when its first impression was chosen"),
)
Index("heedful_experiments_key", *experiments.c["slot", "salt", "shares", "simulated"], unique=True)

# Running sums over the impressions that were shown, so that a report reads a few thousand rows, however many there are:
# what each user saw and clicked, and how many users there are of each such pair. `heedful.serving.counting` keeps them.

visitors = Table(
    "heedful_visitors",
    metadata,
    Column("user_id", _ID, primary_key=True),
    Column("simulated", Boolean, primary_key=True),
    Column("tireless", Boolean, nullable=False, comment="saw one slot too often in a day"),
    Column("bot", Boolean, nullable=False),
)
Index("heedful_visitors_bots", visitors.c.simulated, sqlite_where=visitors.c.bot, postgresql_where=visitors.c.bot)

user_counts = Table(
    "heedful_user_counts",
    metadata,
    Column("user_id", _ID, primary_key=True),
    Column("simulated", Boolean, primary_key=True),
    Column("experiment", BigInteger, primary_key=True),
    Column("treatment", _ID, primary_key=True),
    Column("shown", BigInteger, nullable=False, comment="impressions"),
    Column("clicked", BigInteger, nullable=False, comment="impressions that were clicked"),
    Column("further", BigInteger, nullable=False, comment="items clicked beyond the first of an impression"),
    Column("repeated", BigInteger, nullable=False, comment="further clicks on the same items"),
)

click_counts = Table(
    "heedful_click_counts",
    metadata,
    Column("experiment", BigInteger, primary_key=True),
    Column("treatment", _ID, primary_key=True),
    Column("bot", Boolean, primary_key=True),
    Column("shown", BigInteger, primary_key=True, comment="impressions of one user"),
    Column("clicked", BigInteger, primary_key=True, comment="clicked impressions of one user"),
    Column("users", BigInteger, nullable=False, comment="how many users there are of that kind"),
    Column("further", BigInteger, nullable=False, comment="of all of them together"),
    Column("repeated", BigInteger, nullable=False, comment="of all of them together"),
    Column("latest", BigInteger, nullable=False, comment="latest time at which one of them was shown something"),
)

slot_versions = Table(
    "heedful_slot_versions",
    metadata,
    Column("id", _NUMBER, Identity(), primary_key=True),
    Column("time", BigInteger, nullable=False),
    Column("author", _ID, nullable=False, comment="name of the API key; empty: without keys, or found in the file"),
    Column("text", Text, nullable=False, comment="the slots file, TOML"),
)

deleted_users = Table(
    "heedful_deleted_users",
    metadata,
    Column("user_hash", _ID, primary_key=True, comment="SHA-256 of the id: a load of a training log leaves them out"),
)


def insert_new(connection: Connection, table: Table) -> Insert:
    """A statement that inserts rows but for those that are there already; its `rowcount` is of those it inserted."""
    return _insert_new(connection.dialect.name, table)


@lru_cache
def _insert_new(system: str, table: Table) -> Insert:
    insert = sqlite.insert if system == "sqlite" else postgresql.insert
    return insert(table).on_conflict_do_nothing().execution_options(preserve_rowcount=True)


def insert_or_update(connection: Connection, table: Table, added: tuple[str, ...] = ()) -> Insert:
    """A statement that inserts rows, or changes those of the same key: columns of `added` grow, the others are replaced.

    Of `latest` the greater one stays.
    """
    return _insert_or_update(connection.dialect.name, table, added)


@lru_cache
def _insert_or_update(system: str, table: Table, added: tuple[str, ...]) -> Insert:
    insert = (sqlite.insert if system == "sqlite" else postgresql.insert)(table)
    changes: dict[str, Any] = {}
    for column in table.columns:
        given = insert.excluded[column.name]
        if column.name == "latest":
            changes[column.name] = case((given > column, given), else_=column)
        elif not column.primary_key:
            changes[column.name] = column + given if column.name in added else given
    return insert.on_conflict_do_update(index_elements=list(table.primary_key.columns), set_=changes)


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
