"""Times: one rule for numbers, text, dates and timestamps, in files (as SQL) and in Python.

A number is a unix time in the one unit in which it lies between March 1973 and 2100. So its size tells its unit, and serial
dates, day numbers, calendar dates as digits and zeros are not times. Text is ISO 8601 or such a number. Dates and timestamps
may lie between 1970 and 2100. What is outside these limits is absurd. Times without a zone are UTC, unless `prepare` is told
another zone: then an hour that exists twice is read as the later one, and an hour that does not exist as the one after it.

In SQL a time is read into one of three columns: `whole` (BIGINT) and `real` (DOUBLE) hold numbers whose unit is found later
from all of them, `instant` (BIGINT, nanoseconds) holds what needs no unit. Absurd times are -1 in the end, unreadable ones
NULL.
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa

from heedful.errors import ConfigError, InputError
from heedful.events.ids import listed
from heedful.events.session import Session, identifier, literal

__all__ = [
    "LIMITS",
    "NANOSECONDS",
    "check_zone",
    "choose_unit",
    "count_magnitudes",
    "instant_as_sql",
    "is_number_or_time",
    "is_text",
    "iso",
    "second_of",
    "seconds_of",
    "time_as_sql",
]  # fmt: skip

NANOSECONDS = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}
_FIRST, _LAST = 100_000_000, 4_102_444_800  # 1973-03-03 and 2100-01-01 in unix seconds
LIMITS = {unit: (_FIRST * 10**9 // factor, _LAST * 10**9 // factor) for unit, factor in NANOSECONDS.items()}
"""The least and the greatest number that is a time, by unit; no number is a time in two units."""
_FIRST_DATE, _LAST_DATE = 19700101, 20991231  # calendar dates as numbers
_INTEGERS = frozenset({"TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER"})
_TIMESTAMPS = re.compile(r"DATE|TIMESTAMP(_S|_MS|_NS|TZ|TZ_NS)?( WITH TIME ZONE)?")
_KEPT_BY_PARQUET = frozenset({"DOUBLE", "DATE", "TIMESTAMP", "TIMESTAMP_NS", "TIMESTAMP WITH TIME ZONE"})
_NUMBER = r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EXPECTED = "unix times after March 1973 and before 2100 in s, ms, us or ns, ISO text, dates or timestamps"


# Times in Python


def seconds_of(values: Any, *, missing: int) -> np.ndarray:
    """Unix seconds of a list of times of any type, int64 [N], rounded down.

    Args:
        values: a list, array or series of numbers, texts, dates or timestamps.
        missing: what None, NaN, NaT and blank text become.

    Raises:
        InputError: a value is not a time, or an absurd one.
    """
    values = listed(values, "times")
    if isinstance(values, pa.Array | pa.ChunkedArray):
        values = _from_arrow(values)
    if isinstance(values, np.ndarray) and values.dtype.kind == "M":
        return _of_instants(values, missing)
    if isinstance(values, np.ndarray) and values.dtype.kind in "iuf":
        return _of_numbers(values, missing)
    found = [second_of(value) for value in values]
    return np.array([missing if second is None else second for second in found], np.int64)


def second_of(value: Any) -> int | None:
    """Unix seconds of a time of any type, rounded down; None for None, NaN, NaT and blank text.

    Raises:
        InputError: the value is not a time, or an absurd one.
    """
    if isinstance(value, pa.Scalar):
        return second_of(value.as_py())
    if isinstance(value, str):
        return _of_text(value.strip())
    if value is None or type(value).__name__ in ("NaTType", "NAType"):
        return None
    if isinstance(value, np.datetime64):
        value = value.astype("datetime64[s]").item()
        return None if value is None else second_of(value)
    if isinstance(value, datetime):
        zoned = value if value.tzinfo else value.replace(tzinfo=UTC)
        return _within((zoned - _EPOCH) // timedelta(seconds=1), value)
    if isinstance(value, date):
        return _within((value - _EPOCH.date()).days * 86_400, value)
    if isinstance(value, int | float | Decimal | np.integer | np.floating) and not isinstance(value, bool):
        return _of_number(value)
    raise _not_a_time(value)


def iso(second: int) -> str:
    """A time as an ISO text to the minute, in UTC."""
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%d %H:%M")


def _of_number(value: Any) -> int | None:
    if value != value:  # NaN
        return None
    for unit, (first, last) in LIMITS.items():
        if first <= value <= last:
            return int(round(value * NANOSECONDS[unit]) // 10**9)
    raise _not_a_time(value)


def _of_text(text: str) -> int | None:
    if text in ("", "nan", "NaN"):
        return None
    if re.fullmatch(r"[+-]?[0-9]+", text):
        return _of_number(int(text[:40]))
    if re.fullmatch(_NUMBER, text):
        return _of_number(float(text))
    try:
        if re.match(r"[0-9]{4}-[0-9]{2}-", text):
            zoned = re.sub(r" ?(UTC|GMT|Z)$", "+00:00", text)
            return second_of(datetime.fromisoformat(re.sub(r" ([+-][0-9])", r"\1", zoned)))
    except ValueError:
        pass
    raise _not_a_time(text)


def _of_numbers(values: np.ndarray, missing: int) -> np.ndarray:
    seconds = np.full(len(values), missing, np.int64)
    left = np.ones(len(values), bool) if values.dtype.kind != "f" else ~np.isnan(values)
    for unit, (first, last) in LIMITS.items():
        these = left & (values >= first) & (values <= last)
        seconds[these] = np.floor_divide(values[these], 10**9 // NANOSECONDS[unit])
        left &= ~these
    if left.any():
        raise _not_a_time(values[left][0].item())
    return seconds


def _of_instants(values: np.ndarray, missing: int) -> np.ndarray:
    nothing, seconds = np.isnat(values), values.astype("datetime64[s]").astype(np.int64)
    absurd = ~nothing & ((seconds < 0) | (seconds > _LAST))
    if absurd.any():
        raise _not_a_time(values[absurd][0])
    return np.where(nothing, missing, seconds)


def _from_arrow(values: pa.Array | pa.ChunkedArray) -> Any:
    """Arrow times in a form that needs no conversion to Python's own, which lacks nanoseconds and most years."""
    kind = values.type
    if pa.types.is_dictionary(kind):
        return _from_arrow(values.cast(kind.value_type))
    if pa.types.is_date(kind):
        values = values.cast(pa.timestamp("ms"))
    if pa.types.is_temporal(values.type) and not pa.types.is_timestamp(values.type):
        raise _not_a_time(kind)
    if pa.types.is_timestamp(values.type):
        return values.cast(pa.timestamp(values.type.unit)).to_numpy(zero_copy_only=False)
    plain = (pa.types.is_integer(kind) and not values.null_count) or pa.types.is_floating(kind)
    return values.to_numpy(zero_copy_only=False) if plain else values.to_pylist()


