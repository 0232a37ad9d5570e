"""What is remembered of visitors: their actions, the slots filled for them, and what they clicked.

One store is a SQLite file or a PostgreSQL database; several processes use it at once. What a method has returned from is on
the disk. Times are unix seconds and come from the caller, so that a clock that jumps harms nothing but the order it gives.
"""

from __future__ import annotations

import time as clock
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self, TypeVar

import numpy as np
import pyarrow as pa
from sqlalchemy import ColumnElement, Connection, Table, and_, delete, func, select

from heedful.events.log import EventLog
from heedful.progress import progress, say
from heedful.serving import impressions as shown_and_clicked
from heedful.serving.click_counts import ClickCounts
from heedful.serving.counting import forget_user, read_counts
from heedful.serving.database import Database, StoreUnavailable
from heedful.serving.impressions import Click, Impression, check_impressions
from heedful.serving.loading import add_missing, parts, rows_of, storable, user_hash
from heedful.serving.storable import ID_CHARACTERS, check_events, check_names, check_time
from heedful.serving.tables import (
    SCHEMA_VERSION,
    clicks,
    deleted_users,
    events,
    impressions,
    insert_events,
    insert_new,
    slot_versions,
)

__all__ = [
    "ID_CHARACTERS",
    "Appended",
    "Click",
    "Event",
    "Impression",
    "SlotVersion",
    "Store",
    "StoreUnavailable",
    "UserHistory",
]

T = TypeVar("T")
_DAY = 86_400
_BATCH = 20_000
_IDS = 1000  # in one condition
_OUTCOMES = pa.schema(
    [
        pa.field("slot", pa.string()),
        pa.field("treatment", pa.string()),
        pa.field("user_id", pa.string()),
        pa.field("time", pa.int64()),
        pa.field("items_shown", pa.int64()),
        pa.field("clicks", pa.int64()),
        pa.field("first_click_time", pa.int64()),
        pa.field("repeated_clicks", pa.int64()),
        pa.field("model", pa.string()),
        pa.field("salt", pa.string()),
        pa.field("shares", pa.string()),
    ]
)


@dataclass(frozen=True, slots=True)
class Event:
    """One action of a user; `event_id` names it, so that it counts once however often it is sent."""

    event_id: str
    user_id: str
    item_id: str
    time: int
    kind: str


@dataclass(frozen=True)
class Appended:
    """How many of some events were new, and how many were there before."""

    accepted: int
    duplicates: int


@dataclass(frozen=True)
class UserHistory:
    """Actions of a user, oldest first; those of the same second in the order they arrived. `times` is int64."""

    item_ids: list[str]
    times: np.ndarray
    kinds: list[str]


@dataclass(frozen=True)
class SlotVersion:
    """The slots file as it was saved: when (unix seconds), with which API key ("": none), and its text."""

    version: int
    time: int
    author: str
    text: str


