"""The store on SQLite and on PostgreSQL: what goes in comes out, once, in order."""

from __future__ import annotations

import contextlib
import threading
import time
from dataclasses import replace
from itertools import count

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from store_worlds import DAY, click, event, impression, rows

from heedful.errors import InputError
from heedful.serving.store import ID_CHARACTERS, Appended, Event, Store
from ranking_worlds import heedful

AWKWARD = [
    "Zoë 👩‍👧",
    "o'brien",
    '"; DROP TABLE heedful_events; --',
    "%_\\",
    "a\nb\tc",
    " ",
    "\U0010ffff",
    "日本",
    "ż" * ID_CHARACTERS,
]


def said(store: Store, user: str, limit: int = 100) -> list[tuple[str, int, str]]:
    history = store.history(user, limit)
    assert history.times.dtype == np.int64
    return list(zip(history.item_ids, history.times.tolist(), history.kinds, strict=True))


# Events


def test_a_history_is_what_was_appended_oldest_first(store):
    assert store.append([event(1, item="b", time=20), event(2, item="a", time=10, kind="view")]) == Appended(2, 0)
    assert store.append([event(3, user="bob", item="c", time=15)]) == Appended(1, 0)
    assert said(store, "ann") == [("a", 10, "view"), ("b", 20, "purchase")]
    assert said(store, "bob") == [("c", 15, "purchase")]
    assert said(store, "nobody") == []
    assert store.users("ann") == [("ann", len(said(store, "ann")))] and store.users("nobody") == []


def test_an_event_counts_once_however_often_it_is_sent(store):
    first = [event(1), event(2), event(1)]
    assert store.append(first) == Appended(2, 1)
    assert store.append([*first, event(3)]) == Appended(1, 3)
    assert store.append([]) == Appended(0, 0)
    assert len(said(store, "ann")) == 3


def test_what_came_first_under_an_event_id_stays(store):
    store.append([event(1, item="first")])
    assert store.append([event(1, user="bob", item="second", time=5)]) == Appended(0, 1)
    assert said(store, "ann") == [("first", 0, "purchase")] and said(store, "bob") == []


