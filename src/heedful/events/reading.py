"""Sources of rows: files, Arrow data, DataFrames and database tables, each as something that SQL can select from."""

from __future__ import annotations

import contextlib
import csv
import glob
import gzip
import io
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import duckdb
import pyarrow as pa

from heedful.errors import InputError
from heedful.events.columns import Rows
from heedful.events.databases import TableUrl, open_table, split_url
from heedful.events.session import Session, identifier, literal

__all__ = ["ArrowStream", "Rows", "Source", "expand", "open_source", "read_errors"]


@runtime_checkable
class ArrowStream(Protocol):
    """Whatever hands over Arrow data: pyarrow, pandas and polars tables, and many more."""

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """An Arrow C stream in a PyCapsule."""


Source = str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | ArrowStream | TableUrl

_FORMATS = {".parquet": "parquet", ".pq": "parquet", ".csv": "csv", ".csv.gz": "csv", ".tsv": "csv", ".tsv.gz": "csv"}
_LISTED_FILES = 100
_HINTS = {
    "csv": "each row needs as many values as the header, in UTF-8, with quotes closed",
    "parquet": "write the file again",
}


def open_source(source: Source, session: Session) -> Rows:
    """Open a source of rows.

    Args:
        source: a path or glob (Parquet, CSV, TSV, also gzipped), a list of these, a folder of Parquet files, an Arrow
            table or reader, a pandas or polars DataFrame, or the URL of a database table.
        session: where the rows will be selected.

    Raises:
        InputError: nothing there, nothing in it, or nothing that can be read.
        MissingExtraError: the database needs a package that is not installed.

    """
    url = split_url(source) if isinstance(source, str) else source
    if isinstance(url, TableUrl):
        description, names, relation = open_table(url, session)
        return Rows(description, names, relation)
    if isinstance(source, str | os.PathLike):
        return _open_files([source], session)
    if isinstance(source, pa.Table | pa.RecordBatchReader | ArrowStream):
        return _open_arrow(source, session)
    if isinstance(source, Sequence) and source and all(isinstance(path, str | os.PathLike) for path in source):
        return _open_files(source, session)
    raise InputError(
        "the source is of a type that cannot be read",
        got=f"{type(source).__module__}.{type(source).__qualname__}" if source is not None else "None",
        expected="paths, an Arrow table or reader, a DataFrame, or a database URL",
        fix="collect a lazy frame first" if hasattr(source, "collect") else None,
    )


def _open_arrow(source: Any, session: Session) -> Rows:
    kind = f"{type(source).__module__.split('.')[0]}.{type(source).__qualname__}"
    try:
        data = source if isinstance(source, pa.Table) else pa.RecordBatchReader.from_stream(source)
        name = session.register(data)
        names = [n for n in session.names(name) if not re.fullmatch(r"__index_level_\d+__", n)]
    except (pa.ArrowException, TypeError, duckdb.Error) as error:
        raise InputError(
            f"this {kind} cannot be read", got=_first_line(error), fix="give every column one plain type"
        ) from error
    again = isinstance(data, pa.Table)
    return Rows({"type": kind}, names, lambda _: name, again, sampled=again)


def _open_files(sources: Iterable[str | os.PathLike[str]], session: Session) -> Rows:
    paths = sorted({path for source in sources for path in expand(source)})
    formats = {_format(path) for path in paths}
    if len(formats) > 1:
        raise InputError("the files are of several formats", got=", ".join(sorted(formats)), fix="read one format at a time")
    for path in paths:
        if Path(path).stat().st_size == 0:
            raise InputError(f"{path} is empty", got="0 bytes", expected="rows", fix="leave it out or write it again")
    kind = formats.pop()
    try:
        relation = _csv_relation(paths) if kind == "csv" else _parquet_relation(paths)
        names = session.names(relation)
    except duckdb.Error as error:
        raise _unreadable(kind, error) from error
    folders = frozenset(name for path in paths for name in re.findall(r"([^/=]+)=[^/]*/", path))
    return Rows(_describe_files(kind, paths), names, lambda _: relation, kind == "parquet", True, folders)


@contextlib.contextmanager
def read_errors(rows: Rows) -> Iterator[None]:
    """What the database says while it reads the rows, as an `InputError`."""
    try:
        yield
    except duckdb.InterruptException:
        raise
    except duckdb.Error as error:
        raise _unreadable(str(rows.description["type"]), error) from error


def _unreadable(kind: str, error: BaseException) -> InputError:
    """The error for rows that cannot be read to the end."""
    text = " ".join(str(error).split("Possible ")[0].split("LINE 1:")[0].split())
    return InputError(f"the {kind} source cannot be read", got=text[:500], fix=_HINTS.get(kind))


