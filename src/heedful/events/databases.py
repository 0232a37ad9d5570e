"""Tables of databases by URL: DuckDB attached, SQLite and PostgreSQL streamed; all of them read-only.

DuckDB has extensions for the latter two, but fetches them from the internet at run time; SQLite comes with Python, and
PostgreSQL needs the extra `postgres`.
"""

from __future__ import annotations

import contextlib
import re
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

import duckdb
import pyarrow as pa

from heedful.errors import InputError, MissingExtraError
from heedful.events.session import Session, identifier, literal

__all__ = ["Numbered", "TableUrl", "highest_number", "is_table", "open_table", "split_url"]

_BATCH_ROWS = 65_536
_SCHEMES = {"duckdb": "duckdb", "sqlite": "sqlite", "postgresql": "postgresql", "postgres": "postgresql"}
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9]+)(\+[a-z0-9]+)?://")
_EXAMPLES = "duckdb:///shop.db?table=events, sqlite:///shop.db?table=events, postgresql://user@host/shop?table=events"
_OID_TYPES = {20: pa.int64(), 21: pa.int64(), 23: pa.int64(), 700: pa.float64(), 701: pa.float64(), 17: pa.binary()}

Opened = tuple[dict[str, Any], list[str], Callable[[Sequence[str]], str]]


@dataclass(frozen=True)
class Numbered:
    """The rows of a table whose whole number in a column lies above `low` and not above `high`."""

    column: str
    low: int
    high: int

    @property
    def condition(self) -> str:
        """SQL to be placed behind WHERE."""
        column = identifier(self.column)
        return f"{column} > {int(self.low)} AND {column} <= {int(self.high)}"


@dataclass(frozen=True, repr=False)
class TableUrl:
    """A table of a database.

    Attributes:
        system: "duckdb", "sqlite" or "postgresql".
        url: the URL without the table; holds the password.
        table: name of the table, maybe with its schema before a dot.
        rows: which of its rows; None: all.

    """

    system: str
    url: str
    table: str
    rows: Numbered | None = None

    @property
    def where(self) -> str:
        """The end of a statement that selects the rows."""
        return f" WHERE {self.rows.condition}" if self.rows is not None else ""

    @property
    def masked(self) -> str:
        """The URL with `***` for the password, fit to be shown."""
        masked = re.sub(r"(://[^/@:]*):[^/]*@", r"\1:***@", self.url)
        return re.sub(r"(?i)([?&]pass[a-z]*=)[^&]*", r"\1***", masked)

    @property
    def file(self) -> Path:
        """The database file: relative after three slashes, absolute after four, or absolute after three if it is there.

        Raises:
            InputError: no such file.

        """
        path = unquote(urlsplit(self.url).path)
        places = [Path(path.removeprefix("/")), Path(path)]
        found = next((place for place in places if place.is_file()), None)
        if found is None:
            raise InputError(
                f"there is no database file {path.removeprefix('/')}", fix="check the path; an absolute one has four slashes"
            )
        return found

    def without_secrets(self, text: str) -> str:
        """A message of the database with the password replaced."""
        parts = urlsplit(self.url)
        secrets = [parts.password, unquote(parts.password or "")]
        secrets += [value for key, value in parse_qsl(parts.query) if key.lower().startswith("pass")]
        for secret in filter(None, secrets):
            text = text.replace(secret, "***")
        return " ".join(text.split())


def is_table(source: str) -> bool:
    """Whether the text is the URL of a database of a kind that is read here."""
    match = _SCHEME.match(source)
    return match is not None and match[1].lower() in _SCHEMES


def split_url(source: str) -> TableUrl | None:
    """The table that a URL names; None for what is not a URL.

    Raises:
        InputError: a scheme that is not read here, or no table.

    """
    if not (match := _SCHEME.match(source)):
        return None
    parts = urlsplit(source)
    system = _SCHEMES.get(match[1].lower())
    if system is None:
        raise InputError("a URL of this kind is not read here", got=f"{match[1]}://", expected=_EXAMPLES)
    options = parse_qsl(parts.query)
    table = dict(options).get("table")
    rest = urlencode([(key, value) for key, value in options if key != "table"])
    url = TableUrl(system, f"{system}://{parts.netloc}{parts.path}{'?' if rest else ''}{rest}", table or "")
    if not table:
        raise InputError("the URL names no table", got=url.masked, expected=_EXAMPLES, fix="add ?table=name")
    return url


