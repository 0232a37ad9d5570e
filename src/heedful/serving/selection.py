"""Filling slots: candidates are worked out once, a treatment orders them for a user, the shop's constraints are kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from heedful.errors import ConfigError, InputError
from heedful.events.candidates import Candidates
from heedful.events.histories import Histories
from heedful.events.values import named_column, nan_unknown
from heedful.rankers.base import Ranker
from heedful.rankers.heuristics import LastItem
from heedful.rankers.popularity import Popularity
from heedful.recommending.eligibility import Eligibility
from heedful.recommending.limits import Limit, take_within
from heedful.serving.slots import MODEL, Slot, Slots
from heedful.serving.storable import ID_CHARACTERS, storable_rows
from heedful.serving.treatments import assign

__all__ = ["EDITORIAL", "Selection", "SlotBook"]

EDITORIAL, POPULARITY, LAST_ITEM = "editorial", "popularity", "last_item"
AGAIN = "again"
AnyRanker = TypeVar("AnyRanker", bound=Ranker)


@dataclass(frozen=True)
class Selection:
    """What one user is shown.

    Attributes:
        rows: item rows, best first, int64 [n], n at most the slot's `shown`.
        scores: what the treatment gave them, float32 [n]; those of pinned items need not be the highest.
        treatment: the treatment that ordered them.
    """

    rows: np.ndarray
    scores: np.ndarray
    treatment: str


@dataclass(frozen=True)
class _Pool:
    """Candidates of a slot, in the order of its rule.

    Attributes:
        rows: item rows, int64 [C]; pinned items come first.
        pinned: how many are pinned.
        limits: the slot's `at_most`, over the candidates.
    """

    rows: np.ndarray
    pinned: int
    limits: list[Limit]


class SlotBook:
    """The slots of a shop, ready to be filled by one ranker; nothing in it changes, so threads may share it.

    Args:
        slots: the declarations.
        ranker: the served ranker; the other treatments use its items, counts and embeddings.
        eligibility: conditions over the ranker's items, if there is one already.
        storable: which of its items can be stored, bool [I], if that is known already.

    Attributes:
        notes: what was set aside: ids that the catalogue lacks, listed items that are not eligible, empty slots.

    Raises:
        ConfigError: a condition, column or treatment that the ranker's items do not allow.
    """

    def __init__(
        self,
        slots: Slots,
        ranker: Ranker,
        eligibility: Eligibility | None = None,
        storable: np.ndarray | None = None,
    ) -> None:
        self.slots = slots
        self.ranker = ranker
        self.notes: list[str] = []
        self._eligibility = eligibility or Eligibility.of(ranker)
        self._rankers = _rankers(ranker)
        self._storable = storable_rows(ranker.items.ids) if storable is None else storable
        self._pools: dict[str, dict[str, _Pool]] = {}
        for slot in slots:
            self._check_treatments(slot)
            try:
                self._pools[slot.name] = self._prepare(slot)
            except InputError as error:
                raise ConfigError(f"slot {slot.name!r}: {error}") from error

    def treatment(self, name: str, user_id: str) -> str:
        """The treatment that a user stays in; `ConfigError` where there is no such slot."""
        slot = self.slots[name]
        return assign(user_id, slot.salt, slot.treatments)

    def candidates(self, name: str) -> np.ndarray:
        """Rows of the items that the slot's treatments choose from, int64 [C]."""
        return self._pools[self.slots[name].name][MODEL].rows

    def select(self, name: str, history: Histories, treatment: str, *, seen: np.ndarray | None = None) -> Selection:
        """Fill a slot for one user.

        Args:
            name: of the slot.
            history: the one user's past actions in rows of the ranker; may be empty.
            treatment: as `treatment` says.
            seen: rows of the items that the user has seen; by default those of the history that count as seen.

        Raises:
            ConfigError: no such slot, or no such treatment in it.
        """
        return self.select_many(name, history, treatment, None if seen is None else [seen])[0]

    def select_many(
        self, name: str, histories: Histories, treatment: str, seen: Sequence[np.ndarray] | None = None
    ) -> list[Selection]:
        """Fill a slot for B users who are in the same treatment; as `select` for each."""
        slot = self.slots[name]
        if treatment not in slot.treatments:
            known = ", ".join(slot.treatments)
            raise ConfigError(f"slot {name!r} has no such treatment", got=repr(treatment)[:100], expected=known)
        pool = self._pools[name][EDITORIAL if treatment == EDITORIAL else MODEL]
        if seen is None:
            own = self.ranker.seen(histories)
            seen = np.split(own.rows, own.offsets[1:-1])
        if slot.rule == AGAIN:
            return [
                self._again(slot, pool, histories.take(np.array([b])), seen[b], treatment) for b in range(len(histories))
            ]
        scores_BC = self._scores(slot, pool, histories, treatment)
        kept = self._is_new(pool.rows) if treatment == POPULARITY else np.zeros(len(pool.rows), bool)
        return [_fill(slot, pool, scores_BC[b], seen[b], kept, treatment) for b in range(len(histories))]

    def _again(self, slot: Slot, pool: _Pool, history: Histories, seen: np.ndarray, treatment: str) -> Selection:
        """Fill a slot for one user with items that they have seen, those with most users first where there are too many."""
        own = np.isin(pool.rows, seen)
        own[: pool.pinned] = True
        places = np.flatnonzero(own)[: pool.pinned + slot.max_candidates]
        limits = [Limit(limit.most, limit.codes[places]) for limit in pool.limits]
        smaller = _Pool(pool.rows[places], pool.pinned, limits)
        scores_C = self._scores(slot, smaller, history, treatment)[0]
        return _fill(slot, smaller, scores_C, seen[:0], np.zeros(len(places), bool), treatment)

    def reasons(self, name: str, selection: Selection, history: Histories) -> list[str | None]:
        """Why each item of a selection is there, in words.

        None for an item that the served ranker put there: `heedful.recommending.explanation` says why.
        """
        slot = self.slots[name]
        pool = self._pools[name][MODEL]
        pinned = set(pool.rows[: pool.pinned].tolist())
        last = self.ranker.describe(int(history.items[-1])) if len(history.items) else None
        return [
            "pinned to this place" if row in pinned else self._reason(slot, selection.treatment, row, last)
            for row in selection.rows.tolist()
        ]

    def _reason(self, slot: Slot, treatment: str, row: int, last: str | None) -> str | None:
        popular = f"popular with everyone: {self.ranker.users_of_item[row]:,} users in the training log"
        if treatment == POPULARITY and self._is_new(np.array([row]))[0]:
            return f"newer than the model, at its place by the rule {slot.rule}"
        if treatment == LAST_ITEM:
            return f"like the last item of the history, {last.split(' · ')[0]}" if last else popular
        if treatment == EDITORIAL:
            listed = np.flatnonzero(self.ranker.items.rows(slot.editorial) == row)
            by_rule = f"fills up the editors' list by the rule {slot.rule}"
            return f"number {listed[0] + 1} of the editors' list" if len(listed) else by_rule
        return popular if treatment == POPULARITY else None

    def _scores(self, slot: Slot, pool: _Pool, histories: Histories, treatment: str) -> np.ndarray:
        shape = (len(histories), len(pool.rows))
        if treatment == EDITORIAL or not len(pool.rows):
            return np.broadcast_to(0.0 - np.arange(len(pool.rows), dtype=np.float32), shape)
        candidates = Candidates.same_for_all(len(histories), pool.rows)
        ranker = self._rankers[treatment]
        return ranker.score_rows(histories, candidates, pool_gamma=slot.pool_gamma).reshape(shape)

    def _is_new(self, rows: np.ndarray) -> np.ndarray:
        first = self.ranker.newcomers_from
        return rows >= (len(self.ranker.items) if first is None else first)

    def _check_treatments(self, slot: Slot) -> None:
        for treatment in slot.treatments:
            if treatment != EDITORIAL and treatment not in self._rankers:
                known = ", ".join([*self._rankers, EDITORIAL])
                fix = f"the served model is {self.ranker.name}"
                if self.ranker.embeddings is None:
                    fix += ", which has no embeddings, so that there is no last_item"
                raise ConfigError(
                    f"slot {slot.name!r} has an unknown treatment", got=repr(treatment), expected=known, fix=fix
                )

    def _prepare(self, slot: Slot) -> dict[str, _Pool]:
        eligible = self._eligibility.mask(slot.where).copy()
        blocked = self.ranker.items.rows(slot.blocked)
        eligible[blocked[blocked >= 0]] = False
        if (lost := np.flatnonzero(eligible & ~self._storable)).size:
            eligible[lost] = False
            name = self.ranker.items.ids[int(lost[0])].as_py()
            self.notes.append(
                f"slot {slot.name!r}: {len(lost)} items are left out, since their ids have more than {ID_CHARACTERS} "
                f"characters or NUL, and impressions of them cannot be stored: {name[:40]!r}"
            )
        pinned, edited = self._listed(slot, "pinned", eligible), self._listed(slot, "editorial", eligible)
        by_rule = edited if slot.rule == "editorial" else self._in_order(slot, np.flatnonzero(eligible))
        # Which of them a user has seen is known only when the slot is filled.
        chosen = by_rule if slot.rule == AGAIN else by_rule[: slot.max_candidates]
        if not len(chosen):
            self.notes.append(f"slot {slot.name!r}: no item is eligible")
        return {
            MODEL: self._pool(slot, pinned, chosen),
            EDITORIAL: self._pool(slot, pinned, np.concatenate([edited, chosen])),
        }

    def _listed(self, slot: Slot, key: str, eligible: np.ndarray) -> np.ndarray:
        """Rows of the items that a key of the slot lists, without those that cannot be shown."""
        ids = getattr(slot, key)
        rows = self.ranker.items.rows(ids)
        for what, gone in (("unknown", rows < 0), ("not eligible", (rows >= 0) & ~eligible[np.maximum(rows, 0)])):
            if gone.any():
                names = ", ".join(str(ids[place]) for place in np.flatnonzero(gone)[:5])
                more = ", ..." if gone.sum() > 5 else ""
                self.notes.append(f"slot {slot.name!r}: {gone.sum()} {key} items are {what}: {names}{more}")
        return np.asarray(rows[(rows >= 0) & eligible[np.maximum(rows, 0)]])

    def _in_order(self, slot: Slot, rows: np.ndarray) -> np.ndarray:
        """Eligible rows by the slot's rule, best first; equal ones by popularity, then by row."""
        table = pa.table({"users": self.ranker.users_of_item[rows]})
        keys = [("users", "descending")]
        if slot.column:
            values = self._column(slot, slot.column)
            _check_sortable(slot, values.type)
            table, keys = table.append_column("by", values.take(pa.array(rows))), [("by", "descending"), *keys]
        order: np.ndarray = pc.sort_indices(table, sort_keys=keys).to_numpy()
        return np.asarray(rows[order])

    def _column(self, slot: Slot, column: str) -> pa.ChunkedArray:
        names = self.ranker.attributes.column_names
        if (found := named_column(names, column)) is None:
            known = ", ".join(names)
            raise ConfigError(f"slot {slot.name!r} names an unknown attribute", got=repr(column), expected=known or "none")
        return nan_unknown(self.ranker.attributes.select([found]))[found]

    def _pool(self, slot: Slot, pinned: np.ndarray, chosen: np.ndarray) -> _Pool:
        rows = np.concatenate([pinned, chosen])
        _, first = np.unique(rows, return_index=True)
        rows = rows[np.sort(first)]
        taken = pa.array(rows)
        limits = [Limit.of(self._column(slot, name).take(taken), most) for name, most in slot.at_most.items()]
        return _Pool(rows, len(np.unique(pinned)), limits)


