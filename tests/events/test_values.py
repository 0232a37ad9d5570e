"""Attributes of every type: answered, filtered, and taken back as they were answered."""

from __future__ import annotations

import json
from datetime import date, time
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic_core import to_json

from heedful.errors import InputError
from heedful.events.catalog import describe
from heedful.events.preparing import read_events
from heedful.events.values import from_json, json_rows, nan_unknown, word_columns, words
from heedful.events.vocabulary import Vocabulary
from heedful.recommending.eligibility import Eligibility

START = 1_600_000_000
whole = st.integers(-(2**63), 2**63 - 1)
text = st.text(st.characters(codec="utf-8"))
SINGLE: list[tuple[pa.DataType, Any]] = [
    (pa.string(), text),
    (pa.large_string(), text),
    (pa.bool_(), st.booleans()),
    (pa.int64(), whole),
    (pa.uint8(), st.integers(0, 255)),
    (pa.uint64(), st.integers(0, 2**64 - 1)),
    (pa.float64(), st.floats()),
    (pa.float32(), st.floats(width=32)),
    (pa.decimal128(12, 3), st.decimals(-(10**8), 10**8, places=3)),
    (pa.date32(), st.integers(-(2**31), 2**31 - 1)),
    *[(pa.timestamp(unit), whole) for unit in ("s", "ms", "us", "ns")],
    *[(pa.timestamp(unit, "Europe/Berlin"), whole) for unit in ("s", "ns")],
    (pa.time64("us"), st.times()),
    (pa.duration("ms"), whole),
    (pa.binary(), st.binary() | text.map(str.encode)),
    (pa.uuid(), st.binary(min_size=16, max_size=16)),
]
NESTED = [
    lambda kind, some: (pa.list_(kind), st.lists(some, max_size=3)),
    lambda kind, some: (pa.list_(kind, 2), st.lists(some, min_size=2, max_size=2)),
    lambda kind, some: (pa.struct({"a": kind, "b": pa.int64()}), st.fixed_dictionaries({"a": some, "b": st.none()})),
    lambda kind, some: (pa.map_(pa.string(), kind), st.dictionaries(text, some, max_size=2).map(lambda d: list(d.items()))),
]
kinds_and_values = st.sampled_from(SINGLE) | st.tuples(st.sampled_from(NESTED), st.sampled_from(SINGLE[:-1])).map(
    lambda pair: pair[0](pair[1][0], st.none() | pair[1][1])
)


@st.composite
def columns(draw) -> pa.Array:
    kind, values = draw(kinds_and_values)
    return pa.array(draw(st.lists(st.none() | values, min_size=1, max_size=4)), kind)


@settings(deadline=None, max_examples=300)
@given(columns())
def test_any_attribute_is_answered_and_what_is_answered_is_taken(column):
    table = pa.table({"x": column})
    rows = json_rows(table)
    said = [row["x"] for row in rows]
    assert json.loads(to_json(rows, inf_nan_mode="constants")) == rows  # no number that JSON lacks, no value that it rounds
    back = pa.array([from_json(value, column.type) for value in said], column.type)
    assert [row["x"] for row in json_rows(pa.table({"x": back}))] == said
    assert all(isinstance(value, str | None) for value in words(column))
    titled = pa.table({"title": column})
    assert describe(Vocabulary(list(range(len(column)))), titled, 0) == (words(column)[0] or "0")


@settings(deadline=None, max_examples=100)
@given(columns())
def test_any_attribute_can_stand_in_conditions(column):
    items = Eligibility(pa.table({"x": column, "row": list(range(len(column)))}))
    assert items.mask("row >= 0").all()
    try:
        known = items.mask("x IS NOT NULL")
    except InputError:  # a moment that the database cannot hold
        assert pa.types.is_temporal(column.type) or pa.types.is_nested(column.type)
        return
    assert known.tolist() == nan_unknown(pa.table({"x": column}))["x"].is_valid().to_pylist()


