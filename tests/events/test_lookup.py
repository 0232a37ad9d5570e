"""The index of ids finds what is there, nothing else, and its keys, which are part of the folder format, do not change."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heedful.events import lookup
from heedful.events.lookup import IdIndex

TEXT = st.text(max_size=40)
KEYS_OF_TEXT = [
    0,
    10798040902979723852,
    715014989862247306,
    12036795658241781153,
    14346030681548436164,
    11062012374215088402,
]
INTEGER = st.integers(-(2**63), 2**63 - 1)


@given(st.one_of(st.lists(TEXT, unique=True), st.lists(INTEGER, unique=True)), st.lists(st.one_of(TEXT, INTEGER)))
def test_ids_are_found_where_they_are(ids, others):
    kind = pa.int64() if ids and isinstance(ids[0], int) else pa.string()
    others = [other for other in others if isinstance(other, int) == (kind == pa.int64())]
    wanted = [*others, None, *ids[::-1]]
    expected = [ids.index(one) if one in ids else -1 for one in wanted]
    array = pa.array(ids, kind)
    assert IdIndex.of(array).find(pa.array(wanted, kind), array).tolist() == expected


@given(st.lists(TEXT, min_size=3, unique=True), st.data())
def test_of_a_slice_and_of_long_offsets_the_index_is_the_same(ids, data):
    low = data.draw(st.integers(0, len(ids) - 1))
    whole = IdIndex.of(pa.array(ids[low:], pa.string()))
    for other in (pa.array(ids, pa.string()).slice(low), pa.array(ids[low:], pa.large_string())):
        index = IdIndex.of(other)
        assert np.array_equal(index.keys, whole.keys)
        assert np.array_equal(index.rows, whole.rows)


def test_ids_of_equal_hash_are_told_apart(monkeypatch):
    monkeypatch.setattr(lookup, "_hashes", lambda text, starts, lengths: lengths.astype(np.uint64))
    ids = pa.array(["a", "bb", "b", "cc", "c", "d"])
    assert IdIndex.of(ids).find(pa.array(["d", "e", "bb", "c", "dd", "a", "eee"]), ids).tolist() == [5, -1, 1, 4, -1, 0, -1]


def test_hashes_hardly_ever_meet():
    ids = pa.array([f"{prefix}{n}" for prefix in ("", "item-", "a-longer-name-of-an-item-") for n in range(100_000)])
    assert len(np.unique(IdIndex.of(ids).keys)) == len(ids)


@pytest.mark.parametrize(
    ("ids", "keys"),
    [
        (pa.array(["", "a", "1029743", "12345678", "item-000012345", "é"]), KEYS_OF_TEXT),
        (pa.array([0, 7, -1]), [0, 7, 2**64 - 1]),
        (pa.array([2**64 - 1], pa.uint64()), [2**64 - 1]),
    ],
)
def test_keys_are_those_of_saved_folders(ids, keys):
    index = IdIndex.of(ids)
    assert dict(zip(index.rows.tolist(), index.keys.tolist(), strict=True)) == dict(enumerate(keys))
