"""`EventLog`: a prepared event log in memory or memory-mapped, and its split in time."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from pathlib import Path
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from heedful.errors import ConfigError, InputError
from heedful.events.catalog import Catalog
from heedful.events.histories import Histories
from heedful.events.times import iso, second_of
from heedful.events.vocabulary import Vocabulary
from heedful.folders import Folder, new_folder, open_folder

__all__ = ["KIND", "EventLog", "parse_time"]

KIND = "sequences"
_RESERVED = ("item_id", "events", "users")


@dataclass(frozen=True)
class EventLog:
    """Every user's time-ordered actions, with the catalogue of items; made by `read_events`, `prepare` or `load`.

    Attributes:
        catalog: the items, [I], most frequent first.
        users: ids of the users, [U].
        histories: the actions, [U] histories of [E] events; actions with the same time are in item-row order.
        kinds: names of the event kinds; `histories.kinds` holds positions in this tuple.
        rejected: rows that `prepare` set aside, with their `reason`; None for a log that was not read from rows.
        folder: the stage folder it came from, if any.

    """

    catalog: Catalog
    users: Vocabulary
    histories: Histories
    kinds: tuple[str, ...]
    rejected: pa.Table | None = None
    folder: Folder | None = None
    past: EventLog | None = None

    @property
    def n_events(self) -> int:
        """Number of actions, E."""
        return len(self.histories.items)

    def __repr__(self) -> str:
        return f"EventLog({self.n_events} events, {len(self.users)} users, {len(self.catalog)} items, kinds {self.kinds})"

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Open a folder of sequences; the arrays stay on disk, memory-mapped.

        Raises:
            FolderError: the folder is missing, unfinished or damaged.

        """
        folder = open_folder(path, kind=KIND)
        items = _read(folder.file("items.parquet"))
        users = _read(folder.file("users.parquet"))
        mapped = {n: np.load(folder.file(f"{n}.npy"), mmap_mode="r") for n in ("offsets", "items", "times", "kinds")}
        return cls(
            Catalog(
                Vocabulary.known(items["item_id"]),
                _numbers(items["events"]),
                _numbers(items["users"]),
                items.drop_columns(list(_RESERVED)),
            ),
            Vocabulary.known(users["user_id"]),
            Histories(**mapped),
            tuple(folder.manifest["kinds"]),
            _read(folder.file("rejected.parquet")),
            folder,
        )

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write a folder of sequences (see the folder formats in the documentation)."""
        with new_folder(path, kind=KIND, overwrite=overwrite) as folder:
            self.save_catalogue(folder.path)
            for name in ("offsets", "items", "times", "kinds"):
                np.save(folder.path / f"{name}.npy", getattr(self.histories, name))
            folder.manifest.update(self.facts())

    def save_catalogue(self, folder: Path) -> None:
        """Write `items.parquet`, `users.parquet` and `rejected.parquet` into a folder of sequences in the making."""
        columns = {"item_id": self.catalog.items.ids, "events": self.catalog.events, "users": self.catalog.users}
        items = pa.table(columns)
        for name in self.catalog.attributes.column_names:
            items = items.append_column(name, self.catalog.attributes[name])
        pq.write_table(items, folder / "items.parquet")
        pq.write_table(pa.table({"user_id": self.users.ids}), folder / "users.parquet")
        rejected = self.rejected if self.rejected is not None else pa.table({"reason": pa.array([], pa.string())})
        pq.write_table(rejected, folder / "rejected.parquet")

    def facts(self) -> dict[str, object]:
        """What the manifest says of the log: sizes, kinds and the period in unix seconds."""
        times = self.histories.times
        return {
            "n_events": self.n_events,
            "n_users": len(self.users),
            "n_items": len(self.catalog),
            "kinds": list(self.kinds),
            "first_time": int(times.min()) if len(times) else None,
            "last_time": int(times.max()) if len(times) else None,
        }

    def provenance(self) -> dict[str, object]:
        """`facts`, and the content hash of the folder that the log came from, None without one."""
        return {**self.facts(), "content_hash": self.folder.content_hash if self.folder else None}

    def select(self, kinds: Sequence[str] | None) -> Self:
        """The log with only the events of the named kinds (None or empty: all); items and users keep their rows.

        Raises:
            ConfigError: a kind that the log does not have.

        """
        if not kinds:
            return self
        return self._only(np.isin(self.histories.kinds, self.kind_codes(kinds)))

    def kind_codes(self, kinds: Sequence[str]) -> np.ndarray:
        """Codes of the named kinds, uint8; a kind that the log does not have is a `ConfigError`."""
        unknown = [kind for kind in kinds if kind not in self.kinds]
        if unknown:
            raise ConfigError("the log has no events of that kind", got=", ".join(unknown), expected=", ".join(self.kinds))
        return np.array([self.kinds.index(kind) for kind in kinds], np.uint8)

    def split(self, cut: str | int | date | datetime, *, days: float = 7) -> tuple[Self, Self]:
        """Split in time, as in section 5.1 of the paper: (the events before `cut`, those of the `days` after it).

        The past is what `prepare` would have made of its events alone: its own items, counts and row order, so that
        nothing of the future leaks into it; only the codes of the kinds are those of this log, and actions within one
        second, whose fractions are not stored, are in item-row order. The future keeps the rows of this log;
        `past.catalog.items.rows(ids)` leads from its ids to rows of the past.

        Args:
            cut: ISO date or time (UTC unless it has a zone), unix seconds, or a date or datetime.
            days: length of the future in days.

        Raises:
            InputError: the cut leaves nothing before it or nothing after it.

        """
        instant = parse_time(cut)
        times = self.histories.times
        before, after = times < instant, (times >= instant) & (times < instant + days * 86400)
        if not before.any() or not after.any():
            period = "no events" if not len(times) else f"{iso(int(times.min()))} to {iso(int(times.max()))}"
            raise InputError(
                f"no event {'before' if not before.any() else f'in the {days:g} days after'} the cut {iso(instant)}",
                expected=f"a cut inside the log's period, {period}",
                fix="choose another cut",
            )
        past = self._only(before).compact()
        return past, replace(self._only(after), past=past)

    def compact(self) -> Self:
        """The log with only the items and users that have events, items most frequent first, with fresh counts."""
        counts = count_items(self.histories, len(self.catalog))
        # Ties are in id order, as `prepare` has them: their rows in this log tell of the events outside it.
        by_id = np.empty(len(self.catalog), np.int64)
        by_id[pc.sort_indices(self.catalog.items.ids).to_numpy()] = np.arange(len(self.catalog))
        order = np.lexsort((by_id, -counts[0]))
        order = order[counts[0][order] > 0]
        rows = np.full(len(self.catalog), -1, np.int64)
        rows[order] = np.arange(len(order))
        users = np.flatnonzero(self.histories.lengths)
        histories = self.histories.take(users).with_rows(rows)
        attributes = self.catalog.attributes
        attributes = attributes.take(pa.array(order)) if attributes.num_columns else attributes.slice(0, len(order))
        catalog = Catalog(
            Vocabulary(self.catalog.items.take(order)),
            counts[0][order],
            counts[1][order],
            attributes,
        )
        return replace(
            self,
            catalog=catalog,
            users=Vocabulary(self.users.take(users)),
            histories=_in_basket_order(histories),
            folder=None,
        )

    def _only(self, keep: np.ndarray) -> Self:
        histories = self.histories.where(keep)
        events, users = count_items(histories, len(self.catalog))
        catalog = replace(self.catalog, events=events, users=users)
        return replace(self, catalog=catalog, histories=histories, folder=None)


def count_items(histories: Histories, n_items: int) -> tuple[np.ndarray, np.ndarray]:
    """Events and distinct users of each item, two int64 [I]."""
    events = np.bincount(histories.items, minlength=n_items).astype(np.int64)
    owner = np.repeat(np.arange(len(histories), dtype=np.int64), histories.lengths)
    pairs = np.unique(owner * n_items + histories.items)
    return events, np.bincount(pairs % n_items, minlength=n_items).astype(np.int64) if n_items else events


def parse_time(value: str | int | date | datetime) -> int:
    """Unix seconds of an ISO date or time (UTC unless it has a zone), of a unix time, or of a date or datetime.

    Raises:
        ConfigError: the value is none of these.

    """
    try:
        if isinstance(value, str) and re.fullmatch("[0-9]{8}", value):
            value = datetime.strptime(value, "%Y%m%d").date()
        instant = second_of(value)
    except (InputError, ValueError):
        instant = None
    if instant is None:
        raise ConfigError(
            "that is not a point in time",
            got=repr(value),
            expected="an ISO date such as 2017-12-24, or a unix time",
        )
    return instant


def _in_basket_order(histories: Histories) -> Histories:
    """Order actions with the same time by item row, so that the result does not depend on the rows they had before."""
    owner = np.repeat(np.arange(len(histories)), histories.lengths)
    order = np.lexsort((histories.kinds, histories.items, histories.times, owner))
    return Histories(histories.offsets, histories.items[order], histories.times[order], histories.kinds[order])


def _read(path: Path) -> pa.Table:
    # `read_table` would import Arrow's machinery for many files.
    with pq.ParquetFile(path) as file:
        return file.read()


def _numbers(column: pa.ChunkedArray) -> np.ndarray:
    # Arrow's own conversion to numpy would import pandas.
    return np.from_dlpack(column.combine_chunks())
