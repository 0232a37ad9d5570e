"""Histories of a training log in the store."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest
from store_worlds import event, rows

from heedful.events.log import EventLog
from heedful.events.preparing import read_events
from heedful.serving import loading
from heedful.serving.store import Event

ACTIONS = {
    "user_id": ["ann", "ann", "ann", "ann", "bob", "bob", "eve"],
    "item_id": ["a", "b", "a", "a", "b", "c", "c"],
    "timestamp": [100, 200, 300, 300, 150, 160, 170],
    "event": ["view", "buy", "view", "view", "view", "view", "buy"],
}


def log_of(**columns: list) -> EventLog:
    table = pa.table({**ACTIONS, **columns})
    seconds = pa.array(table["timestamp"].to_pylist(), pa.timestamp("s"))
    return read_events(table.set_column(2, "timestamp", seconds))


def stored(place: str) -> Counter:
    return Counter(rows(place, "SELECT user_id, item_id, time, kind FROM heedful_events"))


WHOLE = Counter(zip(ACTIONS["user_id"], ACTIONS["item_id"], ACTIONS["timestamp"], ACTIONS["event"], strict=True))


def test_all_actions_are_loaded_once(place, store):
    log = log_of()
    assert store.load_log(log) == 7
    assert stored(place) == WHOLE
    assert store.load_log(log) == 0 == store.load_log(log_of())
    assert stored(place) == WHOLE
    history = store.history("ann", 10)
    assert history.item_ids == ["a", "b", "a", "a"] and history.times.tolist() == [100, 200, 300, 300]
    assert history.kinds == ["view", "buy", "view", "view"]


def test_a_longer_log_adds_what_is_new(place, store):
    log = log_of()
    part = log.split(datetime.fromtimestamp(165, UTC), days=1)[0]
    assert store.load_log(part) == 3
    assert store.load_log(log) == 4
    assert stored(place) == WHOLE


def test_an_action_that_came_as_an_event_is_not_loaded_again(place, store):
    store.append([Event("live", "ann", "a", 300, "view"), Event("other", "ann", "a", 301, "view")])
    assert store.load_log(log_of()) == 6
    assert stored(place) == WHOLE + Counter([("ann", "a", 301, "view")])
    assert store.load_log(log_of()) == 0


def test_deleted_users_stay_deleted(store):
    store.load_log(log_of())
    assert store.delete_user("ann") == {"clicks": 0, "impressions": 0, "events": 4}
    assert store.load_log(log_of()) == 0
    assert store.users("ann") == []
    store.append([event(1, "ann", time=900)])  # she came back
    assert store.load_log(log_of()) == 0
    assert store.history("ann", 10).times.tolist() == [900]


def test_the_log_is_loaded_in_parts_and_an_interrupted_load_is_carried_on(place, store, monkeypatch):
    monkeypatch.setattr(loading, "_PART_EVENTS", 3)
    parts = list(loading.parts(log_of()))
    assert [(part.start, part.stop) for part in parts] == [(0, 1), (1, 3)]
    calls: list[int] = []

    def interrupted(connection, part):
        if calls:
            raise KeyboardInterrupt
        calls.append(len(part))
        return loading.add_missing(connection, part)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("heedful.serving.store.add_missing", interrupted)
        store.load_log(log_of())
    assert store.stats()["events"] == calls[0] == 4
    assert store.load_log(log_of()) == 3
    assert stored(place) == WHOLE


def test_integer_ids_become_text(store):
    log = log_of(user_id=[10, 10, 10, 10, 2, 2, 3], item_id=[7, 8, 7, 7, 8, 9, 9])
    assert store.load_log(log) == 7
    assert store.history("10", 10).item_ids == ["7", "8", "7", "7"]
    assert store.users() == [("10", 4), ("2", 2), ("3", 1)]


def test_parts_cover_all_users_and_are_not_large():
    lengths = np.random.default_rng(0).geometric(0.001, 400)
    users = [f"u{user}" for user, length in enumerate(lengths) for _ in range(length)]
    table = pa.table(
        {"user_id": users, "item_id": ["i"] * len(users), "timestamp": pa.array(range(len(users)), pa.timestamp("s"))}
    )
    log = read_events(table)
    parts = list(loading.parts(log))
    assert [part.start for part in parts[1:]] == [part.stop for part in parts[:-1]]
    assert parts[0].start == 0 and parts[-1].stop == 400
    sizes = [int(log.histories.lengths[part].sum()) for part in parts]
    assert sum(sizes) == len(users) and max(sizes) <= max(loading._PART_EVENTS, lengths.max())


def test_a_log_with_an_id_that_is_too_long(store):
    """Its events are left out, the others are there."""
    items = ["a", "y" * 300, "a", "a", "b", "c", "n\0ul"]
    assert store.load_log(log_of(user_id=["x" * 300, *ACTIONS["user_id"][1:]], item_id=items)) == 4
    assert store.history("ann", 10).item_ids == ["a", "a"]
    assert store.users() == [("ann", 2), ("bob", 2)]