class Store:
    """Events, impressions and clicks in a database; made by `open`. Safe to share between threads.

    All methods raise `StoreUnavailable` when the database cannot be used, and have changed nothing then; those that are
    given ids raise `InputError` for one that is empty, longer than `ID_CHARACTERS`, or holds NUL or half a surrogate pair.
    """

    def __init__(self, database: Database, click_window: int) -> None:
        self._database, self._click_window = database, click_window
        self._counted: tuple[float, dict[str, Any]] = (0.0, {})

    @classmethod
    def open(cls, place: str, *, create: bool = True, click_window: int = _DAY, lock_seconds: float = 5.0) -> Self:
        """Open a store.

        Args:
            place: a SQLite file such as "shop.sqlite", "sqlite:///shop.sqlite" or "postgresql://user:password@host/shop".
            create: make the file and the tables where they are missing.
            click_window: seconds after which a click no longer counts for an impression.
            lock_seconds: how long to wait for a lock that another process holds.

        Raises:
            ConfigError: the place cannot be a store: wrong URL, no such folder, not a database, tables of another version.
            MissingExtraError: psycopg is not installed.
            StoreUnavailable: the database cannot be reached.
        """
        return cls(Database.open(place, create=create, lock_seconds=lock_seconds), click_window)

    def close(self) -> None:
        """Close the connections."""
        self._database.close()

    def ping(self) -> None:
        """Ask the database for an answer, and whether it takes what is written."""
        self._database.check()

    def probe(self) -> None:
        """Try to write now and then, so that `ping` knows of a full disk before a visitor does."""
        self._database.probe()

    def read(self, work: Callable[[Connection], T], *, heavy: bool = False) -> T:
        """What `work` reads with a connection; see `Database.read`."""
        return self._database.read(work, heavy=heavy)

    # Histories

    def append(self, new: Iterable[Event]) -> Appended:
        """Store events, all of them or none; one whose id is there already, or twice among them, is stored once."""
        rows = [(event.event_id, event.user_id, event.item_id, event.time, event.kind) for event in new]
        if not rows:
            return Appended(0, 0)
        check_events(rows)
        accepted = self._database.write(lambda connection: insert_events(connection, rows), rows=len(rows))
        return Appended(accepted, len(rows) - accepted)

    def history(self, user_id: str, limit: int) -> UserHistory:
        """The latest `limit` actions of a user; none for a user that is not known."""
        return self.histories([user_id], limit)[0]

    def items_of(self, user_id: str) -> list[tuple[str, str]]:
        """Each (item, kind) of a user's actions, once, however long ago."""
        check_names("user id", [user_id])
        these = select(events.c.item_id, events.c.kind).where(events.c.user_id == user_id).distinct()
        return self._database.read(lambda connection: [(item, kind) for item, kind in connection.execute(these)])

    def histories(self, user_ids: Sequence[str], limit: int) -> list[UserHistory]:
        """The latest `limit` actions of each of several users."""
        check_names("user id", user_ids)
        return self._database.read(lambda connection: [_history(connection, user, limit) for user in user_ids])

    def users_of_items(self, item_ids: Sequence[str], limit: int) -> list[str]:
        """At most `limit` users who acted on one of the items; reads all events."""
        found: dict[str, None] = {}

        def work(connection: Connection) -> None:
            for start in range(0, len(item_ids), _IDS):
                these = select(events.c.user_id).where(events.c.item_id.in_(item_ids[start : start + _IDS])).distinct()
                found.update(dict.fromkeys(connection.execute(these.limit(limit)).scalars()))

        self._database.read(work, heavy=True)
        return list(found)[:limit]

    def users(self, prefix: str = "", limit: int = 20) -> list[tuple[str, int]]:
        """Users with actions whose id begins with `prefix`, in the order of their ids, and the number of their actions."""
        found = select(events.c.user_id, func.count()).group_by(events.c.user_id).order_by(events.c.user_id).limit(limit)
        found = found.where(events.c.user_id >= prefix)
        if (after := _after(prefix)) is not None:
            found = found.where(events.c.user_id < after)
        rows = self._database.read(lambda connection: connection.execute(found).all())
        return [(user, number) for user, number in rows]

    def load_log(self, log: EventLog) -> int:
        """Add the histories of a training log; returns the number of events that were not there before.

        An action that is stored already, from this log, from another or sent as an event, is not added again: those of a
        user are compared by item, time and kind. Users that were deleted here stay deleted. The log is read user by user;
        what was loaded before an interruption stays, and the next load carries on. Events with an id that cannot be stored
        are left out and counted.
        """
        added = skipped = 0
        with progress("load histories", log.n_events, "events") as meter:
            for users in parts(log):
                rows = rows_of(log, users)
                meter.advance(len(rows))
                good = storable(rows)
                skipped += len(rows) - len(good)
                added += self._database.write(lambda connection, rows=good: add_missing(connection, rows), heavy=True)  # type: ignore[misc]
        if skipped:
            say(f"{skipped:,} events left out: an id has more than {ID_CHARACTERS} characters, or NUL, and cannot be stored")
        return added

    def delete_user(self, user_id: str) -> dict[str, int]:
        """Remove all that is stored of a user; returns the numbers of events, impressions and clicks removed."""
        theirs = select(impressions.c.id).where(impressions.c.user_id == user_id)

        def work(connection: Connection) -> dict[str, int]:
            # No click comes between the next lines.
            connection.execute(theirs.order_by(impressions.c.id).with_for_update()).all()
            forget_user(connection, user_id)
            removed = {
                "clicks": connection.execute(delete(clicks).where(clicks.c.impression.in_(theirs))).rowcount,
                "impressions": connection.execute(delete(impressions).where(impressions.c.user_id == user_id)).rowcount,
                "events": connection.execute(delete(events).where(events.c.user_id == user_id)).rowcount,
            }
            connection.execute(insert_new(connection, deleted_users), {"user_hash": user_hash(user_id)})
            return removed

        removed = self._database.write(work, heavy=True)
        self._database.forget()
        return removed

    def remove_events(self, before: int) -> int:
        """Remove all actions from before a time; returns how many. Those who use the store meanwhile are not held up."""

        def remove(connection: Connection, old: ColumnElement[bool]) -> int:
            return connection.execute(delete(events).where(old)).rowcount

        return self._remove_old(events, before, remove)

    def remove_event(self, event_id: str) -> bool:
        """Take back one action; whether there was one of that id."""
        this = delete(events).where(events.c.event_id == event_id)
        return self._database.write(lambda connection: connection.execute(this).rowcount) > 0

    def remove_impression(self, impression_id: str) -> bool:
        """Take back one impression with its clicks; whether there was one of that id."""
        this = impressions.c.impression_id == impression_id
        return self._database.write(lambda connection: shown_and_clicked.remove(connection, this)) > 0

    def remove_impressions(self, before: int) -> int:
        """Remove all impressions that were chosen before a time, with their clicks; returns the number of impressions."""
        return self._remove_old(impressions, before, shown_and_clicked.remove)

    def _remove_old(self, table: Table, before: int, remove: Callable[[Connection, ColumnElement[bool]], int]) -> int:
        check_time(before)
        removed = 0
        for part in self._parts(table):
            old = part & (table.c.time < before)
            removed += self._database.write(lambda connection, old=old: remove(connection, old), heavy=True)  # type: ignore[misc]
        self._database.forget()
        return removed

    def _parts(self, table: Table) -> Iterator[ColumnElement[bool]]:
        """Conditions on the number of a row, each for so many rows that a transaction is short."""
        ends = select(func.min(table.c.id), func.max(table.c.id))
        low, high = self._database.read(lambda connection: connection.execute(ends).one())
        for start in range(low or 0, (high or 0) + 1, _BATCH):
            yield table.c.id.between(start, start + _BATCH - 1)

    # Impressions and clicks

    def add_impression(self, impression: Impression, *, seconds: float | None = None) -> None:
        """Store one impression, as `add_impressions` does."""
        self.add_impressions([impression], seconds=seconds)

    def add_impressions(self, new: Sequence[Impression], *, shown: bool = False, seconds: float | None = None) -> None:
        """Store impressions, all or none; one whose id is there already is left as it is.

        Args:
            new: the impressions.
            shown: count them as shown at the time they were chosen.
            seconds: the longest wait for a lock in the database.
        """
        check_impressions(new)
        if new:
            self._database.write(
                lambda connection: shown_and_clicked.add_impressions(connection, new, shown=shown),
                rows=len(new),
                seconds=seconds,
            )

    def mark_shown(self, impression_id: str, time: int) -> bool:
        """Note that the visitor saw an impression; only then does it count. False: there is no such impression.

        The first time stays when it is said again.
        """
        check_time(time)
        return self._database.write(lambda connection: shown_and_clicked.mark_shown(connection, impression_id, time))

    def add_click(self, click: Click) -> str:
        """Store one click, as `add_clicks` does; returns what became of it."""
        return self.add_clicks([click])[0]

    def add_clicks(self, new: Sequence[Click]) -> list[str]:
        """Store clicks in one transaction; returns what became of each.

        "recorded", "duplicate" (the item was clicked before: counted as repeated, unless the click id was there before),
        "unknown impression", "not in impression" (the item was not shown in it) or "too late" (after the click window, which
        begins when the impression was shown). A click proves that the impression was seen: one that was not reported as
        shown is shown from then on. A click before its impression comes from a clock that jumped, and counts.
        """
        for one in new:
            check_names("click", (one.click_id, one.impression_id, one.item_id))
            check_time(one.time)
        if not new:
            return []
        window = self._click_window
        return self._database.write(lambda connection: shown_and_clicked.add_clicks(connection, new, window))

    def outcomes(self, slot: str | None = None, since: int | None = None, until: int | None = None) -> pa.Table:
        """One row for each impression that was shown, in the order they were chosen.

        Args:
            slot: only this slot.
            since: only those shown at this time or later.
            until: only those shown before this time.

        Returns:
            columns slot, treatment, user_id, time (when shown), items_shown, clicks (distinct items clicked),
            first_click_time (null: none), repeated_clicks (further clicks on the same items), model, salt, shares (JSON).
        """
        chosen: list[ColumnElement[bool]] = [impressions.c.slot == slot] if slot is not None else []
        chosen += [impressions.c.shown_time >= since] if since is not None else []
        chosen += [impressions.c.shown_time < until] if until is not None else []
        query = shown_and_clicked.outcomes(and_(*chosen) if chosen else None)

        def work(connection: Connection) -> pa.Table:
            result = connection.execution_options(yield_per=_BATCH).execute(query)
            return pa.Table.from_batches([_batch(rows) for rows in result.partitions()], _OUTCOMES)

        return self._database.read(work, heavy=True)

    def click_counts(self, slot: str | None = None, *, simulated: bool | None = None) -> ClickCounts:
        """How many users saw and clicked how much, by experiment and treatment: all that a report needs.

        Args:
            slot: only this slot.
            simulated: impressions of the simulator, or real ones; None: real ones as soon as there are any.
        """
        return self._database.read(lambda connection: read_counts(connection, slot, simulated))

    # Versions of the slots file

    def add_slot_version(self, text: str, author: str, time: int) -> None:
        """Keep the slots file as it is now, unless it is the latest version."""
        check_names("author", [author], empty=True)

        def work(connection: Connection) -> None:
            latest = select(slot_versions.c.text).order_by(slot_versions.c.id.desc()).limit(1)
            if connection.execute(latest).scalar() != text:
                connection.execute(slot_versions.insert().values(time=time, author=author, text=text))

        self._database.write(work)

    def slot_versions(self, limit: int = 100) -> list[SlotVersion]:
        """The latest versions of the slots file, the newest first."""
        columns = slot_versions.c["id", "time", "author", "text"]
        query = select(*columns).order_by(slot_versions.c.id.desc()).limit(limit)
        return [SlotVersion(*row) for row in self._database.read(lambda connection: connection.execute(query).all())]

    def stats(self, max_age: float = 0.0) -> dict[str, Any]:
        """How much is stored, and where: kind of database, version of the tables, numbers of rows.

        Args:
            max_age: seconds for which numbers counted before will do; to count takes about a second for a million events.
        """
        counted, found = self._counted
        if not found or clock.monotonic() - counted > max_age:
            found = self._count()
            self._counted = (clock.monotonic(), found)
        return {"database": self._database.system, "schema": SCHEMA_VERSION, **found}

    def _count(self) -> dict[str, Any]:
        shown = impressions.c.shown_time.is_not(None)
        counts = {
            "events": select(func.count()).select_from(events),
            "users": select(func.count()).select_from(select(events.c.user_id).distinct().subquery()),
            "impressions": select(func.count()).select_from(impressions),
            "shown": select(func.count()).select_from(impressions).where(shown),
            "clicks": select(func.count()).select_from(clicks),
        }
        query = select(*(count.scalar_subquery().label(name) for name, count in counts.items()))
        return dict(self._database.read(lambda connection: connection.execute(query).mappings().one(), heavy=True))


def _history(connection: Connection, user_id: str, limit: int) -> UserHistory:
    latest = select(events.c.item_id, events.c.time, events.c.kind).where(events.c.user_id == user_id)
    latest = latest.order_by(events.c.time.desc(), events.c.id.desc()).limit(limit)
    rows = connection.execute(latest).all()[::-1]
    items, times, kinds = zip(*rows, strict=True) if rows else ((), (), ())
    return UserHistory(list(items), np.array(times, np.int64), list(kinds))


def _batch(rows: Sequence[Sequence[Any]]) -> pa.RecordBatch:
    columns = zip(*rows, strict=True)
    arrays = [pa.array(values, field.type) for values, field in zip(columns, _OUTCOMES, strict=True)]
    return pa.record_batch(arrays, schema=_OUTCOMES)


def _after(prefix: str) -> str | None:
    """The least text after all that begin with `prefix`; None where there is none."""
    kept = prefix.rstrip(chr(0x10FFFF))
    if not kept:
        return None
    following = ord(kept[-1]) + 1
    return kept[:-1] + chr(0xE000 if following == 0xD800 else following)  # past the surrogates, which are not characters
