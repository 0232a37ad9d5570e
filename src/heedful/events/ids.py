"""What an id is, and what names it: one rule for files, requests, Python, commands, the store and HTTP.

An id is a text, kept exactly as it came, or a 64-bit integer. A catalogue holds either texts or integers:

- A text names a text. It names an integer if it is exactly the decimal form of it (`7`, not `007`).
- An integer names itself, or the text of its digits.
- A float or a decimal is an integer if it is whole, a float only where floats still tell neighbouring integers apart.
- A UUID, a date, or bytes in UTF-8 name their text.
- Anything else (None, NaN, booleans, times, fractions, integers outside the range of the catalogue) names nothing.

What names nothing is unknown: it is left out and counted, never an error and never another item.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Mapping, Sequence, Set
from datetime import date, datetime
from decimal import Decimal
from typing import Any, TypeAlias
from uuid import UUID

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from heedful.errors import InputError
from heedful.events.columns import Role
from heedful.events.session import identifier

__all__ = [
    "SAFE_INTEGER", "Ids", "as_ids", "id_as_sql", "is_unicode", "json_id", "like_ids", "listed", "named_ids",
    "plain_ids", "split_ids", "text_of",
]  # fmt: skip

Ids: TypeAlias = Sequence[Any] | np.ndarray | pa.Array | pa.ChunkedArray

SAFE_INTEGER = 2**53 - 1
"""The largest integer that every reader of JSON takes for what it is."""

_MOST_BITS = 1024  # of an integer whose digits are looked at
_INTEGER = re.compile(r"0|-?[1-9][0-9]{0,19}")
_RANGES = {pa.int64(): (-(2**63), 2**63 - 1), pa.uint64(): (0, 2**64 - 1)}
_INTEGER_TYPES = frozenset({"TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER"})
_TEXT_TYPES = frozenset({"VARCHAR", "UUID", "DATE", "HUGEINT", "UHUGEINT", "NULL", '"NULL"'})


# One id


def text_of(value: Any) -> str | None:
    """The text of an id of any type; None where the value names nothing."""
    if isinstance(value, str):
        return str(value) if is_unicode(value) else None
    if isinstance(value, bool | np.bool_ | datetime):
        return None
    if isinstance(value, int | np.integer):
        number = int(value)
        return str(number) if number.bit_length() <= _MOST_BITS else None
    if isinstance(value, float | np.floating | Decimal):
        return _text_of_whole(value)
    if isinstance(value, UUID | date):
        return str(value)
    if isinstance(value, np.datetime64):
        return text_of(value.item()) if value.dtype == "datetime64[D]" else None
    if isinstance(value, bytes):
        return _decoded(value)
    return text_of(value.as_py()) if isinstance(value, pa.Scalar) else None


def _text_of_whole(value: float | np.floating[Any] | Decimal) -> str | None:
    """The digits of a number without fraction, None of any other."""
    if isinstance(value, Decimal):
        whole = value.is_finite() and value.adjusted() < _MOST_BITS // 4 and value == int(value)
    else:
        digits = np.finfo(type(value)).nmant + 1
        whole = bool(np.isfinite(value)) and abs(value) < 2**digits and value == int(value)
    return str(int(value)) if whole else None


def is_unicode(text: str) -> bool:
    """Whether a text can be written as UTF-8: half a surrogate pair cannot."""
    try:
        return text.isascii() or bool(text.encode())
    except UnicodeEncodeError:
        return False


def _decoded(value: bytes) -> str | None:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return None


def _integer_of(value: Any, kind: pa.DataType) -> int | None:
    """The integer of a catalogue's type that a value names; None where it names none."""
    text = text_of(value)
    if text is None or _INTEGER.fullmatch(text) is None:
        return None
    number = int(text)
    lowest, highest = _RANGES[kind]
    return number if lowest <= number <= highest else None


def json_id(value: Any) -> Any:
    """An id as JSON has it: integers that other readers would round are text."""
    return str(value) if isinstance(value, int) and abs(value) > SAFE_INTEGER else value


# Several ids


