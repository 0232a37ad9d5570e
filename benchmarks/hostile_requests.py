"""Requests that are wrong in some way, to every route of `heedful serve`: none may be answered 500, or not at all.

    python benchmarks/hostile_requests.py --requests 20000 --seed 0

A server is started on a small made-up shop. Each request is a valid one of which a few parts are changed at random: values
of other types, ids of all kinds, huge and nested values, times of all units, headers, methods, addresses, content types,
bodies that are cut short. It prints the answers by status and every failure, and ends with 1 if there is one.
"""

from __future__ import annotations

import argparse
import collections
import copy
import http.client
import json
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pyarrow as pa

from heedful.embeddings.table import ItemEmbeddings
from heedful.events.preparing import read_events
from heedful.rankers.registry import MODELS

Request = tuple[str, str, Any]
IDS = [
    "i1", "", " ", "a,b", "a/b", "../../etc/passwd", "%00", "\0", "\n", "\ufffe", "\ud800", "é", "e\u0301", "😀" * 70,
    "x" * 257, "y" * 5000, "0", "007", "-0", "+7", "7.0", "NaN", "null", "'; drop table events; --", '"', "\\",
    2**53, 2**63, 2**64 - 1, -(2**63), 10**400, 0, -1, 475.0, 1.5, 1e308, True, None, [], {}, [["i1"]],
]  # fmt: skip
TIMES = [
    0, 1, -1, 20240131, 45322.5, 1_700_000_000, 1_700_000_000_000, 1_700_000_000 * 10**9, 10**30, 1e308, -1e308,
    "2024-01-31", "2024-01-31T10:00:00+02:00", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "2024-02-30",
    "24:00", "", " ", "nan", "1e400", "9" * 5000, "20240131", "2024-W05", None, True, [], {},
]  # fmt: skip
CONDITIONS = [
    "users > 1", "price / 0 = 1", "((((", "'", "1", "title LIKE '%' ESCAPE '%%'", "price::DATE = 1",
    "repeat('a', 1e9) = 'b'", "regexp_matches(title, '(a*)*b')", "select 1", "item_id = ?", "x" * 2001, "NULL",
    "users > 9e999", "-- ", "list_filter([1], x -> x) = []", "\0", "😀 = 1", "users IN ()", "CAST(title AS INTEGER) = 1", "",
]  # fmt: skip
SLOTS = [
    '[[slot]]\nname = "a"\n', "[[slot]]\n", "[slot]\n", "slot = 1", "\0", "[[slot]]\nname = 1e400\n", "a = " + "[" * 900,
    '[[slot]]\nname = "a"\nshown = 0\n', '[[slot]]\nname = "a"\npinned = [1, "b", 2.0, []]\n', '[[slot]]\nname = "a"\n' * 2,
    '[[slot]]\nname = "a"\nrule = "newest"\ncolumn = "added"\nat_most = { "price" = 1 }\n', '{"slot": [{"name": "a"}]}',
    '[[slot]]\nname = "a"\nwhere = "price > 1"\ntreatments = { model = nan }\n', '{"slot": [1]}', '{"slot": {}}',
]  # fmt: skip
NUMBERS = [0, 1, -1, 2.0, 2.5, 1001, 2**31, 2**63, 10**400, 1e308, "1", "", None, True, [], {}]
VALUES = [*IDS, *NUMBERS, {"a": {"b": [None]}}, ["i1"] * 50, ["i1", None], {"i1": 1}, "2024-01-31"]
BY_NAME: dict[str, list[Any]] = {
    "where": CONDITIONS, "timestamp": TIMES, "history_times": [[one] for one in TIMES], "k": NUMBERS, "limit": NUMBERS,
    "offset": NUMBERS, "pool_gamma": NUMBERS, "since": [*NUMBERS, *TIMES], "until": TIMES,
}  # fmt: skip
HEADERS: list[dict[str, str]] = [
    {"content-type": "text/plain"}, {"content-type": "application/x-www-form-urlencoded"}, {"content-type": ""},
    {"content-type": "application/json; charset=utf-16"}, {"content-type": "multipart/form-data; boundary=x"},
    {"content-encoding": "gzip"}, {"accept": "image/png"}, {"if-match": '"'}, {"if-match": "*"}, {"expect": "100-continue"},
    {"origin": "http://elsewhere.example"}, {"authorization": "Bearer x"}, {"range": "bytes=0-1"}, {"x": "y" * 9000},
    {"content-length": "0"}, {"content-length": "3"}, {"cookie": "é"},
]  # fmt: skip
METHODS = ["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "TRACE", "X"]


def valid() -> list[Request]:
    """A request to each route: method, path with its query, body (None, an object, or TOML as text)."""
    past = {"history": ["i1", "i2"], "history_times": [1.7e9, None], "history_kinds": ["view", None]}
    event = {"event_id": "e", "user_id": "ann", "item_id": "i1", "timestamp": 1_700_000_000, "event": "view"}
    item = {"item_id": "new", "attributes": {"title": "New", "price": 1.5, "added": "2024-01-31", "tags": ["a"]}}
    table = {"name": "a", "shown": 3, "pinned": ["i1"], "where": "price > 1", "treatments": {"model": 1.0}}
    return [
        ("POST", "/rank", {**past, "candidates": ["i1", "i2", "nobody"], "k": 2, "pool_gamma": 0.5, "where": "users > 1"}),
        ("POST", "/rank", {"user_id": "ann", "candidates": ["i1"]}),
        ("POST", "/recommend", {**past, "k": 3, "offset": 1, "where": "price > 1", "at_most": {"title": 1}}),
        ("POST", "/recommend", {"user_id": "ann", "exclude_history": False}),
        ("POST", "/explain", {**past, "items": ["i1"], "pool_gamma": None}),
        ("POST", "/slots/a", {**past, "visitor": "v", "preview": False, "treatment": "model"}),
        ("GET", "/slots/a?user=ann&preview=true&treatment=model", None),
        ("POST", "/events", event),
        ("POST", "/events", {"events": [event, event]}),
        ("DELETE", "/events/e", None),
        ("POST", "/impressions", {"impression_id": "0"}),
        ("DELETE", "/impressions/0", None),
        ("POST", "/clicks", {"impression_id": "0", "item_id": "i1", "click_id": "c"}),
        ("GET", "/clicks/report?slot=a&since=1&until=1700000000&simulated=false", None),
        ("GET", "/items?search=item&limit=3", None),
        ("GET", "/items?ids=i1,i2", None),
        ("GET", "/items/i1", None),
        ("GET", "/items/i1/similar?k=3&where=users>1", None),
        ("POST", "/items", {"items": [item]}),
        ("GET", "/users?prefix=a&limit=3", None),
        ("GET", "/users/ann/history?limit=3", None),
        ("DELETE", "/users/bob", None),
        ("GET", "/slots", None),
        ("GET", "/slots.toml", None),
        ("GET", "/slots.toml/versions", None),
        ("POST", "/slots.toml/preview?user=ann", SLOTS[0]),
        ("PUT", "/slots?preview=true&empty=false", SLOTS[0]),
        ("PUT", "/slots?preview=true", {"slot": [table]}),
        ("GET", "/model", None),
        ("POST", "/model", {"path": "model", "embeddings": None}),
        ("GET", "/metrics", None),
        ("GET", "/health/live", None),
        ("GET", "/health/ready", None),
        ("GET", "/openapi.json", None),
        ("GET", "/", None),
        ("GET", "/static/app.js", None),
    ]


class Hostile:
    """Changes valid requests; the same seed gives the same requests."""

    def __init__(self, seed: int) -> None:
        self._random, self._valid = random.Random(seed), valid()

    def __iter__(self) -> Iterator[tuple[str, str, bytes | None, dict[str, str]]]:
        """Method, path, body, headers."""
        while True:
            method, path, body = copy.deepcopy(self._random.choice(self._valid))
            for _ in range(self._random.choice((1, 1, 1, 2, 3))):
                part = self._random.random()
                if part < 0.7 and body is not None:
                    body = self._other_body(body)
                elif part < 0.95 or body is not None:
                    path = self._other_path(path)
                else:
                    method = self._random.choice(METHODS)
            content, headers = self._written(body)
            if self._random.random() < 0.15:
                headers |= self._random.choice(HEADERS)
            yield method, path, content, headers

    def _other_body(self, body: Any) -> Any:
        if isinstance(body, str):
            return self._random.choice(SLOTS)
        owner: Any = body
        while True:  # down to some place inside
            keys = list(owner) if isinstance(owner, dict) else list(range(len(owner)))
            key = self._random.choice(keys) if keys else None
            inner = owner[key] if keys else None
            if not isinstance(inner, dict | list) or not inner or self._random.random() < 0.3:
                break
            owner = inner
        self._change(owner, key)
        return body

    def _change(self, owner: Any, key: Any) -> None:
        choice = self._random.random()
        if isinstance(owner, dict) and (key is None or choice < 0.1):
            owner[self._random.choice(["", "x", "user_id", "history", "k", "é", "\0", "a" * 300])] = self._value("x")
        elif key is None:
            owner.append(self._value("x"))
        elif choice < 0.2:
            del owner[key]
        elif choice < 0.3 and isinstance(owner, list):
            owner.extend(owner * self._random.choice((1, 30)))
        else:
            owner[key] = self._value(key)

    def _value(self, name: Any) -> Any:
        known = BY_NAME.get(name) if isinstance(name, str) else None
        return copy.deepcopy(self._random.choice(known if known and self._random.random() < 0.8 else VALUES))

    def _other_path(self, path: str) -> str:
        address, _, query = path.partition("?")
        parts, asked = address.split("/")[1:], [one.split("=", 1) for one in query.split("&") if one]
        if asked and self._random.random() < 0.6:
            one = self._random.choice(asked)
            one[1] = _in_address(self._value(one[0]))
        elif self._random.random() < 0.5:
            asked.append([_in_address(self._value("x")), _in_address(self._value("x"))])
        else:
            parts[self._random.randrange(len(parts))] = _in_address(self._random.choice(IDS))
        return "/" + "/".join(parts) + ("?" + "&".join(f"{name}={value}" for name, value in asked) if asked else "")

    def _written(self, body: Any) -> tuple[bytes | None, dict[str, str]]:
        if body is None:
            return None, {}
        if isinstance(body, str):
            return body.encode(), {"content-type": self._random.choice(("application/toml", "application/json"))}
        text = json.dumps(body, ensure_ascii=self._random.random() < 0.5).encode("utf-8", "surrogatepass")
        choice = self._random.random()
        if choice < 0.05:
            text = text[: self._random.randrange(len(text))]
        elif choice < 0.08:
            text = self._random.choice(
                (b"NaN", b"[" * 3000, b"\xff" + text, text + text, b"", b"null", b"1e999", b'"\\ud800"')
            )
        return text, {"content-type": "application/json"}


def _in_address(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return quote(text.encode("utf-8", "surrogatepass")[:9000], safe="/.-_" if len(text) % 2 else "")


def make_shop(folder: Path) -> None:
    """A model with attributes of several types, and its slots."""
    randoms, n = np.random.default_rng(0), 40
    ids = [f"i{row}" for row in range(n)]
    actions = {
        "user_id": [f"u{user}" for user in randoms.integers(0, 30, 600)],
        "item_id": [ids[row] for row in randoms.integers(0, n, 600)],
        "timestamp": [1_700_000_000 + 60 * row for row in range(600)],
        "event": ["view" if row % 3 else "purchase" for row in range(600)],
    }
    log = read_events(pa.table(actions))
    items = log.catalog.items
    names = items.ids
    attributes = pa.table({
        "title": [f"Item {name}" for name in names],
        "price": randoms.random(len(names)) * 10,
        "added": pa.array(range(19_000, 19_000 + len(names)), pa.date32()),
        "tags": [["a", "b"]] * len(names),
    })  # fmt: skip
    vectors = randoms.standard_normal((len(names), 8)).astype(np.float32)
    table = ItemEmbeddings(items, vectors, attributes=attributes)
    MODELS["averaging"]().fit(log, table).save(folder / "model", pack=True)
    (folder / "slots.toml").write_text(SLOTS[0] + "treatments = { model = 0.5, popularity = 0.5 }\n")


@contextmanager
def served(folder: Path) -> Iterator[int]:
    """The port of a server on the shop."""
    command = [sys.executable, "-m", "heedful", "serve", "model", "--slots", "slots.toml", "--database", "shop.sqlite",
               "--port", "0", "--threads", "1", "--rate", "0", "--log-level", "warning",
               "--body-seconds", "0.5"]  # fmt: skip
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
    try:
        until = time.monotonic() + 120
        while not (found := re.search(r'"address": "http://[^"]+:(\d+)"', (folder / "log").read_text())):
            if server.poll() is not None or time.monotonic() > until:
                raise SystemExit(f"the server did not start: {(folder / 'log').read_text()}")
            time.sleep(0.1)
        yield int(found[1])
    finally:
        server.terminate()
        server.wait(60)


def ask(port: int, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> int:
    """The status of an answer; 0 where there is none."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.putrequest(method, path, skip_accept_encoding=True)
        for name, value in {"content-length": str(len(body or b"")), **headers}.items():
            connection.putheader(name, value.encode())
        connection.endheaders()
        with suppress(OSError):  # refused before it was read; the answer is there
            connection.send(body or b"")
        answer = connection.getresponse()
        answer.read()
        return answer.status
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        connection.close()


def main() -> int:
    """Send them and count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    statuses: collections.Counter[int] = collections.Counter()
    with tempfile.TemporaryDirectory(prefix="heedful-hostile-") as folder:
        make_shop(Path(folder))
        with served(Path(folder)) as port:
            begun = time.perf_counter()
            for _, request in zip(range(options.requests), Hostile(options.seed), strict=False):
                status = ask(port, *request)
                statuses[status] += 1
                if status in (0, 500):
                    print(f"{status or 'no answer'}: {' '.join(map(repr, request))[:2000]}", flush=True)
            seconds = time.perf_counter() - begun
        if statuses[500]:
            print(Path(folder, "log").read_text()[-20_000:])
    counts = ", ".join(f"{number:,} of {status or 'no answer'}" for status, number in sorted(statuses.items()))
    print(f"{options.requests:,} requests with seed {options.seed} in {seconds:.0f} s: {counts}")
    return int(statuses[500] + statuses[0] > 0)


if __name__ == "__main__":
    raise SystemExit(main())
