"""Everything that serving does, without HTTP: live histories, ranking, recommending, similar items, slots, explanations.

Shapes: I items of the ranker, C candidates, k items in an answer.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from heedful.errors import HeedfulError, InputError
from heedful.events.candidates import Candidates
from heedful.events.histories import Histories
from heedful.rankers.base import Ranker
from heedful.recommending.eligibility import Eligibility
from heedful.recommending.explanation import Explanation, explain_items
from heedful.serving.selection import SlotBook
from heedful.serving.store import Event, Impression, Store, StoreUnavailable

__all__ = ["Appended", "Engine", "Filled", "NotFoundError", "Past", "Ranking"]

# An event further in the future than this comes from a clock that is wrong; it would stay the user's latest for ever.
_FUTURE_SECONDS = 86_400
_LATEST_HISTORY = 1000
_NO_ITEMS = np.empty(0, np.int64)
# Ids that are looked up at once: in a dictionary, which takes ids of mixed types and integers of any size.
_PART = 4096


class NotFoundError(HeedfulError):
    """What was asked for does not exist."""


@dataclass(frozen=True)
class Past:
    """What is known of a visitor.

    Attributes:
        histories: the past actions of this one user, in rows of the ranker.
        unknown: past items that the ranker does not know, as given.
        user_id: whose history it is, None for one given by its items.
    """

    histories: Histories
    unknown: list[Any]
    user_id: str | None = None

    def __len__(self) -> int:
        return len(self.histories.items)


@dataclass(frozen=True)
class Ranking:
    """Items, best first.

    Attributes:
        rows: item rows, int64 [k].
        scores: float32 [k].
        unknown: candidates that the ranker does not know, as given.
    """

    rows: np.ndarray
    scores: np.ndarray
    unknown: list[Any]


@dataclass(frozen=True)
class Filled:
    """A content slot, filled for one visitor.

    Attributes:
        ranking: the items.
        treatment: what put them in order.
        impression_id: what a click will name; None where nothing was recorded: a preview, or no items.
        reasons: why each item stands there, where the treatment itself can say it; see `SlotBook.reasons`.
    """

    ranking: Ranking
    treatment: str
    impression_id: str | None
    reasons: list[str | None]


@dataclass(frozen=True)
class Appended:
    """What became of new events.

    Attributes:
        accepted: events stored.
        duplicates: events whose id was there already.
        unknown_items: events accepted or there already whose item the model does not know; another model may.
        rejected: (position, reason) of those that were refused.
    """

    accepted: int
    duplicates: int
    unknown_items: int
    rejected: list[tuple[int, str]]


class Engine:
    """One model with its slots over a store; a model is swapped by making another engine. Safe to share between threads.

    Args:
        ranker: any fitted ranker.
        store: where events, impressions and clicks are kept; None while it has not been reached: what needs it is refused.
        slots: the content slots for this ranker.
        version: what names the model in impressions and answers.
        eligibility: conditions over the ranker's items; made from the ranker when None.
        max_history: the latest actions of a user that are looked at.
        at_once: callers that are computed for at once; others wait.
        now: the clock, unix seconds.
    """

    def __init__(
        self,
        ranker: Ranker,
        store: Store | None,
        slots: SlotBook | None = None,
        *,
        version: str = "",
        eligibility: Eligibility | None = None,
        max_history: int = _LATEST_HISTORY,
        at_once: int = 1,
        now: Callable[[], int] = lambda: int(time.time()),
    ) -> None:
        self.ranker, self._store, self.slots, self.version = ranker, store, slots, version
        self.eligibility = eligibility if eligibility is not None else Eligibility.of(ranker)
        self._max_history, self._now = max_history, now
        self._text_ids = not pa.types.is_integer(ranker.items.ids.type)
        # More callers than cores would slow each other down.
        self._scoring = threading.BoundedSemaphore(at_once)
        ranker.items.rows([""])  # the index of ids is made now, not in the first request

    @property
    def store(self) -> Store:
        """Where events, impressions and clicks are kept.

        Raises:
            StoreUnavailable: the database has not been reached yet.
        """
        if self._store is None:
            raise StoreUnavailable("the database cannot be reached", fix="try again in a few seconds")
        return self._store

    # Histories

    def past(self, user_id: str) -> Past:
        """The latest actions of a user; none for a user that is new.

        Raises:
            StoreUnavailable: the database cannot be reached.
        """
        known = self.store.history(user_id, self._max_history)
        return self._past(known.item_ids, np.asarray(known.times, np.int64), known.kinds, user_id)

    def past_of(
        self, items: Sequence[Any], times: Sequence[int] | None = None, kinds: Sequence[str | None] | None = None
    ) -> Past:
        """A history given by its items, oldest first; missing times and kinds as in `Ranker.histories_of`.

        Raises:
            InputError: times or kinds are not one for each item.
        """
        for what, values in (("history_times", times), ("history_kinds", kinds)):
            if values is not None and len(values) != len(items):
                raise InputError(
                    f"{what} does not fit the history", got=f"{len(values)} values", expected=f"{len(items)}, one an item"
                )
        moments = np.full(len(items), self.ranker.last_time) if times is None else np.array(times, np.int64)
        return self._past(items, moments, [None] * len(items) if kinds is None else kinds, None)

    def _past(self, items: Sequence[Any], times: np.ndarray, kinds: Sequence[str | None], user_id: str | None) -> Past:
        rows = self.rows(items)
        histories = self.ranker.encode_histories(np.array([0, len(rows)]), rows, times, self.ranker.kind_codes(kinds))
        return Past(histories, _without_row(items, rows), user_id)

    def append(self, events: Sequence[Event]) -> Appended:
        """Store new actions; the next ranking uses them. They are durable when this returns, and counted once by their id.

        Raises:
            StoreUnavailable: the database cannot be reached; nothing was stored.
        """
        latest = self._now() + _FUTURE_SECONDS
        reasons = [None if 0 <= event.time <= latest else "timestamp before 1970 or in the future" for event in events]
        good = [event for event, reason in zip(events, reasons, strict=True) if reason is None]
        done = self.store.append(good)
        unknown = int(np.count_nonzero(self.rows([event.item_id for event in good]) < 0))
        rejected = [(place, reason) for place, reason in enumerate(reasons) if reason is not None]
        return Appended(done.accepted, done.duplicates, unknown, rejected)

    # Rankings

    def rank(
        self,
        past: Past,
        candidates: Sequence[Any],
        *,
        k: int | None = None,
        pool_gamma: float | None = 0.0,
        where: str | None = None,
    ) -> Ranking:
        """Order candidates for a visitor; repeated ones count once, equal scores stand in the order given.

        Args:
            past: the visitor.
            candidates: item ids, [C].
            k: how many to answer; all of them when None.
            pool_gamma: how the candidates were chosen, as in `Ranker.score`.
            where: SQL condition over the items' attributes that candidates have to meet.

        Raises:
            InputError: the condition cannot be used.
        """
        rows = self.rows(candidates)
        unknown = _without_row(candidates, rows)
        rows = _distinct(rows[rows >= 0])
        if where:
            rows = rows[self.eligibility.mask(where)[rows]]
        scores = self._score(past, rows, pool_gamma)
        best = np.argsort(-scores, kind="stable")[:k]
        return Ranking(rows[best], scores[best], unknown)

    def recommend(
        self,
        past: Past,
        *,
        k: int = 10,
        offset: int = 0,
        where: str | None = None,
        exclude_history: bool = True,
        pool_gamma: float | None = 0.0,
    ) -> Ranking:
        """The best of the catalogue for a visitor, from place `offset` on.

        Raises:
            InputError: the condition cannot be used.
        """
        if where:
            eligible = self.eligibility.mask(where).copy()
            if exclude_history:
                eligible[past.histories.items] = False
            rows = np.flatnonzero(eligible)
            scores = self._score(past, rows, pool_gamma)
            best = np.argsort(-scores, kind="stable")[offset : offset + k]
            return Ranking(rows[best], scores[best], [])
        with self._scoring:
            top, scores_1k = self.ranker.top_rows(
                past.histories, offset + k, pool_gamma=pool_gamma, exclude_history=exclude_history
            )
        found = np.count_nonzero(top[0] >= 0)
        return Ranking(top[0][offset:found], scores_1k[0][offset:found], [])

    def similar(self, item: Any, *, k: int = 10, where: str | None = None) -> Ranking:
        """The items whose vectors have the highest cosine with that of `item`, without itself.

        Raises:
            NotFoundError: the model does not know the item.
            InputError: the model has no item vectors, or the condition cannot be used.
        """
        row = self.row(item)
        if self.ranker.embeddings is None:
            raise InputError(
                "this model has no item vectors", got=self.ranker.name, fix="serve one that has, such as attention"
            )
        rows = np.flatnonzero(self.eligibility.mask(where or ""))
        rows = rows[rows != row]
        vectors = self.ranker.embeddings.vectors
        cosines = (vectors[rows] @ vectors[row]) / (self._norms[rows] * self._norms[row])
        best = np.argsort(-cosines, kind="stable")[:k]
        return Ranking(rows[best], cosines[best].astype(np.float32), [])

    def explain(self, past: Past, items: Sequence[Any], *, pool_gamma: float | None = 0.0) -> list[Explanation]:
        """Why items have their scores for a visitor, see `heedful.recommending.explanation`.

        Raises:
            NotFoundError: the model does not know an item.
        """
        rows = [self.row(item) for item in items]
        with self._scoring:
            return explain_items(self.ranker, past.histories, rows, pool_gamma=pool_gamma)

    def fill(
        self, name: str, past: Past, *, visitor: str | None = None, preview: bool = False, treatment: str | None = None
    ) -> Filled:
        """Fill a content slot for a visitor and record the impression, which counts once it was shown.

        Args:
            name: the slot.
            past: the visitor's history.
            visitor: who the visitor is, for the treatment; by default the user of the history. A visitor of whom nothing is
                known is somebody new each time.
            preview: only look: nothing is recorded.
            treatment: the treatment to look at, in a preview, instead of the visitor's own.

        Raises:
            NotFoundError: no such slot.
            ConfigError: no such treatment in the slot.
            StoreUnavailable: the database cannot be reached.
        """
        slots = self.slots
        if slots is None or name not in [slot.name for slot in slots.slots]:
            raise NotFoundError("there is no such slot", got=repr(name), fix="GET /slots lists them")
        impression_id = uuid.uuid4().hex
        visitor = visitor or past.user_id or f"anonymous-{impression_id}"
        treatment = treatment or slots.treatment(name, visitor)
        with self._scoring:
            chosen = slots.select(name, past.histories, treatment)
        filled = Filled(
            Ranking(chosen.rows, chosen.scores, []), treatment, None, slots.reasons(name, chosen, past.histories)
        )
        if preview or not len(chosen.rows):  # an empty slot is no impression
            return filled
        shown, slot = tuple(map(str, self.ids(chosen.rows))), slots.slots[name]
        self.store.add_impression(
            Impression(impression_id, name, treatment, visitor, shown, self._now(), self.version, slot.salt, slot.treatments)
        )
        return replace(filled, impression_id=impression_id)

    # Items

    def rows(self, items: Sequence[Any]) -> np.ndarray:
        """Rows of item ids, int64; -1 for an id that the model does not know."""
        names = self.names(items)
        parts = [self.ranker.items.rows(names[start : start + _PART]) for start in range(0, len(names), _PART)]
        return np.concatenate([_NO_ITEMS, *parts])

    def row(self, item: Any) -> int:
        """The row of one item.

        Raises:
            NotFoundError: the model does not know it.
        """
        row = int(self.rows([item])[0])
        if row < 0:
            raise NotFoundError("the model does not know this item", got=repr(item), fix="GET /items searches the catalogue")
        return row

    def ids(self, rows: np.ndarray) -> list[Any]:
        """Item ids of rows, as the catalogue has them."""
        return list(self.ranker.items.take(rows).to_pylist())

    def titles(self, rows: np.ndarray) -> list[str]:
        """The items of rows in words, as `Ranker.describe`."""
        table, places = self.ranker.attributes, pa.array(rows, pa.int64())
        named = [table[name].take(places) for name in ("title", "category") if name in table.column_names]
        columns = [pc.cast(column, pa.string()).to_pylist() for column in named]
        words = zip(*columns, strict=True) if columns else [()] * len(rows)
        return [" · ".join(filter(None, said)) or str(item) for said, item in zip(words, self.ids(rows), strict=True)]

    def attributes(self, rows: np.ndarray) -> list[dict[str, Any]]:
        """What is known of the items of rows."""
        return list(self.ranker.attributes.take(pa.array(rows, pa.int64())).to_pylist()) or [{}] * len(rows)

    def search(self, text: str, limit: int) -> np.ndarray:
        """Rows of items whose id is `text` or whose words contain it, most popular first, int64."""
        found = np.zeros(len(self.ranker.items), bool)
        for name in ("title", "category"):
            if name in self.ranker.attributes.column_names:
                column = pc.cast(self.ranker.attributes[name], pa.string())
                hits = pc.match_substring(column, text, ignore_case=True)
                found |= pc.fill_null(hits, False).to_numpy(zero_copy_only=False)
        rows = np.flatnonzero(found)
        rows = rows[np.argsort(-self.ranker.users_of_item[rows], kind="stable")]
        exact = self.rows([text])
        return np.concatenate([exact[exact >= 0], rows[rows != exact[0]]])[:limit]

    def _score(self, past: Past, rows: np.ndarray, pool_gamma: float | None) -> np.ndarray:
        if not len(rows):
            return np.empty(0, np.float32)
        with self._scoring:
            return self.ranker.score_rows(past.histories, Candidates.of([rows]), pool_gamma=pool_gamma)

    def names(self, items: Sequence[Any]) -> list[Any]:
        """Ids as the vocabulary has them; what cannot be one of its ids becomes one that it lacks."""
        if self._text_ids:
            return [str(item) for item in items]
        return [item if isinstance(item, int) else _integer(str(item)) for item in items]

    @cached_property
    def _norms(self) -> np.ndarray:
        """Length of each item vector, float32 [I]; a vector of zeros is like nothing."""
        assert self.ranker.embeddings is not None
        norms = np.linalg.norm(self.ranker.embeddings.vectors, axis=1)
        return np.where(norms > 0, norms, np.inf).astype(np.float32)


def _integer(text: str) -> int | str:
    """The integer that a text is the decimal form of, and otherwise a text that is none."""
    digits = text.removeprefix("-")
    if digits.isascii() and digits.isdigit() and len(digits) <= 18 and str(int(text)) == text:
        return int(text)
    return ""


def _without_row(items: Sequence[Any], rows: np.ndarray) -> list[Any]:
    return [item for item, row in zip(items, rows, strict=True) if row < 0]


def _distinct(rows: np.ndarray) -> np.ndarray:
    """The rows without repetitions, in the order of their first places."""
    _, first = np.unique(rows, return_index=True)
    return rows[np.sort(first)]
