"""Addresses of databases, and why they fail, in words that may be told to anybody."""

from __future__ import annotations

import sqlite3
from urllib.parse import quote

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from heedful.errors import ConfigError

__all__ = ["EXPECTED", "is_passing", "reason", "url_of", "words"]

EXPECTED = "a file such as shop.sqlite, sqlite:///shop.sqlite or postgresql://user@host/shop"

_POSTGRESQL_REASONS = {
    "53100": "its disk is full",
    "53300": "it has too many connections",
    "25006": "it is read-only",
    "57014": "it takes too long",
    "55P03": "it is locked",
}
_SQLITE_REASONS = {
    sqlite3.SQLITE_FULL: "its disk is full",
    sqlite3.SQLITE_BUSY: "it is locked by another process",
    sqlite3.SQLITE_LOCKED: "it is locked",
    sqlite3.SQLITE_READONLY: "it is read-only",
    sqlite3.SQLITE_CANTOPEN: "its file cannot be opened",
    sqlite3.SQLITE_IOERR: "its disk fails",
    sqlite3.SQLITE_CORRUPT: "its file is damaged",
    sqlite3.SQLITE_NOTADB: "its file is damaged",
}
# Two transactions that held each other up, one of which PostgreSQL has ended: it may be tried again.
_PASSING = ("40001", "40P01")


def url_of(place: str) -> URL:
    """The URL of a place.

    Raises:
        ConfigError: what it names is neither a file nor a database of a kind that is used here. The place is not quoted:
            it may hold a password.
    """
    if "://" not in place:
        if not place or place == ":memory:":
            raise ConfigError("a store needs a file, which other processes can open too", got=repr(place), expected=EXPECTED)
        return URL.create("sqlite", database=place)
    try:
        url = make_url(place)
    except (ArgumentError, ValueError):
        raise ConfigError("the URL of the database cannot be read", expected=EXPECTED) from None
    system = {"postgres": "postgresql"}.get(url.get_backend_name(), url.get_backend_name())
    if system == "sqlite" and url.database and url.database != ":memory:":
        return URL.create("sqlite", database=url.database)
    if system == "postgresql":
        return url.set(drivername="postgresql+psycopg")
    raise ConfigError("a database of this kind is not used here", got=f"{url.drivername}://", expected=EXPECTED)


def reason(error: BaseException) -> str:
    """Why, in words that name no address: a driver's own tell host, port and user to whoever asks."""
    if isinstance(error, sqlite3.Error):
        return _SQLITE_REASONS.get(getattr(error, "sqlite_errorcode", 0) & 0xFF, "it fails")
    state = getattr(error, "sqlstate", None)
    if state is None or state.startswith(("08", "28", "57P")):
        return "it cannot be reached"
    return _POSTGRESQL_REASONS.get(state, f"it fails with SQLSTATE {state}")


def is_passing(error: BaseException | None) -> bool:
    """Whether to try again at once."""
    return getattr(error, "sqlstate", None) in _PASSING


def words(error: BaseException, url: URL) -> str:
    """The first line of a driver's message (later ones may quote data), without the password."""
    words = (str(error).strip() or type(error).__name__).splitlines()[0]
    for secret in (url.password, url.query.get("password")):
        for form in (str(secret), quote(str(secret), safe="")) if secret else ():
            words = words.replace(form, "***")
    return words
