"""Which column is which, and how each becomes an id, an event kind or a time."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from heedful.errors import InputError
from heedful.events.session import Session, identifier

__all__ = ["EVENT", "ITEM", "TIME", "USER", "Role", "Rows", "find_column", "find_time", "kind_as_sql", "need_column"]


_SAMPLE = 1000  # rows that tell which of several columns has times of day


@dataclass(frozen=True)
class Rows:
    """An opened source.

    Attributes:
        description: what the manifest says of it; no secrets.
        names: its columns.
        relation: SQL to follow FROM that yields at least the given columns.
        read_again: whether it can be read more than once, at little cost.
        sampled: whether its first rows can be read without losing them.
        folder_names: columns that come from names of folders, as in `date=2024-01-31/`.

    """

    description: dict[str, Any]
    names: list[str]
    relation: Callable[[Sequence[str]], str]
    read_again: bool = False
    sampled: bool = False
    folder_names: frozenset[str] = field(default=frozenset())


@dataclass(frozen=True)
class Role:
    """What a column means to heedful.

    Attributes:
        name: the outside name, used in messages and in `rejected.parquet`.
        option: the option of `PrepareConfig` that names the column.
        aliases: names that are recognised, in lower case; where a table has several, the first one here counts.

    """

    name: str
    option: str
    aliases: tuple[str, ...]


USER = Role(
    "user_id",
    "user_column",
    (
        "user_id", "user", "userid", "customer_id", "customer", "customerid", "visitor_id", "visitor", "visitorid",
        "household_id", "household", "account_id", "member_id", "client_id", "profile_id", "session_id",
    ),
)  # fmt: skip
ITEM = Role(
    "item_id",
    "item_column",
    (
        "item_id", "item", "itemid", "product_id", "product", "productid", "sku", "article_id", "article", "asin",
        "movie_id", "movieid", "video_id", "track_id", "song_id", "book_id", "content_id", "title_id", "stock_code",
        "stockcode",
    ),
)  # fmt: skip
TIME = Role(
    "timestamp",
    "time_column",
    (
        "timestamp", "time", "ts", "date", "datetime", "event_time", "created_at", "event_timestamp", "occurred_at",
        "event_date", "transaction_timestamp", "transaction_date", "invoicedate", "unix_time", "t_dat",
    ),
)  # fmt: skip
EVENT = Role(
    "event",
    "event_column",
    ("event", "event_type", "kind", "action", "event_name", "action_type", "interaction", "interaction_type", "behavior"),
)

_NESTED = re.compile(r".*\]$|^(STRUCT|MAP|UNION|VARIANT|JSON|GEOMETRY)\b", re.DOTALL)


def find_column(names: Sequence[str], role: Role, wanted: str | None, last: Collection[str] = ()) -> str | None:
    """The column of a role among `names`: the one that `wanted` names, otherwise the first alias; None without any.

    Args:
        names: the columns.
        role: what the column means.
        wanted: its name, if somebody said so.
        last: columns that are taken only if no other will do, such as those of a folder's name.

    Raises:
        InputError: `wanted` is not among the columns.

    """
    if wanted is None:
        return next(iter(_aliased(names, role, last)), None)
    lowered = _lowered(names)
    if wanted in names:
        return wanted
    if wanted.strip().lower() in lowered:
        return lowered[wanted.strip().lower()]
    raise InputError(
        f"there is no column {wanted!r}",
        got=f"the columns {', '.join(names)}",
        fix=f"set {role.option} to one of these",
    )


def need_column(names: Sequence[str], role: Role, wanted: str | None, last: Collection[str] = ()) -> str:
    """Like `find_column`; no such column is an `InputError`."""
    found = find_column(names, role, wanted, last)
    if found is None:
        raise InputError(
            f"no column looks like {role.name}",
            got=f"the columns {', '.join(names)}",
            expected=f"one of {', '.join(role.aliases)}",
            fix=f"name it with {role.option}",
        )
    return found


def find_time(rows: Rows, session: Session, wanted: str | None) -> str:
    """The column of the times: of several that look like it, the first that has a time of day.

    Raises:
        InputError: there is no such column.
    """
    first = need_column(rows.names, TIME, wanted, rows.folder_names)
    found = _aliased(rows.names, TIME, rows.folder_names) if wanted is None else [first]
    if len(found) == 1:
        return first
    relation = rows.relation(found)
    types = session.types(relation)
    if not rows.sampled:
        return next((name for name in found if types[name] != "DATE"), first)
    sample = f"(SELECT * FROM {relation} LIMIT {_SAMPLE})"
    counts = ", ".join(f"count(*) FILTER ({_has_time_of_day(name)})" for name in found)
    having = session.run(f"SELECT {counts} FROM {sample}")[0]
    return next((name for name, n in zip(found, having, strict=True) if n), first)


def _aliased(names: Sequence[str], role: Role, last: Collection[str]) -> list[str]:
    """The columns that look like a role, the best first; those of `last` only where there are no others."""
    for group in ([name for name in names if name not in last], names):
        lowered = _lowered(group)
        if found := [lowered[alias] for alias in role.aliases if alias in lowered]:
            return found
    return []


def _lowered(names: Sequence[str]) -> dict[str, str]:
    return {name.strip().lower(): name for name in reversed(names)}


def _has_time_of_day(column: str) -> str:
    text = f"{identifier(column)}::VARCHAR"
    midnight = "[ T]00:00(:00(\\.0*)?)?([Z+ -].*)?"
    clock = f"regexp_matches({text}, '[0-9]:[0-9]{{2}}') AND NOT regexp_matches({text}, '{midnight}$')"
    number = f"try_cast({text} AS DOUBLE)"
    return f"({clock}) OR ({number} >= 1e8 AND {number} % 86400 != 0)"


def kind_as_sql(column: str | None, kind: str) -> str:
    """SQL of the event kind as text, NULL where the source has none.

    Raises:
        InputError: blobs and nested values name no kind.

    """
    if column is None:
        return "NULL::VARCHAR"
    if kind == "BLOB" or _NESTED.match(kind):
        raise InputError(f"the column {column!r} has a type that names no event kind", got=kind, expected="text")
    return f"{identifier(column)}::VARCHAR"