def _within(second: int, value: Any) -> int:
    if not 0 <= second <= _LAST:
        raise _not_a_time(value)
    return second


def _not_a_time(value: Any) -> InputError:
    return InputError("that is not a time", got=f"{value!r:.60}", expected=_EXPECTED, fix="convert it, or leave it empty")


# Times in SQL


def check_zone(session: Session, zone: str) -> None:
    """Refuse a time zone that is not known; a `ConfigError`."""
    known = f"SELECT count(*) FROM pg_timezone_names() WHERE name = {literal(zone)}"
    if zone != "UTC" and not session.value(known):
        raise ConfigError("there is no such time zone", got=repr(zone), expected="a name such as UTC or Europe/Berlin")


def time_as_sql(column: str, kind: str, zone: str = "UTC") -> str:
    """SQL of `whole`, `real` and `instant`, named so, for a column of DuckDB type `kind` whose local times are of a zone.

    Raises:
        InputError: the type is not one of times.

    """
    whole, real, instant = _parts(column, kind, zone)
    return f"{whole} AS whole, {real} AS real, {instant} AS instant"


def _parts(column: str, kind: str, zone: str) -> tuple[str, str, str]:
    name = identifier(column)
    if kind in _INTEGERS:
        return f"{name}::BIGINT", "NULL::DOUBLE", "NULL::BIGINT"
    if kind == "UBIGINT":
        # `least` passes over NULL.
        clamped = f"CASE WHEN {name} IS NOT NULL THEN least({name}, {2**63 - 1})::BIGINT END"
        return clamped, "NULL::DOUBLE", "NULL::BIGINT"
    if kind in ("FLOAT", "DOUBLE", "HUGEINT", "UHUGEINT") or kind.startswith("DECIMAL("):
        return "NULL::BIGINT", f"{name}::DOUBLE", "NULL::BIGINT"
    if _TIMESTAMPS.fullmatch(kind):
        return "NULL::BIGINT", "NULL::DOUBLE", _timestamp(name, kind, zone)
    if is_text(kind):
        return _text(f"trim({name}::VARCHAR)", zone)
    raise InputError(
        f"the column {column!r} has a type that cannot be a time",
        got=kind,
        expected="numbers, ISO text, dates or timestamps",
        fix="name another column with time_column",
    )


