"""Popularity that goes on with the stored events: what is popular now, for the ranker that is served.

Each worker reads by itself the events that have arrived since it read last, and adds them to the counts of training.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from sqlalchemy import Connection, Row, func, select

from heedful.model.touches import Later
from heedful.rankers.base import Ranker
from heedful.rankers.counting_on import counted_on
from heedful.serving.store import Store
from heedful.serving.tables import events

__all__ = ["LivePopularity"]

Rows: TypeAlias = Sequence[Row[Any]]  # id, event_id, user_id, item_id, time, kind
_BATCH = 20_000
_USERS = 500  # in one condition
# Events are read again that arrived so shortly before the last ones: others that began earlier may have come to the
# table later, and SQLite gives the number of a last row that was removed to another one.
_OVERLAP = 1000
# Time goes on as far as events carry it: they may come so many times more slowly than in the log of training.
_SLOWEST = 10.0


class LivePopularity:
    """What a ranker counts, kept up to date; one thread at a time calls `advance`.

    Events up to the end of the ranker's log do not count: the log has them, or a refresh will. The time of ranking is
    that of the latest event, as in a refresh: a server that is told nothing for a week does not take all items for out
    of fashion. It is not after the clock, nor further than the number of events carries it, so that a few stray ones
    do not either. It never goes back. Events after that time wait for it.

    Args:
        ranker: the model as it was loaded, with `touches`.
        clock: unix seconds.
    """

    def __init__(self, ranker: Ranker, clock: Callable[[], int]) -> None:
        assert ranker.touches is not None
        self._ranker, self._clock = ranker, clock
        self._later = Later(ranker.touches.extended(len(ranker.items)))
        self._end, self._now = ranker.last_time, ranker.last_time + 1
        self._floor = self._high = 0
        self._recent: dict[str, int] = {}
        self._waiting: list[tuple[str, int, int]] = []
        self._counted = 0

    def advance(self, store: Store) -> Ranker | None:
        """Take up what has been stored since; returns the ranker as of now, or None where nothing has changed.

        Raises:
            StoreUnavailable: the database cannot be read; the next call goes on.
        """
        self._read(store)
        now = self._time()
        due = sorted((one for one in self._waiting if one[2] < now), key=lambda touch: touch[2])
        if not due and now == self._now:
            return None
        unknown = {user for user, row, _ in due if not self._later.knows(user, row)}
        self._later.add(due, self._before(store, sorted(unknown)))
        self._waiting = [one for one in self._waiting if one[2] >= now]
        self._now, self._counted = now, self._counted + len(due)
        return counted_on(self._ranker, self._later.touches, now)

    def _time(self) -> int:
        clock = self._clock()
        arrived = [time for _, _, time in self._waiting if time <= clock]
        carried = self._end + 1 + int(_SLOWEST * self._later.touches.pace * (self._counted + len(arrived)))
        return max(self._now, min(max(arrived, default=0) + 1, carried))

    def _read(self, store: Store) -> None:
        high = store.read(lambda connection: connection.execute(select(func.max(events.c.id))).scalar()) or 0
        low, found = self._floor, []
        while low < high:
            rows = store.read(_after(low, high, self._end), heavy=True)
            found += [row for row in rows if row.event_id not in self._recent]
            low = rows[-1].id if len(rows) == _BATCH else high
        self._take(found)
        self._recent |= {row.event_id: row.id for row in found}
        self._floor = max(min(self._high, high - _OVERLAP), self._floor)
        self._recent = {event: number for event, number in self._recent.items() if number > self._floor}
        self._high = high

    def _take(self, found: Rows) -> None:
        """Put events of known items, and of kinds that do not speak against an item, with those that wait for their time."""
        rows = self._ranker.items.rows([event.item_id for event in found]).tolist()
        counted = {kind for code, kind in enumerate(self._ranker.kinds) if code not in self._ranker.targets.negative}
        for event, row in zip(found, rows, strict=True):
            if row >= 0 and event.kind in counted:
                self._waiting.append((event.user_id, row, event.time))

    def _before(self, store: Store, users: Sequence[str]) -> dict[tuple[str, int], int]:
        """When users last touched items up to the end of the log."""
        last: list[tuple[str, str, int]] = []
        for start in range(0, len(users), _USERS):
            last += store.read(_last_touches(users[start : start + _USERS], self._end), heavy=True)
        rows = self._ranker.items.rows([item for _, item, _ in last]).tolist()
        return {(user, row): time for (user, _, time), row in zip(last, rows, strict=True)}


def _after(low: int, high: int, since: int) -> Callable[[Connection], Rows]:
    """Reads events with numbers beyond one and up to another, after a time."""
    columns = events.c["id", "event_id", "user_id", "item_id", "time", "kind"]
    chosen = select(*columns).where(events.c.id > low, events.c.id <= high, events.c.time > since)
    return lambda connection: connection.execute(chosen.order_by(events.c.id).limit(_BATCH)).all()


def _last_touches(users: Sequence[str], until: int) -> Callable[[Connection], list[tuple[str, str, int]]]:
    """Reads when users last touched items up to a time."""
    pair = events.c["user_id", "item_id"]
    last = select(*pair, func.max(events.c.time)).where(events.c.user_id.in_(users), events.c.time <= until)
    last = last.group_by(*pair)
    return lambda connection: [(row[0], row[1], row[2]) for row in connection.execute(last)]
