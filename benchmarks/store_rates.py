"""How quickly the store takes events in, finds a history, and what it costs that each commit is forced to the disk.

    python benchmarks/store_rates.py shop.sqlite --events 1000000 --batch 10000
    python benchmarks/store_rates.py postgresql://me@localhost/empty

The database has to be new. Prints events a second on the clock and by this process's own time (on a busy machine they differ
much), for event ids that rise and for random ones, which touch a page of the index each; then the median and 99th percentile
of reading a user's latest 1000 actions and of appending one event, and the latter without forcing (SQLite alone).
"""

from __future__ import annotations

import argparse
import random
import time
import uuid
from collections.abc import Callable

import numpy as np

from heedful.serving.store import Event, Store

USERS, ITEMS = 50_000, 70_000


def batches(randoms: random.Random, n: int, batch: int, name: Callable[[int], str]):
    for start in range(0, n, batch):
        yield [
            Event(name(i), f"user-{randoms.randrange(USERS)}", str(randoms.randrange(ITEMS)), 1_600_000_000 + i, "purchase")
            for i in range(start, min(start + batch, n))
        ]


def ingest(store: Store, title: str, new) -> None:
    accepted, clock, own = 0, 0.0, 0.0
    for events in new:
        began, used = time.perf_counter(), time.process_time()
        accepted += store.append(events).accepted
        clock, own = clock + time.perf_counter() - began, own + time.process_time() - used
    print(
        f"{title}: {accepted:,} events, {accepted / clock:,.0f} a second, {accepted / own:,.0f} a second of own time",
        flush=True,
    )


def latency(title: str, calls: list[Callable[[], object]]) -> None:
    taken = []
    for call in calls:
        began = time.perf_counter()
        call()
        taken.append(time.perf_counter() - began)
    median, high = np.percentile(taken, [50, 99]) * 1000
    print(f"{title}: median {median:.2f} ms, 99 % within {high:.2f} ms", flush=True)


def appends(store: Store, name: str, n: int) -> list[Callable[[], object]]:
    return [lambda i=i: store.append([Event(f"{name}-{i}", "somebody", "1", i, "view")]) for i in range(n)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("database")
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--batch", type=int, default=10_000)
    options = parser.parse_args()
    store, randoms = Store.open(options.database), random.Random(0)
    if store.stats()["events"]:
        parser.error("this database has events already; give a new one")
    half = options.events // 2
    ingest(store, "rising event ids", batches(randoms, half, options.batch, lambda i: f"order-{i}"))
    random_id = lambda _: str(uuid.UUID(int=randoms.getrandbits(128)))  # noqa: E731
    ingest(store, "random event ids", batches(randoms, options.events - half, options.batch, random_id))
    users = [f"user-{randoms.randrange(USERS)}" for _ in range(1000)]
    latency("a history", [lambda user=user: store.history(user, 1000) for user in users])
    latency("one event", appends(store, "forced", 500))
    store.close()
    if "://" not in options.database:
        import heedful.serving.database as database

        database._SQLITE_SETTINGS = ("synchronous = NORMAL", *database._SQLITE_SETTINGS[1:])
        store = Store.open(options.database)
        latency("one event, not forced to the disk", appends(store, "not forced", 500))
        store.close()


if __name__ == "__main__":
    main()
