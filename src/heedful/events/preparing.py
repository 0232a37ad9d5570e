"""`prepare` and `read_events`: from rows of an event log to sequences, out of core."""

from __future__ import annotations

import os
import re
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from heedful.config import Config, option, require
from heedful.events.attributes import stage_attributes
from heedful.events.columns import Rows
from heedful.events.encoding import Encoded, encode, name_kinds, write_items, write_parquet
from heedful.events.histories import Histories
from heedful.events.log import KIND, EventLog
from heedful.events.reading import Source, open_source, read_errors
from heedful.events.session import Session, open_session
from heedful.events.times import NANOSECONDS, iso
from heedful.events.validating import Staged, Verdict, stage, validate
from heedful.folders import new_folder
from heedful.progress import say

__all__ = ["REJECTED_ORDER", "PrepareConfig", "described", "prepare", "read_events"]

REJECTED_ORDER = "reason, user_id, item_id, timestamp, event"


# Of the memory that `prepare` may use.
_DATABASE_SHARE = 0.75


@dataclass(frozen=True, kw_only=True)
class PrepareConfig(Config):
    """How rows become sequences."""

    user_column: str | None = option(None, "column of the user ids (found by its name when not given)")
    item_column: str | None = option(None, "column of the item ids (found by its name when not given)")
    time_column: str | None = option(None, "column of the times (found by its name when not given)")
    event_column: str | None = option(None, "column of the event kinds (found by its name when not given; may be missing)")
    time_unit: str = option("auto", "unit of times that are numbers: s, ms, us, ns, or auto to tell it from their size")
    time_zone: str = option("UTC", "zone of times that name none, such as Europe/Berlin")
    duplicates: str = option("keep", "rows with the same user, item, time and kind: keep, or drop all but one")
    kinds: tuple[str, ...] = option((), "keep only events of these kinds (all when not given)")
    min_item_events: int = option(1, "set aside items with fewer events than this")
    max_user_events: int = option(0, "set aside users with more events than this, who are bots (0: nobody)")
    memory_limit: str = option("2GB", "memory that reading and sorting may use before they spill to disk")
    threads: int = option(0, "threads for reading and sorting (0: all cores)")

    def __post_init__(self) -> None:
        units = ("auto", *NANOSECONDS)
        require(self.time_unit in units, "time_unit", got=self.time_unit, expected=f"one of {', '.join(units)}")
        require(self.duplicates in ("keep", "drop"), "duplicates", got=self.duplicates, expected="keep or drop")
        require(not isinstance(self.kinds, str), "kinds", got=self.kinds, expected="a list of kinds")
        object.__setattr__(self, "kinds", tuple(self.kinds))
        require(self.min_item_events >= 1, "min_item_events", got=self.min_item_events, expected="1 or more")
        require(self.max_user_events >= 0, "max_user_events", got=self.max_user_events, expected="0 or more")
        size = re.fullmatch(r"\d+(\.\d+)? ?[KMGT]i?B", self.memory_limit)
        require(size is not None, "memory_limit", got=self.memory_limit, expected="a size such as 4GB or 500MB")
        require(self.threads >= 0, "threads", got=self.threads, expected="0 or more")


def prepare(
    source: Source,
    out: str | os.PathLike[str],
    *,
    items: Source | None = None,
    config: PrepareConfig = PrepareConfig(),
    overwrite: bool = False,
) -> EventLog:
    """Make a folder of sequences from rows of an event log.

    The result does not depend on the order of the rows or the number of threads. Memory stays near
    `config.memory_limit`; a temporary database beside `out` takes the rest and is removed in the end.

    Args:
        source: the rows (see `heedful.events.reading.open_source`), with columns for user, item, time and maybe kind.
        out: where the folder will be.
        items: rows with an item id and any attributes. One row per item is kept, the first.
        config: which columns, and what to set aside.
        overwrite: replace a finished folder of sequences.

    Returns:
        The log, memory-mapped from the folder.

    Raises:
        InputError: the rows cannot be read, or none can be used.
        ConfigError: a memory limit that is too small, or a kind that the log does not have.
        FolderError: the place is taken or cannot be written.

    """
    started = time.monotonic()
    with new_folder(out, kind=KIND, overwrite=overwrite) as folder, _work_folder(Path(out)) as work:
        with open_session(work, memory_limit=_for_database(config.memory_limit), threads=config.threads) as session:
            facts = _prepare(source, items, folder.path, session, config)
        folder.manifest.update(facts, seconds=round(time.monotonic() - started, 3))
    return EventLog.load(out)


