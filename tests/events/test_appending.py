"""`append`: further events make the log that `prepare` makes of all events together."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heedful.errors import InputError
from heedful.events import appending
from heedful.events.appending import append, unknown_events
from heedful.events.log import EventLog
from heedful.events.preparing import prepare, read_events

START = 1_600_000_000

rows_of_events = st.lists(
    st.tuples(
        st.sampled_from(["a", "b", "c", "d"]),
        st.sampled_from(["x", "y", "z", "w"]),
        st.integers(START, START + 4),
        st.sampled_from(["view", "buy", "like"]),
    ),
    min_size=1,
    max_size=25,
)


def table(rows):
    names = ["user_id", "item_id", "timestamp", "event"]
    return pa.table(dict(zip(names, map(list, zip(*rows, strict=True)), strict=True)))


def histories(log):
    """What each user did, as (time, item, kind) in the order of the log."""
    items = log.catalog.items.take(log.histories.items).to_pylist()
    said = list(zip(log.histories.times.tolist(), items, [log.kinds[k] for k in log.histories.kinds], strict=True))
    bounds = log.histories.offsets
    return {user: said[bounds[n] : bounds[n + 1]] for n, user in enumerate(log.users.ids.to_pylist())}


def unordered(log):
    """The same, actions of one second in no order: rows of items differ between logs."""
    return {user: sorted(said) for user, said in histories(log).items()}


def counts(log):
    return {
        item: (int(events), int(users))
        for item, events, users in zip(log.catalog.items.ids.to_pylist(), log.catalog.events, log.catalog.users, strict=True)
    }


def of_both(first, second):
    """All events, each as often as in the list that has it more often."""
    return [row for row in sorted({*first, *second}) for _ in range(max(first.count(row), second.count(row)))]


@settings(max_examples=20)
@given(first=rows_of_events, second=rows_of_events, block=st.sampled_from([1, 3, 2**20]))
def test_an_appended_log_is_what_prepare_makes_of_all_events(tmp_path_factory, first, second, block):
    folder = tmp_path_factory.mktemp("append")
    old = prepare(table(first), folder / "old")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(appending, "_BLOCK_EVENTS", block)
        grown = append(old, read_events(table(second)), folder / "grown")
    whole = read_events(table(of_both(first, second)))
    assert unordered(grown) == unordered(whole)
    assert counts(grown) == counts(whole)
    assert grown.folder.manifest["n_events"] == whole.n_events
    assert (grown.facts()["first_time"], grown.facts()["last_time"]) == (
        whole.facts()["first_time"],
        whole.facts()["last_time"],
    )
    assert all(grown.folder.manifest[name] == value for name, value in grown.facts().items())


@settings(max_examples=10)
@given(first=rows_of_events, second=rows_of_events)
def test_old_rows_stay_and_histories_are_in_order(tmp_path_factory, first, second):
    folder = tmp_path_factory.mktemp("append")
    old = prepare(table(first), folder / "old")
    grown = append(old, read_events(table(second)), folder / "grown")
    assert grown.catalog.items.ids.slice(0, len(old.catalog)).equals(old.catalog.items.ids)
    assert grown.users.ids.slice(0, len(old.users)).equals(old.users.ids)
    assert grown.kinds[: len(old.kinds)] == old.kinds
    owner = np.repeat(np.arange(len(grown.users)), grown.histories.lengths)
    keys = (grown.histories.kinds, grown.histories.items, grown.histories.times, owner)
    assert np.array_equal(np.lexsort(keys), np.arange(grown.n_events))


def test_a_replay_changes_nothing(tmp_path):
    rows = [("a", "x", START, "view"), ("a", "x", START, "view"), ("b", "y", START + 1, "buy")]
    old = prepare(table(rows), tmp_path / "old")
    new = read_events(table([*rows, ("b", "x", START + 2, "buy")]))
    assert unknown_events(old, new).n_events == 1
    once = append(old, new, tmp_path / "once")
    twice = append(once, new, tmp_path / "twice")
    assert once.folder.manifest["appended"]["events"] == 1
    assert twice.folder.manifest["appended"]["events"] == 0
    assert histories(twice) == histories(once)


def test_new_items_bring_their_attributes_and_others_keep_theirs(tmp_path):
    known = pa.table({"item_id": ["x", "y"], "title": ["ex", "why"]})
    old = prepare(table([("a", "x", START, "view")]), tmp_path / "old", items=known)
    described = pa.table({"item_id": ["x", "y"], "title": ["other", "why"], "colour": ["red", "blue"]})
    new = read_events(table([("a", "y", START + 1, "view"), ("a", "x", START + 2, "view")]), items=described)
    grown = append(old, new, tmp_path / "grown")
    assert grown.catalog.attributes.to_pydict() == {"title": ["ex", "why"]}


def test_attributes_come_with_new_items_where_there_were_none(tmp_path):
    old = prepare(table([("a", "x", START, "view")]), tmp_path / "old")
    described = pa.table({"item_id": ["y"], "title": ["why"]})
    grown = append(old, read_events(table([("a", "y", START, "view")]), items=described), tmp_path / "grown")
    assert grown.catalog.attributes.to_pydict() == {"title": [None, "why"]}


def test_ids_of_a_database_find_integer_ids_of_a_log(tmp_path):
    rows = pa.table({"user_id": [1, 2], "item_id": [7, 8], "timestamp": [START, START]})
    old = prepare(rows, tmp_path / "old")
    texts = pa.table({"user_id": ["2", "3"], "item_id": ["8", "9"], "timestamp": [START, START]})
    grown = append(old, read_events(texts), tmp_path / "grown")
    assert grown.users.ids.to_pylist() == [1, 2, 3]
    assert grown.catalog.items.ids.to_pylist() == [7, 8, 9]
    assert grown.n_events == 3


def test_ids_that_do_not_fit_are_refused_and_nothing_is_written(tmp_path):
    old = prepare(pa.table({"user_id": [1], "item_id": [7], "timestamp": [START]}), tmp_path / "old")
    texts = pa.table({"user_id": ["anna"], "item_id": ["8"], "timestamp": [START]})
    with pytest.raises(InputError, match="user ids of another type"):
        append(old, read_events(texts), tmp_path / "grown")
    assert not (tmp_path / "grown").exists()


def test_the_folder_is_one_of_sequences_like_any_other(tmp_path):
    old = prepare(table([("a", "x", START, "view")]), tmp_path / "old")
    append(old, read_events(table([("a", "y", START + 1, "view")])), tmp_path / "grown")
    again = EventLog.load(tmp_path / "grown")
    again.folder.verify()
    past, future = again.split(START + 1)
    assert (past.n_events, future.n_events) == (1, 1)
