"""The replay of the days after the cut, against a slow replay written out, and the command."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from heedful.cli import cli
from heedful.errors import ConfigError, InputError
from heedful.events.histories import Histories
from heedful.events.log import EventLog
from heedful.rankers.base import Ranker
from heedful.rankers.heuristics import LastItem
from heedful.serving.clicks import report
from heedful.serving.selection import SlotBook
from heedful.serving.simulator import Simulation, SimulationConfig, simulate
from heedful.serving.slots import Slot, Slots, write_slots
from heedful.serving.store import Store
from ranking_worlds import DAY, START, log_of, random_log, table_of

CUT = START // DAY * DAY + 90 * DAY
SHARES = {"last_item": 0.5, "popularity": 0.5}
SLOTS = Slots(
    (
        Slot(name="top", treatments=SHARES, shown=6, max_candidates=20),
        Slot(name="again", treatments=SHARES, shown=4, max_candidates=15, exclude_history=False, where="users > 2"),
    )
)


def trained(log: EventLog) -> Ranker:
    past, _ = log.split(CUT)
    return LastItem().fit(past, table_of(past.catalog.items.ids))


@pytest.fixture
def store(tmp_path: Path) -> Any:
    store = Store.open(str(tmp_path / "shop.sqlite"))
    yield store
    store.close()


def replayed_slowly(log: EventLog, book: SlotBook, days: int, window: int) -> tuple[set[tuple[Any, ...]], int]:
    """Every impression with its clicks, user by user and day by day."""
    seen, visits = set(), 0
    rows = book.ranker.items.rows(log.catalog.items.ids)
    for user in range(len(log.users)):
        own = log.histories.take(np.array([user]))
        name = log.users.ids[user].as_py()
        for day in range(CUT // DAY, CUT // DAY + days):
            today = [place for place, time in enumerate(own.times) if time // DAY == day]
            if not today:
                continue
            visits += 1
            past = [place for place in range(today[0]) if rows[own.items[place]] >= 0]
            history = Histories(
                np.array([0, len(past)]), rows[own.items[past]].astype(np.int32), own.times[past], own.kinds[past]
            )
            later = {
                rows[item]
                for item, time in zip(own.items[today[0] :], own.times[today[0] :], strict=True)
                if time < (day + window) * DAY
            }
            for slot in book.slots:
                treatment = book.treatment(slot.name, name)
                chosen = book.select(slot.name, history, treatment).rows
                clicks = len(later & set(chosen.tolist()))
                if len(chosen):
                    seen.add((slot.name, treatment, name, int(own.times[today[0]]), len(chosen), clicks))
    return seen, visits


@pytest.mark.parametrize(("days", "window"), [(7, 1), (3, 4)])
def test_as_a_slow_replay(store: Store, days: int, window: int) -> None:
    log = random_log(users=150, events=60)
    book = SlotBook(SLOTS, trained(log))
    done = simulate(log, book, store, SimulationConfig(cut=str(CUT), days=days, window_days=window))
    expected, visits = replayed_slowly(log, book, days, window)
    found = store.outcomes()
    columns = ("slot", "treatment", "user_id", "time", "items_shown", "clicks")
    assert {tuple(row[name] for name in columns) for row in found.to_pylist()} == expected
    assert len(expected) == found.num_rows == done.impressions and done.visits == visits
    assert done.clicks == sum(row[-1] for row in expected) > 20
    assert done.users == len({row[2] for row in expected})
    assert set(found["model"].to_pylist()) == {"simulated:last-item"} and set(found["salt"].to_pylist()) == {"top", "again"}
    figures = report(found)
    assert figures.simulated and [slot.slot for slot in figures.slots] == ["again", "top"]


def test_a_second_replay_adds_nothing(store: Store) -> None:
    log = random_log(users=80, events=40)
    book = SlotBook(SLOTS, trained(log))
    first = simulate(log, book, store, SimulationConfig(cut=str(CUT)))
    before = store.outcomes()
    assert simulate(log, book, store, SimulationConfig(cut=str(CUT))) == first
    assert store.outcomes().equals(before.set_column(7, "repeated_clicks", store.outcomes()["repeated_clicks"]))
    assert report(store.outcomes()).set_aside["repeated_clicks"] == 0


def test_the_history_ends_where_the_visit_begins(store: Store) -> None:
    """Last item recommends by the latest action before the visit: never by one of the same basket or later."""
    morning = CUT + 3600
    times = [[CUT - 2 * DAY, CUT - DAY, morning, morning, morning + 60, morning + DAY]]
    others = [list(range(6))] * 3
    early = [[CUT - 9 * DAY + n for n in range(6)]] * 3
    log = log_of([[0, 1, 2, 3, 4, 5], *others], [*times, *early])
    ranker = trained(log)
    seen: list[list[int]] = []

    class Watched(SlotBook):
        def select_many(self, name: str, histories: Histories, treatment: str) -> Any:
            seen.extend(histories.part(slice(b, b + 1)).items.tolist() for b in range(len(histories)))
            return super().select_many(name, histories, treatment)

    book = Watched(Slots((Slot(name="s", treatments={"last_item": 1.0}, shown=4, max_candidates=6),)), ranker)
    done = simulate(log, book, store, SimulationConfig(cut=str(CUT)))
    past = ranker.items.rows([f"item{n}" for n in range(6)]).tolist()
    assert seen == [past[:2], past[:5]] and (done.visits, done.users) == (2, 1)
    clicks = store.outcomes().sort_by("time")["clicks"].to_pylist()
    assert clicks == [3, 1]  # items 2, 3 and 4 on the first day, and 5, the only one left, on the second


def test_users_and_items_that_training_lacks(store: Store) -> None:
    """A newcomer has no history and is still shown something; an item that nobody knew can be neither shown nor clicked."""
    sequences = [[0, 1, 2], [2, 1, 0], [3, 0]]
    times = [[CUT - 9, CUT - 8, CUT + 5], [CUT - 9, CUT - 8, CUT - 7], [CUT + 5, CUT + 6]]
    log = log_of(sequences, times)
    book = SlotBook(Slots((Slot(name="s", treatments={"popularity": 1.0}, shown=3, exclude_history=False),)), trained(log))
    assert simulate(log, book, store, SimulationConfig(cut=str(CUT))) == Simulation(
        visits=2, users=2, impressions=2, clicks=2
    )
    shown = {row["user_id"]: (row["items_shown"], row["clicks"]) for row in store.outcomes().to_pylist()}
    assert shown == {"u0": (3, 1), "u2": (3, 1)}


def test_what_is_refused(store: Store) -> None:
    log = random_log()
    seen_all = SlotBook(SLOTS, LastItem().fit(log, table_of(log.catalog.items.ids)))
    with pytest.raises(
        InputError, match=r"the model has seen the days to be replayed; got: training events up to 2017-\d\d-\d\d"
    ):
        simulate(log, seen_all, store, SimulationConfig(cut=str(CUT)))
    with pytest.raises(InputError, match="there is nothing to replay; got: no action in the 7 days from 2018-"):
        simulate(log, seen_all, store, SimulationConfig(cut="2018-06-01"))
    for wrong in ({"cut": ""}, {"cut": "2017-01-01", "days": 0}, {"cut": "2017-01-01", "window_days": 400}):
        with pytest.raises(ConfigError, match=f"option '{list(wrong)[-1]}' is out of range"):
            SimulationConfig(**wrong)
    with pytest.raises(ConfigError, match="not a point in time"):
        SimulationConfig(cut="soon")


def test_the_commands(tmp_path: Path) -> None:
    log = random_log(users=80, events=40)
    log.save(tmp_path / "sequences")
    trained(log).save(tmp_path / "model")
    write_slots(SLOTS, tmp_path / "slots.toml")
    run = CliRunner().invoke
    place = ["--slots", tmp_path / "slots.toml", "--database", tmp_path / "shop.sqlite", "--cut", CUT, "--days", "5"]
    arguments = [
        "--quiet",
        "clicks",
        "simulate",
        tmp_path / "model",
        tmp_path / "sequences",
        *place,
        "--figure",
        tmp_path / "five.svg",
    ]
    done = run(cli, [str(one) for one in arguments], catch_exceptions=False)
    assert done.exit_code == 0 and "impressions" in done.stdout.splitlines()[0]
    assert "Simulated: nobody saw these slots." in done.stdout and "last_item against popularity" in done.stdout
    assert (tmp_path / "five.svg").read_text().startswith("<?xml")
    arguments = [
        "clicks",
        "report",
        tmp_path / "shop.sqlite",
        "--slot",
        "top",
        "--json",
        tmp_path / "r.json",
        "--reference",
        "last_item",
    ]
    told = run(cli, [str(one) for one in arguments], catch_exceptions=False)
    assert told.exit_code == 0 and "popularity against last_item" in told.stdout and "\nagain\n" not in told.stdout
    assert '"slot": "top"' in (tmp_path / "r.json").read_text()
    with pytest.raises(ConfigError):
        run(cli, ["--quiet", "clicks", "report", str(tmp_path / "none.sqlite")], catch_exceptions=False)
