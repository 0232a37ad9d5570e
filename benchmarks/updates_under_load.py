"""Nightly updates while a server is under load: does a request fail, is an event lost, how soon is a version in service?

    python benchmarks/updates_under_load.py --out updates.json
    python benchmarks/updates_under_load.py --updates 10 --rate 50 --workers 2

A synthetic shop is served from `shop/current/model`. Rankings and events go out at times that are set beforehand (an open
loop), half of each, while `heedful update` takes the events out of the server's database again and again; the last change is
`heedful rollback`. Then the traffic ends, one more update runs, and every event that was accepted must be in its sequences.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
from serving_load import Connection, milliseconds, start

from heedful.events.log import EventLog
from heedful.events.synthetic import SyntheticConfig, synthesize
from heedful.updating.shop import Shop

SETTINGS = """
[embed]
width = 16
epochs = 5
threads = 1
[train]
steps = 100
hidden = 16
"""


def heedful(*arguments: object) -> str:
    command = [sys.executable, "-m", "heedful", "--quiet", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: {done.stderr}")
    return done.stdout


class Traffic:
    """Rankings and events for as long as the updates take."""

    def __init__(self, port: int, log: EventLog, rate: float) -> None:
        self.port, self.rate = port, rate
        self.items, self.users = log.catalog.items.ids.to_pylist(), log.users.ids.to_pylist()
        self.stop = threading.Event()
        self.latencies: list[float] = []
        self.failures: list[str] = []
        self.accepted: set[tuple[str, str, int]] = set()

    def run(self) -> None:
        asyncio.run(self._run())

    async def _run(self) -> None:
        randoms, idle, begun = np.random.default_rng(1), list[Connection](), time.perf_counter()
        tasks, number = set(), 0
        while not self.stop.is_set():
            await asyncio.sleep(max(begun + number / self.rate - time.perf_counter(), 0))
            user, item = str(randoms.choice(self.users)), str(randoms.choice(self.items))
            task = asyncio.create_task(self._one(idle, number, user, item))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            number += 1
        await asyncio.gather(*tasks)
        for connection in idle:
            connection.close()

    async def _one(self, idle: list[Connection], number: int, user: str, item: str) -> None:
        now = int(time.time())
        event = {"event_id": f"load-{number}", "user_id": user, "item_id": item, "timestamp": now, "event": "view"}
        ranks = number % 2 == 0
        body = {"user_id": user, "k": 10} if ranks else {"events": [event]}
        begun = time.perf_counter()
        connection = idle.pop() if idle else Connection(self.port)
        try:
            status, answer = await connection.post("/recommend" if ranks else "/events", json.dumps(body).encode())
        except (OSError, asyncio.IncompleteReadError) as error:
            self.failures.append(repr(error))
            return
        self.latencies.append(time.perf_counter() - begun)
        idle.append(connection)
        if status != 200:
            self.failures.append(f"{status} {answer[:200]!r}")
        elif not ranks:
            self.accepted.add((user, item, now))


def served(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/model", timeout=10) as answer:
        return str(json.load(answer)["version"])


def seconds_until_served(port: int, before: str) -> float:
    begun = time.monotonic()
    while served(port) == before:
        if time.monotonic() - begun > 60:
            raise SystemExit("the server does not follow")
        time.sleep(0.05)
    return time.monotonic() - begun


def lost(shop: Path, accepted: set[tuple[str, str, int]]) -> int:
    """Events that were accepted and are not in the sequences of the version in service."""
    log = EventLog.load(shop / "current" / "sequences")
    owner = np.repeat(np.arange(len(log.users)), log.histories.lengths)
    users = [str(user) for user in log.users.take(owner).to_pylist()]
    items = [str(item) for item in log.catalog.items.take(log.histories.items).to_pylist()]
    return len(accepted - set(zip(users, items, log.histories.times.tolist(), strict=True)))


def measured(folder: Path, chosen: argparse.Namespace) -> dict[str, Any]:
    now = int(time.time())
    synthesize(folder / "log", config=SyntheticConfig(
        users=chosen.users, items=500, categories=10, styles=4, days=30, start=now - 31 * 86400))  # fmt: skip
    (folder / "settings.toml").write_text(SETTINGS)
    shop, source = folder / "shop", f"sqlite:///{folder}/load.sqlite?table=heedful_events"
    update = ["update", shop, "--config", folder / "settings.toml", "--model", "attention", "--accept-feed"]
    update += ["--keep", chosen.updates + 5]
    heedful(*update, "--events", folder / "log" / "events", "--items", folder / "log" / "items.parquet")
    process, port = start(
        str(shop / "current" / "model"), folder, str(shop / "current" / "sequences"), ["--workers", str(chosen.workers)]
    )
    traffic = Traffic(port, EventLog.load(shop / "current" / "sequences"), chosen.rate)
    thread = threading.Thread(target=traffic.run)
    thread.start()
    delays, updates = [], []
    try:
        for number in range(chosen.updates + 1):
            before, begun = served(port), time.monotonic()
            heedful(*update, "--events", source) if number < chosen.updates else heedful("rollback", shop)
            updates.append(time.monotonic() - begun)
            delays.append(seconds_until_served(port, before))
            print(json.dumps({"change": number + 1, "seconds": updates[-1], "followed_after": delays[-1]}), flush=True)
    finally:
        traffic.stop.set()
        thread.join()
    heedful(*update, "--events", source)
    process.send_signal(signal.SIGTERM)
    process.wait(60)
    return {
        "updates": chosen.updates,
        "rollbacks": 1,
        "rate": chosen.rate,
        "workers": chosen.workers,
        "requests": len(traffic.latencies),
        "failed": len(traffic.failures),
        "failures": traffic.failures[:5],
        "events_accepted": len(traffic.accepted),
        "events_lost": lost(shop, traffic.accepted),
        "followed_after_at_most": round(max(delays), 2),
        "update_seconds": round(float(np.median(updates[:-1])), 1),
        "outcomes": [version.facts["outcome"] for version in Shop(shop).versions()],
        "cores": len(os.sched_getaffinity(0)),
        **milliseconds(traffic.latencies),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--updates", type=int, default=10)
    parser.add_argument("--rate", type=float, default=50.0, help="requests a second, half of them rankings")
    parser.add_argument("--users", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=2, help="of the server")
    parser.add_argument("--out", default=None, help="JSON of the results")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        results = measured(Path(name), chosen)
    print(json.dumps(results, indent=1))
    if chosen.out:
        Path(chosen.out).write_text(json.dumps(results, indent=1) + "\n")
    if results["failed"] or results["events_lost"]:
        raise SystemExit("a request failed or an event was lost")


if __name__ == "__main__":
    main()
