"""Replaying the days after the cut: what would have been shown, with a click where the user did act on the item.

Nobody saw these slots, so nothing could be caused by them: a treatment that foresees what users do anyway fares well here,
and whether showing it changes anything is not answered. Every impression is marked, see `clicks.SIMULATED`.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from heedful.config import Config, option, require
from heedful.errors import InputError
from heedful.events.histories import Histories, ragged_positions
from heedful.events.log import EventLog, parse_time
from heedful.progress import progress
from heedful.rankers.base import Ranker
from heedful.serving.clicks import SIMULATED
from heedful.serving.selection import Selection, SlotBook
from heedful.serving.store import Click, Impression, Store

__all__ = ["Simulation", "SimulationConfig", "simulate"]

_DAY = 86_400
_BATCH_USERS = 256


@dataclass(frozen=True, kw_only=True)
class SimulationConfig(Config):
    """Which days are replayed, and what counts as a click."""

    cut: str = option(
        "", "the first time that is replayed, an ISO date; the model must have been trained on the time before"
    )
    days: int = option(7, "days replayed")
    window_days: int = option(1, "an action with a shown item is a click on the day of the visit, or within so many days")

    def __post_init__(self) -> None:
        """Check every option."""
        require(self.cut != "", "cut", got=self.cut, expected="an ISO date such as 2017-12-24")
        parse_time(self.cut)
        for name in ("days", "window_days"):
            require(1 <= getattr(self, name) <= 366, name, got=getattr(self, name), expected="1 to 366")


@dataclass(frozen=True)
class Simulation:
    """What a replay did.

    Attributes:
        visits: days on which a user acted; each visits every slot once.
        users: who visited.
        impressions: slots shown.
        clicks: shown items that the user did act on.
    """

    visits: int
    users: int
    impressions: int
    clicks: int


@dataclass(frozen=True)
class _Visits:
    """Visits of one day, V in all: the user, the first action's position in the log and its time, all int64 [V]."""

    users: np.ndarray
    first: np.ndarray
    times: np.ndarray

    def part(self, chosen: slice) -> _Visits:
        return _Visits(self.users[chosen], self.first[chosen], self.times[chosen])


def simulate(log: EventLog, book: SlotBook, store: Store, config: SimulationConfig) -> Simulation:
    """Replay the days after the cut and write impressions and clicks into a store; doing it again adds nothing.

    A user visits on each day (UTC) on which they acted, at the time of their first action of that day; the history is
    everything before that time. Each slot is shown once a visit, in the treatment that the user stays in.

    Args:
        log: the whole log.
        book: the slots, filled by a ranker that was trained on the time before the cut.
        store: where impressions and clicks go, marked as simulated.
        config: the days and the window.

    Raises:
        InputError: the ranker has seen the days to be replayed, or nothing happened in them.
        StoreUnavailable: the database cannot be used.
    """
    cut = parse_time(config.cut)
    if book.ranker.last_time >= cut:
        raise InputError(
            "the model has seen the days to be replayed",
            got=f"training events up to {_iso(book.ranker.last_time)}",
            expected=f"none from {_iso(cut)} on",
            fix="train on the past of `log.split(cut)`, or move the cut",
        )
    past = _in_ranker_rows(log, book.ranker)
    days = list(_days(past, cut, cut + config.days * _DAY))
    if not days:
        raise InputError("there is nothing to replay", got=f"no action in the {config.days} days from {_iso(cut)} on")
    impressions = clicks = 0
    with progress("replaying", sum(len(day.users) for day in days), "visits") as meter:
        for day in days:
            for start in range(0, len(day.users), _BATCH_USERS):
                visits = day.part(slice(start, start + _BATCH_USERS))
                shown, clicked = _replay(log, past, book, visits, config)
                store.add_impressions(shown, shown=True)
                store.add_clicks(clicked)
                impressions, clicks = impressions + len(shown), clicks + len(clicked)
                meter.advance(len(visits.users))
    everyone = np.concatenate([day.users for day in days])
    return Simulation(len(everyone), len(np.unique(everyone)), impressions, clicks)