def _rankers(ranker: Ranker) -> dict[str, Ranker]:
    """The ranker behind each treatment but the editors' list."""
    known: dict[str, Ranker] = {POPULARITY: _beside(Popularity, ranker)}
    if ranker.embeddings is not None:
        known[LAST_ITEM] = _beside(LastItem, ranker)
    return {MODEL: ranker, **known, ranker.name.replace("-", "_"): ranker}


def _beside(kind: type[AnyRanker], ranker: Ranker) -> AnyRanker:
    """A ranker that learns nothing, over the catalogue of another one."""
    other = kind()
    for name in ("items", "log_shares", "attributes", "kinds", "last_time", "trained_on", "embeddings"):
        setattr(other, name, getattr(ranker, name))
    return other


def _check_sortable(slot: Slot, kind: pa.DataType) -> None:
    number = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    # Dates are often kept as text, as in 2017-12-24, which sorts as they do; numbers kept as text do not.
    instant = pa.types.is_temporal(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind)
    if not (number or (slot.rule == "newest" and instant)):
        expected = "a number" if slot.rule == "best_rated" else "a date, a time or a number"
        raise ConfigError(f"slot {slot.name!r} cannot sort by {slot.column!r}", got=f"type {kind}", expected=expected)


def _fill(slot: Slot, pool: _Pool, scores: np.ndarray, past: np.ndarray, kept: np.ndarray, treatment: str) -> Selection:
    """The pinned items, then the best that the constraints allow; those `kept` stay at their places by the rule."""
    ranked = np.argsort(-scores[pool.pinned :], kind="stable") + pool.pinned
    if kept.any():
        moved = ranked[~kept[ranked]]
        ranked = np.arange(pool.pinned, len(pool.rows))
        ranked[~kept[ranked]] = moved
    if slot.exclude_history:
        ranked = ranked[~np.isin(pool.rows[ranked], past)]
    pinned = range(min(pool.pinned, slot.shown))
    places = take_within(ranked.tolist(), pool.limits, slot.shown, first=pinned)
    return Selection(pool.rows[places], np.asarray(scores[places], np.float32), treatment)
