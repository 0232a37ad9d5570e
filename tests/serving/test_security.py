"""Keys, rates, sizes and time-outs: who is let in, and how far."""

from __future__ import annotations

import hashlib
import stat
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from serving_worlds import client, error_of, train

from heedful.errors import ConfigError, InputError
from heedful.serving.options import ServeConfig, is_loopback
from heedful.serving.security import Keys, TokenBuckets, add_key


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "model"
    train("popularity").save(path)
    return path


# The key file


def test_a_key_is_known_by_its_hash_alone(tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    shop, batch = add_key(file, 'shop "front"', ["rank", "events"]), add_key(file, "batch", ["admin"])
    assert shop != batch and len(shop) > 40
    text = file.read_text()
    assert shop not in text and batch not in text
    assert tomllib.loads(text)["key"][0]["sha256"] == hashlib.sha256(shop.encode()).hexdigest()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    keys = Keys.read(file)
    found = keys.find(shop)
    assert found is not None and found.name == 'shop "front"'
    assert [found.allows(scope) for scope in ("rank", "events", "admin")] == [True, True, False]
    boss = keys.find(batch)
    assert boss is not None and boss.allows("rank") and boss.allows("admin")
    for wrong in ("", shop[:-1], shop + "x", shop.upper(), tomllib.loads(text)["key"][0]["sha256"], "é\udcff"):
        assert keys.find(wrong) is None


def test_keys_that_cannot_be_made(tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    with pytest.raises(ConfigError, match="scopes"):
        add_key(file, "shop", ["rank", "everything"])
    with pytest.raises(ConfigError, match="name"):
        add_key(file, "", ["rank"])
    assert not file.exists()
    add_key(file, "shop", ["rank"])
    with pytest.raises(ConfigError, match=r"'shop' is in .* already"):
        add_key(file, "shop", ["rank"])
    with pytest.raises(InputError, match="cannot be written"):
        add_key(tmp_path / "nowhere" / "keys.toml", "shop", ["rank"])


@pytest.mark.parametrize(
    "text",
    [
        "nonsense", "[[key]]\nname = 'a'", "key = 3", "[[key]]\nname='a'\nsha256='00'\nscopes=['rank']",
        f"[[key]]\nname='a'\nsha256='{'0' * 64}'\nscopes=['root']", f"[[key]]\nname='a'\nsha256='{'0' * 64}'\nscopes=[[]]",
    ],
)  # fmt: skip
def test_files_that_are_not_keys(tmp_path: Path, text: str) -> None:
    file = tmp_path / "keys.toml"
    file.write_text(text)
    with pytest.raises(InputError, match=r"is not a file of API keys.*heedful key NAME"):
        Keys.read(file)
    with pytest.raises(InputError, match="is not a file of API keys"):
        Keys.read(tmp_path)


# Keys over HTTP


@pytest.fixture(scope="module")
def guarded(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[TestClient, dict[str, dict[str, str]]]]:
    folder = tmp_path_factory.mktemp("guarded")
    file = folder / "keys.toml"
    made = {scope: add_key(file, scope, [scope]) for scope in ("rank", "events", "admin")}
    headers = {scope: {"authorization": f"Bearer {key}"} for scope, key in made.items()}
    with client(model, folder, host="shop.example", keys=str(file), max_body=1000) as opened:
        yield opened, headers


def test_nothing_but_the_page_and_health_without_a_key(guarded: tuple[TestClient, Any]) -> None:
    shop, _ = guarded
    for path in ("/", "/static/app.js", "/health/live", "/health/ready", "/openapi.json"):
        assert shop.get(path).status_code == 200, path
    document = shop.get("/openapi.json").json()
    asked = 0
    for path, methods in document["paths"].items():
        for method in methods:
            if not path.startswith("/health/"):
                answer = shop.request(method, path.replace("{", "").replace("}", ""))
                assert error_of(answer, 401)["code"] == "unauthorized"
                assert answer.headers["www-authenticate"] == "Bearer"
                asked += 1
    assert asked > 15


@pytest.mark.parametrize("header", ["Bearer", "Bearer ", "Bearer x", "Basic {rank}", "{rank}", "Bearer {rank}x", "bearer é"])
def test_wrong_keys(guarded: tuple[TestClient, Any], header: str) -> None:
    shop, headers = guarded
    value = header.format(rank=headers["rank"]["authorization"].removeprefix("Bearer "))
    error_of(shop.get("/model", headers={"authorization": value.encode()}), 401)


def test_each_scope_opens_its_own(guarded: tuple[TestClient, Any]) -> None:
    shop, headers = guarded
    event = {"event_id": "e", "user_id": "u", "item_id": "item1"}
    needs = [
        ("rank", lambda who: shop.post("/rank", json={"candidates": ["item1"]}, headers=who)),
        ("rank", lambda who: shop.get("/metrics", headers=who)),
        ("rank", lambda who: shop.get("/users/u/history", headers=who)),
        ("events", lambda who: shop.post("/events", json=event, headers=who)),
        ("admin", lambda who: shop.delete("/users/u", headers=who)),
        ("admin", lambda who: shop.put("/slots?empty=true", content=b"", headers=who)),
        ("admin", lambda who: shop.post("/model", json={"path": "model"}, headers=who)),
    ]  # fmt: skip
    for scope, ask in needs:
        for other in ("rank", "events"):
            if other != scope:
                error = error_of(ask(headers[other]), 403)
                assert error["code"] == "forbidden" and repr(scope) in error["message"]
        answer = ask(headers[scope])
        assert answer.status_code == 200, answer.text
        if scope != "admin":
            assert ask(headers["admin"]).status_code == 200


def test_a_body_is_not_read_before_the_key(guarded: tuple[TestClient, Any]) -> None:
    shop, _ = guarded
    error_of(shop.post("/rank", content=b"[" * 10_000), 401)


def test_bodies_that_are_too_large(guarded: tuple[TestClient, Any]) -> None:
    shop, headers = guarded
    assert "1,000 bytes" in error_of(shop.post("/rank", content=b" " * 1001, headers=headers["rank"]), 413)["message"]

    def endless() -> Iterator[bytes]:
        for _ in range(50):
            yield b" " * 100

    chunked = shop.post("/rank", content=endless(), headers=headers["rank"])
    assert "content-length" not in chunked.request.headers
    error_of(chunked, 413)
    error_of(shop.post("/rank", content=b" " * 1000, headers=headers["rank"]), 422)


# Without keys


@pytest.mark.parametrize(
    ("host", "inside"),
    [("127.0.0.1", True), ("127.8.9.1", True), ("::1", True), ("[::1]", True), ("localhost", True), ("0.0.0.0", False),
     ("::", False), ("192.168.1.7", False), ("shop.example", False), ("", False), ("localhost.example", False)],
)  # fmt: skip
def test_without_keys_on_this_machine_alone(host: str, inside: bool) -> None:
    assert is_loopback(host) is inside
    if inside:
        ServeConfig(host=host)
    else:
        with pytest.raises(ConfigError, match=r"without API keys .*heedful key NAME"):
            ServeConfig(host=host)
    ServeConfig(host=host, keys="keys.toml")


def test_a_page_whose_name_points_here_is_refused(model: Path, tmp_path: Path) -> None:
    with client(model, tmp_path) as shop:
        for host in ("evil.example", "evil.example:8000", "127.0.0.1.evil.example", "localhost.evil.example"):
            assert error_of(shop.get("/model", headers={"host": host}), 403)["code"] == "wrong_host"
        for host in ("localhost", "localhost:8000", "127.0.0.1:8000", "[::1]:8000", "[::1]"):
            assert shop.get("/model", headers={"host": host}).status_code == 200, host


# How often


def test_token_buckets() -> None:
    now = [100.0]
    buckets = TokenBuckets(2.0, 3, clients=2, clock=lambda: now[0])
    assert [buckets.wait("ann") for _ in range(4)] == [0, 0, 0, 0.5]
    assert buckets.wait("bob") == 0
    now[0] += 0.5
    assert [buckets.wait("ann"), buckets.wait("ann")] == [0, 0.5]
    now[0] += 1000
    assert [buckets.wait("ann") for _ in range(4)] == [0, 0, 0, 0.5]  # never more than the bucket holds
    assert [buckets.wait("bob"), buckets.wait("cat")] == [0, 0]
    assert buckets.wait("ann") == 0  # forgotten in favour of those two, hence full again
    assert all(TokenBuckets(0.0, 1).wait("ann") == 0 for _ in range(100))


def test_too_many_requests(model: Path, tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    one, two = ({"authorization": f"Bearer {add_key(file, name, ['rank'])}"} for name in ("one", "two"))
    with client(model, tmp_path, keys=str(file), rate=0.001, burst=3) as shop:
        assert [shop.get("/model", headers=one).status_code for _ in range(3)] == [200] * 3
        answer = shop.get("/model", headers=one)
        assert error_of(answer, 429)["code"] == "too_often" and int(answer.headers["retry-after"]) > 1
        assert shop.get("/model", headers=two).status_code == 200  # another key has its own
        assert [shop.get("/model").status_code for _ in range(4)] == [401, 401, 401, 429]  # and so have guesses
        assert shop.get("/health/live").status_code == 200