def _in_ranker_rows(log: EventLog, ranker: Ranker) -> Histories:
    """All actions with items and kinds as the ranker numbers them; an item that it does not know has row -1."""
    rows = ranker.items.rows(log.catalog.items.ids)
    histories = log.histories
    kinds = ranker.kind_codes(log.kinds)[histories.kinds]
    return Histories(histories.offsets, rows[histories.items].astype(np.int32), np.asarray(histories.times), kinds)


def _days(actions: Histories, start: int, end: int) -> Iterator[_Visits]:
    """The visits of each day, in order of time; within a day in order of users."""
    inside = np.flatnonzero((actions.times >= start) & (actions.times < end))
    owners = np.searchsorted(actions.offsets, inside, side="right") - 1
    days = actions.times[inside] // _DAY
    for day in np.unique(days):
        # Actions of a user are in order of time, so that the first of each user on the day is the visit.
        users, first = np.unique(owners[days == day], return_index=True)
        positions = inside[days == day][first]
        yield _Visits(users, positions, actions.times[positions])


def _replay(
    log: EventLog, actions: Histories, book: SlotBook, visits: _Visits, config: SimulationConfig
) -> tuple[list[Impression], list[Click]]:
    histories = _before(actions, visits)
    names = [str(name) for name in log.users.take(visits.users).to_pylist()]
    wanted = [_acted_on(actions, visits, v, config.window_days) for v in range(len(names))]
    shown: list[Impression] = []
    clicked: list[Click] = []
    for slot in book.slots:
        groups: dict[str, list[int]] = defaultdict(list)
        for v, name in enumerate(names):
            groups[book.treatment(slot.name, name)].append(v)
        for treatment, members in groups.items():
            selections = book.select_many(slot.name, histories.take(np.array(members)), treatment)
            for v, selection in zip(members, selections, strict=True):
                if len(selection.rows):
                    impression = _impression(book, slot.name, names[v], int(visits.times[v]), selection)
                    shown.append(impression)
                    clicked += _clicks(impression, np.isin(selection.rows, wanted[v]))
    return shown, clicked


def _before(actions: Histories, visits: _Visits) -> Histories:
    """What each visitor did before the visit, without items that the ranker does not know."""
    starts = actions.offsets[:-1][visits.users]
    lengths = visits.first - starts
    positions = ragged_positions(starts, lengths)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    items = actions.items[positions]
    return Histories(offsets, items, actions.times[positions], actions.kinds[positions]).where(items >= 0)


def _acted_on(actions: Histories, visits: _Visits, v: int, window_days: int) -> np.ndarray:
    """Rows of the items that a visitor acted on from the visit on, within the window."""
    later = slice(visits.first[v], actions.offsets[visits.users[v] + 1])
    end = (visits.times[v] // _DAY + window_days) * _DAY
    return np.asarray(actions.items[later][actions.times[later] < end])


def _impression(book: SlotBook, slot: str, user: str, time: int, selection: Selection) -> Impression:
    salt, shares = book.slots[slot].salt, dict(book.slots[slot].treatments)
    model = f"{SIMULATED}{book.ranker.name}"
    items = tuple(str(item) for item in book.ranker.items.take(selection.rows).to_pylist())
    # The id is made from everything that makes the impression what it is, so that a second replay meets the first.
    identity = "\0".join([model, salt, json.dumps(shares), slot, selection.treatment, user, str(time), *items])
    name = "simulated-" + hashlib.blake2b(identity.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
    return Impression(name, slot, selection.treatment, user, items, time, model, salt, shares)


def _clicks(impression: Impression, clicked: np.ndarray) -> list[Click]:
    """Clicks on the items at the marked places: they belong to the visit, whenever the action itself came."""
    name = impression.impression_id
    places = np.flatnonzero(clicked).tolist()
    return [Click(f"{name}-{place}", name, impression.items[place], impression.time) for place in places]


def _iso(instant: int) -> str:
    return str(np.datetime64(instant, "s")).replace("T", " ")