def is_number_or_time(kind: str) -> bool:
    """Whether times of a DuckDB type are read quickly, and alike after a way through Parquet."""
    return kind in _INTEGERS or kind in _KEPT_BY_PARQUET


def is_text(kind: str) -> bool:
    """Whether times of a DuckDB type are read from text, which takes long."""
    return kind in ("VARCHAR", "NULL", '"NULL"') or kind.startswith("ENUM(")


def count_magnitudes(session: Session, table: str) -> list[int]:
    """Numbers in `whole` and `real`: all, those that look like calendar dates, those within the limits of each unit."""
    least, most, n, reals = session.run(f"SELECT min(whole), max(whole), count(whole), count(real) FROM {table}")[0]
    if n and not reals:
        # The bounds, which Parquet files know by themselves, tell it where all numbers have one unit.
        one_unit = [n if first <= least and most <= last else 0 for first, last in LIMITS.values()]
        if any(one_unit):
            return [n, 0, *one_unit]
    value = "coalesce(whole::DOUBLE, real)"
    counts = ", ".join(f"count(*) FILTER (v BETWEEN {first} AND {last})" for first, last in LIMITS.values())
    return list(
        session.run(
            f"SELECT count(*), count(*) FILTER ({_LOOKS_LIKE_A_DATE}), {counts} "
            f"FROM (SELECT {value} AS v FROM {table}) WHERE isfinite(v)"
        )[0]
    )


def choose_unit(magnitudes: list[int]) -> str:
    """The unit of numbers: the one that most of them are times in; "s" when there are none.

    Args:
        magnitudes: from `count_magnitudes`, maybe added up over several tables.

    Raises:
        InputError: none of the numbers is a time in any unit.

    """
    total, dates, *within = magnitudes
    if not total or any(within):
        return max(zip(within, NANOSECONDS, strict=True), key=lambda one: one[0])[1]
    if dates == total:
        raise InputError(
            "the times read like calendar dates written as numbers",
            expected="unix times, ISO text, dates or timestamps",
            fix="convert them (20240131 to 2024-01-31), or set time_unit if they are unix times after all",
        )
    raise InputError(
        "invalid unix times: all are absurd",
        got=f"{total:,} numbers, each before March 1973 or after 2100 in every unit (such as serial dates or day numbers)",
        expected=_EXPECTED,
        fix="convert them, name another column with time_column, or set time_unit if they are unix times after all",
    )


