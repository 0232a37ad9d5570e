"""Running sums of impressions and clicks, changed in the transaction that changes what they count.

A report needs no impression: its rates, their variance over users and all that follows are functions of how many users saw
n impressions and clicked c of them. `heedful_user_counts` has n and c of each user in each treatment of each experiment,
`heedful_click_counts` the number of users of each such pair, some thousand rows at ten million impressions.

Impressions are locked before visitors, and these before the counts, each in the order of their keys, so that transactions
of several processes wait for each other and never in a circle.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, TypeAlias, TypeVar

import numpy as np
from sqlalchemy import ColumnElement, Connection, Select, delete, func, select, tuple_, update

from heedful.serving.bots import DAY, DEFAULT_BOT_RULES
from heedful.serving.click_counts import ClickCounts, Experiment, UserGroups
from heedful.serving.tables import (
    click_counts,
    experiments,
    impressions,
    insert_new,
    insert_or_update,
    user_counts,
    visitors,
)

__all__ = ["Change", "apply_changes", "forget_user", "parts_of", "read_counts", "tireless"]

T = TypeVar("T")
Visitor: TypeAlias = tuple[str, bool]  # user_id, simulated
Place: TypeAlias = tuple[int, str]  # experiment, treatment
_IDS = 1000  # in one condition
_SUMS = ("shown", "clicked", "further", "repeated")
_COUNTS = ("experiment", "treatment", "bot", "shown", "clicked", "users", "further", "repeated", "latest")


@dataclass(frozen=True)
class Change:
    """What impressions or clicks of one user add to the sums, or with negative numbers take from them.

    Attributes:
        user_id: the user.
        simulated: whether nobody saw the impressions.
        experiment: id of the experiment.
        treatment: the treatment.
        time: when one of the impressions was shown, the latest if there are several, unix seconds.
        shown: impressions.
        clicked: impressions that were clicked.
        further: items clicked beyond the first of an impression.
        repeated: further clicks on the same items.
    """

    user_id: str
    simulated: bool
    experiment: int
    treatment: str
    time: int
    shown: int = 0
    clicked: int = 0
    further: int = 0
    repeated: int = 0


@dataclass
class _Seen:
    """What one visitor saw and clicked, and how that changes.

    Attributes:
        tireless: whether they saw one slot too often in a day.
        bot: whether they behave as no person does.
        stored: both as they are stored.
        sums: shown, clicked, further and repeated, by experiment and treatment.
        emptied: experiments and treatments of which nothing is left.
    """

    tireless: bool
    bot: bool
    stored: tuple[bool, bool]
    sums: dict[Place, list[int]] = field(default_factory=dict)
    emptied: list[Place] = field(default_factory=list)

    @property
    def shown(self) -> int:
        return sum(own[0] for own in self.sums.values())

    @property
    def clicked(self) -> int:
        return sum(own[1] for own in self.sums.values())

    def add(self, change: Change) -> None:
        place = (change.experiment, change.treatment)
        own = self.sums.setdefault(place, [0] * len(_SUMS))
        for number, name in enumerate(_SUMS):
            own[number] += getattr(change, name)
        if not own[0]:
            self.emptied.append(place)
            del self.sums[place]


def apply_changes(connection: Connection, changes: Sequence[Change]) -> None:
    """Bring the sums up to date after impressions were shown, clicked or removed in this transaction."""
    if not changes:
        return
    by_visitor: defaultdict[Visitor, list[Change]] = defaultdict(list)
    latest: dict[int, int] = {}
    for change in changes:
        by_visitor[change.user_id, change.simulated].append(change)
        latest[change.experiment] = max(change.time, latest.get(change.experiment, change.time))
    seen = _locked(connection, sorted(by_visitor))
    moves = _Moves(latest)
    for visitor, one in seen.items():
        moves.add(one, -1)
        for change in by_visitor[visitor]:
            one.add(change)
    _find_bots(connection, seen, by_visitor)
    for one in seen.values():
        moves.add(one, 1)
    _write(connection, seen)
    moves.write(connection)


def forget_user(connection: Connection, user_id: str) -> None:
    """Take a user out of the sums, and remove what is kept of them."""
    moves = _Moves({})
    for seen in _locked(connection, [(user_id, False), (user_id, True)]).values():
        moves.add(seen, -1)
    for table in (user_counts, visitors):
        connection.execute(delete(table).where(table.c.user_id == user_id))
    moves.write(connection)


def tireless(condition: ColumnElement[bool] | None = None) -> Select[tuple[str, bool]]:
    """The visitors (user_id, simulated) who saw one slot too often in a day (UTC), among impressions of a condition."""
    time = impressions.c.shown_time
    day = time - (time % DAY + DAY) % DAY  # also before 1970, where % is negative
    found = select(impressions.c.user_id, experiments.c.simulated)
    found = found.join(experiments, experiments.c.id == impressions.c.experiment)
    found = found.where(time.is_not(None), impressions.c.n_items > 0)
    found = found if condition is None else found.where(condition)
    found = found.group_by(impressions.c.user_id, experiments.c.simulated, impressions.c.slot, day)
    return found.having(func.count() > DEFAULT_BOT_RULES.daily_impressions)


def parts_of(values: Sequence[T]) -> Iterator[Sequence[T]]:
    """The values in parts that fit into one condition."""
    for start in range(0, len(values), _IDS):
        yield values[start : start + _IDS]


class _Moves:
    """How the numbers of users by what they saw and clicked change; gathered, then written in the order of their keys."""

    def __init__(self, latest: Mapping[int, int]) -> None:
        self._latest = latest
        self._changes: defaultdict[tuple[Any, ...], list[int]] = defaultdict(lambda: [0, 0, 0])

    def add(self, seen: _Seen, sign: int) -> None:
        for (experiment, treatment), (shown, clicked, further, repeated) in seen.sums.items():
            change = self._changes[experiment, treatment, seen.bot, shown, clicked]
            for number, one in enumerate((1, further, repeated)):
                change[number] += sign * one

    def write(self, connection: Connection) -> None:
        rows = [
            dict(zip(_COUNTS, (*key, *change, self._latest.get(key[0], 0)), strict=True))
            for key, change in sorted(self._changes.items())
            if any(change)
        ]
        if rows:
            connection.execute(insert_or_update(connection, click_counts, ("users", "further", "repeated")), rows)
        # A busy user passes through one pair after the other, and leaves none behind.
        left = [tuple(row[name] for name in _COUNTS[:5]) for row in rows if row["users"] < 0]
        key = tuple_(*(click_counts.c[name] for name in _COUNTS[:5]))
        for keys in parts_of(left):
            connection.execute(delete(click_counts).where(click_counts.c.users == 0, key.in_(keys)))


def _locked(connection: Connection, keys: Sequence[Visitor]) -> dict[Visitor, _Seen]:
    """What visitors saw so far; nobody else changes it before this transaction ends."""
    new = [{"user_id": user, "simulated": kind, "tireless": False, "bot": False} for user, kind in keys]
    connection.execute(insert_new(connection, visitors), new)
    seen: dict[Visitor, _Seen] = {}
    names = ("user_id", "simulated", "experiment", "treatment", *_SUMS)
    for part in parts_of(keys):
        users = {user for user, _ in part}
        rows = select(*visitors.c["user_id", "simulated", "tireless", "bot"]).where(visitors.c.user_id.in_(users))
        rows = rows.order_by(visitors.c.user_id, visitors.c.simulated).with_for_update()
        for user, kind, never_tired, bot in connection.execute(rows):
            known = (bool(never_tired), bool(bot))
            seen[user, bool(kind)] = _Seen(*known, stored=known)
        counts = select(*(user_counts.c[name] for name in names)).where(user_counts.c.user_id.in_(users))
        for user, kind, experiment, treatment, *sums in connection.execute(counts):
            seen[user, bool(kind)].sums[experiment, treatment] = sums
    return {key: seen[key] for key in keys}


def _find_bots(connection: Connection, seen: Mapping[Visitor, _Seen], changes: Mapping[Visitor, Sequence[Change]]) -> None:
    """Note who behaves as no person does; `BotRules.find` says the same of a table of impressions."""
    rules = DEFAULT_BOT_RULES
    fewer = {visitor for visitor in seen if any(change.shown < 0 for change in changes[visitor])}
    for visitor in fewer:
        seen[visitor].tireless = False
    busy = [visitor for visitor, one in seen.items() if not one.tireless and one.shown > rules.daily_impressions]
    for part in parts_of(busy):
        days = [change.time // DAY for visitor in part for change in changes[visitor]]
        theirs: ColumnElement[bool] = impressions.c.user_id.in_({user for user, _ in part})
        if not fewer.intersection(part):  # who has seen more can have become tireless on those days alone
            theirs &= impressions.c.shown_time.between(min(days) * DAY, (max(days) + 1) * DAY - 1)
        found = {(row.user_id, bool(row.simulated)) for row in connection.execute(tireless(theirs))}
        for visitor in found.intersection(part):
            seen[visitor].tireless = True
    for one in seen.values():
        one.bot = one.tireless or rules.is_eager(one.shown, one.clicked)


def _write(connection: Connection, seen: Mapping[Visitor, _Seen]) -> None:
    emptied = [(*visitor, *place) for visitor, one in seen.items() for place in one.emptied]
    key = tuple_(*user_counts.c["user_id", "simulated", "experiment", "treatment"])
    for places in parts_of(emptied):
        connection.execute(delete(user_counts).where(key.in_(places)))
    gone = [visitor for visitor, one in seen.items() if not one.sums]
    for keys in parts_of(gone):
        connection.execute(delete(visitors).where(tuple_(visitors.c.user_id, visitors.c.simulated).in_(keys)))
    counts = [
        {"user_id": user, "simulated": kind, "experiment": experiment, "treatment": treatment}
        | dict(zip(_SUMS, own, strict=True))
        for (user, kind), one in seen.items()
        for (experiment, treatment), own in one.sums.items()
    ]
    if counts:
        connection.execute(insert_or_update(connection, user_counts), counts)
    for (user, kind), one in seen.items():
        if one.sums and one.stored != (one.tireless, one.bot):
            this = (visitors.c.user_id == user) & (visitors.c.simulated == kind)
            connection.execute(update(visitors).where(this).values(tireless=one.tireless, bot=one.bot))


def read_counts(connection: Connection, slot: str | None, simulated: bool | None) -> ClickCounts:
    """What a report needs, see `Store.click_counts`."""
    inside = [experiments.c.slot == slot] if slot is not None else []
    together = select(experiments.c.simulated, func.sum(click_counts.c.shown * click_counts.c.users))
    together = together.join(click_counts, click_counts.c.experiment == experiments.c.id).where(*inside)
    found = connection.execute(together.group_by(experiments.c.simulated))
    impressions_of = {bool(kind): int(number) for kind, number in found}
    if simulated is None:
        simulated = bool(impressions_of.get(True)) and not impressions_of.get(False)
    chosen = select(experiments).where(experiments.c.simulated == simulated, *inside)
    known = {row["id"]: dict(row) for row in connection.execute(chosen).mappings()}
    rows = _rows(connection, known)
    of_bots = [row for row in rows if row[2]]
    bots = select(func.count()).select_from(visitors).where(visitors.c.bot, visitors.c.simulated == simulated)
    return ClickCounts(
        _experiments(known, rows),
        simulated,
        {
            "real_impressions" if simulated else "simulated_impressions": impressions_of.get(not simulated, 0),
            "bots": int(connection.execute(bots).scalar() or 0) if of_bots else 0,
            "impressions_of_bots": sum(row[3] * row[5] for row in of_bots),
            "clicks_of_bots": sum(row[4] * row[5] + row[6] for row in of_bots),
            "further_clicks": sum(row[6] for row in rows if not row[2]),
            "repeated_clicks": sum(row[7] for row in rows),
        },
    )


def _rows(connection: Connection, ids: Collection[int]) -> list[tuple[Any, ...]]:
    """Rows of the counts, in the order of `_COUNTS`, by experiment and treatment."""
    wanted = select(*(click_counts.c[name] for name in _COUNTS)).where(click_counts.c.experiment.in_(ids))
    wanted = wanted.where(click_counts.c.users > 0).order_by(*(click_counts.c[name] for name in _COUNTS[:2]))
    return [tuple(row) for row in connection.execute(wanted)]


def _experiments(known: Mapping[int, Mapping[str, Any]], rows: Sequence[tuple[Any, ...]]) -> tuple[Experiment, ...]:
    found = []
    for number, theirs in groupby(rows, key=lambda row: row[0]):
        treatments, latest = {}, 0
        for treatment, group in groupby(theirs, key=lambda row: row[1]):
            counts = np.array([(row[3], row[4], row[5], row[8]) for row in group if not row[2]], np.int64).reshape(-1, 4)
            if len(counts):
                treatments[treatment] = UserGroups(*counts.T[:3])
                latest = max(latest, int(counts[:, 3].max()))
        of = known[number]
        shares = json.loads(of["shares"]) if of["shares"] else {}
        if treatments:
            found.append((number, Experiment(of["slot"], of["salt"], shares, of["begun"], latest, treatments)))
    return tuple(one for _, one in sorted(found, key=lambda pair: (pair[1].latest, pair[0])))