def test_the_latest_of_a_history(store):
    store.append([event(number, item=str(number), time=number // 2) for number in range(20)])
    assert [item for item, _, _ in said(store, "ann", 3)] == ["17", "18", "19"]
    assert said(store, "ann", 0) == []


def test_events_of_one_second_stand_in_the_order_they_came(store):
    store.append([event(f"z{number}", item=item, time=7) for number, item in enumerate("dacb")])
    store.append([event("a", item="e", time=7)])
    assert [item for item, _, _ in said(store, "ann")] == list("dacbe")
    assert [item for item, _, _ in said(store, "ann", 2)] == ["b", "e"]


def test_a_clock_that_goes_back_changes_only_the_order(store):
    store.append([event(1, item="x", time=1_000_000)])
    store.append([event(2, item="y", time=10)])
    store.append([event(3, item="z", time=-5)])
    assert said(store, "ann") == [("z", -5, "purchase"), ("y", 10, "purchase"), ("x", 1_000_000, "purchase")]


def test_histories_of_several_users(store):
    store.append([event(1, "ann", "a"), event(2, "bob", "b"), event(3, "ann", "c", time=1)])
    found = store.histories(["bob", "nobody", "ann", "ann"], 1)
    assert [history.item_ids for history in found] == [["b"], [], ["c"], ["c"]]


@pytest.mark.parametrize("name", AWKWARD, ids=ascii)
def test_names_come_back_as_they_are(store, name):
    store.append([Event(name, name, name, 1, name)])
    assert said(store, name) == [(name, 1, name)]
    assert store.users(name) == [(name, 1)]
    one = replace(
        impression(1), impression_id=name, slot=name, treatment=name, user_id=name, items=(name,), model=name, salt=""
    )
    store.add_impression(one)
    assert store.mark_shown(name, 2)
    assert store.add_click(replace(click(1, 1), click_id=name, impression_id=name, item_id=name)) == "recorded"
    (found,) = store.outcomes(slot=name).to_pylist()
    assert (found["slot"], found["user_id"], found["model"], found["clicks"]) == (name, name, name, 1)
    assert store.delete_user(name) == {"clicks": 1, "impressions": 1, "events": 1}
    assert said(store, name) == []


@pytest.mark.parametrize(
    ("name", "got"),
    [("", "0 characters"), ("x" * (ID_CHARACTERS + 1), "257 characters, 'xxx"), ("a\0b", "a.x00b"), ("\ud83d", "ud83d")],
    ids=ascii,
)
@pytest.mark.parametrize("field", ["event_id", "user_id", "item_id", "kind"])
def test_names_that_cannot_be_stored_are_refused_and_nothing_with_them(store, field, name, got):
    with pytest.raises(InputError, match=f"{field.replace('_', ' ')} cannot be stored; got: .*{got}.*; expected: 1 to 256"):
        store.append([event(1), replace(event(2), **{field: name})])
    assert store.stats()["events"] == 0


def test_other_names_and_times_that_cannot_be_stored(store):
    store.add_impression(impression(1))
    with pytest.raises(InputError, match="the impression cannot be stored"):
        store.add_impression(impression(2, items=("1", "")))
    with pytest.raises(InputError, match="the click cannot be stored"):
        store.add_click(click("x" * 300, 1))
    with pytest.raises(InputError, match="the user id cannot be stored"):
        store.history("\0", 5)
    for attempt in (
        lambda: store.append([event(1, time=2**62)]),
        lambda: store.add_impression(impression(2, time=-(2**62))),
        lambda: store.mark_shown("impression-1", 2**80),
        lambda: store.add_click(click(1, 1, time=2**70)),
    ):
        with pytest.raises(InputError, match=r"the time cannot be stored; got: -?\d+; expected: unix seconds"):
            attempt()


WORLDS = count()
names = st.sampled_from(["a", "b", "ab", "ä", "A"])


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    batches=st.lists(
        st.lists(st.builds(Event, names, names, names, st.integers(-3, 3), st.just("view")), max_size=8), max_size=4
    ),
    limit=st.integers(0, 5),
)
def test_any_batches_give_the_histories_of_a_plain_list(store, batches, limit):
    kept: dict[str, Event] = {}
    world = f"{next(WORLDS)} "  # the store goes from example to example
    for part in batches:
        batch = [replace(one, event_id=world + one.event_id, user_id=world + one.user_id) for one in part]
        before = len(kept)
        for one in batch:
            kept.setdefault(one.event_id, one)
        assert store.append(batch) == Appended(len(kept) - before, len(batch) - len(kept) + before)
    for user in (world + name for name in ("a", "b", "ab", "ä", "A")):
        theirs = sorted((one for one in kept.values() if one.user_id == user), key=lambda one: one.time)
        theirs = theirs[len(theirs) - min(limit, len(theirs)) :]
        assert said(store, user, limit) == [(one.item_id, one.time, one.kind) for one in theirs]


def test_overlapping_batches_do_not_wait_for_each_other(store):
    """Batches of the same events in opposite orders: neither ends the other, nor waits for a deadlock."""
    began, done = time.monotonic(), []
    events = [event(number, f"user-{number}") for number in range(300)]

    def send(order):
        done.extend([store.append(order[start:] + order[:start]).accepted for start in range(0, 300, 50)])

    threads = [threading.Thread(target=send, args=(order,)) for order in (events, events[::-1]) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(done) == 300 and len(done) == 24
    assert time.monotonic() - began < 30


def test_a_history_is_found_by_its_index(place, store):
    store.append([event(number, f"user-{number % 50}", time=number) for number in range(500)])
    latest = "SELECT item_id FROM heedful_events WHERE user_id = 'user-7' ORDER BY time DESC, id DESC LIMIT 5"
    if place.startswith("postgresql"):
        others = "ANALYZE heedful_events; SET enable_seqscan = off; SET enable_bitmapscan = off"  # too few rows to matter
        plan = "\n".join(row[0] for row in rows(place, f"{others}; EXPLAIN {latest}"))
    else:
        plan = "\n".join(row[3] for row in rows(place, f"EXPLAIN QUERY PLAN {latest}"))
    assert "heedful_events_history" in plan and "sort" not in plan.lower() and "TEMP B-TREE" not in plan


# Users


def test_users_by_the_beginning_of_their_id(store):
    users = ["bob", "Ann", "ann", "anna", "an\U0010ffff", "an\ud7ff", "a%", "ä"]
    store.append([event(number, user) for number, user in enumerate(users)] + [event("again", "ann")])
    assert store.users() == [(user, 2 if user == "ann" else 1) for user in sorted(users)]
    assert store.users("ann") == [("ann", 2), ("anna", 1)]
    assert store.users("an") == [("ann", 2), ("anna", 1), ("an\ud7ff", 1), ("an\U0010ffff", 1)]
    assert store.users("an\U0010ffff") == [("an\U0010ffff", 1)]
    assert store.users("an\ud7ff") == [("an\ud7ff", 1)]
    assert store.users("\U0010ffff") == []
    assert store.users("a%") == [("a%", 1)]
    assert store.users("a", limit=2) == [("a%", 1), ("ann", 2)]


def test_a_deleted_user_is_gone_altogether(place, store):
    store.append([event(1, "ann"), event(2, "bob"), event(3, "ann")])
    store.add_impressions([impression(1, "ann"), impression(2, "ann"), impression(3, "bob")], shown=True)
    store.add_clicks([click(1, 1), click(2, 1, "2"), click(3, 3)])
    assert store.delete_user("ann") == {"clicks": 2, "impressions": 2, "events": 2}
    assert store.delete_user("ann") == {"clicks": 0, "impressions": 0, "events": 0}
    for table in ("events", "impressions"):
        assert rows(place, f"SELECT DISTINCT user_id FROM heedful_{table}") == [("bob",)]
    assert rows(place, "SELECT click_id FROM heedful_clicks") == [("click-3",)]
    assert [row["user_id"] for row in store.outcomes().to_pylist()] == ["bob"]
    assert store.append([event(1, "ann")]) == Appended(1, 0)
    assert len(said(store, "ann")) == 1


# Impressions and clicks


def test_what_is_too_old_is_removed(place, store, monkeypatch):
    monkeypatch.setattr("heedful.serving.store._BATCH", 3)  # several transactions, some of them with nothing to remove
    store.append([event(n, time=100 - n) for n in range(10)])  # from 100 down to 91
    for number in range(8):
        store.add_impressions([impression(number, time=number)], shown=True)
        assert store.add_click(click(number, number)) == "recorded"
    assert store.remove_events(95) == 4
    assert store.history("ann", 100).times.tolist() == [95, 96, 97, 98, 99, 100]
    assert store.remove_impressions(5) == 5
    assert store.outcomes()["time"].to_pylist() == [5, 6, 7]
    assert rows(place, "SELECT count(*) FROM heedful_clicks") == [(3,)]
    assert (store.remove_events(95), store.remove_impressions(5)) == (0, 0)
    assert store.append([event(9, time=91)]).accepted == 1  # its id is forgotten too


def test_there_is_nothing_to_remove(store):
    assert (store.remove_events(10), store.remove_impressions(10)) == (0, 0)


def test_pruning_from_the_command_line(place):
    now = int(time.time())
    with contextlib.closing(Store.open(place)) as store:
        store.append([event("old", time=now - 40 * DAY), event("new", time=now - 20 * DAY)])
        store.add_impressions([impression("old", time=now - 20 * DAY), impression("new", time=now)])
    done = heedful("prune", place, "--events-days", 30, "--impressions-days", 10)
    assert done.stdout == "1 events removed\n1 impressions removed, with their clicks\n", done.stderr
    assert rows(place, "SELECT event_id FROM heedful_events") == [("event-new",)]
    assert rows(place, "SELECT impression_id FROM heedful_impressions") == [("impression-new",)]
    assert "--events-days, --impressions-days or both" in heedful("prune", place).stderr


def test_only_impressions_that_were_shown_have_outcomes(store):
    store.add_impressions([impression(1, time=100), impression(2, time=101)])
    store.add_impression(
        impression(3, "bob", items=("7",), time=102, slot="mail", treatment="popularity", model="v2", salt="")
    )
    assert store.outcomes().num_rows == 0
    assert store.mark_shown("impression-3", 110) and store.mark_shown("impression-1", 120)
    assert not store.mark_shown("impression-9", 120)
    home = ("home", "attention", "ann", 120, 3, 0, None, 0, "v1", "salt", "")
    mail = ("mail", "popularity", "bob", 110, 1, 0, None, 0, "v2", "", "")
    assert [tuple(row.values()) for row in store.outcomes().to_pylist()] == [home, mail]


def test_a_click_proves_that_the_impression_was_seen(store):
    store.add_impression(impression(1, time=100))
    assert store.add_click(click(1, 1, time=103)) == "recorded"
    seen = [(row["time"], row["clicks"]) for row in store.outcomes().to_pylist()]
    assert seen == [(103, 1)]
    assert store.mark_shown("impression-1", 130)  # said too late: it was shown before
    assert store.outcomes()["time"].to_pylist() == [103]


def test_an_impression_without_items_is_refused(store):
    with pytest.raises(InputError, match="an impression without items cannot be stored; got: home; expected: at least one"):
        store.add_impressions([impression(1), impression(2, items=())])
    assert store.stats()["impressions"] == 0


def test_outcomes_have_one_form_even_when_there_are_none(store):
    fields = [
        ("slot", pa.string()), ("treatment", pa.string()), ("user_id", pa.string()), ("time", pa.int64()),
        ("items_shown", pa.int64()), ("clicks", pa.int64()), ("first_click_time", pa.int64()),
        ("repeated_clicks", pa.int64()), ("model", pa.string()), ("salt", pa.string()),
        ("shares", pa.string()),
    ]  # fmt: skip
    assert store.outcomes().schema == pa.schema(fields)
    store.add_impressions([impression(1)], shown=True)
    assert store.outcomes().schema == pa.schema(fields)


def test_the_first_time_an_impression_was_shown_stays(store):
    store.add_impression(impression(1))
    assert store.mark_shown("impression-1", 50) and store.mark_shown("impression-1", 70)
    assert store.outcomes()["time"].to_pylist() == [50]


def test_an_impression_counts_once(store):
    store.add_impression(impression(1, "ann"))
    store.add_impression(impression(1, "bob"))
    store.add_impressions([impression(1, "eve"), impression(2, "eve")], shown=True)
    store.add_impressions([])
    store.mark_shown("impression-1", 5)
    assert store.outcomes()["user_id"].to_pylist() == ["ann", "eve"]


def test_double_clicks_count_once_and_a_repeated_request_not_at_all(store):
    store.add_impressions([impression(1)], shown=True)
    assert store.add_click(click("a", 1, "2", time=30)) == "recorded"
    assert store.add_click(click("a", 1, "2", time=31)) == "duplicate"  # sent again: its answer was lost
    assert store.add_click(click("b", 1, "2", time=32)) == "duplicate"  # clicked again
    assert store.add_click(click("c", 1, "2", time=20)) == "duplicate"
    assert store.add_click(click("d", 1, "3", time=40)) == "recorded"
    assert store.add_click(click("b", 1, "2", time=33)) == "duplicate"  # a further click that is sent again
    assert store.add_clicks([click("c", 1, "2"), click("e", 1, "2"), click("e", 1, "2")]) == ["duplicate"] * 3
    (found,) = store.outcomes().to_pylist()
    assert (found["clicks"], found["repeated_clicks"], found["first_click_time"]) == (2, 3, 30)


def test_clicks_that_are_refused(place, store):
    store.add_impression(impression(1, items=("1", "22"), time=1000))
    assert store.add_click(click(1, 9)) == "unknown impression"
    assert store.add_click(click(1, 1, "2")) == "not in impression"
    assert store.add_click(click(1, 1, "22", time=1001 + DAY)) == "too late"
    assert rows(place, "SELECT count(*) FROM heedful_clicks") == [(0,)]
    assert store.add_click(click(1, 1, "22", time=1000 + DAY)) == "recorded"


def test_the_window_for_clicks_begins_when_the_impression_was_shown(place):
    store = Store.open(place, click_window=60)
    store.add_impression(impression(1, time=1000))
    assert store.add_click(click(1, 1, "1", time=1061)) == "too late"
    store.mark_shown("impression-1", 1050)
    assert store.add_click(click(1, 1, "1", time=1061)) == "recorded"
    assert store.add_click(click(1, 1, "2", time=1111)) == "too late"
    assert store.add_click(click(1, 1, "2", time=5)) == "recorded"  # a clock went back
    store.close()


def test_several_clicks_at_once(store):
    store.add_impressions([impression(number) for number in range(3)], shown=True)
    several = [click(1, 0), click(1, 0), click(2, 1, "3"), click(3, 7), click(4, 1, "9")]
    assert store.add_clicks(several) == ["recorded", "duplicate", "recorded", "unknown impression", "not in impression"]
    assert store.add_clicks([]) == []
    assert store.outcomes()["clicks"].to_pylist() == [1, 1, 0]


def test_outcomes_of_a_slot_and_a_period(store):
    made = [impression(number, slot="mail" if number % 3 == 0 else "home", time=number) for number in range(10)]
    store.add_impressions(made, shown=True)
    assert store.outcomes(slot="mail")["time"].to_pylist() == [0, 3, 6, 9]
    assert store.outcomes(since=4, until=8)["time"].to_pylist() == [4, 5, 6, 7]
    assert store.outcomes(slot="mail", since=1, until=9)["time"].to_pylist() == [3, 6]
    assert store.outcomes(slot="' OR 1=1 --").num_rows == 0


def test_many_outcomes_arrive_by_and_by(store, monkeypatch):
    monkeypatch.setattr("heedful.serving.store._BATCH", 100)
    store.add_impressions([impression(number, f"user-{number}") for number in range(1050)], shown=True)
    store.add_clicks([click(number, number) for number in range(0, 1050, 2)])
    outcomes = store.outcomes()
    assert outcomes["user_id"].to_pylist() == [f"user-{number}" for number in range(1050)]
    assert outcomes["clicks"].to_pylist() == [1, 0] * 525
    assert outcomes["user_id"].num_chunks == 11


# The whole


def test_what_is_stored_in_numbers(place, store):
    system = "postgresql" if place.startswith("postgresql") else "sqlite"
    none = {"database": system, "schema": 2, "events": 0, "users": 0, "impressions": 0, "shown": 0, "clicks": 0}
    assert store.stats() == none
    store.append([event(1), event(2), event(3, "bob")])
    store.add_impressions([impression(1)], shown=True)
    store.add_impression(impression(2))
    store.add_click(click(1, 1))
    assert store.stats() == {**none, "events": 3, "users": 2, "impressions": 2, "shown": 1, "clicks": 1}


def test_numbers_counted_a_moment_ago_will_do(store):
    store.append([event(1)])
    assert store.stats(max_age=3600)["events"] == 1
    store.append([event(2)])
    assert store.stats(max_age=3600)["events"] == 1
    assert store.stats()["events"] == store.stats(max_age=3600)["events"] == 2


def test_a_store_is_there_when_it_is_opened_again(place):
    first = Store.open(place)
    first.append([event(1)])
    first.close()
    second = Store.open(place, create=False)
    second.ping()
    assert second.append([event(1), event(2)]) == Appended(1, 1)
    second.close()
