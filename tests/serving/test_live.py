"""What is popular goes on with the events that the server stores, with a clock of its own."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from serving_worlds import client, served, shop_attributes, shop_log, wait_for

from heedful.events.log import EventLog
from heedful.rankers.base import Ranker
from heedful.rankers.counting_on import counted_on
from heedful.rankers.mixed import MixedRanker
from heedful.rankers.refreshing import refreshed
from heedful.rankers.registry import MODELS
from heedful.recommending.recommend import Query
from heedful.serving import live
from heedful.serving.models import Serving
from heedful.serving.options import ServeConfig
from heedful.serving.routes.items import _told
from heedful.serving.state import Choice
from heedful.serving.store import Event, Store
from heedful.serving.wire import NewItem
from ranking_worlds import DAY, QUICK, START, table_of

CUT = START + 80 * DAY
SLOTS = """
[[slot]]
name = "books"
where = "department = 'BOOKS'"
shown = 3
"""


@cache
def whole() -> EventLog:
    return shop_log(users=120)


@cache
def past() -> EventLog:
    return whole().split(CUT, days=1)[0]


@cache
def fitted(name: str) -> Ranker:
    log = past()
    rows = whole().catalog.items.rows(log.catalog.items.ids)
    table = table_of(log.catalog.items.ids, attributes=shop_attributes().take(rows))
    return MODELS[name](**QUICK[name]).fit(log, table)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("live")
    for name in ("mixed", "recent-popularity", "popularity"):
        fitted(name).save(folder / name, pack=True)
    return folder


class Clock:
    """Shows what it is told."""

    def __init__(self) -> None:
        self.now = CUT

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def worker(model: Path, folder: Path, clock: Clock, **options: Any) -> Serving:
    (folder / "slots.toml").write_text(SLOTS)
    config = ServeConfig(database=str(folder / "shop.sqlite"), slots=str(folder / "slots.toml"), **options)
    serving = Serving(Choice(str(model)), config, clock=clock)
    serving.start()
    return serving


@pytest.fixture
def serving(models: Path, tmp_path: Path, clock: Clock) -> Iterator[Serving]:
    with_past(tmp_path)
    one = worker(models / "mixed", tmp_path, clock)
    yield one
    one.close()


def with_past(folder: Path) -> None:
    store = Store.open(str(folder / "shop.sqlite"))
    store.load_log(past())
    store.close()


def new_events(log: EventLog, after: int) -> list[Event]:
    """The later events of a log, in the order of their times."""
    found = []
    for user in range(len(log.histories)):
        one = log.histories.part(slice(user, user + 1))
        for place, (row, at, kind) in enumerate(zip(one.items, one.times.tolist(), one.kinds, strict=True)):
            if at > after:
                item = log.catalog.items.ids[int(row)].as_py()
                found.append(Event(f"{user}-{place}", f"u{user}", item, at, log.kinds[int(kind)]))
    return sorted(found, key=lambda event: event.time)


def store_of(serving: Serving) -> Store:
    return serving.engine.store


def users_of(serving: Serving, item: str) -> int:
    ranker = serving.engine.ranker
    return int(ranker.users_of_item[ranker.items.rows([item])[0]])


def test_it_is_what_a_refresh_counts(serving: Serving, clock: Clock) -> None:
    expected, _ = refreshed(fitted("mixed"), whole())
    new = new_events(whole(), fitted("mixed").last_time)
    for day in range(20):
        clock.now = CUT + (day + 1) * DAY
        store_of(serving).append([event for event in new if CUT + day * DAY <= event.time < clock.now])
        serving.count_on()
    clock.now = expected.last_time
    serving.count_on()
    ranker = serving.engine.ranker
    np.testing.assert_array_equal(ranker.users_of_item, expected.users_of_item)
    assert isinstance(ranker, MixedRanker) and isinstance(expected, MixedRanker)
    assert ranker.stage is not None and expected.stage is not None
    same = counted_at(expected, ranker.last_time)
    assert same.stage is not None
    np.testing.assert_allclose(ranker.stage.snapshot.items.values, same.stage.snapshot.items.values, rtol=1e-6)
    for term, values in ranker.ranker.at_time.items():
        np.testing.assert_allclose(values, same.ranker.at_time[term], rtol=1e-4, atol=1e-5)
    history = ranker.histories_of([["item1", "item2", "item3"]])
    both = [one.score_catalogue(history)[0] for one in (ranker, expected, fitted("mixed"))]
    assert np.corrcoef(both[0], both[1])[0, 1] > 0.9
    np.testing.assert_array_equal(serving.engine.ranker.cold_start_scores(), same.cold_start_scores())


def counted_at(ranker: MixedRanker, last_time: int) -> MixedRanker:
    """A refreshed ranker as of a time that may be a little after its last event."""
    assert ranker.touches is not None
    return counted_on(ranker, ranker.touches, last_time + 1)


def test_workers_agree_and_a_new_one_begins_where_they_are(
    serving: Serving, models: Path, tmp_path: Path, clock: Clock
) -> None:
    clock.now = CUT + 10 * DAY
    store_of(serving).append([e for e in new_events(whole(), fitted("mixed").last_time) if e.time < clock.now])
    serving.count_on()
    other = worker(models / "mixed", tmp_path, clock)
    other.count_on()
    history = other.engine.ranker.histories_of([["item1", "item2"]])
    np.testing.assert_array_equal(
        other.engine.ranker.score_catalogue(history), serving.engine.ranker.score_catalogue(history)
    )
    assert serving.engine.ranker.last_time > CUT + 9 * DAY
    other.close()


def rush(number: int, item: str, at: int, *, name: str = "rush") -> list[Event]:
    return [Event(f"{name}-{n}", f"{name}{n}", item, at, "view") for n in range(number)]


def test_a_visitor_without_a_history_gets_what_rises_now(serving: Serving, clock: Clock) -> None:
    """In a slot, what rises among its items."""
    engine = serving.engine
    least = int(np.argmin(engine.ranker.users_of_item))
    books = np.flatnonzero(engine.eligibility.mask("department = 'BOOKS'"))
    slot = int(books[books != least][-1])
    clock.now = CUT + 2 * DAY
    store_of(serving).append(rush(60, engine.ids(np.array([least]))[0], CUT + DAY))
    store_of(serving).append(rush(50, engine.ids(np.array([slot]))[0], CUT + DAY, name="books"))
    serving.count_on()
    engine = serving.engine
    assert engine.recommend(engine.past_of([]), Query(k=2)).rows.tolist() == [least, slot]
    filled = engine.fill("books", engine.past_of([]), preview=True)
    assert filled.ranking.rows[0] == (least if least in books else slot)
    assert engine.ranker.cold_start_scores()[least] > engine.ranker.cold_start_scores()[0]


def test_events_of_the_future_wait_and_those_of_the_past_do_not_count(serving: Serving, clock: Clock) -> None:
    before = users_of(serving, "item5")
    clock.now = CUT + DAY
    store_of(serving).append(rush(30, "item6", CUT + DAY // 2, name="carry"))
    store_of(serving).append(rush(20, "item5", CUT + DAY + 3600, name="future"))
    store_of(serving).append(rush(20, "item5", CUT - DAY, name="past"))
    store_of(serving).append(rush(20, "item5", 0, name="absurd"))
    serving.count_on()
    assert users_of(serving, "item5") == before
    clock.now = CUT + DAY + 3601
    serving.count_on()
    assert users_of(serving, "item5") == before + 20


def test_events_count_once(serving: Serving, clock: Clock) -> None:
    """Sent again, sent again under other names, and by users who have the item already."""
    before = users_of(serving, "item5")
    clock.now = CUT + 2 * DAY
    owner = next(f"u{u}" for u in range(len(past().histories)) if has(past(), u, "item5"))
    owner = past().users.ids[int(owner[1:])].as_py()
    store_of(serving).append([Event("again", owner, "item5", CUT + DAY, "view"), *rush(10, "item5", CUT + DAY)])
    for name in ("a", "b"):
        serving.count_on()
        store_of(serving).append(rush(10, "item5", CUT + DAY))
        store_of(serving).append([Event(f"{name}{n}", f"rush{n}", "item5", CUT + DAY + 60, "view") for n in range(10)])
    serving.count_on()
    assert users_of(serving, "item5") == before + 10


def has(log: EventLog, user: int, item: str) -> bool:
    row = int(log.catalog.items.rows([item])[0])
    return row in log.histories.part(slice(user, user + 1)).items


def test_the_time_goes_on_as_far_as_events_carry_it(serving: Serving, clock: Clock) -> None:
    """A server that is started years later, and told of one event, does not forget what was popular."""
    ranker = serving.engine.ranker
    assert ranker.touches is not None
    clock.now = CUT + 3000 * DAY
    store_of(serving).append(rush(1, "item5", clock.now))
    serving.count_on()
    assert serving.engine.ranker.last_time - ranker.last_time <= 10 * ranker.touches.pace
    np.testing.assert_array_equal(serving.engine.ranker.users_of_item, ranker.users_of_item)


def test_a_clock_that_goes_back_changes_nothing(serving: Serving, clock: Clock) -> None:
    clock.now = CUT + 5 * DAY
    store_of(serving).append(rush(60, "item5", CUT + DAY))
    serving.count_on()
    there = serving.engine.ranker
    clock.now = CUT - 100 * DAY
    serving.count_on()
    assert serving.engine.ranker is there
    clock.now = CUT + 5 * DAY
    store_of(serving).append(rush(1, "item5", CUT + 3600, name="late"))
    serving.count_on()
    assert serving.engine.ranker.last_time == there.last_time == CUT + DAY
    assert users_of(serving, "item5") == int(there.users_of_item.max()) + 1


def test_unknown_items_and_kinds_do_not_count(serving: Serving, clock: Clock) -> None:
    clock.now = CUT + 5 * DAY
    before = serving.engine.ranker.users_of_item.sum()
    store_of(serving).append(
        [Event("1", "ann", "nonsense", CUT + DAY, "view"), Event("2", "ann", "item1", CUT + DAY, "odd")]
    )
    serving.count_on()
    assert serving.engine.ranker.users_of_item.sum() == before


def test_a_pass_reads_what_is_new(serving: Serving, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "_OVERLAP", 3)
    monkeypatch.setattr(live, "_BATCH", 7)
    read: list[int] = []
    before = users_of(serving, "item5")
    store = store_of(serving)
    monkeypatch.setattr(store, "read", lambda work, **options: noted(Store.read(store, work, **options), read))
    clock.now = CUT + 5 * DAY
    for name in ("a", "b", "c", "d"):
        store.append(rush(40, "item5", CUT + DAY, name=name))
        read.clear()
        serving.count_on()
    # Those of this pass, and of the one before, which are read again.
    assert sum(read) <= 80 + 3
    assert users_of(serving, "item5") == before + 160


def noted(found: Any, read: list[int]) -> Any:
    if isinstance(found, list):
        read.append(len(found))
    return found


def test_an_event_that_was_late_in_the_table_is_found(serving: Serving, clock: Clock) -> None:
    """The number of an event is given before it is there for all; and SQLite gives that of a removed row again."""
    clock.now = CUT + 5 * DAY
    before = users_of(serving, "item5")
    store = store_of(serving)
    store.append(rush(5, "item5", CUT + DAY))
    serving.count_on()
    store.remove_event("rush-4")
    store.append(rush(1, "item5", CUT + DAY, name="late"))
    serving.count_on()
    assert users_of(serving, "item5") == before + 6


def test_it_goes_on_with_new_slots_and_begins_again_with_another_model(serving: Serving, clock: Clock) -> None:
    clock.now = CUT + 5 * DAY
    before = users_of(serving, "item5")
    store_of(serving).append(rush(20, "item5", CUT + DAY))
    serving.count_on()
    serving.put_slots(SLOTS.replace("shown = 3", "shown = 2"))
    assert users_of(serving, "item5") == before + 20
    serving.swap("recent-popularity")
    assert users_of(serving, "item5") == before
    serving.count_on()
    assert users_of(serving, "item5") == before + 20
    serving.swap("popularity")  # has no clock
    serving.count_on()
    assert users_of(serving, "item5") == before


def test_it_can_be_switched_off(models: Path, tmp_path: Path, clock: Clock) -> None:
    one = worker(models / "mixed", tmp_path, clock, live_popularity=False)
    clock.now = CUT + 5 * DAY
    before = users_of(one, "item5")
    store_of(one).append(rush(20, "item5", CUT + DAY))
    one.count_on()
    assert users_of(one, "item5") == before
    one.close()


def test_new_items_keep_what_was_taken_for_granted_until_somebody_comes(serving: Serving, clock: Clock) -> None:
    named = [NewItem(item_id=f"new{n}", attributes={"title": "New", "department": "BOOKS"}) for n in range(2)]
    serving.add_items(_told(serving.engine, named))
    taken = serving.engine.ranker
    clock.now = CUT + 5 * DAY
    store_of(serving).append([*rush(20, "new0", CUT + DAY, name="a"), *rush(30, "item5", CUT + DAY, name="b")])
    serving.count_on()
    ranker = serving.engine.ranker
    assert isinstance(ranker, MixedRanker) and isinstance(taken, MixedRanker)
    assert ranker.stage is not None and taken.stage is not None
    first, second = ranker.items.rows(["new0", "new1"])
    assert users_of(serving, "new0") == 20
    ours, theirs = ranker.stage.snapshot.items.values, taken.stage.snapshot.items.values
    np.testing.assert_array_equal(ours[second], theirs[second])
    assert (ours[first] != theirs[first]).any()
    assert ranker.cold_start_scores()[first] > ranker.cold_start_scores()[second]
    history = ranker.histories_of([["item1", "item2"]])
    assert np.isfinite(ranker.score_catalogue(history)).all()


def test_what_is_said_of_items_and_what_is_counted_do_not_undo_each_other(serving: Serving, clock: Clock) -> None:
    def title() -> Any:
        return serving.engine.attributes(serving.engine.rows(["item5"]))[0]["title"]

    before = users_of(serving, "item5")
    serving.add_items(_told(serving.engine, [NewItem(item_id="item5", attributes={"title": "Said first"})]))
    clock.now = CUT + 5 * DAY
    store_of(serving).append(rush(20, "item5", CUT + DAY))
    serving.count_on()
    assert users_of(serving, "item5") == before + 20 and title() == "Said first"
    serving.add_items(_told(serving.engine, [NewItem(item_id="item5", attributes={"title": "Said later"})]))
    assert users_of(serving, "item5") == before + 20 and title() == "Said later"
    store_of(serving).append(rush(10, "item5", CUT + 2 * DAY, name="again"))
    serving.count_on()
    assert users_of(serving, "item5") == before + 30 and title() == "Said later"
    assert serving.engine.eligibility.mask("title = 'Said later' AND users > 0").sum() == 1


def test_the_application_counts_by_itself(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("heedful.serving.models._COUNT_SECONDS", 0.0)
    with_past(tmp_path)
    with client(models / "mixed", tmp_path) as shop:
        serving = shop.app.state.serving  # type: ignore[attr-defined]
        before = users_of(serving, "item5")
        carry = new_events(whole(), fitted("mixed").last_time)
        serving.engine.store.append([*carry, *rush(30, "item5", CUT + DAY)])
        wait_for(lambda: users_of(serving, "item5") >= before + 30, "the events are not counted")


def test_all_workers_count(models: Path, tmp_path: Path) -> None:
    with_past(tmp_path)
    store = Store.open(str(tmp_path / "shop.sqlite"))
    new = new_events(whole(), fitted("recent-popularity").last_time)
    store.append([*new, *rush(90, "item5", int(whole().histories.times.max()) - 60)])
    store.close()
    with served(models / "recent-popularity", tmp_path, "--workers", "2") as server:
        best = lambda: server.ask("POST", "/recommend", {"k": 1})[1]["items"][0]["item_id"]  # noqa: E731
        wait_for(lambda: all(best() == "item5" for _ in range(20)), "not all workers rank by what is popular now")
