"""`prepare` on a cluster: the same functions as on one machine, between them a shuffle that brings a user's rows together.

    look      a sample of the users of each file, which gives the borders of buckets of users
    split     the rows of each file into files by bucket
    count     in each bucket: events validated; events of each item and kind
              (then here: rows of the items, codes of the kinds)
    encode    in each bucket: users, offsets, items, times, kinds as on one machine
              (then here: the buckets one after the other)

A bucket is a range of user ids, not a hash of them: so the buckets laid end to end are the very bytes that one machine
writes. Files lie on storage that all nodes reach, so nothing is lost with a node.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from heedful.cluster.connection import check_paths, cpus
from heedful.cluster.parts import open_work, run_parts
from heedful.cluster.sources import cut, described_files, files_of
from heedful.cluster.storage import Place, delivered, here
from heedful.events.attributes import stage_attributes
from heedful.events.columns import USER, Rows, need_column
from heedful.events.databases import is_table
from heedful.events.encoding import ArrayFile, Encoded, encode, name_kinds, write_items, write_parquet
from heedful.events.ids import id_as_sql
from heedful.events.log import KIND, EventLog
from heedful.events.preparing import REJECTED_ORDER, PrepareConfig, described
from heedful.events.reading import Source, open_source, read_errors
from heedful.events.session import Session, identifier, literal, open_session
from heedful.events.times import choose_unit, count_magnitudes, is_number_or_time, time_as_sql
from heedful.events.validating import (
    Staged,
    Verdict,
    check_rows,
    collect,
    count_events,
    rank_items,
    refuse_nothing,
    stage,
    unknown_kinds,
)
from heedful.folders import new_folder

__all__ = ["prepare"]

# Users looked at in each part; rows that a bucket should have.
_SAMPLE = 2000
_BUCKET_ROWS = 8_000_000
# For integer ids half the bytes and three quarters of the processor time of the defaults, for text ids the same as these.
# Larger dictionaries take twice the time.
_ROWS_BY_BUCKET = "FORMAT parquet, PARTITION_BY (bucket), PARQUET_VERSION v2, DICTIONARY_SIZE_LIMIT 1000"
_ARRAYS: dict[str, type[np.generic]] = {"items": np.int32, "times": np.int64, "kinds": np.uint8}


def prepare(
    source: Source,
    out: str | os.PathLike[str],
    *,
    items: Source | None = None,
    config: PrepareConfig = PrepareConfig(),
    overwrite: bool = False,
) -> EventLog:
    """`heedful.prepare` on the cluster that is connected, with the same bytes as result.

    Args:
        source: files that all nodes reach: paths, globs, folders of Parquet, URLs of Parquet files or of folders of them.
            They are the parts of the work (Parquet files of more than 4 million rows are cut, where they lie at a path), so
            a log should come in several.
        out: output folder. Parts lie in `OUT.parts` until then, and a run that was stopped goes on from them.
        items: as on one machine; read here.
        config: as on one machine; `memory_limit` is that of each worker, `threads` counts here only.
        overwrite: replace a finished folder of sequences.

    Raises:
        InputError: the rows cannot be read, or none can be used.
        ConfigError: the source is not made of files, or as on one machine.
        FolderError: a node does not see a path, or cannot write.
    """
    started = time.monotonic()
    target = Place.of(out)
    work = target.beside(".parts")
    files = files_of(source)
    attributes = here(items) if isinstance(items, str | os.PathLike) and not is_table(os.fspath(items)) else items
    open_work(work, {"files": [file.stamp() for file in files], "config": config.to_dict()})
    check_paths(files, work)
    with delivered(target, kind=KIND, overwrite=overwrite) as made:
        with new_folder(made, kind=KIND, overwrite=overwrite) as folder, _session(config, config.threads) as session:
            facts = _prepare(session, files, attributes, folder.path, work, config)
            folder.manifest.update(facts, seconds=round(time.monotonic() - started, 3))
        log = EventLog.load(made)
    work.remove()
    return log


def _prepare(
    session: Session,
    files: list[Place],
    items: Source | None,
    folder: Path,
    work: Place,
    config: PrepareConfig,
) -> dict[str, Any]:
    rows, types, time_column = described_files(files, session, config)
    attributes = open_source(items, session) if items is not None else None
    # The parts are not to choose for themselves.
    options = replace(config, time_column=time_column).to_dict()
    common = {"types": types, "config": options, "folder_names": sorted(rows.folder_names)}
    parts = [part for file in files for part in cut(file)]
    borders = _borders(run_parts(work, "look", parts, _Look, common, kept=False))
    split = run_parts(work, "split", parts, _Split, {**common, "borders": borders}, kept=False)
    staged = Staged(
        **{name: split[0][name] for name in ("columns", "types", "time_type")}, rows=sum(one["rows"] for one in split)
    )
    refuse_nothing(staged, staged.rows, {})
    magnitudes = [sum(counts) for counts in zip(*(one["magnitudes"] for one in split), strict=True)]
    unit = config.time_unit if config.time_unit != "auto" else choose_unit(magnitudes)
    buckets = _buckets([one["files"] for one in split])
    in_bucket = {**common, "staged": asdict(staged), "unit": unit, "work": work}
    counted = run_parts(work, "count", buckets, _Count, in_bucket, kept=False)
    left_out = unknown_kinds(_summed(one["kinds"] for one in counted), config.kinds)
    counts = [f"count-{number:05d}.parquet" for number in range(len(buckets))]
    with work.gathered(counts) as place:
        session.run(f"CREATE TABLE counted AS FROM {_parquet([place / name for name in counts])}")
    rare = rank_items(session, config.min_item_events)
    n_events = int(session.value("SELECT coalesce(sum(events), 0)::BIGINT FROM items"))
    kinds = name_kinds(session)
    with delivered(work / "items.parquet") as file:
        session.run(f"COPY (SELECT item_id, row FROM items) TO {literal(str(file))} (FORMAT parquet)")
    finished = run_parts(
        work,
        "encode",
        [{"files": files, "counted": name} for files, name in zip(buckets, counts, strict=True)],
        _Encode,
        in_bucket | {"kinds": list(kinds), "any_rejected": n_events < staged.rows},
        kept=False,
    )
    rejected = dict(sorted(_summed(one["rejected"] for one in finished).items(), key=lambda one: (-one[1], one[0])))
    refuse_nothing(staged, n_events, rejected)
    dropped = staged.rows - n_events - sum(rejected.values()) - sum(left_out.values())
    verdict = Verdict(unit, rejected, left_out, dropped, sum(one["bots"] for one in counted), rare)
    with work.gathered(f"encode-{number:05d}" for number in range(len(buckets))) as place:
        encoded = _join(session, place, folder, [one["encoded"] for one in finished], kinds)
    items_source = {}
    if attributes is not None:
        matched = stage_attributes(attributes, session, id_type=staged.types["item_id"], item_column=config.item_column)
        items_source = {"items_source": {**attributes.description, **matched}}
    write_items(session, folder, attributes=attributes is not None)
    return described(encoded, verdict, staged, rows, config) | items_source


@dataclass
class _Part:
    """What the workers of a stage share: the columns of the source and the options."""

    types: dict[str, str]
    config: dict[str, Any]
    folder_names: list[str]

    @contextlib.contextmanager
    def open(self, part: dict[str, Any], session: Session) -> Iterator[Rows]:
        """The rows of a part, with the names and types that the columns have in all files together."""
        file = Place(*part["file"])
        with tempfile.TemporaryDirectory(prefix="heedful-") as folder:
            path = file.path or Path(folder) / file.name
            if file.path is None:
                file.bring(path)
            yield self._typed(open_source(path, session), part)

    def _typed(self, rows: Rows, part: dict[str, Any]) -> Rows:
        names = [identifier(n) if n in rows.names else f"NULL::{self.types[n]} AS {identifier(n)}" for n in self.types]
        columns = ", ".join(
            f"{name}::{kind} AS {name}" if " AS " not in name else name
            for name, kind in zip(names, self.types.values(), strict=True)
        )
        relation = rows.relation(rows.names)
        if part["rows"] is not None:
            low, high = part["rows"]
            relation = relation.removesuffix(")") + ", file_row_number = true)"
            relation = f"(FROM {relation} WHERE file_row_number >= {low} AND file_row_number < {high})"
        return replace(
            rows,
            names=list(self.types),
            relation=lambda _: f"(SELECT {columns} FROM {relation})",
            folder_names=frozenset(self.folder_names),
        )

    @property
    def options(self) -> PrepareConfig:
        """The configuration."""
        return PrepareConfig.from_dict(self.config)


class _Look(_Part):
    """A sample of the users of a part."""

    def run(self, part: dict[str, Any], path: Path) -> dict[str, Any]:
        with _session(self.options) as session, self.open(part, session) as rows:
            user = need_column(rows.names, USER, self.options.user_column, rows.folder_names)
            ids, _ = id_as_sql(user, self.types[user], USER)
            found = f"(SELECT {ids} AS user_id FROM {rows.relation(rows.names)})"
            n = session.value(f"SELECT count(*) FROM {found}")
            sampled = session.run(
                f"SELECT user_id FROM (SELECT user_id FROM {found} WHERE user_id IS NOT NULL) "
                f"USING SAMPLE reservoir({_SAMPLE} ROWS) REPEATABLE (1)"
            )
        return {"rows": n, "sample": [row[0] for row in sampled]}


@dataclass
class _Split(_Part):
    """The rows of a part by bucket."""

    borders: list[Any]

    def run(self, part: dict[str, Any], path: Path) -> dict[str, Any]:
        with _session(self.options) as session, _whole(path) as folder, self.open(part, session) as rows:
            with read_errors(rows):
                staged = stage(rows, session, self.options)
            magnitudes = count_magnitudes(session, "staged")
            # The parts of a time that are soon told again, in the bucket, need not be written.
            columns = "* EXCLUDE (whole, real, instant)" if is_number_or_time(staged.time_type) else "*"
            session.run(
                f"COPY (SELECT {columns}, {_bucket_as_sql(self.borders, 0)} AS bucket FROM staged) "
                f"TO {literal(str(folder))} ({_ROWS_BY_BUCKET}, OVERWRITE_OR_IGNORE true)"
            )
            files: dict[str, list[str]] = {}
            for file in sorted(folder.glob("bucket=*/*")):
                files.setdefault(file.parent.name, []).append(f"{path.name}/{file.parent.name}/{file.name}")
        return {"magnitudes": magnitudes, "files": files, **asdict(staged)}


@dataclass
class _Bucket(_Part):
    """A bucket: all rows of its users."""

    staged: dict[str, Any]
    unit: str
    work: Place

    @contextlib.contextmanager
    def validated(self, files: list[str]) -> Iterator[tuple[Session, dict[str, int], int]]:
        """A session with the tables of `check_rows`."""
        with _session(self.options) as session, self.work.gathered(files) as place:
            session.run("SET preserve_insertion_order = false")
            staged, rows = Staged(**self.staged), _parquet([place / file for file in files])
            parts = ""
            if is_number_or_time(staged.time_type):
                parts = f", {time_as_sql('time_read', staged.time_type, self.options.time_zone)}"
            session.run(f"CREATE VIEW staged AS SELECT *{parts} FROM {rows}")
            yield session, *check_rows(staged, session, self.options, self.unit)


class _Count(_Bucket):
    """Events of each item and kind in a bucket."""

    def run(self, part: list[str], path: Path) -> dict[str, Any]:
        with self.validated(part) as (session, kinds, bots), _whole(Path(f"{path}.parquet")) as file:
            count_events(session)
            session.run(f"COPY counted TO {literal(str(file))} (FORMAT parquet)")
        return {"kinds": kinds, "bots": bots}


@dataclass
class _Encode(_Bucket):
    """The folder of a bucket, like that of a whole log."""

    kinds: list[str]
    any_rejected: bool

    def run(self, part: dict[str, Any], path: Path) -> dict[str, Any]:
        files = ["items.parquet", part["counted"]]
        with self.validated(part["files"]) as (session, _, _), _whole(path) as folder, self.work.gathered(files) as place:
            folder.mkdir()
            for table, file in zip(("items", "counted"), files, strict=True):
                session.run(f"CREATE TABLE {table} AS FROM {_parquet([place / file])}")
            rejected = collect(session, self.options, any_rejected=self.any_rejected)
            encoded = encode(session, folder, tuple(self.kinds))
            for table in ("reach", "rejected"):
                session.run(f"COPY {table} TO {literal(str(folder / f'{table}.parquet'))} (FORMAT parquet)")
        return {"encoded": asdict(encoded), "rejected": rejected}


def _join(session: Session, work: Path, folder: Path, buckets: list[dict[str, Any]], kinds: tuple[str, ...]) -> Encoded:
    """The buckets one after the other, in the files of one folder; the table `reach` of all of them."""
    places = [work / f"encode-{number:05d}" for number in range(len(buckets))]
    n_events, n_users = (sum(one[name] for one in buckets) for name in ("n_events", "n_users"))
    for name, dtype in _ARRAYS.items():
        with ArrayFile(folder / f"{name}.npy", dtype) as file:
            for place in places:
                file.append(np.load(place / f"{name}.npy", mmap_mode="r"))
    with ArrayFile(folder / "offsets.npy", np.int64) as file:
        begin = 0
        for place, one in zip(places, buckets, strict=True):
            file.append(np.load(place / "offsets.npy", mmap_mode="r")[:-1] + begin)
            begin += one["n_events"]
        file.append(np.array([begin]))
    session.run("SET preserve_insertion_order = true")
    users = ", ".join(literal(str(place / "users.parquet")) for place in places)
    write_parquet(session, f"SELECT user_id FROM read_parquet([{users}])", folder / "users.parquet")
    session.run("SET preserve_insertion_order = false")
    every = f"SELECT * FROM {_parquet([work / 'encode-*/rejected.parquet'])} ORDER BY {REJECTED_ORDER}"
    write_parquet(session, every, folder / "rejected.parquet")
    reach = f"SELECT item, sum(users)::BIGINT AS users FROM {_parquet([work / 'encode-*/reach.parquet'])} GROUP BY item"
    session.run(f"CREATE TABLE reach AS {reach}")
    return Encoded(
        n_events,
        n_users,
        int(session.value("SELECT count(*) FROM items")),
        kinds,
        min(one["first_time"] for one in buckets),
        max(one["last_time"] for one in buckets),
        sum(one["duplicates"] for one in buckets),
    )


def _borders(looked: list[dict[str, Any]]) -> list[Any]:
    """The first user of each bucket but the first, so that buckets have about as many rows."""
    rows = sum(one["rows"] for one in looked)
    wanted = max(2 * cpus(), -(-rows // _BUCKET_ROWS))
    weighted = sorted((user, one["rows"] / len(one["sample"])) for one in looked for user in one["sample"])
    if not weighted:
        return []
    weights = np.cumsum([weight for _, weight in weighted])
    places = np.searchsorted(weights, weights[-1] * np.arange(1, wanted) / wanted)
    return sorted({weighted[place][0] for place in places.tolist()})


def _buckets(files: list[dict[str, list[str]]]) -> list[list[str]]:
    """The files of each bucket that has any rows, in the order of the buckets."""
    names = {bucket for of_part in files for bucket in of_part}
    in_order = sorted(names, key=lambda name: int(name.removeprefix("bucket=")))
    return [[file for of_part in files for file in of_part.get(bucket, [])] for bucket in in_order]


def _bucket_as_sql(borders: list[Any], first: int) -> str:
    """The number of borders that are not after a user, by halving; a missing id goes to the last bucket."""
    if not borders:
        return str(first)
    middle = len(borders) // 2
    border = literal(borders[middle]) if isinstance(borders[middle], str) else str(borders[middle])
    below = _bucket_as_sql(borders[:middle], first)
    above = _bucket_as_sql(borders[middle + 1 :], first + middle + 1)
    return f"CASE WHEN user_id < {border} THEN {below} ELSE {above} END"


@contextlib.contextmanager
def _session(config: PrepareConfig, threads: int = 1) -> Iterator[Session]:
    """A session that spills on this machine's own disk."""
    with (
        tempfile.TemporaryDirectory(prefix="heedful-", ignore_cleanup_errors=True) as folder,
        open_session(Path(folder), memory_limit=config.memory_limit, threads=threads) as session,
    ):
        yield session


@contextlib.contextmanager
def _whole(target: Path) -> Iterator[Path]:
    """A file or folder made under a name of its own; it takes its place only when it is complete, and only once."""
    partial = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}")
    yield partial
    try:
        partial.rename(target)
    except OSError:
        # Another worker, thought dead, has finished the same part.
        if not target.exists():
            raise
        shutil.rmtree(partial)


def _parquet(paths: list[Path]) -> str:
    listed = ", ".join(literal(str(path)) for path in paths)
    return f"read_parquet([{listed}], hive_partitioning = false)"


def _summed(counts: Any) -> dict[str, int]:
    total: dict[str, int] = {}
    for one in counts:
        for name, n in one.items():
            total[name] = total.get(name, 0) + n
    return total
