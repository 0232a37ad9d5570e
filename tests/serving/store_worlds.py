"""Databases to keep a store in: a SQLite file, and a PostgreSQL server of our own that can be stopped and started."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg

from heedful.serving.store import Click, Event, Impression

PATIENCE = 120.0
PASSWORD = "s3c ret%"
DAY = 86_400


def binaries() -> Path | None:
    """Where the programs of PostgreSQL lie."""
    places = [Path(found).parent for found in filter(None, [shutil.which("initdb")])]
    places += sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    return next((place for place in places if (place / "initdb").exists() and (place / "postgres").exists()), None)


@dataclass
class Server:
    """A PostgreSQL server in a folder, which runs as nobody when we are root."""

    folder: Path
    binaries: Path
    port: int = 0
    who: dict[str, Any] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Its URL, with the password quoted as a URL has it."""
        return f"postgresql://me:s3c%20ret%25@127.0.0.1:{self.port}/postgres"

    def make(self) -> None:
        (self.folder / "password").write_text(PASSWORD)
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            for path in (self.folder, *self.folder.iterdir()):
                os.chown(path, nobody.pw_uid, nobody.pw_gid)
            self.who = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        new = ["-D", "data", "-U", "me", "-A", "scram-sha-256", "--pwfile=password", "-E", "UTF8", "--no-sync"]
        subprocess.run([self.binaries / "initdb", *new], check=True, cwd=self.folder, stdout=subprocess.DEVNULL, **self.who)

    def start(self) -> None:
        if self.process is not None:
            return
        # -F: nothing is forced to the disk; no test pulls the plug.
        start = [self.binaries / "postgres", "-F", "-D", "data", "-p", str(self.port), "-c", "listen_addresses=127.0.0.1"]
        with (self.folder / "log").open("a") as log:
            self.process = subprocess.Popen([*start, "-k", self.folder], cwd=self.folder, stderr=log, stdout=log, **self.who)
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                psycopg.connect(self.url).close()
                return
            except psycopg.OperationalError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """End it: SIGINT in order, SIGQUIT as in a crash."""
        if self.process is not None:
            self.process.send_signal(how)
            self.process.wait(PATIENCE)
            self.process = None

    def empty(self) -> None:
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute("DROP SCHEMA public CASCADE")
            connection.execute("CREATE SCHEMA public")


def event(number: int | str, user: str = "ann", item: str = "1", time: int = 0, kind: str = "purchase") -> Event:
    return Event(f"event-{number}", user, item, time, kind)


def impression(number: int | str, user: str = "ann", items: tuple[str, ...] = ("1", "2", "3"), time: int = 0, **other: str):
    facts = {"slot": "home", "treatment": "attention", "model": "v1", "salt": "salt", **other}
    return Impression(impression_id=f"impression-{number}", user_id=user, items=items, time=time, **facts)


def click(number: int | str, on: int | str, item: str = "1", time: int = 0) -> Click:
    return Click(f"click-{number}", f"impression-{on}", item, time)


@contextlib.contextmanager
def program(code: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Another Python process that runs some code; killed at the end."""
    command = [sys.executable, "-c", code, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def rows(place: str, sql: str) -> list[tuple[Any, ...]]:
    """What a query finds, without the store; of several statements with `;` between them, the last."""
    if place.startswith("postgresql://"):
        with psycopg.connect(place) as connection:
            cursor = connection.execute(sql)
            while cursor.nextset():
                pass
            return cursor.fetchall()
    with contextlib.closing(sqlite3.connect(place)) as connection:
        return connection.execute(sql).fetchall()
