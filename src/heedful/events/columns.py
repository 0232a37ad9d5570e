"""Which column is which, and how each becomes an id, an event kind or a time."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from heedful.errors import InputError
from heedful.events.session import identifier

__all__ = ["EVENT", "ITEM", "TIME", "USER", "Role", "find_column", "id_as_sql", "kind_as_sql"]


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

_INTEGERS = frozenset({"TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER"})
_TEXTS = frozenset({"VARCHAR", "UUID", "DATE", "HUGEINT", "UHUGEINT", "NULL", '"NULL"'})
_NESTED = re.compile(r".*\]$|^(STRUCT|MAP|UNION|VARIANT|JSON|GEOMETRY)\b", re.DOTALL)


def find_column(names: Sequence[str], role: Role, wanted: str | None) -> str | None:
    """The column of a role among `names`: the one that `wanted` names, otherwise the first alias; None without any.

    Raises:
        InputError: `wanted` is not among the columns.

    """
    lowered = {name.strip().lower(): name for name in reversed(names)}
    if wanted is None:
        return next((lowered[alias] for alias in role.aliases if alias in lowered), None)
    if wanted in names:
        return wanted
    if wanted.strip().lower() in lowered:
        return lowered[wanted.strip().lower()]
    raise InputError(
        f"there is no column {wanted!r}", got=f"the columns {', '.join(names)}", fix=f"set {role.option} to one of these"
    )


def need_column(names: Sequence[str], role: Role, wanted: str | None) -> str:
    """Like `find_column`; no such column is an `InputError`."""
    found = find_column(names, role, wanted)
    if found is None:
        raise InputError(
            f"no column looks like {role.name}",
            got=f"the columns {', '.join(names)}",
            expected=f"one of {', '.join(role.aliases)}",
            fix=f"name it with {role.option}",
        )
    return found


def id_as_sql(column: str, kind: str, role: Role) -> tuple[str, str]:
    """SQL of an id and its type in the result: BIGINT, UBIGINT or VARCHAR.

    Integers stay integers and text stays exactly as it is; types whose text is their identity (UUID, date, decimal
    without fraction) become text.

    Raises:
        InputError: floats, blobs, times and nested values cannot name anything.

    """
    name = identifier(column)
    if kind in _INTEGERS:
        return f"{name}::BIGINT", "BIGINT"
    if kind == "UBIGINT":
        return name, "UBIGINT"
    if kind in _TEXTS or kind.startswith("ENUM(") or re.fullmatch(r"DECIMAL\(\d+,\s*0\)", kind):
        return f"{name}::VARCHAR", "VARCHAR"
    raise InputError(
        f"the column {column!r} has a type that cannot be a {role.name}",
        got=kind,
        expected="text or integers",
        fix="convert it to text or integers (integers with gaps become floats in pandas: use astype('Int64'))",
    )


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
