"""`heedful serve` under stress: damaged files, killed workers, hung databases, clients that do not read."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import sqlite3
import threading
import time
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from serving_worlds import PATIENCE, N, Server, client, served, wait_for
from store_worlds import Server as Database
from test_serve_command import _children, _serving_workers, add_event, enough, load, rank, stored

ITEMS = [f"item{row}" for row in range(N)]
DIRECT = {"history": ITEMS[:2], "candidates": ITEMS}


def failures(outcomes: list[Any]) -> list[Any]:
    return [one for one in outcomes if isinstance(one, Exception) or one[0] != 200]


def timed(server: Server, *request: Any) -> tuple[int, float]:
    began = time.monotonic()
    status, _ = server.ask(*request)
    return status, time.monotonic() - began


def state_of(folder: Path) -> Path:
    (state,) = (folder / "shop.sqlite.state").iterdir()
    return state


def test_damaged_files_beside_dead_workers(models: Path, tmp_path: Path, slots: Path) -> None:
    """Each worker is killed after model and slots were damaged; those that take their place serve what they served."""
    with served(models / "first", tmp_path, "--workers", 2, "--slots", slots) as server, load(server, rank) as outcomes:
        enough(outcomes)
        for file in [*(models / "first").rglob("*.*"), slots]:
            file.write_bytes(b"nonsense")
        before = _children(server.process.pid)
        for worker in before:
            os.kill(worker, signal.SIGKILL)
            wait_for(lambda worker=worker: worker not in _children(server.process.pid), "it lives")  # type: ignore[misc]
            wait_for(lambda: _serving_workers(server) == 2, "two workers do not serve")
        assert not set(before) & set(_children(server.process.pid))
        assert server.ask("GET", "/slots/books?user=u1")[1]["items"]
        assert set(server.ask("GET", "/model")[1]["problems"]) == {"model", "slots"}
        enough(outcomes)
        assert server.process.poll() is None
    statuses = {one[0] for one in outcomes if not isinstance(one, Exception)}
    assert statuses == {200}  # what a killed worker was about to answer has no answer


def test_all_workers_are_replaced_under_load(models: Path, tmp_path: Path) -> None:
    with served(models / "first", tmp_path, "--workers", 2) as server, load(server, rank) as outcomes:
        for number in range(3):
            before = set(_children(server.process.pid))
            server.process.send_signal(signal.SIGHUP)
            server.ask("POST", "/model", {"path": ["second", "first"][number % 2]})
            wait_for(lambda before=before: not before & set(_children(server.process.pid)), "not replaced")  # type: ignore[misc]
            wait_for(lambda: len(_children(server.process.pid)) == 2, "not two workers")
            enough(outcomes)
        assert server.stop() == 0
    # After the stop the port is closed.
    answered = outcomes[: next((n for n, one in enumerate(outcomes) if isinstance(one, ConnectionRefusedError)), None)]
    assert len(answered) > 90 and failures(answered[:-4]) == []


@pytest.mark.parametrize("workers", [1, 2])
def test_to_be_told_to_renew_workers_too_early_ends_nothing(models: Path, tmp_path: Path, workers: int) -> None:
    def hang_up(process: int) -> None:
        os.kill(process, signal.SIGHUP)

    with served(models / "first", tmp_path, "--workers", workers, listening=hang_up) as server:
        assert server.ask("POST", "/rank", DIRECT)[0] == 200
        hang_up(server.process.pid)
        wait_for(lambda: _serving_workers(server) == workers, "the workers do not serve")
        assert server.process.poll() is None and server.ask("POST", "/rank", DIRECT)[0] == 200


def test_what_a_server_was_told_survives_its_restart(models: Path, tmp_path: Path) -> None:
    def items(shop: TestClient, *names: str) -> None:
        answer = shop.post("/items", json={"items": [{"item_id": name, "attributes": {"title": name}} for name in names]})
        assert answer.status_code == 200, answer.text

    with client(models / "first", tmp_path) as shop:
        items(shop, "new")
        items(shop, "newer")
    for _ in range(2):
        with client(models / "first", tmp_path) as shop:
            assert [shop.get(f"/items/{name}").json()["title"] for name in ("new", "newer")] == ["new", "newer"]
            items(shop)  # fits them again
    with client(models / "first", tmp_path) as shop:
        assert shop.post("/model", json={"path": "second"}).status_code == 200
    with client(models / "first", tmp_path) as shop:
        assert shop.get("/model").json()["name"] == "averaging"
        # Items that were added to a table come back with a model of that table.
        assert shop.post("/model", json={"path": "first"}).status_code == 200
        assert shop.get("/items/newer").status_code == 200
    assert len(list((state_of(tmp_path) / "tables").iterdir())) <= 2  # no other of the five extended tables


def test_what_is_left_of_killed_servers_is_removed(models: Path, tmp_path: Path) -> None:
    for _ in range(2):
        with served(models / "first", tmp_path, "--workers", 2) as server:
            workers = _children(server.process.pid)
            (run,) = state_of(tmp_path).glob("run-*")
            assert not any(b"shop.sqlite" in file.read_bytes() for file in run.rglob("*") if file.is_file())
            server.process.kill()
            wait_for(lambda: not any(Path(f"/proc/{worker}").exists() for worker in workers), "a worker was left")  # noqa: B023
    with served(models / "first", tmp_path) as server:
        assert len(list(state_of(tmp_path).glob("run-*"))) == 1
        assert server.stop() in (0, -signal.SIGTERM)
    assert list(state_of(tmp_path).glob("run-*")) == []


def test_no_temporary_folder_is_needed(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "nowhere"))
    with served(models / "first", tmp_path, "--workers", 2, anew=True) as server:
        assert server.ask("POST", "/items", {"items": [{"item_id": "new"}]})[0] == 200
        assert server.ask("POST", "/model", {"path": "second"})[0] == 200
        assert "heedful_request_seconds_count" in server.ask("GET", "/metrics")[1]


# Clients


def test_clients_that_do_not_read(models: Path, tmp_path: Path) -> None:
    """They are let go, and meanwhile others are answered."""
    request = b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n"  # the largest answer
    limits = ("--request-seconds", 2, "--idle-seconds", 2, "--connections", 8)
    with served(models / "first", tmp_path, *limits) as server, ExitStack() as closing_all:
        readers = []
        for _ in range(8):
            one = closing_all.enter_context(socket.socket())
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            one.connect(("127.0.0.1", server.port))
            one.setblocking(False)
            readers.append(one)
        until = time.monotonic() + 60
        gone: set[int] = set()
        while len(gone) < len(readers) and time.monotonic() < until:
            for number, one in enumerate(readers):
                try:
                    one.send(request * 20)
                except BlockingIOError:
                    pass
                except OSError:
                    gone.add(number)
            assert server.ask("GET", "/health/live")[0] == 200
            time.sleep(0.05)
        assert len(gone) == len(readers)
        assert server.ask("POST", "/rank", DIRECT)[0] == 200


def test_odd_clients(models: Path, tmp_path: Path) -> None:
    with served(models / "first", tmp_path, "--connections", 50) as server, ExitStack() as closing_all:
        for _ in range(200):  # idle connections make room for others
            closing_all.enter_context(socket.create_connection(("127.0.0.1", server.port), PATIENCE))
        for _ in range(10):
            assert server.ask("POST", "/rank", DIRECT)[0] == 200
        for size in (5, 10, 40):
            _send_too_much(server, size)
        for length in ("0" * 5000, "0" * 5000 + "9" * 40, "²", "٣", "+5", "0x5", "1e3", ""):
            assert _send_length(server, length) in (b"400", b"413", b"422"), length
        assert '"request failed"' not in server.log.read_text()


def _send_too_much(server: Server, megabytes: int) -> None:
    """A body that is too large has an answer, twice over one connection."""
    with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)) as connection:
        content = b'{"candidates": ["' + b"x" * megabytes * 2**20 + b'"]}'
        for _ in range(2):
            connection.request("POST", "/rank", content, {"content-type": "application/json"})
            answer = connection.getresponse()
            assert answer.status == 413 and json.loads(answer.read())["error"]["code"] == "too_large"


def _send_length(server: Server, length: str) -> bytes:
    """The status of a request without a body that says it has this length."""
    with socket.create_connection(("127.0.0.1", server.port), PATIENCE) as connection:
        head = "POST /rank HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        connection.sendall(f"{head}Content-Length: {length}\r\n\r\n".encode())
        return connection.recv(65_536).split(b" ")[1]


# Databases


def test_a_database_that_hangs(models: Path, tmp_path: Path, slots: Path, postgresql: Database) -> None:
    """What needs it is told so within 3 s; rankings that need none do not wait, and slots are filled."""
    postgresql.empty()
    options = ("--slots", slots, "--database", postgresql.url)
    with served(models / "first", tmp_path, *options) as server, ExitStack() as closing_all:
        assert postgresql.process is not None
        hung = [postgresql.process.pid, *_children(postgresql.process.pid)]

        def go_on() -> None:
            for process in hung:
                os.kill(process, signal.SIGCONT)

        closing_all.callback(go_on)
        assert server.ask("POST", "/rank", {"user_id": "u1", "candidates": ITEMS})[0] == 200
        for process in hung:
            os.kill(process, signal.SIGSTOP)
        needing = [
            ("POST", "/rank", {"user_id": "u1", "candidates": ITEMS}),
            ("POST", "/events", {"event_id": "e", "user_id": "u1", "item_id": ITEMS[0]}),
            ("GET", "/clicks/report", None),
            ("DELETE", "/users/u1", None),
            ("GET", "/health/ready", None),
            ("GET", "/users?prefix=u", None),
        ]
        results: list[tuple[int, float]] = []
        threads = [threading.Thread(target=lambda one=one: results.append(timed(server, *one))) for one in needing * 6]
        for thread in threads:
            thread.start()
        quick = [timed(server, "POST", "/rank", DIRECT) for _ in range(20)]
        for thread in threads:
            thread.join()
        assert {status for status, _ in results} == {503}
        assert max(seconds for _, seconds in results) < 4.0  # 3 s, and a busy machine
        assert {status for status, _ in quick} == {200} and max(seconds for _, seconds in quick) < 1.5
        status, filled = server.ask("POST", "/slots/books", {"history": ITEMS[:2]})
        assert status == 200 and filled["items"] and filled["impression_id"] is None and "not counted" in filled["note"]
        go_on()
        wait_for(lambda: server.ask("GET", "/health/ready")[0] == 200, "it does not recover")
        assert server.ask("POST", "/events", {"event_id": "e", "user_id": "u1", "item_id": ITEMS[0]})[0] == 200


def test_a_database_that_is_locked(models: Path, tmp_path: Path, slots: Path) -> None:
    with served(models / "first", tmp_path, "--slots", slots) as server:
        event = {"event_id": "e", "user_id": "u1", "item_id": ITEMS[0]}
        with closing(sqlite3.connect(tmp_path / "shop.sqlite", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            status, filled = server.ask("GET", "/slots/books?user=u1")
            assert status == 200 and filled["items"] and filled["impression_id"] is None
            assert "not counted" in filled["note"] and "locked" in filled["note"]
            status, seconds = timed(server, "POST", "/events", event)
            assert status == 503 and seconds < 4.0
            status, answer = server.ask("GET", "/health/ready")
            assert status == 503 and "the database cannot be written" in answer["error"]["message"]
            assert server.ask("POST", "/rank", {"user_id": "u1", "candidates": ITEMS})[0] == 200  # reading goes on
            assert "the database cannot be written" in server.log.read_text()
            other.execute("ROLLBACK")
        wait_for(lambda: server.ask("GET", "/health/ready")[0] == 200, "it does not recover")
        assert server.ask("POST", "/events", event)[0] == 200
        assert server.ask("GET", "/slots/books?user=u1")[1]["impression_id"]


def test_where_the_database_is_stays_secret(models: Path, tmp_path: Path, postgresql: Database) -> None:
    postgresql.empty()
    with ExitStack() as stack:
        stack.callback(postgresql.start)
        server = stack.enter_context(served(models / "first", tmp_path, "--database", postgresql.url))
        postgresql.stop()
        for path in ("/health/ready", "/users", "/model", "/users/u1/history"):
            status, answer = server.ask("GET", path)
            assert status == 503
            assert not any(word in json.dumps(answer) for word in (str(postgresql.port), "127.0.0.1", "postgres", "me@"))


def test_two_workers_write_while_they_are_killed(models: Path, tmp_path: Path) -> None:
    with served(models / "first", tmp_path, "--workers", 2) as server, load(server, add_event) as outcomes:
        for _ in range(3):
            enough(outcomes)
            os.kill(_children(server.process.pid)[0], signal.SIGKILL)
            wait_for(lambda: len(_children(server.process.pid)) == 2, "not replaced")
        enough(outcomes)
    acknowledged = {one for one in outcomes if isinstance(one, str)}
    assert acknowledged <= set(stored(tmp_path / "shop.sqlite"))
