"""Impressions and clicks in the database: each counts once, and the running sums change with them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, Subquery, case, delete, func, select, update

from heedful.errors import InputError
from heedful.serving.click_counts import SIMULATED
from heedful.serving.counting import Change, apply_changes, parts_of
from heedful.serving.storable import check_names, check_time
from heedful.serving.tables import clicks, experiments, impressions, insert_new, repeated_clicks

__all__ = ["Click", "Impression", "add_clicks", "add_impressions", "check_impressions", "mark_shown", "outcomes", "remove"]
__all__ += ["shown_by_user"]

ExperimentKey = tuple[str, str, str, bool]


@dataclass(frozen=True)
class Impression:
    """A slot filled for a visitor: the items in their order, and what chose them.

    Attributes:
        impression_id: names it; a click names it too.
        slot: the slot.
        treatment: the treatment that put the items in order.
        user_id: the visitor.
        items: item ids, at least one.
        time: when it was chosen, unix seconds.
        model: version of the model; `clicks.SIMULATED` before it where nobody saw it.
        salt: salt of the slot.
        shares: declared shares of the slot's treatments, in order; with slot and salt they are the experiment.
    """

    impression_id: str
    slot: str
    treatment: str
    user_id: str
    items: tuple[str, ...]
    time: int
    model: str
    salt: str
    shares: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Click:
    """A click on an item of an impression; another `click_id` on the same item is a repeated click."""

    click_id: str
    impression_id: str
    item_id: str
    time: int


def check_impressions(new: Iterable[Impression]) -> None:
    """Refuse impressions that cannot be stored.

    Raises:
        InputError: an id is too long or empty, or there is no item in it.
    """
    for one in new:
        if not one.items:
            raise InputError("an impression without items cannot be stored", got=one.slot, expected="at least one item")
        check_names("impression", (one.impression_id, one.slot, one.treatment, one.user_id, *one.items))
        check_names("impression", (one.model, one.salt), empty=True)
        check_time(one.time)


def add_impressions(connection: Connection, new: Sequence[Impression], *, shown: bool) -> None:
    """Store impressions; one whose id is there already is left as it is."""
    keys = {one.impression_id: _key(one) for one in new}
    ids = _experiment_ids(connection, new)
    rows = [
        {
            "impression_id": one.impression_id,
            "slot": one.slot,
            "treatment": one.treatment,
            "user_id": one.user_id,
            "items": json.dumps(one.items),
            "n_items": len(one.items),
            "time": one.time,
            "shown_time": one.time if shown else None,
            "model": one.model,
            "salt": one.salt,
            "experiment": ids[keys[one.impression_id]],
        }
        for one in new
    ]
    insert = insert_new(connection, impressions)
    if not shown:
        connection.execute(insert, rows)
        return
    added = connection.execute(
        insert.returning(*impressions.c["user_id", "model", "experiment", "treatment", "shown_time"]), rows
    )
    apply_changes(connection, [_change(dict(row), row["shown_time"], shown=1) for row in added.mappings()])


def mark_shown(connection: Connection, impression_id: str, time: int) -> bool:
    """Note that the visitor saw an impression, once; whether there is such an impression."""
    this = impressions.c.impression_id == impression_id
    mark = update(impressions).where(this, impressions.c.shown_time.is_(None)).values(shown_time=time)
    columns = impressions.c["user_id", "model", "experiment", "treatment", "n_items"]
    row = connection.execute(mark.returning(*columns)).mappings().first()
    if row is None:
        return connection.execute(select(1).where(this)).first() is not None
    if row["n_items"] and row["experiment"]:
        apply_changes(connection, [_change(dict(row), time, shown=1)])
    return True


def add_clicks(connection: Connection, new: Sequence[Click], window: int) -> list[str]:
    """Store clicks; returns what became of each, see `Store.add_clicks`."""
    clicked = _Clicked(connection, new, window)
    told = [clicked.take(click) for click in new]
    clicked.write()
    return told


def remove(connection: Connection, condition: ColumnElement[bool]) -> int:
    """Remove impressions with their clicks; returns the number of impressions."""
    connection.execute(select(impressions.c.id).where(condition).order_by(impressions.c.id).with_for_update()).all()
    gone = [Change(user, bool(kind), *rest) for user, kind, *rest in connection.execute(shown_by_user(condition))]
    removed = connection.execute(delete(impressions).where(condition)).rowcount
    apply_changes(
        connection,
        [replace(one, shown=-one.shown, clicked=-one.clicked, further=-one.further, repeated=-one.repeated) for one in gone],
    )
    return removed


def outcomes(condition: ColumnElement[bool] | None = None) -> Select[Any]:
    """One row for each impression that was shown, in the order they were chosen; see `Store.outcomes`."""
    found = _with_clicks(condition)
    columns = [impressions.c[name] for name in ("slot", "treatment", "user_id", "shown_time", "n_items")]
    query: Select[Any] = select(
        *columns, found.c.n_clicked, found.c.first_click, found.c.repeats, *impressions.c["model", "salt"]
    )
    query = query.add_columns(func.coalesce(experiments.c.shares, ""))
    joined = found.join(impressions, impressions.c.id == found.c.id)
    joined = joined.outerjoin(experiments, experiments.c.id == impressions.c.experiment)
    return query.select_from(joined).order_by(impressions.c.id)


def shown_by_user(condition: ColumnElement[bool] | None = None) -> Select[Any]:
    """What users saw and clicked by experiment and treatment, in the order of the fields of `Change`."""
    found = _with_clicks(condition)
    simulated = func.substr(impressions.c.model, 1, len(SIMULATED)) == SIMULATED
    key = [impressions.c.user_id, simulated, *impressions.c["experiment", "treatment"]]
    clicked = func.sum(case((found.c.n_clicked > 0, 1), else_=0))
    sums = (func.max(impressions.c.shown_time), func.count(), clicked, func.sum(found.c.n_clicked) - clicked)
    query = select(*key, *sums, func.sum(found.c.repeats)).where(impressions.c.experiment != 0)
    return query.select_from(found.join(impressions, impressions.c.id == found.c.id)).group_by(*key)


def _with_clicks(condition: ColumnElement[bool] | None) -> Subquery:
    """Impressions that were shown: id, distinct items clicked, time of the first click, repeated clicks."""
    found = select(
        impressions.c.id,
        func.count(clicks.c.item_id).label("n_clicked"),
        func.min(clicks.c.time).label("first_click"),
        func.coalesce(func.sum(clicks.c.repeated), 0).label("repeats"),
    )
    found = found.select_from(impressions.outerjoin(clicks))
    found = found.where(impressions.c.shown_time.is_not(None), impressions.c.n_items > 0)
    return (found if condition is None else found.where(condition)).group_by(impressions.c.id).subquery()


def _change(row: Mapping[str, Any], time: int, **sums: int) -> Change:
    simulated = row["model"].startswith(SIMULATED)
    return Change(row["user_id"], simulated, row["experiment"], row["treatment"], time, **sums)


def _key(one: Impression) -> ExperimentKey:
    shares = json.dumps({name: float(share) for name, share in one.shares.items()}) if one.shares else ""
    return one.slot, one.salt, shares, one.model.startswith(SIMULATED)


def _experiment_ids(connection: Connection, new: Sequence[Impression]) -> dict[ExperimentKey, int]:
    """The ids of the experiments of impressions, which are added where they are missing."""
    begun: dict[ExperimentKey, int] = {}
    for one in new:
        begun.setdefault(_key(one), one.time)
    columns = experiments.c["id", "slot", "salt", "shares", "simulated"]
    known = select(*columns).where(experiments.c.slot.in_({key[0] for key in begun}))

    def found() -> dict[ExperimentKey, int]:
        rows = connection.execute(known)
        return {(slot, salt, shares, bool(simulated)): number for number, slot, salt, shares, simulated in rows}

    ids = found()
    if missing := [key for key in begun if key not in ids]:
        names = ("slot", "salt", "shares", "simulated", "begun")
        rows = [dict(zip(names, (*key, begun[key]), strict=True)) for key in missing]
        connection.execute(insert_new(connection, experiments), rows)
        ids = found()
    return ids


class _Clicked:
    """The impressions that some clicks are on, locked, and what the clicks add to them."""

    def __init__(self, connection: Connection, new: Sequence[Click], window: int) -> None:
        self._connection, self._window = connection, window
        self._impressions: dict[str, dict[str, Any]] = {}
        self._first: dict[tuple[int, str], str] = {}  # click id of the first click on an item
        self._repeats: set[tuple[int, str, str]] = set()
        self._new: list[tuple[int, str, str, int]] = []
        self._new_repeats: list[tuple[int, str, str]] = []
        self._changes: list[Change] = []
        names = sorted({one.impression_id for one in new})
        columns = impressions.c[
            "id", "impression_id", "items", "n_items", "time", "shown_time", "user_id", "model", "experiment", "treatment"
        ]
        for part in parts_of(names):
            # Locked, so that none is deleted or clicked by others before the clicks on it are stored.
            rows = select(*columns).where(impressions.c.impression_id.in_(part)).order_by(impressions.c.impression_id)
            for row in connection.execute(rows.with_for_update()).mappings():
                self._impressions[row["impression_id"]] = {**row, "items": set(json.loads(row["items"]))}
        self._look_up([one["id"] for one in self._impressions.values()], {one.click_id for one in new})
        self._clicked = {number for number, _ in self._first}

    def _look_up(self, numbers: Sequence[int], click_ids: set[str]) -> None:
        for part in parts_of(numbers):
            known = select(*clicks.c["impression", "item_id", "click_id"]).where(clicks.c.impression.in_(part))
            self._first.update({(row[0], row[1]): row[2] for row in self._connection.execute(known)})
            again = select(*repeated_clicks.c["impression", "item_id", "click_id"])
            again = again.where(repeated_clicks.c.impression.in_(part))
            for ids in parts_of(sorted(click_ids)):
                found = self._connection.execute(again.where(repeated_clicks.c.click_id.in_(ids)))
                self._repeats.update((row[0], row[1], row[2]) for row in found)

    def take(self, click: Click) -> str:
        if (one := self._impressions.get(click.impression_id)) is None:
            return "unknown impression"
        if click.item_id not in one["items"]:
            return "not in impression"
        if click.time - (one["time"] if one["shown_time"] is None else one["shown_time"]) > self._window:
            return "too late"
        self._see(one, click.time)
        place = (one["id"], click.item_id)
        if place not in self._first:
            self._first[place] = click.click_id
            self._new.append((*place, click.click_id, click.time))
            before = one["id"] in self._clicked
            self._change(one, clicked=int(not before), further=int(before))
            self._clicked.add(one["id"])
            return "recorded"
        if click.click_id != self._first[place] and (*place, click.click_id) not in self._repeats:
            self._repeats.add((*place, click.click_id))
            self._new_repeats.append((*place, click.click_id))
            self._change(one, repeated=1)
        return "duplicate"

    def _see(self, one: dict[str, Any], time: int) -> None:
        """A click proves that the impression was seen."""
        if one["shown_time"] is None:
            this = impressions.c.id == one["id"]
            self._connection.execute(update(impressions).where(this).values(shown_time=time))
            one["shown_time"] = time
            self._change(one, shown=1)

    def _change(self, one: dict[str, Any], **sums: int) -> None:
        if one["experiment"]:
            self._changes.append(_change(one, one["shown_time"], **sums))

    def write(self) -> None:
        names = ("impression", "item_id", "click_id", "time")
        if self._new:
            rows = [dict(zip(names, row, strict=True)) | {"repeated": 0} for row in self._new]
            self._connection.execute(clicks.insert(), rows)
        if self._new_repeats:
            again = [dict(zip(names[:3], row, strict=True)) for row in self._new_repeats]
            self._connection.execute(repeated_clicks.insert(), again)
        for number, item, _ in self._new_repeats:
            this = (clicks.c.impression == number) & (clicks.c.item_id == item)
            self._connection.execute(update(clicks).where(this).values(repeated=clicks.c.repeated + 1))
        apply_changes(self._connection, self._changes)
