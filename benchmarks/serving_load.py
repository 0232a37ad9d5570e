"""How fast `heedful serve` ranks and takes in events, over loopback, beside the time that scoring alone takes.

    python benchmarks/serving_load.py demo/attention --sequences demo/past --out serving.json
    python benchmarks/serving_load.py demo/attention --sequences demo/past --recommend --rate 30 --seconds 10

Requests go out at moments that are set beforehand (an open loop: a slow answer does not hold up the next request), each to
rank 500 candidates for a user whose history is in the server's database; latency counts from the moment that was set. Then
the same over a few connections without a pause, for the highest throughput. Scoring alone is the same rankings in this
process, without server and database. Then events are sent in batches until there are a million. Every answer is checked.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from heedful.events.candidates import Candidates
from heedful.events.log import EventLog
from heedful.rankers.registry import load_ranker

_HEAD = "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"


class Connection:
    """Just enough HTTP for a load generator that costs little beside the server."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def post(self, path: str, body: bytes) -> tuple[int, bytes]:
        # A server closes what has been idle for long, and any client opens another then.
        if self._streams is None or self._streams[0].at_eof():
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        writer.write(_HEAD.format(method="POST", path=path, length=len(body)).encode() + body)
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(re.search(rb"content-length: (\d+)", head)[1])  # type: ignore[index]
        return int(head[9:12]), await reader.readexactly(length)

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()


def ranking_requests(log: EventLog, n_requests: int, n_candidates: int, seed: int) -> list[tuple[int, np.ndarray, bytes]]:
    """Users, rows of candidates, and the bodies."""
    randoms = np.random.default_rng(seed)
    ids = log.catalog.items.ids.to_pylist()
    users = randoms.integers(len(log.users), size=n_requests)
    names = log.users.take(users).to_pylist()
    requests = []
    for user, name in zip(users, names, strict=True):
        rows = randoms.choice(len(ids), n_candidates, replace=False)
        body = json.dumps({"user_id": str(name), "candidates": [ids[row] for row in rows]}).encode()
        requests.append((int(user), rows, body))
    return requests


def recommend_requests(log: EventLog, n_requests: int, where: str, seed: int) -> list[bytes]:
    """Bodies that ask for the ten best of the catalogue for users of the log."""
    users = np.random.default_rng(seed).integers(len(log.users), size=n_requests)
    condition = {"where": where} if where else {}
    names = log.users.take(users).to_pylist()
    return [json.dumps({"user_id": str(name), "k": 10, **condition}).encode() for name in names]


def processor_seconds(process: subprocess.Popen[bytes]) -> float:
    """Processor time of a server and its workers so far."""
    tree, waiting = [], [process.pid]
    while waiting:
        tree.append(pid := waiting.pop())
        for task in Path(f"/proc/{pid}/task").iterdir():
            waiting.extend(map(int, (task / "children").read_text().split()))
    fields = [Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split() for pid in tree]
    return sum(int(one[11]) + int(one[12]) for one in fields) / os.sysconf("SC_CLK_TCK")


def recommending(port: int, process: subprocess.Popen[bytes], log: EventLog, chosen: argparse.Namespace) -> dict[str, Any]:
    """Latency and processor time of /recommend in some short runs, without and with a condition."""
    results = {}
    for name, where in (("all items", ""), ("where", chosen.where)):
        runs = []
        for run in range(chosen.runs):
            bodies = recommend_requests(log, int(chosen.rate * chosen.seconds), where, seed=run)
            asyncio.run(closed_loop(port, "/recommend", bodies[:20], 1))
            before = processor_seconds(process)
            latencies = asyncio.run(open_loop(port, "/recommend", bodies, chosen.rate, 1))
            spent = (processor_seconds(process) - before) / len(bodies)
            runs.append({**milliseconds(latencies), "processor_ms": round(1000 * spent, 2)})
            print(json.dumps({f"recommend, {name}": runs[-1]}), flush=True)
        results[name] = {key: float(np.median([run[key] for run in runs])) for key in runs[0]}
    return {"rate": chosen.rate, "runs": chosen.runs, "condition": chosen.where, **results}


async def open_loop(port: int, path: str, bodies: list[bytes], rate: float, fewest: int) -> list[float]:
    """Latencies in seconds, from the moment that each request was due."""
    idle: list[Connection] = []
    begun = time.perf_counter()

    async def one(number: int, body: bytes) -> float:
        due = begun + number / rate
        await asyncio.sleep(max(due - time.perf_counter(), 0))
        connection = idle.pop() if idle else Connection(port)
        status, answer = await connection.post(path, body)
        latency = time.perf_counter() - due
        idle.append(connection)
        assert status == 200 and answer.count(b'"score"') >= fewest, (status, answer[:200])
        return latency

    latencies = await asyncio.gather(*(one(number, body) for number, body in enumerate(bodies)))
    for connection in idle:
        connection.close()
    return latencies


async def closed_loop(port: int, path: str, bodies: list[bytes], connections: int) -> float:
    """Seconds until all are answered, over some connections without a pause."""
    waiting = list(reversed(bodies))

    async def client() -> None:
        connection = Connection(port)
        while waiting:
            status, answer = await connection.post(path, waiting.pop())
            assert status == 200, (status, answer[:200])
        connection.close()

    begun = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(connections)))
    return time.perf_counter() - begun


def scoring_alone(model: str, log: EventLog, requests: list[tuple[int, np.ndarray, bytes]], max_history: int) -> list[float]:
    ranker = load_ranker(model)
    known = ranker.items.rows(log.catalog.items.ids)
    seconds = []
    for user, rows, _ in requests:
        history = log.histories.part(slice(user, user + 1))
        latest = history.where(np.arange(len(history.items)) >= len(history.items) - max_history).with_rows(known)
        begun = time.perf_counter()
        ranker.score_rows(latest, Candidates.of([known[rows]]))
        seconds.append(time.perf_counter() - begun)
    return seconds