def listed(values: Any, what: str) -> Any:
    """Values that are a list of any kind, ready to be counted and iterated.

    Raises:
        InputError: they are a text, a set or a mapping, or no list at all.
    """
    if isinstance(values, list | tuple | np.ndarray | pa.Array | pa.ChunkedArray):
        return values
    if isinstance(values, str | bytes | Mapping | Set) or not isinstance(values, Iterable):
        raise InputError(
            f"{what} must be a list",
            got=f"{type(values).__name__} {values!r:.60}",
            expected="a list, tuple, array or series",
            fix="put it in brackets, such as ['a', 'b']",
        )
    return values.to_list() if hasattr(values, "to_list") else list(values)


def plain_ids(ids: Iterable[Any], kind: pa.DataType) -> list[Any]:
    """Ids of any types as plain values of a catalogue's type, None where one names nothing there."""
    if pa.types.is_integer(kind):
        lowest, highest = _RANGES[kind]
        return [(i if lowest <= i <= highest else None) if type(i) is int else _integer_of(i, kind) for i in ids]
    return [text_of(i) for i in ids]


def named_ids(ids: Ids, kind: pa.DataType) -> pa.Array:
    """Ids of any types as an array of a catalogue's type, null where one names nothing there.

    Raises:
        InputError: an array of a type none of whose values can name anything.
    """
    if isinstance(ids, np.ndarray) and ids.dtype != object:
        ids = pa.array(ids)
    if isinstance(ids, pa.Array | pa.ChunkedArray):
        return _converted(_one_array(ids), kind)
    if set(map(type, ids)) == {str}:
        try:
            return _converted(pa.array(ids, pa.string()), kind)
        except UnicodeEncodeError:
            pass
    return pa.array(plain_ids(ids, kind), kind)


def as_ids(ids: Ids) -> pa.Array:
    """The ids of a catalogue as one Arrow array of strings or of 64-bit integers.

    Raises:
        InputError: the ids are of a type that cannot be ids, or of several types.

    """
    try:
        array = ids if isinstance(ids, pa.Array | pa.ChunkedArray) else pa.array(ids)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
        raise InputError("ids of mixed types", got=error, expected="all strings or all integers") from error
    array = _one_array(array)
    kind = array.type
    if pa.types.is_integer(kind):
        return array.cast(pa.uint64() if pa.types.is_uint64(kind) else pa.int64())
    if pa.types.is_floating(kind):
        raise _unnameable(kind)
    return _texts(array)


def split_ids(text: str) -> list[str]:
    """Ids with commas between them; one that has a comma itself is in double quotes.

    Raises:
        InputError: a quote is not closed, or a line ends outside quotes.
    """
    try:
        return next(csv.reader([text], skipinitialspace=True, strict=True), [])
    except csv.Error as error:
        raise InputError(
            "the list of ids cannot be read",
            got=error,
            expected='ids with commas between them, such as a,b,"c, d"',
            fix='double the quotes inside an id: "a ""b"""',
        ) from error


def _one_array(ids: pa.Array | pa.ChunkedArray) -> pa.Array:
    if isinstance(ids, pa.ChunkedArray):
        ids = ids.chunk(0) if ids.num_chunks == 1 else ids.combine_chunks()  # one may be a mapped file
    return ids.dictionary_decode() if pa.types.is_dictionary(ids.type) else ids


def _converted(array: pa.Array, kind: pa.DataType) -> pa.Array:
    if array.type == kind:
        return array
    if not pa.types.is_integer(kind):
        return _texts(array).cast(kind)
    if pa.types.is_integer(array.type):
        return _in_range(array, kind).cast(kind)
    return _integers(_texts(array), kind)


def _in_range(integers: pa.Array, kind: pa.DataType) -> pa.Array:
    """Integers of any type, null where they are outside the range of a 64-bit type."""
    nothing = pa.scalar(None, integers.type)
    if pa.types.is_uint64(kind) and pa.types.is_signed_integer(integers.type):
        return pc.if_else(pc.less(integers, 0), nothing, integers)
    if pa.types.is_int64(kind) and pa.types.is_uint64(integers.type):
        highest = pa.scalar(2**63 - 1, pa.uint64())
        return pc.if_else(pc.greater(integers, highest), nothing, integers)
    return integers


