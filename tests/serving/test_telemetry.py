"""Figures for Prometheus, and logs in which nobody is named."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from serving_worlds import client, train

from heedful.serving import telemetry
from ranking_worlds import python

WORKER = """
import os, sys, signal
from pathlib import Path
from heedful.serving import telemetry
telemetry.share(Path(sys.argv[3]), int(sys.argv[4]))
for _ in range(int(sys.argv[1])):
    telemetry.observe("POST", "/rank", 200, 0.02)
telemetry.figures.events.labels("accepted").inc(5)
telemetry.model_served("attention", "v1")
if sys.argv[2] == "swap":
    telemetry.model_served("averaging", "v2", instead_of=("attention", "v1"))
if sys.argv[2] == "die":
    os.kill(os.getpid(), signal.SIGKILL)
print(telemetry.metrics().decode())
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "model"
    train("popularity").save(path)
    return path


def figure(text: str, name: str) -> float:
    """One figure of the Prometheus text."""
    (found,) = re.findall(rf"^{re.escape(name)} ([0-9.e+-]+)$", text, re.MULTILINE) or ["nan"]
    return float(found)


def test_requests_events_and_errors_are_counted(model: Path, tmp_path: Path) -> None:
    with client(model, tmp_path) as shop:
        before = shop.get("/metrics").text
        shop.get("/users/ann/history")
        shop.get("/users/bob/history")
        shop.get("/items/nonsense")
        shop.get("/nowhere/ann")
        events = [{"event_id": f"e{n}", "user_id": "ann", "item_id": "item1"} for n in (1, 2, 2)]
        shop.post("/events", json={"events": events})
        answer = shop.get("/metrics")
        version = shop.get("/model").json()["version"]
    after = answer.text
    assert answer.headers["content-type"].startswith("text/plain")

    def grew(name: str) -> float:
        old = figure(before, name)
        return figure(after, name) - (0 if old != old else old)

    route = 'method="GET",route="/users/{user_id:path}/history"'
    assert grew(f"heedful_request_seconds_count{{{route}}}") == 2
    assert grew(f'heedful_answers_total{{{route},status="200"}}') == 2
    assert grew('heedful_answers_total{method="GET",route="/items/{item_id:path}",status="404"}') == 1
    assert grew('heedful_answers_total{method="any",route="none",status="404"}') == 1
    assert grew('heedful_errors_total{code="not_found"}') == 2
    assert grew('heedful_events_total{outcome="accepted"}') == 2
    assert grew('heedful_events_total{outcome="duplicate"}') == 1
    assert figure(after, f'heedful_model_workers{{model="popularity",version="{version}"}}') == 1
    assert "ann" not in after and "nonsense" not in after


def test_several_workers_are_counted_together(tmp_path: Path) -> None:
    def worker(requests: int, end: str, place: int) -> str:
        return str(python(WORKER, requests, end, tmp_path, place).stdout)

    worker(3, "die", 0)
    telemetry.left(tmp_path, 0)
    text = worker(4, "swap", 1)
    assert figure(text, 'heedful_request_seconds_count{method="POST",route="/rank"}') == 7
    assert figure(text, 'heedful_request_seconds_bucket{le="0.025",method="POST",route="/rank"}') == 7
    assert figure(text, 'heedful_request_seconds_bucket{le="0.01",method="POST",route="/rank"}') == 0
    assert figure(text, 'heedful_events_total{outcome="accepted"}') == 10
    # The dead worker serves nothing any more, the living one serves the second model.
    assert figure(text, 'heedful_model_workers{model="attention",version="v1"}') == 0
    assert figure(text, 'heedful_model_workers{model="averaging",version="v2"}') == 1


def test_logs_name_nobody(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    telemetry.log_as_json("info")
    with client(model, tmp_path) as shop:
        secret = {"authorization": "Bearer hk_topsecret"}
        body = {"event_id": "event-of-secret-user", "user_id": "secret-user", "item_id": "item7"}
        shop.post("/events", json=body, headers=secret)
        shop.get("/users/secret-user/history")
        shop.post("/rank", json={"history": ["item7"], "candidates": ["item7", "secret-item"]})
        shop.get("/items/secret-item")
        shop.post("/rank", content=b'{"secret-user"', headers={"content-type": "application/json"})
        request_id = shop.delete("/users/secret-user").headers["x-request-id"]
    written = capsys.readouterr().err
    lines = [json.loads(line) for line in written.splitlines()]
    requests = [line for line in lines if line["message"] == "request"]
    assert [(line["method"], line["route"], line["status"]) for line in requests] == [
        ("POST", "/events", 200),
        ("GET", "/users/{user_id:path}/history", 200),
        ("POST", "/rank", 200),
        ("GET", "/items/{item_id:path}", 404),
        ("POST", "/rank", 400),
        ("DELETE", "/users/{user_id:path}", 200),
    ]
    assert requests[-1]["request_id"] == request_id and requests[0]["ms"] > 0
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"]) for line in lines)
    assert "secret" not in written and "item7" not in written


def test_an_exception_is_logged_without_its_words(capsys: pytest.CaptureFixture[str]) -> None:
    telemetry.log_as_json("warning")
    try:
        raise ValueError("the user secret-user")
    except ValueError:
        telemetry.LOG.exception("request failed")
    telemetry.LOG.info("not this")
    (line,) = [json.loads(text) for text in capsys.readouterr().err.splitlines()]
    assert (line["level"], line["exception"]) == ("error", "ValueError") and "secret" not in str(line)
    assert "test_telemetry.py" in line["where"][-1]