@given(
    st.lists(st.floats(), min_size=1), st.sampled_from(["x > 0", "x < 0", "x = x", "x != 1", "NOT (x > 0)", "x IS NOT NULL"])
)
@settings(deadline=None, max_examples=50)
def test_nan_is_unknown_in_every_condition(values, condition):
    found = Eligibility(pa.table({"x": values})).mask(condition)
    assert not found[[value != value for value in values]].any()


@pytest.mark.parametrize(
    ("value", "kind", "plain"),
    [
        ("2024-05-01", pa.date32(), date(2024, 5, 1)),
        ("2024-05-01T10:00:00Z", pa.timestamp("s"), 1_714_557_600),
        ("2024-05-01T12:00:00+02:00", pa.timestamp("ms"), 1_714_557_600_000),
        ("2024-05-01 10:00", pa.timestamp("us", "Asia/Tokyo"), 1_714_557_600_000_000),
        ("2024-05-01T10:00:00.123456789", pa.timestamp("ns"), 1_714_557_600_123_456_789),
        ("10:00", pa.time32("s"), time(10)),
        ("12.50", pa.decimal128(5, 2), Decimal("12.50")),
        (12.5, pa.decimal128(5, 2), Decimal("12.5")),
        ("9007199254740993", pa.int64(), 9_007_199_254_740_993),
        (3, pa.float64(), 3.0),
        (["a", None], pa.list_(pa.string()), ["a", None]),
        (None, pa.list_(pa.string()), None),
    ],
)
def test_what_comes_as_json(value, kind, plain):
    assert from_json(value, kind) == plain


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ("dear", pa.float64()), (True, pa.int64()), (1.5, pa.int64()), (300, pa.uint8()), (1, pa.string()),
        ("a", pa.list_(pa.string())),
        ("01.05.2024", pa.date32()), ("soon", pa.timestamp("us")),
        ("2024-05-01T25:00", pa.timestamp("s")), ("1.234", pa.decimal128(5, 2)),
        ({"c": 1}, pa.struct({"a": pa.int64()})), ([1, "x"], pa.list_(pa.int64())),
        (1, pa.bool_()), ("2300-01-01", pa.timestamp("ns")),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(value, kind):
    with pytest.raises(InputError, match=r"the value does not fit the catalogue; got: .*; expected: a value of type"):
        from_json(value, kind)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["Title", "CATEGORY"], ["Title", "CATEGORY"]),
        (["product_name", "price", "Genres"], ["product_name", "Genres"]),
        (["Name", "title", "genre", "category"], ["title", "category"]),
        (["category"], ["category"]),
        (["price"], []),
    ],
)
def test_titles_and_categories_are_found_by_their_usual_names(names, expected):
    assert word_columns(names) == expected


def test_prepare_takes_nan_for_unknown():
    rows = pa.table({"user_id": ["u", "u"], "item_id": ["a", "b"], "timestamp": [START, START]})
    items = pa.table({"item_id": ["a", "b"], "price": [float("nan"), 2.0], "Title": ["A", None]})
    log = read_events(rows, items=items)
    assert log.catalog.attributes["price"].to_pylist() == [None, 2.0]
    assert log.catalog.describe(0) == "A" and log.catalog.describe(1) == "b"


@pytest.mark.parametrize(
    ("log", "file", "hint"),
    [
        (["123.0", "9"], ["123", "10"], "'123.0' here, '123' in the item file"),
        (["7"], ["007"], "'7' here, '007' in the item file"),
        (["a"], [" A "], "'a' here, ' A ' in the item file"),
        ([7], ["007"], "7 here, '007' in the item file"),
        (["x"], ["y"], "is it the right file"),
    ],
)
def test_an_item_file_that_describes_nothing(capsys, log, file, hint):
    from heedful.progress import show_progress

    rows = pa.table({"user_id": ["u"] * len(log), "item_id": log, "timestamp": [START] * len(log)})
    show_progress()
    try:
        read_events(rows, items=pa.table({"item_id": file, "title": ["?"] * len(file)}))
    finally:
        show_progress(False)
    said = capsys.readouterr().err
    assert (
        f"the item file describes 0 of {len(log)} items" in said and "warning: no item of the log" in said and hint in said
    )