def expand(source: str | os.PathLike[str]) -> list[str]:
    """The files of a path, a glob or a folder of Parquet; none is an `InputError`."""
    text = os.fspath(source)
    path = Path(text)
    if path.is_dir():
        files = [p for p in path.rglob("*") if p.suffix in (".parquet", ".pq") and p.is_file()]
        found = [str(p) for p in files if not _hidden(p, path)]
        if not found:
            raise InputError(
                f"no Parquet file in the folder {text}", expected="*.parquet in it or below", fix="name the files"
            )
        return found
    if path.is_file():
        return [text]
    found = [p for p in glob.glob(text, recursive=True) if Path(p).is_file()]  # noqa: PTH207 - absolute patterns too
    if not found and glob.has_magic(text):
        raise InputError(f"no file matches {text}", fix="check the pattern")
    if not found:
        raise InputError(f"there is no file {text}", fix="check the path")
    return found


def _hidden(path: Path, root: Path) -> bool:
    """Names that other tools give to temporary and bookkeeping files."""
    return any(part.startswith((".", "_")) for part in path.relative_to(root).parts)


def _format(path: str) -> str:
    lowered = path.lower()
    kind = next((kind for ending, kind in _FORMATS.items() if lowered.endswith(ending)), None)
    if kind is None:
        raise InputError(
            f"{path} has a format that is not read here",
            got=Path(path).suffix or "no ending",
            expected=", ".join(_FORMATS),
            fix="convert it, or pass its content as an Arrow table or DataFrame",
        )
    return kind


def _describe_files(kind: str, paths: Sequence[str]) -> dict[str, Any]:
    """Names and sizes; a path as given where it is relative, the name alone where it is absolute."""
    files = [{"name": Path(p).name if Path(p).is_absolute() else p, "bytes": Path(p).stat().st_size} for p in paths]
    total = sum(int(str(file["bytes"])) for file in files)
    return {"type": kind, "n_files": len(files), "bytes": total, "files": files[:_LISTED_FILES]}


def _parquet_relation(paths: Sequence[str]) -> str:
    # By name, so that neither the order of files nor that of columns matters.
    return f"read_parquet([{', '.join(literal(_no_glob(p)) for p in paths)}], union_by_name = true)"


def _csv_relation(paths: Sequence[str]) -> str:
    # DuckDB's own detection skips lines that it cannot parse and takes '#' for a comment, so the header is read here.
    by_header: dict[tuple[str, tuple[str, ...]], list[str]] = defaultdict(list)
    for path in paths:
        by_header[_csv_header(path)].append(path)
    parts = [_read_csv(files, delimiter, header) for (delimiter, header), files in by_header.items()]
    return parts[0] if len(parts) == 1 else "(" + " UNION ALL BY NAME ".join(f"SELECT * FROM {p}" for p in parts) + ")"


def _read_csv(paths: Sequence[str], delimiter: str, header: Sequence[str]) -> str:
    columns = ", ".join(f"{identifier(name)}: 'VARCHAR'" for name in header)
    files = ", ".join(literal(_no_glob(path)) for path in paths)
    return (
        f"read_csv([{files}], auto_detect = false, header = true, columns = {{{columns}}}, delim = {literal(delimiter)}, "
        "quote = '\"', escape = '\"', allow_quoted_nulls = false)"
    )


def _csv_header(path: str) -> tuple[str, tuple[str, ...]]:
    """Delimiter and column names of a CSV file."""
    try:
        with Path(path).open("rb") as raw:
            stream = gzip.GzipFile(fileobj=raw) if path.lower().endswith(".gz") else raw
            text = io.TextIOWrapper(stream, "utf-8-sig", newline="")
            line = text.readline()
            delimiter = _delimiter(path, line)
            names = next(csv.reader([line, *_rest_of_record(text, line)], delimiter=delimiter), [])
    except (OSError, UnicodeError, EOFError, csv.Error) as error:
        raise _unreadable("csv", error) from error
    if not any(name.strip() for name in names):
        raise InputError(f"{path} has no header", got="an empty first line", expected="a line with the names of the columns")
    named = tuple(name or f"column_{position}" for position, name in enumerate(names))
    repeated = sorted({name for name in named if [n.lower() for n in named].count(name.lower()) > 1})
    if repeated:
        raise InputError(f"{path} has columns of the same name", got=", ".join(repeated), fix="rename one of them")
    return delimiter, named


def _rest_of_record(text: io.TextIOWrapper, line: str) -> list[str]:
    """Further lines of a header whose quoted name holds a line break."""
    lines = []
    while line.count('"') % 2 and (more := text.readline()):
        lines.append(more)
        line += more
    return lines


def _delimiter(path: str, line: str) -> str:
    if re.search(r"\.tsv(\.gz)?$", path.lower()):
        return "\t"
    bare = re.sub(r'"[^"]*"', "", line)
    return max(",;\t|", key=bare.count)


def _no_glob(path: str) -> str:
    """A path as DuckDB takes it literally: it has no escape for pattern characters but a set of one."""
    return re.sub(r"([*?\[])", r"[\1]", path)


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