def open_table(url: TableUrl, session: Session) -> Opened:
    """Open a table: its description for the manifest, its columns, and SQL for a part of them.

    Raises:
        InputError: no such database or table, or no access.
        MissingExtraError: psycopg is not installed.

    """
    opened = {"duckdb": _open_duckdb, "sqlite": _open_sqlite, "postgresql": _open_postgresql}[url.system](url, session)
    described: dict[str, Any] = {"type": url.system, "url": url.masked, "table": url.table}
    if url.rows is not None:
        described["rows"] = url.rows.condition
    return described, *opened


def highest_number(url: TableUrl, column: str) -> int:
    """The highest number in a column of whole numbers; 0 for a table without rows.

    Raises:
        InputError: no such database, table or column, or no access.
        MissingExtraError: psycopg is not installed.

    """
    table = ".".join(identifier(part) for part in _table_parts(url.table))
    # With the name of the table, SQLite cannot take an unknown column for a text.
    question = f"SELECT max(numbered.{identifier(column)}) FROM {table} AS numbered"
    ask = {"duckdb": _ask_duckdb, "sqlite": _ask_sqlite, "postgresql": _ask_postgresql}[url.system]
    value = ask(url, question)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
        raise InputError(
            f"column {column!r} of table {url.table!r} has no whole numbers", got=repr(value)[:40],
            fix="name a column that counts the rows",
        )  # fmt: skip
    return int(value or 0)


def _ask_duckdb(url: TableUrl, question: str) -> object:
    try:
        with duckdb.connect(str(url.file), read_only=True) as connection:
            return (connection.execute(question).fetchone() or (None,))[0]
    except duckdb.Error as error:
        raise _no_access(url, error) from error


def _ask_sqlite(url: TableUrl, question: str) -> object:
    try:
        with contextlib.closing(sqlite3.connect(f"{url.file.resolve().as_uri()}?mode=ro", uri=True)) as connection:
            return connection.execute(question).fetchone()[0]
    except sqlite3.Error as error:
        raise _no_access(url, error) from error


def _ask_postgresql(url: TableUrl, question: str) -> object:
    try:
        import psycopg
        from psycopg import sql
    except ImportError as error:
        raise MissingExtraError("psycopg", "postgres") from error
    try:
        with psycopg.connect(url.url) as connection:
            found = connection.execute(sql.SQL(question)).fetchone()
    except psycopg.Error as error:
        # The original error may quote the URL with its password.
        raise _no_access(url, error) from None
    return found[0] if found else None


def _open_duckdb(url: TableUrl, session: Session) -> tuple[list[str], Callable[[Sequence[str]], str]]:
    database = session.free_name()
    try:
        session.run(f"ATTACH {literal(str(url.file))} AS {identifier(database)} (READ_ONLY)")
    except duckdb.Error as error:
        raise _no_access(url, error) from error
    tables = session.run(
        "SELECT table_schema, table_name FROM information_schema.tables "
        f"WHERE table_catalog = {literal(database)} ORDER BY ALL"
    )
    parts = _table_parts(url.table)
    wanted = [("main", url.table), tuple(parts) if len(parts) > 1 else ("main", parts[0])]
    found = next((table for table in wanted if table in tables), None)
    if found is None:
        raise _no_table(url, [f"{schema}.{name}" if schema != "main" else name for schema, name in tables])
    relation = ".".join(identifier(part) for part in (database, *found))
    part = f"(SELECT * FROM {relation}{url.where})" if url.rows is not None else relation
    return session.names(relation), lambda _: part


def _open_sqlite(url: TableUrl, session: Session) -> tuple[list[str], Callable[[Sequence[str]], str]]:
    place = f"{url.file.resolve().as_uri()}?mode=ro"
    try:
        # The rows are fetched by threads of DuckDB, one after the other.
        connection = sqlite3.connect(place, uri=True, check_same_thread=False)
        session.closing.callback(connection.close)
        tables = [
            r[0] for r in connection.execute("SELECT name FROM sqlite_master WHERE type IN ('table', 'view') ORDER BY 1")
        ]
        table = next((name for name in (url.table, *_table_parts(url.table)[-1:]) if name in tables), None)
        if table is None:
            raise _no_table(url, tables)
        names = [row[0] for row in connection.execute(f"SELECT * FROM {identifier(table)} LIMIT 0").description]
    except sqlite3.Error as error:
        raise _no_access(url, error) from error

    def relation(chosen: Sequence[str]) -> str:
        try:
            place = f"{identifier(table)}{url.where}"
            schema = _sqlite_schema(connection, place, chosen)
            columns = ", ".join(_sqlite_column(field) for field in schema)
            cursor = connection.execute(f"SELECT {columns} FROM {place}")
        except sqlite3.Error as error:
            raise _no_access(url, error) from error
        return session.register(pa.RecordBatchReader.from_batches(schema, _batches(cursor, schema)))

    return names, relation


