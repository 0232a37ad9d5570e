"""`heedful serve` and `heedful key` in processes of their own: kills, stops, swaps under load, slow clients."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from serving_worlds import PATIENCE, N, Server, served, shop_log, wait_for
from store_worlds import Server as Database
from store_worlds import rows

from ranking_worlds import heedful, python

ITEMS = [f"item{row}" for row in range(N)]


@contextmanager
def load(server: Server, work: Callable[[http.client.HTTPConnection, int], Any], clients: int = 4) -> Iterator[list[Any]]:
    """Clients that ask without a pause, over a connection each: what `work` returned or raised."""
    outcomes: list[Any] = []
    stop = threading.Event()

    def run(client: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)
        number = client
        while not stop.is_set():
            try:
                outcomes.append(work(connection, number))
            except (OSError, http.client.HTTPException) as error:
                outcomes.append(error)
                connection.close()
                time.sleep(0.01)
            number += clients
        connection.close()

    threads = [threading.Thread(target=run, args=(client,)) for client in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield outcomes
    finally:
        stop.set()
        for thread in threads:
            thread.join(PATIENCE)


def ask(connection: http.client.HTTPConnection, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    connection.request(method, path, json.dumps(body) if body is not None else None, {"content-type": "application/json"})
    answer = connection.getresponse()
    return answer.status, json.loads(answer.read())


def rank(connection: http.client.HTTPConnection, number: int) -> tuple[int, str]:
    status, answer = ask(connection, "POST", "/rank", {"user_id": f"u{number % 7}", "candidates": ITEMS})
    return status, answer.get("model", "")


def add_event(connection: http.client.HTTPConnection, number: int) -> str:
    body = {"event_id": f"e{number}", "user_id": f"u{number % 7}", "item_id": ITEMS[number % N]}
    status, answer = ask(connection, "POST", "/events", body)
    assert status == 200 and answer["accepted"] + answer["duplicates"] == 1, answer
    return body["event_id"]


def enough(outcomes: list[Any], more: int = 30) -> None:
    seen = len(outcomes)
    wait_for(lambda: len(outcomes) >= seen + more, "requests come to an end")


def stored(database: Path, query: str = "select event_id from heedful_events") -> list[str]:
    with contextlib.closing(sqlite3.connect(database)) as connection:
        return [name for (name,) in connection.execute(query)]


def test_from_the_command_to_an_answer(models: Path, tmp_path: Path, slots: Path) -> None:
    options = ("--slots", slots, "--histories", models / "sequences")
    with served(models / "first", tmp_path, *options, anew=True) as server:
        status, found = server.ask("GET", "/users?prefix=u1&limit=3")
        assert status == 200 and found["users"] and all(user["user_id"].startswith("u1") for user in found["users"])
        status, ranked = server.ask("POST", "/rank", {"user_id": "u1", "candidates": ITEMS, "k": 3})
        assert status == 200 and len(ranked["items"]) == 3 and ranked["history_length"] > 0
        assert server.ask("GET", "/slots/books?user=u1")[1]["items"]
        assert server.ask("GET", "/")[1].startswith("<!doctype html>")
        # Only this machine is listened to.
        assert '"address": "http://127.0.0.1:' in server.log.read_text()
        assert server.stop(signal.SIGINT) in (0, 130)
    lines = [line for line in server.log.read_text().splitlines() if line.startswith("{")]
    assert any(json.loads(line)["message"] == "request" for line in lines)
    assert "Traceback" not in server.log.read_text()


def test_histories_are_loaded_once(models: Path, tmp_path: Path) -> None:
    for _ in range(2):
        with served(models / "first", tmp_path, "--histories", models / "sequences") as server:
            facts = server.ask("GET", "/model")[1]
            assert facts["store"]["events"] == shop_log().n_events
            server.stop()


def test_what_was_acknowledged_survives_a_kill(models: Path, tmp_path: Path, slots: Path) -> None:
    clicked: list[tuple[str, str]] = []

    def visit(connection: http.client.HTTPConnection, number: int) -> str:
        """An event, and every fourth time a slot that is shown and clicked as well."""
        event = add_event(connection, number)
        if number % 4 == 0:
            filled = ask(connection, "GET", f"/slots/books?user=u{number}")[1]
            impression = {"impression_id": filled["impression_id"]}
            assert ask(connection, "POST", "/impressions", impression)[1]["counted"]
            click = {**impression, "item_id": filled["items"][0]["item_id"], "click_id": f"c{number}"}
            assert ask(connection, "POST", "/clicks", click)[1]["outcome"] == "recorded"
            clicked.append((filled["impression_id"], f"c{number}"))
        return event

    with served(models / "first", tmp_path, "--slots", slots) as server, load(server, visit) as outcomes:
        enough(outcomes, 60)
        server.process.kill()
        server.process.wait()
        enough(outcomes, 1)
    acknowledged = [name for name in outcomes if isinstance(name, str)]
    assert len(acknowledged) >= 60 and clicked
    with served(models / "first", tmp_path, "--slots", slots) as server:
        events = stored(tmp_path / "shop.sqlite")
        assert set(acknowledged) <= set(events) and len(set(events)) == len(events)
        clicks = stored(tmp_path / "shop.sqlite", "select click_id from heedful_clicks")
        assert {click for _, click in clicked} <= set(clicks) and len(set(clicks)) == len(clicks)
        for name in acknowledged[-4:]:  # sent again by a client that was not sure
            number = int(name[1:])
            body = {"event_id": name, "user_id": f"u{number % 7}", "item_id": ITEMS[number % N]}
            assert server.ask("POST", "/events", body)[1]["duplicates"] == 1
        impression = {"impression_id": clicked[0][0]}
        assert server.ask("POST", "/impressions", impression)[1] == {"counted": True}
    assert stored(tmp_path / "shop.sqlite") == events


def test_told_to_stop_it_answers_what_it_was_asked(models: Path, tmp_path: Path) -> None:
    """Each request that has begun gets its answer; new connections find nobody."""
    sent = {"events": [{"event_id": f"e{n}", "user_id": "ann", "item_id": ITEMS[n % N]} for n in range(5000)]}
    body = json.dumps(sent).encode()
    with served(models / "first", tmp_path) as server, ExitStack() as closing:
        begun = [closing.enter_context(_begin(server.port, len(body))) for _ in range(3)]
        server.process.send_signal(signal.SIGTERM)
        wait_for(lambda: not _listens(server.port), "new connections are still accepted")
        for connection in begun:
            connection.sendall(body)
        answers = [_answer(connection) for connection in begun]
        assert server.process.wait(PATIENCE) in (0, -signal.SIGTERM)
        assert [status for status, _ in answers] == [200, 200, 200]
        assert sum(answer["accepted"] for _, answer in answers) == 5000


def _begin(port: int, length: int) -> socket.socket:
    """A connection with a request whose head the server has read: it asked for the body, which is not sent yet."""
    connection = socket.create_connection(("127.0.0.1", port), PATIENCE)
    head = f"POST /events HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n"
    connection.sendall(f"{head}expect: 100-continue\r\n\r\n".encode())
    assert connection.recv(1000).startswith(b"HTTP/1.1 100")
    return connection


def _answer(connection: socket.socket) -> tuple[int, Any]:
    answer = http.client.HTTPResponse(connection)
    answer.begin()
    return answer.status, json.loads(answer.read())


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


@pytest.mark.parametrize("workers", [1, 2])
def test_models_are_swapped_under_load(models: Path, tmp_path: Path, workers: int) -> None:
    with served(models / "first", tmp_path, "--workers", workers) as server, load(server, rank) as outcomes:
        enough(outcomes)
        first = outcomes[-1][1]
        status, facts = server.ask("POST", "/model", {"path": "second"})
        assert status == 200 and facts["name"] == "averaging" and facts["version"] != first
        wait_for(lambda: len({model for _, model in outcomes[-40:]} - {facts["version"]}) == 0, "not all workers followed")
        enough(outcomes)
        # One whose weights are damaged is refused, and the one in service stays.
        (models / "first" / "weights.safetensors").write_bytes(b"nonsense")
        status, answer = server.ask("POST", "/model", {"path": "first"})
        assert status == 409 and answer["error"]["code"] == "model_refused"
        enough(outcomes)
        assert {model for _, model in outcomes[-20:]} == {facts["version"]}
    failed = [outcome for outcome in outcomes if isinstance(outcome, Exception) or outcome[0] != 200]
    assert failed == []
    assert {model for _, model in outcomes} == {first, facts["version"]}


def test_a_worker_that_dies_is_replaced(models: Path, tmp_path: Path) -> None:
    with served(models / "first", tmp_path, "--workers", 2) as server:
        workers = _children(server.process.pid)
        assert len(workers) == 2
        os.kill(workers[0], signal.SIGKILL)
        wait_for(lambda: len(_children(server.process.pid)) == 2 and workers[0] not in _children(server.process.pid),
                 "no new worker")  # fmt: skip
        wait_for(lambda: _serving_workers(server) == 2, "two workers do not serve")
        assert server.stop() == 0
        wait_for(lambda: not any(Path(f"/proc/{worker}").exists() for worker in workers), "a worker was left")


def _children(process: int) -> list[int]:
    """Workers of a server: its children, without the one that multiprocessing keeps for itself."""
    children = map(int, Path(f"/proc/{process}/task/{process}/children").read_text().split())
    return [child for child in children if b"resource_tracker" not in Path(f"/proc/{child}/cmdline").read_bytes()]


def _serving_workers(server: Server) -> int:
    text = server.ask("GET", "/metrics")[1]
    found = [line for line in text.splitlines() if line.startswith("heedful_model_workers{")]
    return int(float(found[0].split()[-1])) if found else 0


def test_workers_end_with_their_server(models: Path, tmp_path: Path) -> None:
    with served(models / "first", tmp_path, "--workers", 2) as server:
        workers = _children(server.process.pid)
        server.process.kill()
        wait_for(lambda: not any(Path(f"/proc/{worker}").exists() for worker in workers), "a worker was left")


def test_two_servers_share_a_database(models: Path, tmp_path: Path) -> None:
    with served(models / "first", tmp_path) as one, served(models / "second", tmp_path) as other:
        with load(one, add_event, 2) as first, load(other, add_event, 2) as second:
            enough(first)
            enough(second)
        assert [outcome for outcome in first + second if isinstance(outcome, Exception)] == []
        assert sorted(stored(tmp_path / "shop.sqlite")) == sorted(set(first) | set(second))
        body = {"event_id": "fresh", "user_id": "zoe", "item_id": "item3"}
        assert one.ask("POST", "/events", body)[0] == 200
        assert other.ask("POST", "/rank", {"user_id": "zoe", "candidates": ITEMS})[1]["history_length"] == 1


def test_postgresql_stops_and_comes_back_under_load(models: Path, tmp_path: Path, slots: Path, postgresql: Database) -> None:
    """Meanwhile each request that needs it has a clear 503; afterwards all goes on, and nothing acknowledged is missing."""
    postgresql.empty()

    def send(connection: http.client.HTTPConnection, number: int) -> str | int:
        body = {"event_id": f"e{number}", "user_id": f"u{number % 7}", "item_id": ITEMS[number % N]}
        status, answer = ask(connection, "POST", "/events", body)
        assert status in (200, 503), answer
        return f"e{number}" if status == 200 else status

    options = ("--slots", slots, "--database", postgresql.url, "--workers", 2)
    with ExitStack() as stack:
        stack.callback(postgresql.start)  # whatever happens here, for the tests that follow
        server = stack.enter_context(served(models / "first", tmp_path, *options))
        outcomes = stack.enter_context(load(server, send))
        enough(outcomes)
        for how in (signal.SIGINT, signal.SIGKILL):
            postgresql.stop(how)
            wait_for(lambda: outcomes[-10:] == [503] * 10, "requests are not refused")
            needing = [
                ("POST", "/rank", {"user_id": "u1", "candidates": ITEMS}),
                ("GET", "/slots/books?user=u1", None),
                ("POST", "/impressions", {"impression_id": "i1"}),
                ("GET", "/clicks/report", None),
                ("DELETE", "/users/u1", None),
                ("GET", "/health/ready", None),
            ]
            for method, path, body in needing:
                status, answer = server.ask(method, path, body)
                assert status == 503 and answer["error"]["code"] == "database_unavailable", (path, answer)
                assert "try again" in answer["error"]["fix"] and "s3c" not in json.dumps(answer)
            assert server.ask("GET", "/health/live")[0] == 200
            assert server.ask("POST", "/rank", {"history": ITEMS[:2], "candidates": ITEMS})[0] == 200
            postgresql.start()
            wait_for(lambda: server.ask("GET", "/health/ready")[0] == 200, "it does not recover")
            wait_for(lambda: all(isinstance(one, str) for one in outcomes[-10:]), "requests are still refused")
    assert [one for one in outcomes if isinstance(one, Exception)] == []
    acknowledged = [one for one in outcomes if isinstance(one, str)]
    events = [name for (name,) in rows(postgresql.url, "SELECT event_id FROM heedful_events")]
    assert set(acknowledged) <= set(events) and len(set(events)) == len(events)
    assert "Traceback" not in server.log.read_text() and "s3c" not in server.log.read_text()


def test_a_full_disk_is_said_and_passes(models: Path, tmp_path: Path, small_disk: Path) -> None:
    with served(models / "first", tmp_path, "--database", small_disk / "shop.sqlite") as server:
        acknowledged: list[str] = []
        while True:
            names = [f"{len(acknowledged) + n}-{'x' * 200}" for n in range(1000)]
            batch = [{"event_id": name, "user_id": "ann", "item_id": ITEMS[0]} for name in names]
            status, answer = server.ask("POST", "/events", {"events": batch})
            if status != 200:
                break
            acknowledged += names
        assert status == 503 and "full" in answer["error"]["message"] and acknowledged
        assert server.ask("POST", "/rank", {"user_id": "ann", "candidates": ITEMS})[0] == 200  # reading goes on
        subprocess.run(["mount", "-o", "remount,size=16m", small_disk], check=True)
        assert server.ask("POST", "/events", {"events": batch})[1]["accepted"] == 1000
    assert sorted(stored(small_disk / "shop.sqlite")) == sorted([*acknowledged, *names])


def test_slow_clients_are_let_go(models: Path, tmp_path: Path) -> None:
    with served(models / "first", tmp_path, "--body-seconds", 1, "--idle-seconds", 1) as server:
        head = b"POST /rank HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
        begun = [b"", b"POST /ra", b"GET /model HTTP/1.1\r\nHost: loc", head]
        sockets = [socket.create_connection(("127.0.0.1", server.port), PATIENCE) for _ in begun]
        for connection, part in zip(sockets, begun, strict=True):
            connection.sendall(part)
        answers = [_read(connection) for connection in sockets]
        assert answers[:3] == [b"", b"", b""]
        assert answers[3].startswith(b"HTTP/1.1 408 ") and b'"code":"too_slow"' in answers[3]
        assert server.ask("GET", "/model")[0] == 200


def _read(connection: socket.socket) -> bytes:
    parts = []
    try:
        while part := connection.recv(65_536):
            parts.append(part)
    except ConnectionResetError:
        pass
    connection.close()
    return b"".join(parts)


def test_headers_without_end(models: Path, tmp_path: Path) -> None:
    with (
        served(models / "first", tmp_path) as server,
        socket.create_connection(("127.0.0.1", server.port), PATIENCE) as connection,
    ):
        connection.sendall(b"GET /model HTTP/1.1\r\nHost: localhost\r\nX-Long: " + b"x" * 65_536)
        assert _error(connection, 400) == "bad_request"
        assert server.ask("GET", "/model")[0] == 200


def test_what_is_no_http_is_refused_like_everything_else(models: Path, tmp_path: Path) -> None:
    with served(models / "first", tmp_path) as server:
        for nonsense in (b"NONSENSE\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc", b"GET / HTTP/1.1\r\nA B: c\r\n\r\n"):
            with socket.create_connection(("127.0.0.1", server.port), PATIENCE) as connection:
                connection.sendall(nonsense)
                assert _error(connection, 400) == "bad_request"


def test_too_many_connections(models: Path, tmp_path: Path) -> None:
    with served(models / "first", tmp_path, "--connections", 3) as server, ExitStack() as closing:
        for _ in range(2):  # with a request under way: idle ones would make room
            closing.enter_context(_begin(server.port, 10))
        connection = closing.enter_context(socket.create_connection(("127.0.0.1", server.port), PATIENCE))
        connection.sendall(b"GET /model HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert _error(connection, 503) == "too_many_connections"
        assert server.ask("GET", "/health/live")[0] == 200


def _error(connection: socket.socket, status: int) -> str:
    """The code of an error, which has the form of all errors."""
    answer = http.client.HTTPResponse(connection)
    answer.begin()
    assert answer.status == status and answer.headers["content-type"] == "application/json"
    error = json.loads(answer.read())["error"]
    assert set(error) == {"code", "message", "fix"}
    return str(error["code"])


def test_bodies_without_end(models: Path, tmp_path: Path) -> None:
    with (
        served(models / "first", tmp_path, "--max-body", 10_000) as server,
        socket.create_connection(("127.0.0.1", server.port), PATIENCE) as connection,
    ):
        connection.sendall(b"POST /rank HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
        connection.sendall(b"400\r\n" + b" " * 1024 + b"\r\n" + b"2800\r\n" + b" " * 10_240 + b"\r\n")
        assert b"HTTP/1.1 413 " in connection.recv(65_536)


def test_keys_from_the_command_line(models: Path, tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    made = heedful("key", "shop", "--keys", file, "--scopes", "rank, events")
    assert made.returncode == 0, made.stderr
    key = made.stdout.strip()
    assert key not in file.read_text()
    with served(models / "first", tmp_path, "--keys", file, "--host", "0.0.0.0") as server:
        assert server.ask("GET", "/model")[0] == 401
        headers = {"authorization": f"Bearer {key}"}
        assert server.ask("GET", "/model", headers=headers)[0] == 200
        assert server.ask("DELETE", "/users/u1", headers=headers)[0] == 403
        server.stop()
    assert key not in server.log.read_text()
    again = heedful("key", "shop", "--keys", file)
    assert again.returncode == 1 and "already" in again.stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--host", "0.0.0.0"], "without API keys the server listens on this machine alone"),
        (["--keys", "nowhere.toml"], "is not a file of API keys"),
        (["--keys", "{tmp}/empty.toml"], "holds no API key"),
        (["--slots", "{tmp}/bad.toml"], "slots"),
        (["--database", "{tmp}/no/such/folder/x.sqlite"], "database"),
        (["--port", "70000"], "'port' is out of range"),
        (["--workers", "0"], "'workers' is out of range"),
        (["--embeddings", "nowhere"], "no such folder"),
        (["--histories", "nowhere"], "no such folder"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_at_once(models: Path, tmp_path: Path, options: list[str], words: str) -> None:
    (tmp_path / "bad.toml").write_text("nonsense")
    (tmp_path / "empty.toml").write_text("")
    given = [option.format(tmp=tmp_path) for option in options]
    database = [] if "--database" in given else ["--database", str(tmp_path / "shop.sqlite")]
    ended = heedful("serve", models / "first", *database, *given)
    assert ended.returncode == 1 and ended.stderr.startswith("heedful: "), ended.stderr
    assert words in ended.stderr.replace("folder", "folder database") and "Traceback" not in ended.stderr


def test_a_port_that_is_taken(models: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = heedful("serve", models / "first", "--database", tmp_path / "shop.sqlite", "--port", port)
        assert ended.returncode == 1 and f"127.0.0.1:{port} cannot be listened on" in ended.stderr


def test_without_the_extra(models: Path) -> None:
    code = "import sys; sys.modules['fastapi'] = None\nfrom heedful.cli import main; main(['serve', sys.argv[1]])"
    ended = python(code, models / "first")
    assert ended.returncode == 1 and ended.stderr.startswith("heedful: this needs the package 'fastapi'"), ended.stderr
    assert "pip install 'heedful[serve]'" in ended.stderr


def test_help_names_every_option() -> None:
    shown = heedful("serve", "--help").stdout
    assert all(option in shown for option in ("--host", "--workers", "--keys", "--max-history", "--rate", "--histories"))
