import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heedful.errors import InputError
from heedful.events.ids import as_ids
from heedful.events.vocabulary import Vocabulary


@given(st.lists(st.text(min_size=1), unique=True, max_size=30))
def test_text_ids_come_back_exactly(ids):
    vocabulary = Vocabulary(pa.array(ids, pa.string()))
    assert vocabulary.rows(ids).tolist() == list(range(len(ids)))
    assert vocabulary.take(np.arange(len(ids))).to_pylist() == ids


@given(st.lists(st.integers(-(2**63), 2**63 - 1), unique=True, min_size=1, max_size=30))
def test_integer_ids_come_back_exactly(ids):
    vocabulary = Vocabulary(ids)
    assert vocabulary.rows(ids[::-1]).tolist() == list(range(len(ids)))[::-1]


@pytest.mark.parametrize("wrap", [list, pa.array], ids=["few", "arrow"])
def test_unknown_ids_have_no_row(wrap):
    assert Vocabulary(["a", "b"]).rows(wrap(["b", "c", "a"])).tolist() == [1, -1, 0]


@pytest.mark.parametrize("wrap", [list, pa.array], ids=["few", "arrow"])
def test_integers_and_their_decimal_text_match(wrap):
    assert Vocabulary(["10", "7"]).rows(wrap([7, 8])).tolist() == [1, -1]
    assert Vocabulary([10, 7]).rows(wrap(["7", "x"])).tolist() == [1, -1]


@pytest.mark.parametrize("most", [0, 10**6], ids=["index", "dictionary"])
@pytest.mark.parametrize(
    ("ids", "wanted", "rows"),
    [
        (["10", "7", "x"], [7, "x", None, 8, "10"], [1, 2, -1, -1, 0]),
        ([10, 7], ["7", 10, "x", None, 2**70, -(2**70)], [1, 0, -1, -1, -1, -1]),
        (pa.array([2**64 - 1, 3], pa.uint64()), [-1, "3", 2**64 - 1], [-1, 1, 0]),
    ],
    ids=["text", "integers", "unsigned"],
)
def test_ids_of_any_types_are_found_for_what_they_say(monkeypatch, most, ids, wanted, rows):
    monkeypatch.setattr("heedful.events.vocabulary._DICTIONARY_IDS", most)
    monkeypatch.setattr("heedful.events.vocabulary._MANY_TIMES", 0)
    assert Vocabulary(ids).rows(wanted).tolist() == rows


def test_many_ids_are_found_as_few_are():
    vocabulary = Vocabulary([f"i{n}" for n in range(6000)])
    ids = [f"i{n}" for n in range(5999, -1, -1)]
    assert np.array_equal(vocabulary.rows(ids), vocabulary.rows(ids[:3000]).tolist() + vocabulary.rows(ids[3000:]).tolist())


def test_large_unsigned_ids_stay_exact():
    vocabulary = Vocabulary(pa.array([2**64 - 1, 3], pa.uint64()))
    assert vocabulary.rows([2**64 - 1]).tolist() == [0]


def test_no_ids_have_no_rows():
    assert Vocabulary(["a"]).rows([]).tolist() == []
    assert len(Vocabulary([])) == 0


def test_equal_by_content():
    assert Vocabulary(["a", "b"]) == Vocabulary(pa.array(["a", "b"], pa.large_string()))
    assert Vocabulary(["a", "b"]) != Vocabulary(["b", "a"])


def test_rows_outside_are_an_error():
    with pytest.raises(IndexError, match="out of bounds"):
        Vocabulary(["a"]).take(np.array([1]))


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (["a", None], "an id is missing; got: 1 nulls"),
        (["a", "b", "a"], "ids are repeated; got: 'a' 2 times"),
        ([1.5, 2.5], "cannot name anything; got: double"),
        ([b"\xff"], "an id is missing; got: 1 nulls"),
        ([["a"]], "cannot name anything; got: list"),
        (["a", 1], "ids of mixed types"),
    ],
)
def test_ids_that_name_nothing(ids, message):
    with pytest.raises(InputError, match=message):
        Vocabulary(ids)


def test_chunks_and_dictionaries_become_plain():
    chunked = pa.chunked_array([["a"], ["b"]]).dictionary_encode()
    assert as_ids(chunked).equals(pa.array(["a", "b"]))
