"""Processor time of a report of clicks, from running sums and from all impressions, and of showing and clicking.

    python benchmarks/click_report.py --impressions 10000000 --folder /tmp/clicks

Makes a SQLite file with that many impressions of users who see ten each on average, in four slots with four treatments, and
counts them as an upgrade of older tables does. Then reports, deletes users, removes a tenth of the impressions by age and
reports again; `--check` compares with a report that reads all impressions, which takes minutes at ten million.
"""

from __future__ import annotations

import argparse
import json
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from sqlalchemy import delete

from heedful.serving.clicks import report, report_counts
from heedful.serving.store import Click, Impression, Store
from heedful.serving.tables import click_counts, user_counts, visitors
from heedful.serving.upgrades import count_all

TREATMENTS = {"attention": 0.4, "popularity": 0.2, "last_item": 0.2, "editorial": 0.2}
SLOTS = ("produce", "grocery", "butcher", "drugstore")
PART = 500_000
SECONDS = 90 * 86_400


@contextmanager
def timed(what: str) -> Iterator[None]:
    begun, own = time.perf_counter(), time.process_time()
    yield
    print(f"{what:58s} {time.perf_counter() - begun:9.3f} s, of own time {time.process_time() - own:9.3f} s", flush=True)


def fill(place: Path, n: int, randoms: np.random.Generator) -> None:
    """Impressions and clicks by SQL: users come back a geometric number of times, each with a rate of their own."""
    store = Store.open(str(place))
    first = [Impression(f"first-{slot}", slot, "attention", "first", ("1",), 0, "v1", slot, TREATMENTS) for slot in SLOTS]
    store.add_impressions(first)
    rates = randoms.beta(1, 1, n // 10)
    with sqlite3.connect(place) as connection:
        experiments = dict(connection.execute("select slot, id from heedful_experiments").fetchall())
        connection.execute("pragma synchronous = off")
        for start in range(0, n, PART):
            size = min(PART, n - start)
            user, slot = randoms.integers(0, n // 10, size), randoms.integers(0, len(SLOTS), size)
            when = np.sort(randoms.integers(0, SECONDS, size))
            new = rows(start, zip(user.tolist(), slot.tolist(), when.tolist(), strict=True), experiments)
            connection.executemany(f"insert into heedful_impressions values ({', '.join('?' * 12)})", new)
            clicked = start + len(SLOTS) + 1 + np.flatnonzero(randoms.random(size) < 0.1 * rates[user])
            clicks = ((row, f"c{row}") for row in clicked.tolist())
            connection.executemany("insert into heedful_clicks values (?, '2', ?, 0, 0)", clicks)
            connection.commit()
    store.close()


def rows(start: int, visits: Iterator[tuple[int, int, int]], experiments: dict[str, int]) -> Iterator[tuple[object, ...]]:
    treatments = list(TREATMENTS)
    for number, (user, slot, when) in enumerate(visits, start + len(SLOTS) + 1):
        name, treatment = SLOTS[slot], treatments[(user * 7919 + slot) % 10 % len(treatments)]
        what = (f"{number:032x}", name, treatment, f"user-{user}", '["1", "2", "3", "4", "5", "6", "7", "8"]', 8)
        yield (number, *what, when, when, "v1", name, experiments[name])


def count(place: Path) -> None:
    store = Store.open(str(place))

    def work(connection: object) -> None:
        for table in (visitors, user_counts, click_counts):
            connection.execute(delete(table))  # type: ignore[attr-defined]
        count_all(connection)  # type: ignore[arg-type]

    store._database.write(work)
    store.close()


def told(store: Store) -> str:
    return json.dumps(report_counts(store.click_counts()).to_dict())


def visit(store: Store, n: int) -> None:
    """One impression after the other: filled, shown, clicked."""
    for number in range(n):
        name = f"live-{number}"
        store.add_impression(
            Impression(name, "produce", "attention", name, ("1", "2"), SECONDS, "v1", "produce", TREATMENTS)
        )
        store.mark_shown(name, SECONDS)
        store.add_click(Click(name, name, "2", SECONDS))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--impressions", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--check", action="store_true", help="compare with a report that reads all impressions")
    options = parser.parse_args()
    place = options.folder / "clicks.sqlite"
    randoms = np.random.default_rng(1)
    with timed(f"{options.impressions:,} impressions made"):
        fill(place, options.impressions, randoms)
    with timed("all counted, as in an upgrade"):
        count(place)
    store = Store.open(str(place))
    with timed("the first report"):
        told(store)
    with timed("20 reports"):
        for _ in range(20):
            told(store)
    with timed("500 impressions filled, shown and clicked"):
        visit(store, 500)
    with timed("100 users deleted"):
        for user in range(100):
            store.delete_user(f"user-{user}")
    with timed("a tenth removed by age"):
        print(f"{store.remove_impressions(SECONDS // 10):,} impressions removed")
    with timed("a report after that"):
        told(store)
    if options.check:
        with timed("a report that reads all impressions"):
            whole = json.dumps(report(store.outcomes()).to_dict())
        print(
            "the same but for times of what was removed:",
            json.loads(whole)["set_aside"] == json.loads(told(store))["set_aside"],
        )
    store.close()


if __name__ == "__main__":
    main()
