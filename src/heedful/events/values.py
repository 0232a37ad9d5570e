"""What attributes of items are in words and in JSON, and back: one rule for every type that a catalogue can hold.

    text, true and false, numbers         as they are; integers beyond 2^53 - 1 as text; NaN and infinity as null
    decimals                              text of their digits
    dates, timestamps, times              ISO text, in UTC where there is a zone; null outside the years 1 to 9999
    durations                             the number of their units
    bytes                                 the text they hold in UTF-8, otherwise null
    lists, structs                        lists, objects
    maps                                  lists of objects with `key` and `value`

What `json_rows` gives, `from_json` takes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any
from uuid import UUID

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from heedful.errors import InputError
from heedful.events.ids import json_id, text_of

__all__ = ["WORDS", "column_from_json", "from_json", "json_rows", "named_column", "nan_unknown", "word_columns", "words"]

# The columns that say in words what an item is, and what they are called elsewhere; the first that a table has counts.
_TITLES = (
    "title", "name", "item_name", "item_title", "product_name", "product_title", "display_name", "movie_title",
    "track_name", "book_title",
)  # fmt: skip
_CATEGORIES = (
    "category", "categories", "category_name", "product_category", "item_category", "genre", "genres",
    "product_type", "department",
)  # fmt: skip
WORDS = (_TITLES, _CATEGORIES)
_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_FIRST, _LAST = -62_135_596_800, 253_402_300_799  # the years 1 to 9999 in unix seconds
_DAY = 86_400
# What is raised for a value that does not fit a type.
_UNFIT = (pa.ArrowException, ArithmeticError, ValueError, TypeError, KeyError)
_MOMENT = re.compile(r"(\d{4}-\d{2}-\d{2}(?:[T ]\d{2}:\d{2}(?::\d{2})?)?)(?:\.(\d{1,9}))?(Z|[+-]\d{2}:?\d{2})?")


# Names


def named_column(names: Sequence[str], wanted: str) -> str | None:
    """The column of a name, in the case of the table; None without any."""
    if wanted in names:
        return wanted
    return next((name for name in names if name.strip().lower() == wanted.strip().lower()), None)


def word_columns(names: Sequence[str]) -> list[str]:
    """The columns of titles and of categories, as far as there are any."""
    found = [next(filter(None, (named_column(names, a) for a in aliases)), None) for aliases in WORDS]
    return [name for name in found if name is not None]


# Out


def words(column: pa.ChunkedArray | pa.Array) -> list[str | None]:
    """Values of an attribute in words, None where nothing is known; those of a list with commas between them."""
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        return list(column.to_pylist())
    return [_in_words(value) or None for value in _as_json(column)]


def json_rows(table: pa.Table) -> list[dict[str, Any]]:
    """The rows of a table of attributes as objects that any reader of JSON understands."""
    if not table.num_columns:
        return [{} for _ in range(len(table))]
    columns = [_as_json(column) for column in table.columns]
    return [dict(zip(table.column_names, row, strict=True)) for row in zip(*columns, strict=True)]


def nan_unknown(table: pa.Table) -> pa.Table:
    """The table with nulls in the place of NaN, which no condition is to hold for."""
    for place, field in enumerate(table.schema):
        if pa.types.is_floating(field.type):
            nan = pc.is_nan(table[place])
            if pc.any(nan).as_py():
                known = pc.if_else(nan, pa.scalar(None, field.type), table[place])
                table = table.set_column(place, field, known)
    return table


def _in_words(value: Any) -> str:
    if isinstance(value, list | dict):
        parts = value.values() if isinstance(value, dict) else value
        return ", ".join(filter(None, map(_in_words, parts)))
    return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _as_json(column: pa.ChunkedArray | pa.Array) -> list[Any]:
    if isinstance(column, pa.ChunkedArray):
        return [value for chunk in column.chunks for value in _as_json(chunk)]
    kind = column.type
    if pa.types.is_dictionary(kind):
        return _as_json(column.dictionary_decode())
    if pa.types.is_boolean(kind) or pa.types.is_string(kind) or pa.types.is_null(kind):
        return list(column.to_pylist())
    if pa.types.is_integer(kind):
        return [json_id(value) for value in column.to_pylist()]
    if pa.types.is_floating(kind):
        return [value if value is not None and np.isfinite(value) else None for value in column.to_pylist()]
    if pa.types.is_decimal(kind):
        return [None if value is None else format(value, "f") for value in column.to_pylist()]
    if pa.types.is_temporal(kind):
        return _temporal(column)
    return _nested(column)


def _temporal(column: pa.Array) -> list[Any]:
    kind = column.type
    if pa.types.is_date(kind):
        per_day = 1 if pa.types.is_date32(kind) else _DAY * 1000
        days = column.cast(pa.int32() if per_day == 1 else pa.int64()).to_pylist()
        return [None if n is None else _date(n // per_day) for n in days]
    if pa.types.is_timestamp(kind):
        zone = "+00:00" if kind.tz is not None else ""
        return [_instant(n, _PER_SECOND[kind.unit], zone) for n in column.cast(pa.int64()).to_pylist()]
    if pa.types.is_time(kind):
        return [None if text is None else _short(text) for text in column.cast(pa.string()).to_pylist()]
    if pa.types.is_duration(kind):
        return [json_id(n) for n in column.cast(pa.int64()).to_pylist()]
    return [None if value is None else str(value) for value in column.to_pylist()]


def _date(day: int) -> str | None:
    return date.fromordinal(day + 719_163).isoformat() if _FIRST <= day * _DAY <= _LAST else None


def _instant(number: int | None, per_second: int, zone: str) -> str | None:
    if number is None or not _FIRST <= number // per_second <= _LAST:
        return None
    second, fraction = divmod(number, per_second)
    day, clock = divmod(second, _DAY)
    text = f"{_date(day)}T{clock // 3600:02}:{clock // 60 % 60:02}:{clock % 60:02}"
    return _short(f"{text}.{fraction:0{len(str(per_second)) - 1}}") + zone


def _short(text: str) -> str:
    """A time without needless digits of its fraction: none, six or nine."""
    whole, _, fraction = text.partition(".")
    fraction = fraction.rstrip("0")
    return f"{whole}.{fraction.ljust(6 if len(fraction) <= 6 else 9, '0')}" if fraction else whole


def _nested(column: pa.Array) -> list[Any]:
    kind = column.type
    if pa.types.is_struct(kind):
        children = [_as_json(child) for child in column.flatten()]
        names = [field.name for field in kind]
        rows: Any = zip(*children, strict=True) if children else ((),) * len(column)
        return [
            dict(zip(names, row, strict=True)) if there else None
            for row, there in zip(rows, column.is_valid().to_pylist(), strict=True)
        ]
    if pa.types.is_map(kind):
        entries = [one.values if one.is_valid else None for one in column]
        return [None if one is None else _as_json(one) for one in entries]
    if _is_list(kind):
        return [_as_json(one.values) if one.is_valid else None for one in column]
    # Bytes, UUIDs and what else names something; the rest cannot be said.
    return [text_of(value) for value in column.to_pylist()]


def _is_list(kind: pa.DataType) -> bool:
    lists = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return any(is_so(kind) for is_so in (*lists, pa.types.is_list_view, pa.types.is_large_list_view))


# In


def from_json(value: Any, kind: pa.DataType) -> Any:
    """A JSON value as Arrow takes it for a column of a type.

    Raises:
        InputError: it does not fit the type.
    """
    if value is None:
        return None
    if pa.types.is_dictionary(kind):
        return from_json(value, kind.value_type)
    try:
        plain = _parsed(value, kind)
        pa.array([plain], kind)
    except _UNFIT as error:
        raise InputError(
            "the value does not fit the catalogue", got=f"{value!r:.60}", expected=f"a value of type {kind}"
        ) from error
    return plain


def column_from_json(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    """`from_json` of many values, as an array of the type.

    Raises:
        InputError: one does not fit the type.
    """
    plain = kind.value_type if pa.types.is_dictionary(kind) else kind
    try:
        return pa.array([None if value is None else _parsed(value, plain) for value in values], kind)
    except _UNFIT:
        return pa.array([from_json(value, kind) for value in values], kind)


def _parsed(value: Any, kind: pa.DataType) -> Any:
    if pa.types.is_string(kind):
        return _instance(value, str)
    if pa.types.is_boolean(kind):
        return _instance(value, bool)
    if isinstance(value, bool):
        raise TypeError
    if pa.types.is_integer(kind) or pa.types.is_duration(kind):
        return int(str(text_of(value)))
    if pa.types.is_floating(kind):
        return float(_instance(value, int | float))
    if pa.types.is_decimal(kind):
        return Decimal(str(_instance(value, str | int | float)))
    if pa.types.is_temporal(kind):
        return value if isinstance(value, int) else _parsed_time(_instance(value, str).strip(), kind)
    if pa.types.is_struct(kind):
        known = {field.name: field.type for field in kind}
        return {name: from_json(one, known[name]) for name, one in _instance(value, dict).items()}
    if pa.types.is_map(kind):
        entries = [(one["key"], one["value"]) for one in _instance(value, list)]
        return [(from_json(key, kind.key_type), from_json(one, kind.item_type)) for key, one in entries]
    if _is_list(kind):
        return [from_json(one, kind.value_type) for one in _instance(value, list)]
    text = _instance(value, str)
    return UUID(text).bytes if kind == pa.uuid() else text


def _instance(value: Any, kind: Any) -> Any:
    if not isinstance(value, kind):
        raise TypeError
    return value


def _parsed_time(text: str, kind: pa.DataType) -> Any:
    if pa.types.is_date(kind):
        return date.fromisoformat(text)
    if pa.types.is_time(kind):
        return time.fromisoformat(text)
    found = _MOMENT.fullmatch(text)
    if found is None or not pa.types.is_timestamp(kind):
        raise ValueError
    whole, fraction, zone = found.groups()
    instant = datetime.fromisoformat(whole + (zone or ""))
    second = int((instant if instant.tzinfo else instant.replace(tzinfo=UTC)).timestamp())
    per_second = _PER_SECOND[kind.unit]
    return second * per_second + int((fraction or "0").ljust(9, "0")) * per_second // 10**9
