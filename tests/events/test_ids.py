"""What names an item: the same by every type, for one id and for many."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from uuid import UUID

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from heedful.errors import InputError
from heedful.events.ids import SAFE_INTEGER, json_id, listed, named_ids, plain_ids, split_ids, text_of
from heedful.events.preparing import read_events
from heedful.events.vocabulary import Vocabulary

LEAST, MOST = -(2**63), 2**63 - 1
START = 1_600_000_000
KEY = UUID("6636ff75-8fa4-4dff-92ed-4d99758d6482")
NOTHING = [None, float("nan"), float("inf"), 0.5, True, False, [], {}, object(), datetime.now(UTC), b"\xff", "\ud800"]


def log_of(ids: pa.Array) -> Vocabulary:
    rows = pa.table({"user_id": ["u"] * len(ids), "item_id": ids, "timestamp": [START] * len(ids)})
    return read_events(rows).catalog.items


def wrapped(values: list) -> list:
    """The same ids as lists of several kinds, few and many."""
    array = pa.array(values)
    return [
        values, tuple(values), array, pa.chunked_array([array]), values * 5000,
        pl.Series(values), pd.Series(values, dtype=object), np.array(values, object),
    ]  # fmt: skip


def found_everywhere(items: Vocabulary, values: list, rows: list[int]) -> None:
    for given_as in wrapped(values):
        assert items.rows(given_as)[: len(rows)].tolist() == rows


integers = st.integers(LEAST, MOST) | st.sampled_from([LEAST, MOST, 0, -1, SAFE_INTEGER, SAFE_INTEGER + 1])


@settings(deadline=None, max_examples=30)
@given(st.lists(integers, min_size=1, max_size=8, unique=True), st.sampled_from([pa.int64(), pa.uint64()]))
def test_an_integer_is_found_by_every_type_that_holds_it(values, kind):
    values = [value - LEAST for value in values] if kind == pa.uint64() else values
    items = log_of(pa.array(values, kind))
    rows = items.rows(pa.array(values, kind)).tolist()
    assert sorted(rows) == list(range(len(values)))
    found_everywhere(items, values if max(values) <= MOST else [str(v) for v in values], rows)
    found_everywhere(items, [str(value) for value in values], rows)
    decimals = pa.array(list(map(Decimal, values)), pa.decimal128(38, 0))
    for given_as in ([Decimal(value) for value in values], decimals, decimals.to_pylist() * 5000):
        assert items.rows(given_as)[: len(rows)].tolist() == rows
    text = Vocabulary([str(value) for value in values])
    assert text.rows(pa.array(values, kind)).tolist() == text.rows(values).tolist() == list(range(len(values)))


@settings(deadline=None, max_examples=30)
@given(st.lists(st.text(st.characters(codec="utf-8"), min_size=1), min_size=1, max_size=6, unique=True))
def test_a_text_is_found_by_itself_and_by_its_bytes(values):
    items = log_of(pa.array(values))
    rows = items.rows(values).tolist()
    assert sorted(rows) == list(range(len(values)))
    found_everywhere(items, values, rows)
    found_everywhere(items, [value.encode() for value in values], rows)


@settings(deadline=None, max_examples=20)
@given(st.lists(st.dates(date(1, 1, 1)), min_size=1, max_size=5, unique=True), st.lists(st.uuids(), min_size=1, unique=True))
def test_dates_and_uuids_are_found_by_themselves_and_their_text(days, keys):
    items = log_of(pa.array(days))
    rows = items.rows([str(day) for day in days]).tolist()
    assert sorted(rows) == list(range(len(days)))
    found_everywhere(items, days, rows)
    items = log_of(pa.array([key.bytes for key in keys], pa.uuid()))
    assert items.rows(keys).tolist() == items.rows([str(key) for key in keys]).tolist()
    assert items.rows(pa.array([key.bytes for key in keys], pa.uuid())).tolist() == items.rows(keys).tolist()


@given(st.floats(), st.sampled_from([np.float64, np.float32, np.float16, float]))
def test_a_float_is_an_integer_only_if_it_is_whole_and_exact(value, kind):
    with np.errstate(over="ignore"):
        number = kind(value)
    text = text_of(number)
    if text is not None:
        neighbours = {kind(int(text) - 1), kind(int(text) + 1)}
        assert number == int(text) and number not in neighbours
    else:
        assert not np.isfinite(number) or number != int(number) or kind(int(number) + 1) == number or abs(number) >= 2**10
    array = pa.array([number], pa.from_numpy_dtype(np.dtype(kind)))
    assert named_ids(array, pa.string()).to_pylist() == [text]


@given(st.integers(LEAST - 5, 2**64 + 5) | integers)
def test_what_is_out_of_range_names_nothing(value):
    for kind, lowest, highest in ((pa.int64(), LEAST, MOST), (pa.uint64(), 0, 2**64 - 1)):
        expected = [value] if lowest <= value <= highest else [None]
        assert plain_ids([value], kind) == plain_ids([str(value)], kind) == expected
        assert named_ids(pa.array([str(value)]), kind).to_pylist() == expected
        assert named_ids([str(value), str(value)], kind).to_pylist() == expected * 2


@pytest.mark.parametrize("text", ["007", "+7", " 7", "7 ", "7.0", "1_0", "-0", "", "٧", "1e1", "0x7", "--7", "-"])
def test_only_the_decimal_form_of_an_integer_names_it(text):
    items = Vocabulary([7, 10, 0])
    assert items.rows([text]).tolist() == items.rows(pa.array([text])).tolist() == [-1]
    assert items.rows([text] * 5000).max() == -1


@pytest.mark.parametrize("items", [Vocabulary([0, 1, 7]), Vocabulary(["True", "None", "nan", "inf", "0.5", "[]", "1"])])
def test_what_names_nothing_is_unknown(items):
    assert items.rows(NOTHING).max() == items.rows(NOTHING * 1000).max() == -1


def test_an_id_of_five_thousand_digits_is_unknown():
    assert Vocabulary(["1"]).rows([10**5000, -(10**5000), Decimal("1e9999")]).tolist() == [-1] * 3


@pytest.mark.parametrize("values", ["i1", b"i1", {"i1"}, {"i1": 1}, 7, None])
def test_a_text_is_no_list_of_ids(values):
    with pytest.raises(InputError, match=r"must be a list; got: .* to fix: put it in brackets"):
        listed(values, "a history")
    with pytest.raises(InputError, match="ids must be a list"):
        Vocabulary(["i", "1"]).rows(values)


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\r\n\0"), min_size=1), min_size=1, max_size=5))
def test_any_ids_can_stand_in_one_list(ids):
    assert split_ids(",".join(f'"{name.replace(chr(34), chr(34) * 2)}"' for name in ids)) == ids


def test_lists_of_ids_with_commas():
    assert split_ids('a, b,"c, d","say ""e"""') == ["a", "b", "c, d", 'say "e"']
    with pytest.raises(InputError, match="the list of ids cannot be read"):
        split_ids('a,"b')


@given(integers | st.integers(0, 2**64 - 1))
def test_json_has_integers_that_every_reader_takes_for_what_they_are(value):
    assume(value != 0)
    said = json_id(value)
    assert int(said) == value and (isinstance(said, str) or float(said) not in (float(said) + 1, float(said) - 1))
