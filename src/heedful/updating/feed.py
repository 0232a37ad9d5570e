"""What is new since the last run, and whether it looks like a day of this shop."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from heedful.errors import InputError
from heedful.events.databases import Numbered, TableUrl, highest_number, split_url
from heedful.events.log import EventLog
from heedful.events.reading import Source, expand
from heedful.events.times import iso

__all__ = ["Bookmark", "Feed", "find_feed", "mark", "rows_since"]

Bookmark = Mapping[str, Any]
"""How far a source was read: "numbers" of tables, "files" with size and time of change."""

_DAY = 86_400
_SERVER_TABLE, _SERVER_COLUMN = "heedful_events", "id"
# Rows are numbered before they are committed: one with a lower number may appear after one with a higher. What is read twice
# is counted once.
_OVERLAP = 100_000
# A feed is unusual beyond these: times the largest day, part of the smallest, share of copies beyond the usual, part of all
# events that one user may have, and the fewest events that make a bot.
_MOST, _LEAST, _COPIES, _SHARE, _FEWEST = 3.0, 1 / 3, 0.3, 0.02, 100
_REJECTED = 0.5
_FUTURE_SECONDS = 3600


def mark(source: Source, column: str | None) -> dict[str, Any]:
    """How far a source goes now.

    Raises:
        InputError: the source is not there, or has no such column.
    """
    url = _table(source)
    if url is not None:
        column = column or _own_column(url)
        if column is None:
            return {}
        return {"numbers": {_name(url): highest_number(url, column)}, "column": column}
    if _is_files(source):
        return {"files": {path: list(_looks(path)) for path in _files(source)}}
    return {}


def rows_since(source: Source, before: Bookmark, now: Bookmark) -> Source | None:
    """The part of a source between two bookmarks; None where there is nothing new."""
    url = _table(source)
    if url is not None and "numbers" in now:
        high = now["numbers"][_name(url)]
        low = before.get("numbers", {}).get(_name(url))
        if low is not None and high <= low:
            return None
        return replace(url, rows=Numbered(now["column"], max(low - _OVERLAP, 0) if low is not None else -1, high))
    if "files" in now:
        known = before.get("files", {})
        changed = [path for path, looks in now["files"].items() if known.get(path) != looks]
        return changed or None
    return source


@dataclass(frozen=True)
class Feed:
    """The new events of one run, in figures.

    Attributes:
        events: that the shop does not know yet.
        known: that it knows, which are left out.
        days: from the last known event to the last new one, 0 or more.
        copies: share of the new events that equal the one before them.
        usual_copies: that share in the days before.
        smallest_day, largest_day: events of the days before; None for a log of fewer than three days.
        busiest: most events of one user, for each day.
        usual_busiest: most events of one user on one of the days before.
        first, last: times of the new events, unix seconds.
        rejected: share of the rows that could not be read.
    """

    events: int
    known: int
    days: float = 0.0
    copies: float = 0.0
    usual_copies: float = 0.0
    smallest_day: int | None = None
    largest_day: int | None = None
    busiest: float = 0.0
    busiest_user: str = ""
    usual_busiest: int = 0
    first: int = 0
    last: int = 0
    rejected: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    def problems(self, now: float) -> list[str]:
        """What is unusual, in words; nothing for a day like the others.

        Args:
            now: unix seconds.
        """
        if not self.events:
            return [f"the feed is empty: no new event, {self.known:,} that were known"]
        a_day = self.events / max(self.days, 1.0)
        found = []
        if self.copies > self.usual_copies + _COPIES:
            found.append(f"{self.copies:.0%} of the new events are copies of others; usually {self.usual_copies:.0%}")
        if self.largest_day is not None and a_day > _MOST * self.largest_day:
            found.append(f"{a_day:,.0f} events a day; at most {self.largest_day:,} in the days before")
        if self.smallest_day is not None and self.days >= 0.75 and a_day < _LEAST * self.smallest_day:
            found.append(f"{a_day:,.0f} events a day; at least {self.smallest_day:,} in the days before")
        busy = max(_MOST * self.usual_busiest, _FEWEST)
        if self.busiest > busy and self.busiest * max(self.days, 1.0) > _SHARE * self.events:
            found.append(
                f"user {self.busiest_user!r} has {self.busiest:,.0f} events a day, as a bot would; at most "
                f"{self.usual_busiest:,} by any user in the days before"
            )
        if self.last > now + _FUTURE_SECONDS:
            found.append(f"events of the future: the last is of {iso(self.last)} UTC")
        if self.rejected > _REJECTED:
            found.append(f"{self.rejected:.0%} of the rows cannot be read; see rejected.parquet of the new events")
        return found


def find_feed(log: EventLog, fresh: EventLog, *, known: int, rows: int, rejected: int, normal_days: int) -> Feed:
    """The figures of new events against the days before them.

    Args:
        log: what the shop knows.
        fresh: the events that it does not know.
        known: how many others there were.
        rows: rows that were read.
        rejected: how many of them could not be used.
        normal_days: days of the log that count as usual.
    """
    times, end = np.asarray(log.histories.times), int(log.histories.times.max())
    recent = log.histories.where(times > end - normal_days * _DAY)
    by_day = _days(recent.times, end)
    rejected_share = rejected / rows if rows else 0.0
    if not fresh.n_events:
        return Feed(0, known, rejected=rejected_share)
    first, last = int(fresh.histories.times.min()), int(fresh.histories.times.max())
    days = max(last - end, 0) / _DAY
    busiest = int(fresh.histories.lengths.argmax())
    return Feed(
        fresh.n_events, known, days, _copies(fresh), _copies(replace(log, histories=recent)),
        int(by_day.min()) if len(by_day) > 2 else None, int(by_day.max()) if len(by_day) > 2 else None,
        float(fresh.histories.lengths[busiest]) / max(days, 1.0), str(fresh.users.ids[busiest].as_py()),
        _busiest_day(recent.lengths, recent.times, end), first, last, rejected_share,
    )  # fmt: skip


def _days(times: np.ndarray, end: int) -> np.ndarray:
    """Events of each whole day that ends at or before the end of the log, newest first; int64."""
    if not len(times):
        return np.zeros(0, np.int64)
    counts = np.bincount((end - np.asarray(times)) // _DAY)
    return counts[:-1]  # the oldest day is not whole


def _copies(log: EventLog) -> float:
    """Share of the events that equal the one before them."""
    h = log.histories
    if h.offsets[-1] < 2:
        return 0.0
    owner = np.repeat(np.arange(len(h)), h.lengths)
    order = np.lexsort((h.kinds, h.items, h.times, owner))
    same = np.ones(len(order) - 1, bool)
    for column in (owner, h.items, h.times, h.kinds):
        same &= column[order][1:] == column[order][:-1]
    return float(same.sum() / len(order))


def _busiest_day(lengths: np.ndarray, times: np.ndarray, end: int) -> int:
    """Most events of one user on one day."""
    if not len(times):
        return 0
    owner = np.repeat(np.arange(len(lengths), dtype=np.int64), lengths)
    day = (end - np.asarray(times)) // _DAY
    return int(np.unique(owner * (int(day.max()) + 1) + day, return_counts=True)[1].max())


def _table(source: Source) -> TableUrl | None:
    return source if isinstance(source, TableUrl) else split_url(source) if isinstance(source, str) else None


def _own_column(url: TableUrl) -> str | None:
    return _SERVER_COLUMN if url.table.rpartition(".")[2] == _SERVER_TABLE else None


def _name(url: TableUrl) -> str:
    return f"{url.masked} {url.table}"


def _is_files(source: Source) -> bool:
    if isinstance(source, str | os.PathLike):
        return True
    return isinstance(source, Sequence) and bool(source) and all(isinstance(p, str | os.PathLike) for p in source)


def _files(source: Any) -> list[str]:
    paths = [source] if isinstance(source, str | os.PathLike) else source
    if any(isinstance(path, str) and split_url(path) for path in paths):
        raise InputError("files and tables together", got=", ".join(map(str, paths)), fix="name one table, or files alone")
    return sorted({str(Path(path).absolute()) for given in paths for path in expand(given)})


def _looks(path: str) -> tuple[int, int]:
    found = Path(path).stat()
    return found.st_size, found.st_mtime_ns