def instant_as_sql(unit: str, *, given: bool) -> str:
    """SQL of nanoseconds since 1970, from the columns `whole`, `real` and `instant`; -1 for what is absurd.

    Args:
        unit: of the numbers.
        given: whether the unit is an option of the user: then numbers from 1 on are taken; 0 is a missing time.
    """
    factor = NANOSECONDS[unit]
    first, last = 1 if given else LIMITS[unit][0], LIMITS[unit][1]
    # Clamped, as nothing promises that the product is only taken of numbers that are in range.
    within = f"greatest(least(whole, {last}), 0)"
    return (
        "CASE WHEN instant IS NOT NULL THEN instant "
        f"WHEN whole BETWEEN {first} AND {last} THEN {within} * {factor} "
        "WHEN whole IS NOT NULL THEN -1 "
        "WHEN isnan(real) THEN NULL "
        f"WHEN real BETWEEN {first} AND {last} THEN try_cast(round(real * {factor}) AS BIGINT) "
        "WHEN real IS NOT NULL THEN -1 "
        "END"
    )


_LOOKS_LIKE_A_DATE = (
    f"v BETWEEN {_FIRST_DATE} AND {_LAST_DATE} AND floor(v / 100) % 100 BETWEEN 1 AND 12 AND floor(v) % 100 BETWEEN 1 AND 31"
)


def _timestamp(value: str, kind: str, zone: str) -> str:
    # The range is checked first: nanoseconds since 1970 overflow before the year 1678 and after 2262.
    nanoseconds = f"epoch_ns({f'{value}::TIMESTAMP' if kind == 'DATE' else value})"
    if zone != "UTC" and "TZ" not in kind and "ZONE" not in kind:
        # The last three digits, which no zone changes, are lost on the way.
        instant = f"epoch_ns(timezone({literal(zone)}, {value}::TIMESTAMP))"
        nanoseconds = instant if kind != "TIMESTAMP_NS" else f"{instant} + {nanoseconds} % 1000"
    return (
        f"CASE WHEN {value} BETWEEN '1970-01-01'::{kind} AND '2100-01-01'::{kind} THEN {nanoseconds} "
        f"WHEN {value} IS NOT NULL THEN -1 END"
    )


def _casts(value: str, zone: str) -> list[str]:
    """SQL that reads a text as a time, the first that is not NULL."""
    # A text that has a zone of its own cannot be read with another one behind it.
    behind = [""] if zone == "UTC" else [f" || {literal(f'{clock} {zone}')}" for clock in ("", " 00:00")] + [""]
    return [f"try_cast({value}{words} AS TIMESTAMPTZ)" for words in behind]


def _text(value: str, zone: str) -> tuple[str, str, str]:
    # A cast to TIMESTAMPTZ honours zones but keeps microseconds; TIMESTAMP_NS drops the zone but keeps nanoseconds, whose
    # last three digits no zone changes.
    # A decimal comma and a blank before an offset are ISO 8601, or nearly; the cast does not take them.
    mended = f"regexp_replace(replace({value}, ',', '.'), ' ([+-][0-9])', '\\1')"
    zoned = f"coalesce({', '.join([*_casts(value, zone), *_casts(mended, zone)])})"
    last_digits = f"coalesce(epoch_ns(try_cast({value} AS TIMESTAMP_NS)) % 1000, 0)"
    within = "BETWEEN '1970-01-01'::TIMESTAMPTZ AND '2100-01-01'::TIMESTAMPTZ"
    whole = f"CASE WHEN regexp_full_match({value}, '[+-]?[0-9]+') THEN try_cast({value} AS BIGINT) END"
    real = f"CASE WHEN regexp_full_match({value}, '{_NUMBER}') THEN try_cast({value} AS DOUBLE) END"
    instant = (
        f"CASE WHEN NOT regexp_matches({value}, '^[0-9]{{4,}}-') THEN NULL "
        f"WHEN {zoned} {within} THEN epoch_ns({zoned}) + {last_digits} "
        f"WHEN {zoned} IS NOT NULL THEN -1 END"
    )
    return whole, real, instant
