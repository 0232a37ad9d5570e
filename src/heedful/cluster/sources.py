"""The files of a source that a cluster reads: finding, describing and cutting them into parts."""

from __future__ import annotations

import itertools
import os
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from heedful.cluster.storage import Place
from heedful.errors import ConfigError, InputError
from heedful.events.columns import Rows, find_time
from heedful.events.databases import is_table
from heedful.events.preparing import PrepareConfig
from heedful.events.reading import Source, expand, open_source
from heedful.events.session import Session

__all__ = ["cut", "described_files", "files_of"]

# Rows of the source in one part, where a file can be cut.
_PART_ROWS = 4_000_000
_PARQUET = (".parquet", ".pq")


def files_of(source: Source) -> list[Place]:
    """The files of the source, in the order of their addresses.

    Raises:
        ConfigError: the source is something else.
        InputError: there is no file.
    """
    listed: Sequence[object] = source if isinstance(source, Sequence) and not isinstance(source, str) else [source]
    paths = [os.fspath(path) for path in listed if isinstance(path, str | os.PathLike)]
    if len(paths) < len(listed) or any(is_table(path) for path in paths):
        raise ConfigError(
            "a cluster reads files only",
            got="a database or data in memory",
            fix="write it to Parquet, or leave --cluster out",
        )
    return sorted({file for path in paths for file in _expanded(path)}, key=lambda file: file.address)


def _expanded(path: str) -> list[Place]:
    if "://" not in path:
        return [Place.of(file) for file in expand(Path(path).absolute())]
    files = Place.of(path).files(*_PARQUET)
    if not files:
        raise InputError(f"no Parquet file at {path}", expected="a Parquet file, or a folder of them", fix="check the URL")
    return files


def described_files(files: list[Place], session: Session, config: PrepareConfig) -> tuple[Rows, dict[str, str], str]:
    """The rows of all files as the manifest describes them, the types of their columns, and the column of the times.

    A Parquet file at a URL is not fetched for that; one without rows takes its place.
    """
    with tempfile.TemporaryDirectory(prefix="heedful-") as folder:
        paths = [file.path or _without_rows(file, Path(folder) / str(n) / file.name) for n, file in enumerate(files)]
        rows = open_source(paths, session)
        types = session.types(rows.relation(rows.names))
        time_column = find_time(rows, session, config.time_column)
    facts = [{"name": Path(place).name, "bytes": size} for file in files for place, size, _ in file.stamp()]
    described = {**rows.description, "bytes": sum(fact["bytes"] for fact in facts), "files": facts[:100]}
    return replace(rows, description=described), types, time_column


def _without_rows(file: Place, path: Path) -> Path:
    system, place = file.system
    try:
        with system.open_input_file(place) as stream:
            schema = pq.read_schema(stream)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{file} cannot be read", got=error, expected="a Parquet file") from error
    path.parent.mkdir(parents=True)
    pq.write_table(schema.empty_table(), path)
    return path


def cut(file: Place) -> list[dict[str, Any]]:
    """A file as parts: a large Parquet file by runs of its row groups, where it need not be fetched for each."""
    address = [file.address, file.query]
    whole = [{"file": address, "rows": None}]
    if file.path is None or not file.name.lower().endswith(_PARQUET):
        return whole
    metadata = pq.read_metadata(file.path)
    if metadata.num_rows <= _PART_ROWS:
        return whole
    ends = np.cumsum([metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)])
    wanted = np.arange(_PART_ROWS, metadata.num_rows, _PART_ROWS)
    borders = [0, *np.unique(ends[np.searchsorted(ends, wanted)]).tolist()]
    borders = borders if borders[-1] == metadata.num_rows else [*borders, metadata.num_rows]
    return [{"file": address, "rows": [low, high]} for low, high in itertools.pairwise(borders)]
