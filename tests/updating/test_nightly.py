"""`update`: a shop that learns each night, refuses what is unusual, and goes on after a kill."""

from __future__ import annotations

import json
import re
import shutil
import signal
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from updating_worlds import DAY, START, config, day_of, days, feed_folder, settings_file, update_until

from forked import Forked
from heedful.errors import ConfigError, RefusedError
from heedful.events.log import EventLog
from heedful.folders import open_folder
from heedful.rankers.registry import load_ranker
from heedful.updating import nightly
from heedful.updating.choosing import SERVED
from heedful.updating.nightly import update
from heedful.updating.shop import Shop, Version
from ranking_worlds import heedful


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shop with its first version, made of eight days."""
    folder = tmp_path_factory.mktemp("first")
    run(folder, days(0, 8))
    return folder


@pytest.fixture
def shop(first: Path, tmp_path: Path) -> Path:
    """A shop of its own for each test, with that version."""
    shutil.copytree(first, tmp_path, symlinks=True, dirs_exist_ok=True)
    return tmp_path


def run(folder: Path, source: Any, *, accept_feed: bool = False, **options: Any) -> Version:
    return update(folder / "shop", source, config=config(**options), settings=settings_file(folder), accept_feed=accept_feed)


def content(version: Version) -> dict[str, str]:
    kinds = {"sequences": "sequences", "embeddings": "embeddings", "model": "model"}
    return {name: open_folder(version.path / name, kind=kind).content_hash for name, kind in kinds.items()}


def last_update(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "shop" / "last_update.json").read_text())


def test_the_first_version_is_served(shop: Path) -> None:
    version = Shop(shop / "shop").current()
    assert version is not None and version.number == 1
    assert version.facts["outcome"] == "first"
    assert load_ranker(shop / "shop" / "current" / "model").name == "attention"
    assert not (shop / "shop" / ".next").exists()


def test_a_night_takes_what_is_new_and_says_what_it_compared(shop: Path) -> None:
    before = Shop(shop / "shop").current()
    assert before is not None
    version = run(shop, days(0, 9))
    assert version.number == 2 and Shop(shop / "shop").current() == version
    log = EventLog.load(version.sequences)
    assert log.n_events == 9 * 200
    assert version.facts["feed"]["events"] == 200 and version.facts["feed"]["known"] == 8 * 200
    assert version.facts["outcome"] in ("new", "refreshed")
    assert set(version.facts["comparison"]["ndcg"]) == {"new", "refreshed", "served"}
    assert version.facts["base"] == 1 and version.facts["from"] == before.facts["made"]
    assert version.facts["made"] == content(version)
    ranker = load_ranker(version.model)
    assert ranker.items.rows(["new of day 8"])[0] >= 0
    assert ranker.last_time == int(log.histories.times.max())
    assert last_update(shop)["version"] == 2
    # Yesterday's items keep their rows and, about, their vectors.
    old, new = (load_ranker(one.model).embeddings for one in (before, version))
    assert old is not None and new is not None
    assert new.items.ids.slice(0, len(old)).equals(old.items.ids)


def test_the_version_before_may_be_removed(shop: Path) -> None:
    for last in (9, 10, 11):
        run(shop, days(last - 1, last), keep=2)
    found = Shop(shop / "shop").versions()
    assert [version.number for version in found] == [3, 4]
    assert load_ranker(found[-1].model).embeddings is not None


def test_the_same_events_again_are_an_empty_feed(shop: Path) -> None:
    with pytest.raises(RefusedError, match="the feed is empty: no new event, 1,600 that were known"):
        run(shop, days(0, 8))
    with pytest.raises(RefusedError, match="the feed is empty"):
        run(shop, days(0, 8), accept_feed=True)
    assert last_update(shop)["outcome"] == "refused"
    current = Shop(shop / "shop").current()
    assert current is not None and current.number == 1


def bot() -> pa.Table:
    n = 150
    return pa.table({
        "user_id": ["crawler"] * n, "item_id": [str(k % 40) for k in range(n)],
        "timestamp": START + 8 * DAY + 60 * np.arange(n), "event": ["view"] * n,
    })  # fmt: skip


@pytest.mark.parametrize(
    ("feed", "reason"),
    [
        (lambda: pa.concat_tables([day_of(8)] * 10), "of the new events are copies of others"),
        (lambda: pa.concat_tables([day_of(8), bot()]), "user 'crawler' has 1.. events a day, as a bot would"),
        (lambda: day_of(8, events=1000), "9.. events a day; at most 2"),
        (lambda: day_of(8, events=30), "(30|2.) events a day; at least 1"),
        (lambda: day_of(20_000), "events of the future"),
    ],
)
def test_an_unusual_feed_is_refused_unless_it_is_accepted(shop: Path, feed: Any, reason: str) -> None:
    with pytest.raises(RefusedError, match=reason):
        run(shop, feed())
    current = Shop(shop / "shop").current()
    assert current is not None and current.number == 1
    assert re.search(reason, last_update(shop)["reason"])
    if "future" not in reason:
        assert run(shop, feed(), accept_feed=True).number == 2


def test_a_worse_model_is_refused_and_the_served_one_stays(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measure = nightly.Trial.measure

    def worse(self: Any, models: Any) -> Any:
        values = measure(self, models)
        return {name: value if name == SERVED else np.zeros_like(value) for name, value in values.items()}

    monkeypatch.setattr(nightly.Trial, "measure", worse)
    with pytest.raises(RefusedError, match=r"no model is good enough .* worse by more than 90 %"):
        run(shop, day_of(8))
    current = Shop(shop / "shop").current()
    assert current is not None and current.number == 1
    monkeypatch.undo()
    # The next night takes both days.
    assert run(shop, days(8, 10)).facts["feed"]["events"] == 400


def test_few_users_renew_the_counts_alone(shop: Path) -> None:
    version = run(shop, day_of(8), fewest_test_users=1000)
    assert version.facts["outcome"] == "refreshed"
    ranker, before = load_ranker(version.model), load_ranker(shop / "shop" / "versions" / "0001" / "model")
    assert ranker.last_time > before.last_time
    assert ranker.embeddings is not None and before.embeddings is not None
    assert ranker.embeddings.extends(before.embeddings.content_hash, len(before.items))
    # And the next night goes on from it.
    assert run(shop, day_of(9)).facts["outcome"] in ("new", "refreshed")


def test_files_that_were_read_are_not_read_again(shop: Path) -> None:
    folder = feed_folder(shop / "feed", 9)
    assert run(shop, str(folder)).facts["feed"]["known"] == 1600
    feed_folder(folder, 10)
    version = run(shop, str(folder))
    assert (version.facts["feed"]["events"], version.facts["feed"]["known"]) == (200, 0)


def write_store(path: Path, table: pa.Table) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute(
            "CREATE TABLE IF NOT EXISTS heedful_events (id INTEGER PRIMARY KEY, event_id TEXT, user_id TEXT, item_id TEXT, "
            "time BIGINT, kind TEXT)"
        )
        rows = [(row["user_id"], row["item_id"], row["timestamp"], row["event"]) for row in table.to_pylist()]
        connection.executemany("INSERT INTO heedful_events (user_id, item_id, time, kind) VALUES (?, ?, ?, ?)", rows)
    connection.close()


def test_of_the_servers_table_only_new_rows_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("heedful.updating.feed._OVERLAP", 10)
    place = tmp_path / "shop.sqlite"
    source = f"sqlite:///{place}?table=heedful_events"
    write_store(place, days(0, 8))
    run(tmp_path, source)
    write_store(place, day_of(8))
    version = run(tmp_path, source)
    assert (version.facts["feed"]["events"], version.facts["feed"]["known"]) == (200, 10)
    with pytest.raises(RefusedError, match="the feed is empty"):
        run(tmp_path, source)


def test_two_updates_do_not_overlap(shop: Path) -> None:
    with Shop(shop / "shop").locked(), pytest.raises(ConfigError, match="another update"):
        run(shop, day_of(8))


def test_a_version_that_was_rolled_back_meanwhile_is_not_replaced(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(shop, day_of(8))

    def going_back(step: str) -> None:
        if step == "everything":
            Shop(shop / "shop").roll_back()

    monkeypatch.setattr(nightly, "finished", going_back)
    with pytest.raises(RefusedError, match="another version was put into service"):
        run(shop, day_of(9))
    current = Shop(shop / "shop").current()
    assert current is not None and current.number == 1


STEPS = ["feed", "sequences", "trial embeddings", "trial model", "comparison", "embeddings", "model", "everything"]


def killed(folder: Path, step: str) -> int:
    """The exit status of a night of `new.parquet`, in a process that is killed after a step."""
    return Forked(update_until, str(folder), step).wait(120)


@pytest.fixture(scope="module")
def unharmed(first: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What the second night makes when nobody kills it."""
    folder = tmp_path_factory.mktemp("unharmed")
    shutil.copytree(first, folder, symlinks=True, dirs_exist_ok=True)
    pq.write_table(day_of(8), folder / "new.parquet")
    assert killed(folder, "never") == 0
    version = Shop(folder / "shop").current()
    assert version is not None and version.number == 2
    return content(version)


