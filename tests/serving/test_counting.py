"""The running sums are what all impressions and clicks add up to, whatever happens to these; a report reads them alone."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import count
from typing import Any

import numpy as np
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete
from store_worlds import DAY, click, impression, rows

from heedful.serving import tables
from heedful.serving.bots import BotRules
from heedful.serving.click_counts import count_outcomes
from heedful.serving.clicks import SIMULATED, report, report_counts
from heedful.serving.store import Store
from heedful.serving.upgrades import count_all

SUMS = ("heedful_visitors", "heedful_user_counts", "heedful_click_counts")
FEW = BotRules(daily_impressions=3, impressions=4, click_share=0.7)
HALVES = {"attention": 0.5, "popularity": 0.5}


def sums_of(place: str) -> list[Any]:
    """All running sums, without the latest times: those of what was removed stay."""
    found = [rows(place, f"SELECT * FROM {table}") for table in SUMS]
    return [sorted(found[0]), sorted(found[1]), sorted(row[:-1] for row in found[2])]


def counted_anew(store: Store, place: str) -> list[Any]:
    """The running sums from all impressions and clicks; they take the place of those that were kept."""

    def work(connection: Any) -> None:
        for table in (tables.visitors, tables.user_counts, tables.click_counts):
            connection.execute(delete(table))
        count_all(connection)

    store._database.write(work)
    return sums_of(place)


def same_reports(store: Store, rules: BotRules = BotRules()) -> None:
    """The report of the running sums is that of the table of all impressions, but for times of what was removed."""
    for simulated in (None, False, True):
        kept = store.click_counts(simulated=simulated)
        seen = count_outcomes(store.outcomes(), rules, simulated=simulated)
        assert (kept.simulated, kept.set_aside) == (seen.simulated, seen.set_aside)
        told = [sorted(map(_said, report_counts(counts).slots + report_counts(counts).earlier)) for counts in (kept, seen)]
        assert told[0] == told[1]


def _said(slot: Any) -> str:
    return repr(
        [slot.slot, slot.salt, dict(slot.shares), [(one.treatment, one.rate) for one in slot.treatments], slot.lifts]
    )


WORLDS = count()
users = st.sampled_from(["ann", "bob", "eve"])
steps = st.one_of(
    st.tuples(st.just("add"), users, st.sampled_from(["home", "mail"]), st.sampled_from(["attention", "popularity"]),
              st.sampled_from(["spring", "autumn"]), st.sampled_from(["", "v1"]), st.integers(-1, 2), st.booleans()),
    st.tuples(st.just("show"), st.integers(0, 30), st.integers(-1, 2)),
    st.tuples(st.just("click"),
              st.lists(st.tuples(st.integers(0, 30), st.sampled_from("123"), st.integers(0, 3)), max_size=5)),
    st.tuples(st.just("take back"), st.integers(0, 30)),
    st.tuples(st.just("forget"), users),
    st.tuples(st.just("prune"), st.integers(-1, 2)),
)  # fmt: skip


def act(store: Store, world: str, number: int, step: tuple[Any, ...]) -> None:
    what, *given_ = step
    if what == "add":
        user, slot, treatment, salt, model, day, shown = given_
        made = impression(f"{world}-{number}", world + user, time=day * DAY, slot=slot, treatment=treatment)
        made = replace(made, salt=salt, model=model or SIMULATED, shares=HALVES if salt == "spring" else {})
        store.add_impressions([made, made], shown=shown)
    elif what == "show":
        store.mark_shown(f"impression-{world}-{given_[0]}", given_[1] * DAY)
    elif what == "click":
        store.add_clicks([click(f"{world}{name}", f"{world}-{on}", item, DAY) for on, item, name in given_[0]])
    elif what == "take back":
        store.remove_impression(f"impression-{world}-{given_[0]}")
    elif what == "forget":
        store.delete_user(world + given_[0])
    else:
        store.remove_impressions(given_[0] * DAY)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(done=st.lists(steps, max_size=30))
def test_whatever_happens_the_sums_are_those_of_all_impressions(store: Store, place: str, done: list[Any]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("heedful.serving.counting.DEFAULT_BOT_RULES", FEW)
        patch.setattr("heedful.serving.upgrades.DEFAULT_BOT_RULES", FEW)
        world = f"w{next(WORLDS)}"
        for number, step in enumerate(done):
            act(store, world, number, step)
        kept = sums_of(place)
        same_reports(store, FEW)
        assert kept == counted_anew(store, place)
        store.remove_impressions(10 * DAY)
        assert sums_of(place) == [[], [], []]


def test_bots_are_moved_out_of_every_slot_and_back(store: Store, place: str) -> None:
    day = [impression(number, "busy", time=number, slot="home") for number in range(201)]
    store.add_impressions([*day[:200], impression("mail", "busy", slot="mail"), impression("x", "ann")], shown=True)
    assert store.click_counts().set_aside["bots"] == 0
    store.add_impressions(day[200:], shown=True)
    found = store.click_counts()
    assert (found.set_aside["bots"], found.set_aside["impressions_of_bots"]) == (1, 202)
    assert [one.slot for one in found.experiments] == ["home"]
    same_reports(store)
    assert store.remove_impression("impression-7")
    assert store.click_counts().set_aside["bots"] == 0
    same_reports(store)
    eager = [impression(f"e{number}", "eager", time=number * DAY) for number in range(20)]
    store.add_impressions(eager, shown=True)
    store.add_clicks([click(f"e{number}", f"e{number}", time=number * DAY) for number in range(19)])
    assert store.click_counts().set_aside["bots"] == 1
    same_reports(store)


def test_many_at_once_count_each_of_them(store: Store, place: str) -> None:
    """Threads that show and click for the same users, in batches that overlap in any order."""
    store.add_impressions([impression(number, f"user-{number % 7}", time=number) for number in range(120)])
    randoms = np.random.default_rng(4)
    orders = [randoms.permutation(120).tolist() for _ in range(4)]

    def visit(order: list[int]) -> None:
        for start in range(0, 120, 20):
            part = order[start : start + 20]
            for number in part[:5]:
                store.mark_shown(f"impression-{number}", number)
            store.add_clicks([click(f"c{number}", number, time=number) for number in part])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(visit, orders))
    kept = sums_of(place)
    assert kept == counted_anew(store, place)
    assert sum(row[3] * row[5] for row in kept[2]) == 120 and sum(row[4] * row[5] for row in kept[2]) == 120


def test_a_report_reads_a_few_rows_however_many_impressions_there_are(store: Store) -> None:
    """Ten times the impressions of ten times the users: the same few rows, and no more work."""
    randoms = np.random.default_rng(5)
    reading = []
    for size in (300, 3000):
        made = [impression(f"{size}-{n}", f"{size}-user-{n // 3}", time=n) for n in range(size)]
        store.add_impressions(made, shown=True)
        chosen = randoms.permutation(size)[: size // 10]
        store.add_clicks([click(f"{size}-{n}", f"{size}-{n}", time=int(n)) for n in chosen])
        groups = [of for one in store.click_counts().experiments for of in one.treatments.values()]
        reading.append(sum(len(of.users) for of in groups))
    assert max(reading) <= 4
    same_reports(store)


def test_tables_of_version_1_become_those_of_version_2(place: str) -> None:
    """What was stored stays, is counted, and a click on an impression that was not said to be shown has shown it."""
    with contextlib.closing(Store.open(place)) as store:
        store.add_impressions([impression(n, f"user-{n % 40}", time=n, slot=f"s{n % 2}") for n in range(400)], shown=True)
        store.add_impressions([impression(f"made-{n}", "sim", time=n, model=f"{SIMULATED}x") for n in range(5)], shown=True)
        store.add_impressions([impression("unseen", "ann", time=7), impression("clicked", "ann", time=8)])
        store.add_clicks([click(n, n, time=n) for n in range(0, 400, 3)])
        older = store.outcomes()
    _make_version_1(place)
    with contextlib.closing(Store.open(place)) as store:
        assert rows(place, "SELECT version FROM heedful_schema") == [(2,)]
        found = store.outcomes()
        assert found.slice(0, 405).equals(older)
        assert found.slice(405).select(["user_id", "time", "clicks"]).to_pylist() == [
            {"user_id": "ann", "time": 30, "clicks": 1}
        ]
        same_reports(store)
        kept = sums_of(place)
        assert kept == counted_anew(store, place) and len(kept[0]) == 42
        assert store.add_click(click("again", 0, time=1)) == "duplicate"
        store.add_impressions([impression("new", "ann", time=900)], shown=True)
        same_reports(store)


def _make_version_1(place: str) -> None:
    """Take back what version 2 added, as its first tables were; one impression was clicked and never said to be shown."""
    statements = [
        *(
            f"DROP TABLE {table}"
            for table in (*SUMS, "heedful_experiments", "heedful_repeated_clicks", "heedful_slot_versions")
        ),
        "DROP INDEX heedful_impressions_user",
        "ALTER TABLE heedful_impressions DROP COLUMN experiment",
        "CREATE INDEX ix_heedful_impressions_user_id ON heedful_impressions (user_id)",
        "INSERT INTO heedful_clicks SELECT id, '1', 'early', 30, 0 FROM heedful_impressions "
        "WHERE impression_id = 'impression-clicked'",
        "UPDATE heedful_schema SET version = 1",
    ]
    opened: Any = psycopg.connect(place) if place.startswith("postgresql") else sqlite3.connect(place)
    with contextlib.closing(opened) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()


def test_another_salt_or_other_shares_are_another_experiment(store: Store) -> None:
    def shown(name: str, clicks_of: dict[str, int], **about: Any) -> None:
        made = [
            replace(
                impression(f"{name}-{arm}-{n}", f"{name}-{arm}-{n}", treatment=arm, time=int(about["time"]) + n),
                **about["of"],
            )
            for arm in clicks_of
            for n in range(100)
        ]
        store.add_impressions(made, shown=True)
        store.add_clicks(
            [
                click(f"{name}{arm}{n}", f"{name}-{arm}-{n}", time=int(about["time"]) + n)
                for arm, most in clicks_of.items()
                for n in range(most)
            ]
        )

    shown(
        "spring",
        {"attention": 60, "popularity": 60},
        time=0,
        of={"salt": "spring", "shares": {"attention": 0.9, "popularity": 0.1}},
    )
    shown("autumn", {"attention": 12, "popularity": 12}, time=1000, of={"salt": "autumn", "shares": HALVES})
    shown(
        "later",
        {"attention": 30, "popularity": 30},
        time=2000,
        of={"salt": "autumn", "shares": {"popularity": 0.5, "attention": 0.5}},
    )
    told = report_counts(store.click_counts())
    (slot,) = told.slots
    assert (slot.salt, list(slot.shares), slot.begun, slot.latest) == ("autumn", ["popularity", "attention"], 2000, 2099)
    assert [(one.salt, list(one.shares)) for one in told.earlier] == [
        ("autumn", ["attention", "popularity"]),
        ("spring", ["attention", "popularity"]),
    ]
    assert [one.rate.ctr for one in slot.treatments] == [0.3, 0.3] and not slot.lifts[0].lift.decided
    assert str(told).count("attention against popularity") == 1
    assert "an earlier experiment (salt spring; attention 90%, popularity 10%) with 200 impressions" in str(told)
    assert report(store.outcomes()).slots == told.slots
    assert json.loads(json.dumps(told.to_dict()))["earlier"][1]["salt"] == "spring"


def test_showing_and_clicking_stay_quick_for_who_has_seen_most(store: Store) -> None:
    """A bot's hundredth thousandth impression costs no more than its first ones: only one day is looked at."""
    store.add_impressions([impression(n, "bot", time=60 * n) for n in range(20_000)], shown=True)
    store.add_impressions([impression(f"a{n}", "ann", time=n) for n in range(20)])
    store.add_impressions([impression(f"b{n}", "bot", time=n) for n in range(20)])
    took = {}
    for who in "ab" * 2:
        begun = time.process_time()
        for n in range(20):
            store.mark_shown(f"impression-{who}{n}", n)
            store.add_click(click(f"{who}{n}", f"{who}{n}", time=n))
        took.setdefault(who, time.process_time() - begun)
    assert took["b"] < 5 * took["a"] + 0.1
