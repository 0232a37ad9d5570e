"""Times: from numbers, text, dates and timestamps to nanoseconds since 1970, as SQL.

A time is read into one of three columns: `whole` (BIGINT) and `real` (DOUBLE) hold numbers whose unit is found later
from all of them, `moment` (BIGINT, nanoseconds) holds what needs no unit. Times that are readable but out of range
are -1 in the end, unreadable ones NULL.
"""

from __future__ import annotations

import re

from heedful.errors import InputError
from heedful.events.session import Session, identifier

__all__ = [
    "NANOSECONDS", "choose_unit", "count_magnitudes", "is_number_or_moment", "is_text", "moment_as_sql", "time_as_sql",
]  # fmt: skip

NANOSECONDS = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}
_LAST = 4_102_444_800  # 2100-01-01 in unix seconds
_FIRST_DATE, _LAST_DATE = 19700101, 20991231  # calendar dates as numbers
_INTEGERS = frozenset({"TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER"})
_TIMESTAMPS = re.compile(r"DATE|TIMESTAMP(_S|_MS|_NS|TZ|TZ_NS)?( WITH TIME ZONE)?")
_KEPT_BY_PARQUET = frozenset({"DOUBLE", "DATE", "TIMESTAMP", "TIMESTAMP_NS", "TIMESTAMP WITH TIME ZONE"})
# The magnitude of numbers after March 1973 and before the year 5138 tells their unit.
_UPPER = (("s", 1e11), ("ms", 1e14), ("us", 1e17))


def time_as_sql(column: str, kind: str) -> str:
    """SQL of `whole`, `real` and `moment`, named so, for a column of DuckDB type `kind`.

    Raises:
        InputError: the type is no time.

    """
    whole, real, moment = _parts(column, kind)
    return f"{whole} AS whole, {real} AS real, {moment} AS moment"


def _parts(column: str, kind: str) -> tuple[str, str, str]:
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
        return "NULL::BIGINT", "NULL::DOUBLE", _timestamp(name, kind)
    if is_text(kind):
        return _text(f"trim({name}::VARCHAR)")
    raise InputError(
        f"the column {column!r} has a type that cannot be a time",
        got=kind,
        expected="numbers, ISO text, dates or timestamps",
        fix="name another column with time_column",
    )


def is_number_or_moment(kind: str) -> bool:
    """Whether times of a DuckDB type are read quickly, and alike after a way through Parquet."""
    return kind in _INTEGERS or kind in _KEPT_BY_PARQUET


def is_text(kind: str) -> bool:
    """Whether times of a DuckDB type are read from text, which takes long."""
    return kind in ("VARCHAR", "NULL", '"NULL"') or kind.startswith("ENUM(")


def count_magnitudes(session: Session, table: str) -> list[int]:
    """Numbers in `whole` and `real`: all, those that look like calendar dates, those below the limit of each unit."""
    least, most, n, reals = session.run(f"SELECT min(whole), max(whole), count(whole), count(real) FROM {table}")[0]
    if n and not reals and (least > _LAST_DATE or 0 <= least <= most < _FIRST_DATE):
        # The bounds, which Parquet files know by themselves, tell it where all numbers have one unit.
        below = [(least < limit, most < limit) for _, limit in _UPPER]
        if all(lowest == highest for lowest, highest in below):
            return [n, 0, *(n if highest else 0 for _, highest in below)]
    value = "coalesce(whole::DOUBLE, real)"
    counts = ", ".join(f"count(*) FILTER (v < {limit})" for _, limit in _UPPER)
    return list(
        session.run(
            f"SELECT count(*), count(*) FILTER ({_LOOKS_LIKE_A_DATE}), {counts} "
            f"FROM (SELECT abs({value}) AS v FROM {table}) WHERE isfinite(v)"
        )[0]
    )


def choose_unit(magnitudes: list[int]) -> str:
    """The unit of numbers: that of the median magnitude; "s" when there are none.

    Args:
        magnitudes: from `count_magnitudes`, maybe added up over several tables.

    Raises:
        InputError: all numbers read like calendar dates (20240131), which are no unix times.

    """
    total, dates, *below = magnitudes
    if total and dates == total:
        raise InputError(
            "the times read like calendar dates written as numbers",
            expected="unix times, ISO text, dates or timestamps",
            fix="convert them (20240131 to 2024-01-31), or set time_unit if they are unix times after all",
        )
    return next((unit for (unit, _), n in zip(_UPPER, below, strict=True) if 2 * n >= total), "ns")


def moment_as_sql(unit: str) -> str:
    """SQL of nanoseconds since 1970, from the columns `whole`, `real` and `moment`; -1 for what is out of range."""
    factor = NANOSECONDS[unit]
    last = _LAST * 10**9 // factor
    # Clamped, as nothing promises that the product is only taken of numbers that are in range.
    within = f"greatest(least(whole, {last}), 0)"
    return (
        "CASE WHEN moment IS NOT NULL THEN moment "
        f"WHEN whole BETWEEN 0 AND {last} THEN {within} * {factor} "
        "WHEN whole IS NOT NULL THEN -1 "
        "WHEN isnan(real) THEN NULL "
        f"WHEN real BETWEEN 0 AND {last} THEN try_cast(round(real * {factor}) AS BIGINT) "
        "WHEN real IS NOT NULL THEN -1 "
        "END"
    )


_LOOKS_LIKE_A_DATE = (
    f"v BETWEEN {_FIRST_DATE} AND {_LAST_DATE} AND floor(v / 100) % 100 BETWEEN 1 AND 12 AND floor(v) % 100 BETWEEN 1 AND 31"
)


def _timestamp(value: str, kind: str) -> str:
    # The range is checked first: nanoseconds since 1970 overflow before the year 1678 and after 2262.
    precise = f"{value}::TIMESTAMP" if kind == "DATE" else value
    return (
        f"CASE WHEN {value} BETWEEN '1970-01-01'::{kind} AND '2100-01-01'::{kind} THEN epoch_ns({precise}) "
        f"WHEN {value} IS NOT NULL THEN -1 END"
    )


def _text(value: str) -> tuple[str, str, str]:
    # A cast to TIMESTAMPTZ honours zones but keeps microseconds; TIMESTAMP_NS drops the zone but keeps nanoseconds, whose
    # last three digits no zone changes.
    zoned = f"try_cast({value} AS TIMESTAMPTZ)"
    last_digits = f"coalesce(epoch_ns(try_cast({value} AS TIMESTAMP_NS)) % 1000, 0)"
    within = "BETWEEN '1970-01-01'::TIMESTAMPTZ AND '2100-01-01'::TIMESTAMPTZ"
    whole = f"CASE WHEN regexp_full_match({value}, '[+-]?[0-9]+') THEN try_cast({value} AS BIGINT) END"
    number = r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?"
    real = f"CASE WHEN regexp_full_match({value}, '{number}') THEN try_cast({value} AS DOUBLE) END"
    moment = (
        f"CASE WHEN NOT regexp_matches({value}, '^[0-9]{{4,}}-') THEN NULL "
        f"WHEN {zoned} {within} THEN epoch_ns({zoned}) + {last_digits} "
        f"WHEN {zoned} IS NOT NULL THEN -1 END"
    )
    return whole, real, moment