@pytest.mark.parametrize("step", STEPS)
def test_a_killed_night_goes_on_and_ends_the_same(shop: Path, step: str, unharmed: dict[str, str]) -> None:
    pq.write_table(day_of(8), shop / "new.parquet")
    assert killed(shop, step) == -signal.SIGKILL
    current = Shop(shop / "shop").current()
    assert current is not None and current.number == 1
    assert killed(shop, "never") == 0
    version = Shop(shop / "shop").current()
    assert version is not None and version.number == 2
    assert content(version) == unharmed


def test_a_mixed_model_goes_on_night_by_night(tmp_path: Path) -> None:
    run(tmp_path, days(0, 8), model="mixed")
    version = run(tmp_path, day_of(8), model="mixed")
    assert version.facts["outcome"] == "new"
    assert list((version.path / "model.periods").iterdir())
    assert load_ranker(version.model).name == "mixed"


def test_the_commands(tmp_path: Path) -> None:
    settings = settings_file(tmp_path)
    feed = feed_folder(tmp_path / "feed", 8)
    command = ["update", tmp_path / "shop", "--events", feed, "--config", settings, "--model", "attention"]
    done = heedful(*command, "--fewest-test-users", 5, "--harm", 90)
    assert done.returncode == 0, done.stderr
    feed_folder(feed, 9)
    done = heedful(*command, "--fewest-test-users", 5, "--harm", 90)
    assert done.returncode == 0, done.stderr
    refused = heedful(*command, "--fewest-test-users", 5, "--harm", 90)
    assert refused.returncode == 1
    assert "the feed is empty" in refused.stderr
    back = heedful("rollback", tmp_path / "shop")
    assert back.returncode == 0, back.stderr
    assert back.stdout.splitlines()[0].startswith("* 1 ")
    current = Shop(tmp_path / "shop").current()
    assert current is not None and current.number == 1
    # The refused and the rolled-back night come again.
    done = heedful(*command, "--fewest-test-users", 5, "--harm", 90)
    assert done.returncode == 0, done.stderr
    assert [version.number for version in Shop(tmp_path / "shop").versions()] == [1, 2, 3]
