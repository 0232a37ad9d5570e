"""Connections of the store: a SQLite file or a PostgreSQL database, whose failures all become `StoreUnavailable`."""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from sqlalchemy import Connection, Engine, create_engine, event, inspect, select, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from heedful.errors import ConfigError, MissingExtraError
from heedful.serving.bounded import Guard, NoAnswer, StoreUnavailable, Threads
from heedful.serving.places import EXPECTED, is_passing, reason, url_of, words
from heedful.serving.tables import SCHEMA_VERSION, metadata, schema
from heedful.serving.upgrades import UPGRADES

__all__ = ["Database", "StoreUnavailable"]

T = TypeVar("T")
_CONNECTIONS = 40  # as many as the web framework has threads
_ATTEMPTS = 4
_LOCK_POLL_SECONDS = 0.001
# A server that hangs answers nothing, not even that it is too late, so that callers wait in a thread of their own.
_THREADS, _HEAVY_THREADS = 12, 2
_GRACE_SECONDS = 0.5  # beyond the time for a lock, so that the server's own refusal comes first
_ROWS_A_SECOND = 1000
_STATEMENT_SECONDS = 60
_PROBE_SECONDS = 10.0
_CONNECTING = {
    "connect_timeout": 2,
    "tcp_user_timeout": 10_000,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "application_name": "heedful",
}
_LOG = logging.getLogger("heedful.serving")
_SQLITE_SETTINGS = (
    "synchronous = FULL",  # with the write-ahead log: each commit is forced to the disk before it is acknowledged
    "foreign_keys = ON",
    "secure_delete = ON",  # what a user had deleted is overwritten
    "cache_size = -32000",  # KiB: with SQLite's 2 MB a million events come in a quarter more slowly
    "wal_autocheckpoint = 4000",  # pages, 16 MB: pages that change often are written fewer times
)