def _sqlite_schema(connection: sqlite3.Connection, place: str, names: Sequence[str]) -> pa.Schema:
    """Types of columns by what they hold, since a declared type binds nothing in SQLite."""
    held = ", ".join(f"group_concat(DISTINCT typeof({identifier(name)}))" for name in names)
    row = connection.execute(f"SELECT {held} FROM {place}").fetchone()
    return pa.schema([(name, _sqlite_type(set((kinds or "").split(",")))) for name, kinds in zip(names, row, strict=True)])


def _sqlite_type(kinds: set[str]) -> pa.DataType:
    kinds = kinds - {"null", ""}
    if kinds and kinds <= {"integer", "real"}:
        return pa.float64() if "real" in kinds else pa.int64()
    return pa.binary() if kinds == {"blob"} else pa.string()


def _sqlite_column(field: pa.Field) -> str:
    name = identifier(field.name)
    return f"CAST({name} AS TEXT)" if pa.types.is_string(field.type) else name


def _open_postgresql(url: TableUrl, session: Session) -> tuple[list[str], Callable[[Sequence[str]], str]]:
    try:
        import psycopg
        from psycopg import sql
    except ImportError as error:
        raise MissingExtraError("psycopg", "postgres") from error
    table = sql.Identifier(*_table_parts(url.table))
    try:
        connection = psycopg.connect(url.url)
        session.closing.callback(connection.close)
        connection.read_only = True
        connection.execute("SET TIME ZONE 'UTC'")
        connection.execute("SET DateStyle = 'ISO'")
        columns = connection.execute(sql.SQL("SELECT * FROM {} LIMIT 0").format(table)).description or []
    except psycopg.errors.UndefinedTable:
        listing = (
            "SELECT schemaname || '.' || tablename FROM pg_tables WHERE schemaname !~ '^(pg_|information_s)' ORDER BY 1"
        )
        connection.rollback()
        raise _no_table(url, [row[0] for row in connection.execute(listing)]) from None
    except psycopg.Error as error:
        # The original error may quote the URL with its password.
        raise _no_access(url, error) from None
    types = {column.name: _OID_TYPES.get(column.type_code, pa.string()) for column in columns}

    def relation(chosen: Sequence[str]) -> str:
        schema = pa.schema([(name, types[name]) for name in chosen])
        texts = [sql.SQL("{}::text" if pa.types.is_string(f.type) else "{}").format(sql.Identifier(f.name)) for f in schema]
        # A named cursor stays on the server, which sends the rows by and by.
        cursor = connection.cursor(name="heedful")
        session.closing.callback(cursor.close)
        try:
            question = sql.SQL("SELECT {} FROM {}").format(sql.SQL(", ").join(texts), table)
            cursor.execute(question + sql.SQL(url.where))
        except psycopg.Error as error:
            raise _no_access(url, error) from None
        return session.register(pa.RecordBatchReader.from_batches(schema, _batches(cursor, schema)))

    return list(types), relation


def _batches(cursor: Any, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    while rows := cursor.fetchmany(_BATCH_ROWS):
        columns = zip(*rows, strict=True)
        arrays = [pa.array(values, field.type) for values, field in zip(columns, schema, strict=True)]
        yield pa.record_batch(arrays, schema=schema)


def _table_parts(table: str) -> list[str]:
    """`schema.table` in its parts; a part in double quotes may hold a dot."""
    parts = re.findall(r'"(?:[^"]|"")+"|[^."]+', table)
    return [part[1:-1].replace('""', '"') if part.startswith('"') else part for part in parts] or [table]


def _no_table(url: TableUrl, present: Sequence[str]) -> InputError:
    return InputError(f"{url.masked} has no table {url.table!r}", got=f"the tables {', '.join(present) or '(none)'}")


def _no_access(url: TableUrl, error: BaseException) -> InputError:
    return InputError(
        f"{url.masked} cannot be read",
        got=url.without_secrets(str(error)),
        fix="check address, rights and password",
    )