def _integers(texts: pa.Array, kind: pa.DataType) -> pa.Array:
    """Integers by their decimal form, null where a text is none in the range of the type."""
    lowest, highest = map(str, _RANGES[kind])
    n = len(highest)
    # Among texts of the same length the order of digits is that of numbers.
    fits = pc.match_substring_regex(texts, rf"^(0|[1-9][0-9]{{0,{n - 2}}})$")
    full = pc.match_substring_regex(texts, rf"^[1-9][0-9]{{{n - 1}}}$")
    fits = pc.or_(fits, pc.and_(full, pc.less_equal(texts, pa.scalar(highest, texts.type))))
    if lowest != "0":
        fits = pc.or_(fits, pc.match_substring_regex(texts, rf"^-[1-9][0-9]{{0,{n - 2}}}$"))
        full = pc.match_substring_regex(texts, rf"^-[1-9][0-9]{{{n - 1}}}$")
        fits = pc.or_(fits, pc.and_(full, pc.less_equal(texts, pa.scalar(lowest, texts.type))))
    return pc.if_else(fits, texts, pa.scalar(None, texts.type)).cast(kind)


def _texts(array: pa.Array) -> pa.Array:
    """The text of each id, null where it names nothing."""
    kind = array.type
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    whole = pa.types.is_decimal(kind) and kind.scale == 0
    if is_text or whole or pa.types.is_integer(kind) or pa.types.is_date32(kind) or pa.types.is_null(kind):
        return array.cast(pa.string() if array.nbytes < 2**31 - 2**20 else pa.large_string())
    if pa.types.is_floating(kind):
        exact = 2.0 ** (np.finfo(kind.to_pandas_dtype()).nmant + 1)
        array = array.cast(pa.float64())
        whole = pc.less(pc.abs(array), exact)
        whole = pc.and_(whole, pc.equal(array, pc.floor(array)))
        return _texts(pc.if_else(whole, array, pa.scalar(None, array.type)).cast(pa.int64()))
    if kind == pa.uuid() or pa.types.is_decimal(kind) or pa.types.is_date(kind) or _is_binary(kind):
        return pa.array([text_of(value) for value in array.to_pylist()], pa.string())
    raise _unnameable(kind)


def _is_binary(kind: pa.DataType) -> bool:
    return any(
        is_so(kind)
        for is_so in (
            pa.types.is_binary,
            pa.types.is_large_binary,
            pa.types.is_binary_view,
            pa.types.is_fixed_size_binary,
        )
    )


def _unnameable(kind: object) -> InputError:
    return InputError("ids of a type that cannot name anything", got=kind, expected="strings or integers")


# Ids in SQL


def id_as_sql(column: str, kind: str, role: Role) -> tuple[str, str]:
    """SQL of an id and its type in the result: BIGINT, UBIGINT or VARCHAR.

    Raises:
        InputError: floats, times and nested values cannot be the ids of a log.

    """
    name = identifier(column)
    if kind in _INTEGER_TYPES:
        return f"{name}::BIGINT", "BIGINT"
    if kind == "UBIGINT":
        return name, "UBIGINT"
    if kind == "BLOB":
        return f"try(decode({name}))", "VARCHAR"
    if kind in _TEXT_TYPES or re.fullmatch(r"ENUM\(.*|DECIMAL\(\d+,\s*0\)", kind, re.DOTALL):
        return f"{name}::VARCHAR", "VARCHAR"
    raise InputError(
        f"the column {column!r} has a type that cannot be a {role.name}",
        got=kind,
        expected="text or integers",
        fix="convert it to text or integers (integers with gaps become floats in pandas: use astype('Int64'))",
    )


def like_ids(expression: str, found: str, wanted: str) -> str:
    """SQL of an id of one type from `id_as_sql` as another one, NULL where it names nothing there."""
    if found == wanted or wanted == "VARCHAR":
        return f"({expression})::{wanted}"
    text = f"({expression})::VARCHAR"
    return f"CASE WHEN regexp_full_match({text}, '{_INTEGER.pattern}') THEN try_cast({text} AS {wanted}) END"