def event_bodies(log: EventLog, n_events: int, batch: int) -> list[bytes]:
    randoms = np.random.default_rng(7)
    ids = log.catalog.items.ids.to_pylist()
    rows, users = randoms.integers(len(ids), size=n_events), randoms.integers(50_000, size=n_events)
    bodies = []
    for start in range(0, n_events, batch):
        events = [
            {"event_id": f"load-{n}", "user_id": f"load-{users[n]}", "item_id": ids[rows[n]], "timestamp": 1_600_000_000 + n}
            for n in range(start, min(start + batch, n_events))
        ]
        bodies.append(json.dumps({"events": events}).encode())
    return bodies


def milliseconds(seconds: list[float]) -> dict[str, float]:
    p50, p90, p99 = (1000 * float(np.quantile(seconds, q)) for q in (0.5, 0.9, 0.99))
    return {
        "p50_ms": round(p50, 2),
        "p90_ms": round(p90, 2),
        "p99_ms": round(p99, 2),
        "max_ms": round(1000 * max(seconds), 2),
    }


def start(model: str, folder: Path, sequences: str | None, options: list[str]) -> tuple[subprocess.Popen[bytes], int]:
    log = folder / "serve.log"
    histories = ["--histories", sequences] if sequences is not None else []
    command = [sys.executable, "-m", "heedful", "serve", model, "--database", str(folder / "load.sqlite"), "--port", "0",
               *histories, "--rate", "0", "--log-level", "warning", *options]  # fmt: skip
    with log.open("wb") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=stream)
    until = time.monotonic() + 1800
    while time.monotonic() < until and process.poll() is None:
        found = re.search(r'"address": "http://[^"]+:(\d+)"', log.read_text())
        if found:
            return process, int(found[1])
        time.sleep(0.2)
    raise SystemExit(log.read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("model")
    parser.add_argument("--sequences", required=True, help="the log whose histories are served")
    parser.add_argument("--rate", type=float, default=50.0, help="requests a second in the open loop")
    parser.add_argument("--seconds", type=float, default=60.0, help="length of the open loop")
    parser.add_argument("--candidates", type=int, default=500)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--batch", type=int, default=5000, help="events in a request")
    parser.add_argument("--connections", type=int, default=4)
    parser.add_argument("--recommend", action="store_true", help="measure /recommend alone")
    parser.add_argument("--where", default="item_id LIKE '%77'", help="condition of half of its runs")
    parser.add_argument("--runs", type=int, default=5, help="runs of /recommend, of which medians are taken")
    parser.add_argument("--out", default=None, help="JSON of the results")
    parser.add_argument("--serve", default="", help='more options of heedful serve, such as "--workers 2"')
    chosen = parser.parse_args()

    log = EventLog.load(chosen.sequences)
    requests = ranking_requests(log, int(chosen.rate * chosen.seconds), chosen.candidates, seed=1)
    bodies = [body for _, _, body in requests]
    results: dict[str, Any] = {"model": chosen.model, "candidates": chosen.candidates, "serve": chosen.serve}
    results["cores"] = len(os.sched_getaffinity(0))
    if chosen.recommend:
        with tempfile.TemporaryDirectory() as name:
            process, port = start(chosen.model, Path(name), chosen.sequences, chosen.serve.split())
            try:
                asyncio.run(closed_loop_when_ready(port, bodies[:50]))
                print(json.dumps({"recommend": recommending(port, process, log, chosen)}), flush=True)
            finally:
                process.send_signal(signal.SIGTERM)
                process.wait(60)
        return
    alone = scoring_alone(chosen.model, log, requests[:500], 1000)
    results["scoring alone"] = {**milliseconds(alone[20:]), "per_second": round(len(alone[20:]) / sum(alone[20:]), 1)}
    print(json.dumps({"scoring alone": results["scoring alone"]}), flush=True)
    with tempfile.TemporaryDirectory() as name:
        process, port = start(chosen.model, Path(name), chosen.sequences, chosen.serve.split())
        try:
            asyncio.run(closed_loop_when_ready(port, bodies[:50]))
            latencies = asyncio.run(open_loop(port, "/rank", bodies, chosen.rate, chosen.candidates))
            results["steady"] = {"rate": chosen.rate, "requests": len(latencies), "errors": 0, **milliseconds(latencies)}
            print(json.dumps({"steady": results["steady"]}), flush=True)
            seconds = asyncio.run(closed_loop(port, "/rank", bodies[:2000], chosen.connections))
            results["most"] = {"connections": chosen.connections, "per_second": round(len(bodies[:2000]) / seconds, 1)}
            print(json.dumps({"most": results["most"]}), flush=True)
            if chosen.events:
                batches = event_bodies(log, chosen.events, chosen.batch)
                seconds = asyncio.run(closed_loop(port, "/events", batches, 2))
                results["events"] = {
                    "events": chosen.events,
                    "batch": chosen.batch,
                    "per_second": round(chosen.events / seconds),
                }
                print(json.dumps({"events": results["events"]}), flush=True)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)
    if chosen.out:
        Path(chosen.out).write_text(json.dumps(results, indent=1) + "\n")


async def closed_loop_when_ready(port: int, bodies: list[bytes]) -> None:
    """The first answers, as soon as there are any."""
    for _ in range(600):
        try:
            await closed_loop(port, "/rank", bodies, 1)
        except OSError:
            await asyncio.sleep(0.2)
        else:
            return
    raise SystemExit("the server does not answer")


if __name__ == "__main__":
    main()
