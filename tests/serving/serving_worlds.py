"""A small shop with a model, behind the application in this process or behind `heedful serve` in another."""

from __future__ import annotations

import http.client
import json
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from fastapi.testclient import TestClient

import forked
from heedful.events.log import EventLog
from heedful.rankers.base import Ranker
from heedful.rankers.registry import MODELS
from heedful.serving.app import create_app
from heedful.serving.models import Choice, Serving
from heedful.serving.options import ServeConfig
from ranking_worlds import QUICK, random_log, started, table_of

N = 60
Process = subprocess.Popen[bytes] | forked.Forked
PATIENCE = 120.0
PATIENT: dict[str, Any] = {"body_seconds": PATIENCE, "request_seconds": PATIENCE}
SLOTS = """
[[slot]]
name = "books"
title = "Books for you"
where = "department = 'BOOKS'"
shown = 4
treatments = { model = 0.5, popularity = 0.5 }
"""


def shop_log(seed: int = 0, **options: Any) -> EventLog:
    return random_log(seed, items=N, kind_names=("view", "purchase"), **options)


def shop_attributes() -> pa.Table:
    return pa.table(
        {
            "title": [None if row % 20 == 7 else f"Title {row}" for row in range(N)],
            "category": [f"category {row % 5}" for row in range(N)],
            "department": ["BOOKS" if row % 2 else "MUSIC" for row in range(N)],
            "price": [float(row) for row in range(N)],
        }
    )


def train(name: str = "attention", *, seed: int = 0, **options: Any) -> Ranker:
    log = shop_log(seed, **options)
    table = table_of(log.catalog.items.ids, attributes=shop_attributes(), seed=seed)
    return MODELS[name](**QUICK[name]).fit(log, table)


@contextmanager
def client(model: Path, folder: Path, *, host: str = "localhost", **options: Any) -> Iterator[TestClient]:
    """The application in this process; what it serves is `client.app.state.serving`."""
    file = folder / "slots.toml"
    if not file.exists():
        file.write_text(SLOTS)
    settings = {"database": str(folder / "shop.sqlite"), "slots": str(file), "rate": 0.0, "threads": 1, **PATIENT, **options}
    app = create_app(Serving(Choice(str(model)), ServeConfig(**settings)))
    with TestClient(app, base_url=f"http://{host}") as opened:
        yield opened


def error_of(answer: Any, status: int) -> dict[str, Any]:
    """The error of an answer, which has to have that status and the form of all errors."""
    assert answer.status_code == status, answer.text
    body = answer.json()
    assert set(body) == {"error"} and set(body["error"]) == {"code", "message", "fix"}, body
    assert "Traceback" not in answer.text
    found: dict[str, Any] = body["error"]
    return found


@dataclass
class Server:
    """`heedful serve` in a process of its own."""

    process: Process
    port: int
    log: Path

    def ask(self, method: str, path: str, body: Any = None, *, headers: dict[str, str] | None = None) -> tuple[int, Any]:
        """One request over a new connection: status, and the answer as JSON or text."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            content = None if body is None else json.dumps(body)
            connection.request(method, path, content, {"content-type": "application/json", **(headers or {})})
            answer = connection.getresponse()
            text = answer.read().decode()
            is_json = answer.headers.get("content-type", "").startswith("application/json")
            return answer.status, json.loads(text) if is_json else text
        finally:
            connection.close()

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(PATIENCE)


@contextmanager
def served(
    model: Path, folder: Path, *options: object, anew: bool = False, listening: Callable[[int], object] = lambda pid: None
) -> Iterator[Server]:
    """`heedful serve` on a free port, killed at the end if it still runs; `anew` as in `ranking_worlds.heedful`.

    `listening` is called with the number of the process as soon as that has said where it listens.
    """
    log = folder / f"serve-{len(list(folder.glob('serve-*.log')))}.log"
    command = [
        "serve",
        model,
        "--database",
        folder / "shop.sqlite",
        "--port",
        "0",
        "--threads",
        "1",
        "--rate",
        "0",
        *options,
    ]
    process = started(*command, out=log, err=log, anew=anew)
    try:
        server = Server(process, _port(process, log), log)
        listening(process.pid)
        wait_for(lambda: _ready(server), "the server is not ready", process, log)
        yield server
    finally:
        process.kill()
        process.wait(PATIENCE)


def wait_for(true: Any, what: str, process: Process | None = None, log: Path | None = None) -> Any:
    """What `true` returns as soon as that is true."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        if found := true():
            return found
        if process is not None and process.poll() is not None:
            break
        time.sleep(0.02)
    raise AssertionError(f"{what}: {log.read_text() if log is not None else ''}")


def _port(process: Process, log: Path) -> int:
    found = wait_for(lambda: re.search(r'"address": "http://[^"]+:(\d+)"', log.read_text()), "no address", process, log)
    return int(found[1])


def _ready(server: Server) -> bool:
    try:
        return server.ask("GET", "/health/ready")[0] == 200
    except OSError:
        return False