class Database:
    """A database with the store's tables; made by `open`. Safe to share between threads.

    Attributes:
        system: "sqlite" or "postgresql".
    """

    def __init__(self, url: URL, lock_seconds: float) -> None:
        self.system = "sqlite" if url.drivername == "sqlite" else "postgresql"
        self._url, self._lock_seconds = url, lock_seconds
        self._path = Path(url.database or "").absolute() if self.system == "sqlite" else None
        self._file: tuple[int, int] | None = None
        # SQLite has one writer at a time, and those of other processes wait by polling; our own threads queue here.
        self._turn = threading.Lock()
        self._patience = threading.local()
        self._reads, self._writes, self._answers = Guard(), Guard(), Guard(NoAnswer)
        self._threads, self._heavy = Threads(_THREADS), Threads(_HEAVY_THREADS)
        self._write_problem: StoreUnavailable | None = None
        self._last_write = time.monotonic()
        self._engine = self._sqlite() if self.system == "sqlite" else self._postgresql()
        self._reading = self._streaming = self._engine
        if self.system == "sqlite":
            self._reading = self._streaming = self._engine.execution_options(reading=True)
        else:
            # A cursor that stays on the server needs a transaction; a single statement is quicker without.
            self._reading = self._engine.execution_options(isolation_level="AUTOCOMMIT")

    @classmethod
    def open(cls, place: str, *, create: bool = True, lock_seconds: float = 5.0) -> Database:
        """Connect and see to the tables.

        Args:
            place: a SQLite file, or a URL with the scheme sqlite or postgresql.
            create: make the file and the tables where they are missing.
            lock_seconds: how long to wait for a lock that another process holds.

        Raises:
            ConfigError: the place cannot be a store: wrong URL, no such folder, not a database, tables of another version.
            MissingExtraError: psycopg is not installed.
            StoreUnavailable: the database cannot be reached.
        """
        database = cls(url_of(place), lock_seconds)
        try:
            if database._path is not None:
                database._open_file(create)
            with database._failures():
                database._see_to_tables(create)
        except StoreUnavailable as error:
            database.close()
            # Whoever starts a server may know where its database is; those who use it are not told.
            got = words(error.__cause__, database._url) if error.__cause__ is not None else None
            raise StoreUnavailable(error.problem, got=got, fix=error.fix) from error.__cause__
        except BaseException:
            database.close()
            raise
        return database

    def read(self, work: Callable[[Connection], T], *, heavy: bool = False) -> T:
        """What `work` returns, given a connection on which each statement is on its own.

        Args:
            work: reads.
            heavy: whether it takes long, or fetches rows by and by.

        Raises:
            StoreUnavailable: the database cannot be used.
        """

        def run() -> T:
            with self._failures():
                self._same_file()
                with (self._streaming if heavy else self._reading).connect() as connection:
                    return work(connection)

        if heavy:
            return self._at_length(run)
        return self._reads.call(lambda: self._in_time(run, self._lock_seconds + _GRACE_SECONDS))

    def write(
        self, work: Callable[[Connection], T], *, rows: int = 1, heavy: bool = False, seconds: float | None = None
    ) -> T:
        """What `work` returns, all of it done in one transaction that is on the disk when this returns.

        Args:
            work: changes something.
            rows: about how many rows.
            heavy: whether it takes long.
            seconds: the longest wait for a lock; by default as given to `open`.

        Raises:
            StoreUnavailable: the database cannot be used; nothing was changed, unless it did not answer in time.
        """
        wait = self._lock_seconds if seconds is None else seconds

        def run() -> T:
            self._patience.deadline = time.monotonic() + wait
            return self._transaction(work)

        try:
            if heavy:
                done = self._at_length(run)
            else:
                limit = wait + _GRACE_SECONDS + rows / _ROWS_A_SECOND
                patient = seconds is None
                done = self._writes.call(lambda: self._in_time(run, limit, patient=patient), patient=patient)
        except StoreUnavailable as error:
            self._note_write(error)
            raise
        self._note_write(None)
        return done

    def check(self) -> None:
        """Find out whether the database answers, and whether it took the last write.

        Raises:
            StoreUnavailable: it does not.
        """
        self.read(lambda connection: connection.execute(select(1)))
        if (problem := self._write_problem) is not None:
            raise StoreUnavailable("the database cannot be written", got=problem.problem, fix=problem.fix)

    def probe(self) -> None:
        """Write something harmless if the last write failed, or nothing was written for a while, to know of a full disk.

        Raises:
            StoreUnavailable: it cannot be written.
        """
        if self._write_problem is not None or time.monotonic() - self._last_write > _PROBE_SECONDS:
            self.write(lambda connection: connection.execute(schema.update().values(version=schema.c.version)))

    def _note_write(self, problem: StoreUnavailable | None) -> None:
        before, self._write_problem, self._last_write = self._write_problem, problem, time.monotonic()
        if problem is not None and before is None:
            cause = words(problem.__cause__, self._url) if problem.__cause__ is not None else None
            _LOG.error("the database cannot be written", extra={"facts": {"problem": problem.problem, "cause": cause}})
        elif problem is None and before is not None:
            _LOG.warning("the database can be written again")

    def _transaction(self, work: Callable[[Connection], T]) -> T:
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                with self._failures(), self._my_turn():
                    self._same_file()
                    with self._engine.begin() as connection:
                        return work(connection)
            except StoreUnavailable as error:
                if attempt == _ATTEMPTS or not is_passing(error.__cause__):
                    raise
        raise AssertionError("the last attempt returns or raises")

    def _in_time(self, work: Callable[[], T], seconds: float, *, patient: bool = True) -> T:
        """SQLite keeps to its limits by itself, and needs no other thread."""
        if self.system == "sqlite":
            return work()
        return self._answers.call(lambda: self._threads.call(work, seconds), patient=patient)

    def _at_length(self, work: Callable[[], T]) -> T:
        """Work that takes long, once it is known that the database answers."""
        if self.system == "sqlite":
            return work()
        self.read(lambda connection: connection.execute(select(1)))
        return self._heavy.call(work, _STATEMENT_SECONDS)

    def forget(self) -> None:
        """Clear what was deleted from SQLite's write-ahead log too, if no other process reads just now."""
        if self.system == "sqlite":
            self.read(lambda connection: connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").all(), heavy=True)

    def close(self) -> None:
        """Close the connections."""
        self._engine.dispose()

    # Systems

    def _sqlite(self) -> Engine:
        def connect() -> sqlite3.Connection:
            # mode=rw: a file that has vanished is not made again, empty, behind the back of whoever moved it.
            connection = sqlite3.connect(
                f"file:{quote(str(self._path))}?mode=rw", uri=True, timeout=self._lock_seconds, check_same_thread=False
            )
            try:
                for setting in _SQLITE_SETTINGS:
                    connection.execute(f"PRAGMA {setting}")
            except sqlite3.Error:
                connection.close()
                raise
            return connection

        engine = create_engine(
            self._url, creator=connect, hide_parameters=True, pool_size=_CONNECTIONS, max_overflow=0,
            pool_timeout=self._lock_seconds, pool_use_lifo=True,
        )  # fmt: skip

        @event.listens_for(engine, "begin")
        def begin(connection: Connection) -> None:
            # The write lock is taken at once: a transaction that reads first could not get it when another one wrote.
            if not connection.get_execution_options().get("reading"):
                self._take_write_lock(connection)

        return engine

    def _take_write_lock(self, connection: Connection) -> None:
        """Begin to write, looking for the lock each millisecond.

        SQLite's own waiting soon looks only ten times a second, so that of several processes that write all the time one
        gets the lock again and again while the others wait for seconds.
        """
        driver: sqlite3.Connection = connection.connection.driver_connection  # type: ignore[assignment]
        deadline = getattr(self._patience, "deadline", None) or time.monotonic() + self._lock_seconds
        driver.execute("PRAGMA busy_timeout = 0")
        try:
            while True:
                try:
                    driver.execute("BEGIN IMMEDIATE")
                    return
                except sqlite3.OperationalError as error:
                    if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                        raise
                    time.sleep(_LOCK_POLL_SECONDS)
        finally:
            driver.execute(f"PRAGMA busy_timeout = {int(self._lock_seconds * 1000)}")

    def _postgresql(self) -> Engine:
        milliseconds = {"lock_timeout": self._lock_seconds * 1000, "statement_timeout": _STATEMENT_SECONDS * 1000}
        try:
            engine = create_engine(
                self._url.update_query_dict({k: str(v) for k, v in _CONNECTING.items() if k not in self._url.query}),
                hide_parameters=True, pool_pre_ping=True, pool_size=8, max_overflow=_CONNECTIONS - 8,
                pool_timeout=self._lock_seconds, pool_use_lifo=True,
            )  # fmt: skip
        except ModuleNotFoundError as error:
            raise MissingExtraError("psycopg", "serve") from error

        @event.listens_for(engine, "connect")
        def connected(connection: Any, record: object) -> None:
            with connection.cursor() as cursor:
                for name, value in milliseconds.items():
                    cursor.execute(f"SET {name} = {int(value)}")
            connection.commit()

        return engine

    # The SQLite file

    def _open_file(self, create: bool) -> None:
        assert self._path is not None
        if self._path.is_dir():
            raise ConfigError("a database is a file, and this is a folder", got=self._path, expected=EXPECTED)
        if not self._path.exists():
            if not create:
                raise ConfigError("there is no such database file", got=self._path, fix="check the path")
            if not self._path.parent.is_dir():
                raise ConfigError("there is no such folder for the database", got=self._path.parent, fix="make the folder")
        try:
            with self._failures():
                connection = sqlite3.connect(self._path, timeout=self._lock_seconds)
                try:
                    if connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
                        connection.execute("PRAGMA journal_mode = WAL").fetchone()
                finally:
                    connection.close()
        except StoreUnavailable as error:
            if isinstance(error.__cause__, sqlite3.DatabaseError) and "not a database" in str(error.__cause__):
                raise ConfigError("this file is not a database", got=self._path, expected=EXPECTED) from error
            raise
        self._file = _identity(self._path)

    def _same_file(self) -> None:
        """Without this, what is written to a deleted file would be acknowledged, and lost."""
        if self._path is None or self._file == (found := _identity(self._path)):
            return
        self._engine.dispose()
        if found is None:
            raise StoreUnavailable("the database file is gone", fix="put it back, or start the server again")
        self._open_file(create=False)
        self._see_to_tables(create=False)

    # Tables

    def _see_to_tables(self, create: bool) -> None:
        with self._reading.connect() as connection:
            there = inspect(connection).has_table(schema.name)
            if there and (self._version(connection) == SCHEMA_VERSION or not create):
                return self._check_version(connection)
        if not create:
            raise ConfigError("this database has no tables of heedful", got=self._name, fix="check the address")
        with self._engine.begin() as connection:
            if self.system == "postgresql":
                # Of several processes that start at once one makes the tables. The number is arbitrary, but fixed.
                connection.execute(text("SELECT pg_advisory_xact_lock(726433)"))
            if not inspect(connection).has_table(schema.name):
                metadata.create_all(connection)
                connection.execute(schema.insert().values(version=SCHEMA_VERSION))
            self._upgrade(connection)
            return self._check_version(connection)

    def _upgrade(self, connection: Connection) -> None:
        """Make older tables those of this version, as far as there is a way; all of it in the transaction, or nothing."""
        version = self._version(connection)
        while version < SCHEMA_VERSION and version in UPGRADES:
            for step in UPGRADES[version]:
                step(connection) if callable(step) else connection.execute(text(step))
            version += 1
            connection.execute(schema.update().values(version=version))

    def _version(self, connection: Connection) -> int:
        return int(connection.execute(select(schema.c.version)).scalar() or 0)

    def _check_version(self, connection: Connection) -> None:
        version = self._version(connection)
        if version != SCHEMA_VERSION:
            newer = "use that newer heedful, or another database"
            older = "`heedful serve` brings them up to date; make a backup first"
            raise ConfigError(
                "the tables of this database are of another version of heedful",
                got=f"version {version} in {self._name}",
                expected=f"version {SCHEMA_VERSION}",
                fix=newer if version > SCHEMA_VERSION else older,
            )

    # Failures

    @property
    def _name(self) -> str:
        return str(self._path) if self._path is not None else f"{self._url.host or 'localhost'}/{self._url.database}"

    @contextmanager
    def _my_turn(self) -> Iterator[None]:
        if self.system == "postgresql":
            yield
            return
        deadline = getattr(self._patience, "deadline", None) or time.monotonic() + self._lock_seconds
        if not self._turn.acquire(timeout=max(deadline - time.monotonic(), 0)):
            raise StoreUnavailable("the database is busy", fix="try again in a few seconds")
        try:
            yield
        finally:
            self._turn.release()

    @contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except (DBAPIError, sqlite3.Error) as error:
            cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
            raise StoreUnavailable(
                f"the database cannot be used now: {reason(cause)}", fix="try again in a few seconds"
            ) from cause
        except PoolTimeoutError as error:
            raise StoreUnavailable("the database is too busy", fix="try again in a few seconds") from error


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
