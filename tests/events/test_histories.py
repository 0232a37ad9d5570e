import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from heedful.events.histories import Histories, ragged_positions

ragged = st.lists(st.lists(st.integers(0, 9), max_size=5), min_size=1, max_size=8)


def histories_of(lists):
    """Histories whose times and kinds follow from the items, so that a mix-up shows."""
    flat = np.array([item for items in lists for item in items], np.int32)
    offsets = np.cumsum([0, *map(len, lists)]).astype(np.int64)
    return Histories(offsets, flat, flat.astype(np.int64) * 100, flat.astype(np.uint8) + 1)


def lists_of(histories):
    assert np.array_equal(histories.times, histories.items.astype(np.int64) * 100)
    assert np.array_equal(histories.kinds, histories.items + 1)
    return [histories.items[a:b].tolist() for a, b in zip(histories.offsets[:-1], histories.offsets[1:], strict=True)]


@given(ragged, st.data())
def test_take(lists, data):
    users = data.draw(st.lists(st.integers(0, len(lists) - 1), max_size=10))
    assert lists_of(histories_of(lists).take(np.array(users, np.int64))) == [lists[user] for user in users]


@given(ragged)
def test_where_keeps_every_user(lists):
    histories = histories_of(lists)
    kept = histories.where(histories.items % 2 == 0)
    assert lists_of(kept) == [[item for item in items if item % 2 == 0] for items in lists]


@given(ragged)
def test_with_rows_renumbers_and_drops(lists):
    histories = histories_of(lists).with_rows(np.array([-1, 5, -1, 7, 0, 1, 2, 3, 4, 6]))
    renumbered = {1: 5, 3: 7, 4: 0, 5: 1, 6: 2, 7: 3, 8: 4, 9: 6}
    assert np.split(histories.items, histories.offsets[1:-1])[0].tolist() == [
        renumbered[i] for i in lists[0] if i in renumbered
    ]
    assert histories.items.dtype == np.int32
    assert histories.times.tolist() == [i * 100 for items in lists for i in items if i in renumbered]


@given(ragged, st.integers(1, 4))
def test_chunks_are_all_of_it_in_order(lists, size):
    histories = histories_of(lists)
    parts = list(histories.chunks(size))
    assert [items for _, part in parts for items in lists_of(part)] == lists
    assert [part.start for part, _ in parts] == list(range(0, len(lists), size))
    assert all(len(part) <= size and part.offsets[0] == 0 for _, part in parts)


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 5)), max_size=10))
def test_ragged_positions(pieces):
    starts, lengths = (np.array(values, np.int64) for values in (zip(*pieces, strict=True) if pieces else ([], [])))
    expected = [position for start, length in pieces for position in range(start, start + length)]
    assert ragged_positions(starts, lengths).tolist() == expected
