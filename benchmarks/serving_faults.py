"""What a small server under load does when its workers are replaced and killed, and when its database hangs.

    python benchmarks/serving_faults.py

Two workers rank without a pause for four connections, on processors that as many other processes keep busy. Prints how many
requests were answered, and how many failed, while all workers were replaced (SIGHUP) ten times, and how long it took until
two workers served again after one was killed. A request that a killed worker was about to answer fails. Then the database is
locked, and it is printed with what status requests that write were answered, and how soon.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import ExitStack, closing
from pathlib import Path

from serving_load import start

ITEMS = 2_000
CONNECTIONS = 4
WRITES = [
    ("POST", "/events", b'{"event_id": "e", "user_id": "u", "item_id": "1"}'),
    ("DELETE", "/events/e", None),
    ("POST", "/impressions", b'{"impression_id": "i"}'),
    ("GET", "/health/ready", None),
]
BODY = json.dumps({"history": ["1", "2", "3"], "candidates": [str(n) for n in range(200)], "k": 10}).encode()


def heedful(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "heedful", "--quiet", *arguments], check=True, stdout=subprocess.DEVNULL)


def model_in(folder: Path) -> tuple[str, str]:
    """A model of a log that is made up, and its histories."""
    log, past, vectors, model = (str(folder / name) for name in ("log", "past", "vectors", "model"))
    heedful("synth", "--out", log, "--users", "500", "--items", str(ITEMS))
    heedful("prepare", f"{log}/events", "--items", f"{log}/items.parquet", "--out", past)
    heedful("embed", past, "--out", vectors, "--epochs", "2")
    heedful("train", "attention", past, "--embeddings", vectors, "--out", model, "--steps", "50")
    return model, past


def children(process: int) -> set[int]:
    return set(map(int, Path(f"/proc/{process}/task/{process}/children").read_text().split()))


def ask(port: int, method: str, path: str, body: bytes | None = None) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    with closing(connection):
        connection.request(method, path, body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


def serving(port: int) -> int:
    """Workers that serve a model, by the server's own figures."""
    try:
        return int(sum(map(float, re.findall(r"^heedful_model_workers{.*} (.*)$", ask(port, "GET", "/metrics")[1], re.M))))
    except OSError:
        return 0


class Load:
    """Connections that ask for rankings without a pause; `outcomes` counts statuses and names of errors."""

    def __init__(self, port: int) -> None:
        self.outcomes: Counter[str] = Counter()
        self._port, self._ended = port, threading.Event()
        self._threads = [threading.Thread(target=self._ask, daemon=True) for _ in range(CONNECTIONS)]
        for thread in self._threads:
            thread.start()

    def _ask(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
        while not self._ended.is_set():
            try:
                connection.request("POST", "/rank", BODY, {"Content-Type": "application/json"})
                answer = connection.getresponse()
                answer.read()
                self.outcomes[str(answer.status)] += 1
            except (OSError, http.client.HTTPException) as error:
                self.outcomes[type(error).__name__] += 1
                connection.close()

    def end(self) -> str:
        self._ended.set()
        for thread in self._threads:
            thread.join()
        return ", ".join(f"{name} {number:,}" for name, number in sorted(self.outcomes.items()))


def replaced(process: subprocess.Popen[bytes], port: int, times: int) -> None:
    load, began = Load(port), time.monotonic()
    for _ in range(times):
        before = children(process.pid)
        process.send_signal(signal.SIGHUP)
        while before & children(process.pid) or serving(port) < 2:
            if process.poll() is not None:
                raise SystemExit(f"the server has ended with {process.returncode}")
            time.sleep(0.05)
    print(f"{times} SIGHUPs in {time.monotonic() - began:.0f} s; answers: {load.end()}", flush=True)


def killed(process: subprocess.Popen[bytes], port: int, times: int) -> None:
    load, seconds = Load(port), []
    for _ in range(times):
        worker = min(children(process.pid))
        began = time.monotonic()
        os.kill(worker, signal.SIGKILL)
        while worker in children(process.pid) or len(children(process.pid)) < 2 or serving(port) < 2:
            time.sleep(0.02)
        seconds.append(time.monotonic() - began)
        time.sleep(1)
    print(f"{times} kills of a worker; two workers serve after (s): {' '.join(f'{one:.1f}' for one in sorted(seconds))}; "
          f"answers: {load.end()}", flush=True)  # fmt: skip


def locked(port: int, database: Path) -> None:
    with closing(sqlite3.connect(database, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        for method, path, body in WRITES:
            began = time.monotonic()
            status, _ = ask(port, method, path, body)
            print(f"database locked: {method} {path}: {status} after {time.monotonic() - began:.2f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--times", type=int, default=10, help="replacements and kills")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        model, past = model_in(folder)
        process, port = start(model, folder, past, ["--workers", "2", "--threads", "1"])
        stack.callback(process.wait)
        stack.callback(process.terminate)
        for _ in range(os.cpu_count() or 1):
            busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
            stack.callback(busy.kill)
        replaced(process, port, chosen.times)
        killed(process, port, chosen.times)
        locked(port, folder / "load.sqlite")


if __name__ == "__main__":
    main()
