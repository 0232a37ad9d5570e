"""Who may do what, and how often: API keys with scopes, token buckets, the headers that every answer carries."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
import time
import tomllib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from heedful.config import require
from heedful.errors import ConfigError, InputError

__all__ = ["EVERYTHING", "SCOPES", "SECURITY_HEADERS", "Key", "Keys", "TokenBuckets", "add_key", "no_keys"]

SCOPES = {
    "rank": "rankings, slots, explanations, histories and figures",
    "events": "events, impressions and clicks",
    "admin": "everything, also deleting users and changing slots, items and the model",
}
_KEY_BYTES = 32
_PREFIX = "hk_"

# The page takes nothing from elsewhere, and no other page may frame it.
_CONTENT = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
SECURITY_HEADERS: list[tuple[bytes, bytes]] = [
    (b"content-security-policy", _CONTENT.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
]


@dataclass(frozen=True)
class Key:
    """An API key, of which the hash alone is known.

    Attributes:
        name: who uses it; it appears in logs.
        sha256: hash of the key, hexadecimal. A key is 256 random bits, so that a quick hash is safe.
        scopes: what it may do.
    """

    name: str
    sha256: str
    scopes: frozenset[str]

    def allows(self, scope: str) -> bool:
        """Whether the key may do what needs `scope`."""
        return scope in self.scopes or "admin" in self.scopes


EVERYTHING = Key("", "", frozenset(["admin"]))
"""Stands for whoever reaches a server without keys."""


class Keys:
    """The keys of a file."""

    def __init__(self, keys: Sequence[Key]) -> None:
        self._keys = tuple(keys)

    def __len__(self) -> int:
        return len(self._keys)

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Keys:
        """Read a key file.

        Raises:
            InputError: the file cannot be read, or is not one of keys.
        """
        try:
            text = Path(path).read_text()
        except (OSError, ValueError) as error:
            raise _unreadable(path, f"{type(error).__name__}: {error}") from error
        return cls.parse(text, path)

    @classmethod
    def parse(cls, text: str, path: str | os.PathLike[str]) -> Keys:
        """The keys of a file's text, which may be none.

        Raises:
            InputError: the text is not one of keys.
        """
        try:
            declared = tomllib.loads(text).get("key", [])
            keys = [Key(str(key["name"]), str(key["sha256"]), frozenset(key["scopes"])) for key in declared]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise _unreadable(path, f"{type(error).__name__}: {error}") from error
        for key in keys:
            if not key.scopes <= SCOPES.keys() or len(key.sha256) != 64:
                raise _unreadable(path, f"key {key.name!r} with scopes {', '.join(sorted(map(str, key.scopes)))}")
        return cls(keys)

    def find(self, presented: str) -> Key | None:
        """The key whose hash is that of `presented`; takes as long whichever it is, or none."""
        digest = hashlib.sha256(presented.encode("utf-8", "surrogatepass")).hexdigest()
        found = None
        for key in self._keys:
            if hmac.compare_digest(key.sha256, digest):
                found = key
        return found


def _unreadable(path: object, got: str) -> InputError:
    return InputError(
        f"{path} is not a file of API keys",
        got=got,
        expected=f"[[key]] with name, sha256 and scopes out of {', '.join(SCOPES)}",
        fix="make a key with `heedful key NAME --keys FILE`",
    )


def no_keys(path: object) -> InputError:
    """The error of a file of API keys that holds none."""
    return InputError(f"{path} holds no API key", fix="make a key with `heedful key NAME --keys FILE`")


def add_key(path: str | os.PathLike[str], name: str, scopes: Sequence[str]) -> str:
    """Make a key, add its hash to a file, and return it: it is not to be had again.

    Raises:
        ConfigError: a scope that there is not, or a name that is taken.
        InputError: the file is not one of keys, or cannot be written.
    """
    for scope in scopes:
        require(scope in SCOPES, "scopes", got=scope, expected=", ".join(SCOPES))
    require(bool(name) and bool(scopes), "name and scopes", got=name, expected="one at least")
    file = Path(path)
    if file.exists() and any(key.name == name for key in Keys.read(file)._keys):
        raise ConfigError(f"a key of the name {name!r} is in {path} already", fix="choose another, or take that one out")
    key = _PREFIX + secrets.token_urlsafe(_KEY_BYTES)
    digest = hashlib.sha256(key.encode()).hexdigest()
    entry = f"[[key]]\nname = {json.dumps(name)}\nsha256 = {json.dumps(digest)}\nscopes = {json.dumps(list(scopes))}\n\n"
    try:
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "w") as stream:
            stream.write(entry)
    except OSError as error:
        raise InputError(f"{path} cannot be written", got=error, fix="choose another --keys file") from error
    return key


class TokenBuckets:
    """How often each client may ask: `rate` a second, and `burst` at once.

    Args:
        rate: requests a second; 0: no limit.
        burst: size of a client's bucket.
        clients: buckets that are kept, those of the latest clients; a forgotten one starts full.
        clock: seconds that only grow.
    """

    def __init__(
        self, rate: float, burst: int, *, clients: int = 10_000, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._rate, self._burst, self._clients, self._clock = rate, float(burst), clients, clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait(self, client: str) -> float:
        """Take a token: 0 when there was one, otherwise the seconds until there will be."""
        if not self._rate:
            return 0.0
        now = self._clock()
        tokens, then = self._buckets.pop(client, (self._burst, now))
        tokens = min(self._burst, tokens + (now - then) * self._rate)
        taken = tokens >= 1
        self._buckets[client] = (tokens - taken, now)
        if len(self._buckets) > self._clients:
            self._buckets.popitem(last=False)
        return 0.0 if taken else (1 - tokens) / self._rate


def bearer(headers: Sequence[tuple[bytes, bytes]]) -> str | None:
    """The key in a request's `Authorization: Bearer KEY`."""
    for name, value in headers:
        if name == b"authorization":
            scheme, _, key = value.decode("latin-1").partition(" ")
            return key.strip() if scheme.lower() == "bearer" else None
    return None


def header(headers: Sequence[tuple[bytes, bytes]], wanted: bytes) -> str:
    """A request's header, empty where there is none."""
    return next((value.decode("latin-1") for name, value in headers if name == wanted), "")
