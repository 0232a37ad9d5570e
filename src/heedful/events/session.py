"""A DuckDB session that spills to disk, streams its results and stops at once on Ctrl-C."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, TypeVar

import duckdb
import numpy as np
import pyarrow as pa

from heedful.errors import ConfigError

__all__ = ["Session", "identifier", "literal", "open_session"]

T = TypeVar("T")
BATCH_ROWS = 131_072


def identifier(name: str) -> str:
    """A column or table name, quoted for SQL."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """A text constant, quoted for SQL."""
    return "'" + text.replace("'", "''") + "'"


class Session:
    """One connection to a temporary database; made by `open_session`.

    Queries run in a worker thread. DuckDB looks at signals only between its own tasks, and a sort of a large table is
    one long task; the main thread, which merely waits here, gets the signal at once and interrupts the query.

    Attributes:
        closing: whatever a source opened and the session closes at its end.

    """

    def __init__(self, connection: duckdb.DuckDBPyConnection, closing: contextlib.ExitStack) -> None:
        self.closing = closing
        self._connection = connection
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="heedful-duckdb")
        self._numbers = itertools.count()

    def run(self, sql: str) -> list[tuple[Any, ...]]:
        """Run a statement to its end; the rows of its result."""
        return self._interruptible(lambda: self._connection.execute(sql).fetchall())

    def value(self, sql: str) -> Any:
        """The first value of the first row."""
        return self.run(sql)[0][0]

    def names(self, relation: str) -> list[str]:
        """Names of the columns of what may follow FROM."""
        return list(self.types(relation))

    def types(self, relation: str) -> dict[str, str]:
        """Names and DuckDB types of the columns of what may follow FROM; reads no rows."""
        return {str(row[0]): str(row[1]) for row in self.run(f"DESCRIBE SELECT * FROM {relation}")}

    def register(self, data: pa.Table | pa.RecordBatchReader | dict[str, np.ndarray]) -> str:
        """Make Arrow data or columns in arrays known to SQL; its name, quoted."""
        name = self.free_name()
        self._connection.register(name, data)
        return identifier(name)

    def free_name(self) -> str:
        """A name that nothing in the session has yet."""
        return f"source_{next(self._numbers)}"

    def batches(self, sql: str) -> Iterator[pa.RecordBatch]:
        """Stream a result; nothing else may run in the session until the iterator is exhausted."""
        reader = self._interruptible(lambda: self._connection.sql(sql).to_arrow_reader(BATCH_ROWS))
        with contextlib.closing(reader):
            while (batch := self._interruptible(lambda: next(reader, None))) is not None:
                yield batch

    def schema(self, sql: str) -> pa.Schema:
        """The Arrow schema of a result, without running it."""
        return self._interruptible(lambda: self._connection.sql(f"SELECT * FROM ({sql}) LIMIT 0").to_arrow_table()).schema

    def close(self) -> None:
        """Wait for the worker and close the connection."""
        self._worker.shutdown(wait=True)
        self._connection.close()

    def _interruptible(self, work: Callable[[], T]) -> T:
        future = self._worker.submit(work)
        try:
            return future.result()
        except KeyboardInterrupt:
            self._connection.interrupt()
            wait([future])
            raise
        except duckdb.OutOfMemoryException as error:
            raise ConfigError(
                "the memory limit is too small for this log",
                got=_first_line(error),
                fix="raise memory_limit or lower threads",
            ) from error
        except duckdb.Error as error:
            if _is_full_disk(error):
                raise OSError(_first_line(error)) from error
            raise


@contextlib.contextmanager
def open_session(folder: Path, *, memory_limit: str, threads: int) -> Iterator[Session]:
    """A session whose database and spill files lie in `folder`.

    Args:
        folder: an existing folder, best on the disk that the result goes to.
        memory_limit: what DuckDB may hold in memory, as in "2GB".
        threads: worker threads; 0 for as many as there are cores.

    Raises:
        ConfigError: a memory limit that DuckDB does not understand.
        OSError: the disk is full.

    """
    config: dict[str, Any] = {"memory_limit": memory_limit, "temp_directory": str(folder / "spill")}
    if threads:
        config["threads"] = threads
    try:
        connection = duckdb.connect(str(folder / "work.duckdb"), config=config)
    except duckdb.Error as error:
        if _is_full_disk(error):
            raise OSError(_first_line(error)) from error
        raise ConfigError(
            "DuckDB cannot start with this memory limit",
            got=f"{memory_limit!r}: {_first_line(error)}",
            expected="e.g. '4GB'",
        ) from error
    with contextlib.ExitStack() as closing:
        session = Session(connection, closing)
        closing.callback(session.close)
        # DuckDB draws its own progress on standard output, which is for results.
        session.run("SET enable_progress_bar = false")
        # Times without a zone are UTC wherever the program runs.
        session.run("SET TimeZone = 'UTC'")
        yield session


def _is_full_disk(error: duckdb.Error) -> bool:
    return any(words in str(error) for words in ("Could not write", "No space left on device", "Could not truncate"))


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0]