def read_events(source: Source, *, items: Source | None = None, **options: Any) -> EventLog:
    """Read an event log into memory: `prepare` through a temporary folder.

    Args:
        source: the rows, as for `prepare`.
        items: item attributes, as for `prepare`.
        options: fields of `PrepareConfig`.

    Raises:
        InputError: the rows cannot be read, or none can be used.
        ConfigError: an option that does not exist or is out of range.

    """
    config = PrepareConfig.from_dict(options)
    with tempfile.TemporaryDirectory(prefix="heedful-") as folder:
        log = prepare(source, Path(folder) / "sequences", items=items, config=config)
        mapped = log.histories
        loaded = (np.array(array) for array in (mapped.offsets, mapped.items, mapped.times, mapped.kinds))
        return replace(log, histories=Histories(*loaded), folder=None)


@contextmanager
def _work_folder(out: Path) -> Iterator[Path]:
    """A folder for the temporary database, on the disk of the result.

    Its name is that of a partial folder of `out`, so that what a killed run leaves behind goes with the next one.
    """
    target = out.absolute()
    prefix = f".{target.name}.partial-{os.getpid()}-work-"
    with tempfile.TemporaryDirectory(prefix=prefix, dir=target.parent, ignore_cleanup_errors=True) as work:
        yield Path(work)


def _for_database(memory_limit: str) -> str:
    """What DuckDB may hold, so that it and everything beside it (the program, Arrow's batches) keep within a limit."""
    number, unit = re.fullmatch(r"([\d.]+) ?(\w+)", memory_limit).groups()  # type: ignore[union-attr]  # checked in the config
    return f"{float(number) * _DATABASE_SHARE:g}{unit}"


def _prepare(source: Source, items: Source | None, folder: Path, session: Session, config: PrepareConfig) -> dict[str, Any]:
    """Write the files of the folder; the facts for its manifest."""
    rows = open_source(source, session)
    attributes = open_source(items, session) if items is not None else None
    # Rows are put in order at the end; until then any order will do and takes less memory.
    session.run("SET preserve_insertion_order = false")
    with read_errors(rows):
        staged = stage(rows, session, config)
        say(f"read {staged.rows:,} rows; columns: {', '.join(f'{name} = {c}' for name, c in staged.columns.items())}")
        verdict = validate(staged, session, config)
        encoded = encode(session, folder, name_kinds(session))
    items_source: dict[str, Any] = {}
    if attributes is not None:
        counts = stage_attributes(attributes, session, id_type=staged.types["item_id"], item_column=config.item_column)
        items_source = {"items_source": {**attributes.description, **counts}}
    write_items(session, folder, attributes=attributes is not None)
    write_parquet(session, f"SELECT * FROM rejected ORDER BY {REJECTED_ORDER}", folder / "rejected.parquet")
    return described(encoded, verdict, staged, rows, config) | items_source


def described(encoded: Encoded, verdict: Verdict, staged: Staged, rows: Rows, config: PrepareConfig) -> dict[str, Any]:
    """The facts for the manifest, said and returned."""
    facts = asdict(encoded)
    duplicates = {"found": facts.pop("duplicates") + verdict.duplicates_dropped, "dropped": verdict.duplicates_dropped}
    checked = {key: value for key, value in asdict(verdict).items() if key != "duplicates_dropped"}
    say(f"kept {encoded.n_events:,} events of {encoded.n_users:,} users and {encoded.n_items:,} items")
    say(f"times from {staged.columns['timestamp']!r}: {iso(encoded.first_time)} to {iso(encoded.last_time)} UTC")
    say(_summary(verdict.rejected))
    return {
        **facts,
        "rows_read": staged.rows,
        **checked,
        "duplicates": duplicates,
        "columns": staged.columns,
        "source": rows.description,
        "config": config.to_dict(),
    }


def _summary(rejected: dict[str, int]) -> str:
    if not rejected:
        return "no row rejected"
    return "rejected " + ", ".join(f"{n:,} for {reason}" for reason, n in rejected.items())
