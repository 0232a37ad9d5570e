"""Histories of a training log as events of the store: only those that are not there, and none of users who were deleted."""

from __future__ import annotations

import hashlib
from base64 import urlsafe_b64encode
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from sqlalchemy import Connection, select

from heedful.events.log import EventLog
from heedful.serving.storable import is_storable
from heedful.serving.tables import deleted_users, events, insert_events

__all__ = ["add_missing", "parts", "rows_of", "storable", "user_hash"]

Row: TypeAlias = tuple[str, str, str, int, str]  # event_id, user_id, item_id, time, kind
_PART_EVENTS = 20_000
_PART_USERS = 5_000


def parts(log: EventLog) -> Iterator[slice]:
    """Consecutive users, whole, with about `_PART_EVENTS` events each time."""
    offsets = log.histories.offsets
    start = 0
    while start < len(log.histories):
        stop = int(np.searchsorted(offsets, offsets[start] + _PART_EVENTS, "right")) - 1
        stop = min(max(stop, start + 1), start + _PART_USERS)
        yield slice(start, stop)
        start = stop


def rows_of(log: EventLog, users: slice) -> list[Row]:
    """The events of some users, each user's oldest first, with ids that follow from what they say."""
    histories = log.histories.part(users)
    names = log.users.ids.slice(users.start, users.stop - users.start)
    owners = pc.cast(names, pa.string()).to_pylist()
    user_ids = [owner for owner, length in zip(owners, histories.lengths.tolist(), strict=True) for _ in range(length)]
    item_ids = pc.cast(log.catalog.items.take(histories.items), pa.string()).to_pylist()
    kinds = [log.kinds[code] for code in histories.kinds.tolist()]
    seen: Counter[tuple[str, str, int, str]] = Counter()
    rows = []
    for said in zip(user_ids, item_ids, histories.times.tolist(), kinds, strict=True):
        rows.append((_event_id(*said, seen[said]), *said))
        seen[said] += 1
    return rows


def add_missing(connection: Connection, rows: Sequence[Row]) -> int:
    """Insert the events of whole users that are not stored yet; returns how many.

    As many events as are stored with the same user, item, time and kind are left out, whatever their ids.
    """
    users = list({row[1] for row in rows})
    hashes = {user_hash(user): user for user in users}
    deleted = select(deleted_users.c.user_hash).where(deleted_users.c.user_hash.in_(hashes))
    gone = {hashes[found] for found in connection.execute(deleted).scalars()}
    there = select(events.c.user_id, events.c.item_id, events.c.time, events.c.kind).where(events.c.user_id.in_(users))
    stored = Counter(map(tuple, connection.execute(there)))
    missing = []
    for row in rows:
        if row[1] in gone:
            continue
        if stored and stored[row[1:]] > 0:
            stored[row[1:]] -= 1
        else:
            missing.append(row)
    return insert_events(connection, missing) if missing else 0


def storable(rows: list[Row]) -> list[Row]:
    """The events whose ids and kind can be stored."""
    names = {name for row in rows for name in (row[1], row[2], row[4])}
    bad = {name for name in names if not is_storable(name)}
    return [row for row in rows if not bad.intersection((row[1], row[2], row[4]))] if bad else rows


def user_hash(user_id: str) -> str:
    """What is kept of a deleted user."""
    return hashlib.sha256(user_id.encode()).hexdigest()


def _event_id(user_id: str, item_id: str, time: int, kind: str, repetition: int) -> str:
    said = "\0".join((user_id, item_id, str(time), kind, str(repetition)))
    return "log:" + urlsafe_b64encode(hashlib.blake2b(said.encode(), digest_size=15).digest()).decode()
