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
from heedful.events.ids import json_id
from heedful.events.values import json_rows, word_columns, words
from heedful.rankers.base import Ranker
from heedful.recommending.explanation import Explanation, explain_items
from heedful.recommending.recommend import Query, Recommender
from heedful.serving.selection import SlotBook
from heedful.serving.storable import ID_CHARACTERS, is_storable
from heedful.serving.store import Event, Impression, Store, StoreUnavailable

__all__ = ["Appended", "Engine", "Filled", "NotFoundError", "Past", "Ranking"]

# An event further in the future than this comes from a clock that is wrong; it would always be the user's latest.
_FUTURE_SECONDS = 86_400
_LATEST_HISTORY = 1000
_IMPRESSION_SECONDS = 0.5  # a slot waits no longer for a lock: without an impression it is better than late


class NotFoundError(HeedfulError):
    """What was asked for does not exist."""


@dataclass(frozen=True)
class Past:
    """What is known of a visitor.

    Attributes:
        histories: the past actions of this one user, in rows of the ranker.
        unknown: past items that the ranker does not know, as given.
        user_id: whose history it is, None for one given by its items.
        seen: rows of all items that the user has seen, int64, where there are more actions than `histories` has.
    """

    histories: Histories
    unknown: list[Any]
    user_id: str | None = None
    seen: np.ndarray | None = None

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
        impression_id: what a click will name; None where nothing was recorded: a preview, no items, or a database that
            could not be written.
        reasons: why each item is there, where the treatment itself can say it; see `SlotBook.reasons`.
        note: why an impression that should have been recorded was not.
    """

    ranking: Ranking
    treatment: str
    impression_id: str | None
    reasons: list[str | None]
    note: str | None = None


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
        recommender: finds the best of the ranker's items; made from the ranker when None.
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
        recommender: Recommender | None = None,
        max_history: int = _LATEST_HISTORY,
        at_once: int = 1,
        now: Callable[[], int] = lambda: int(time.time()),
    ) -> None:
        self.ranker, self._store, self.slots, self.version = ranker, store, slots, version
        self.recommender = recommender or Recommender(ranker)
        self.eligibility = self.recommender.eligibility
        self._max_history, self._now = max_history, now
        # More callers than cores would slow each other down.
        self._scoring = threading.BoundedSemaphore(at_once)

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
        past = self._past(known.item_ids, np.asarray(known.times, np.int64), known.kinds, user_id)
        if len(known.item_ids) < self._max_history:
            return past
        acted = self.store.items_of(user_id)
        rows, kinds = self.rows([item for item, _ in acted]), self.ranker.kind_codes([kind for _, kind in acted])
        return replace(past, seen=rows[(rows >= 0) & self.ranker.targets.is_seen(kinds)])

    def past_of(
        self, items: Sequence[Any], times: Sequence[Any] | None = None, kinds: Sequence[str | None] | None = None
    ) -> Past:
        """A history given by its items, oldest first; times are unix seconds. Missing ones are as in `Ranker.histories_of`.

        Raises:
            InputError: times or kinds are not one for each item.
        """
        for what, values in (("history_times", times), ("history_kinds", kinds)):
            if values is not None and len(values) != len(items):
                raise InputError(
                    f"{what} does not fit the history", got=f"{len(values)} values", expected=f"{len(items)}, one an item"
                )
        last = self.ranker.last_time
        instants = np.array([last if time is None else time for time in times or [None] * len(items)], np.int64)
        return self._past(items, instants, [None] * len(items) if kinds is None else kinds, None)

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
        reasons = [_refused(event, latest) for event in events]
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
        """Order candidates for a visitor; repeated ones count once, equal scores keep the order given.

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
        rows = rows[self.eligibility.mask(where or "")[rows]]
        scores = self._score(past, rows, pool_gamma)
        best = np.argsort(-scores, kind="stable")[:k]
        return Ranking(rows[best], scores[best], unknown)

    def recommend(self, past: Past, query: Query) -> Ranking:
        """A page of the best of the catalogue for a visitor.

        Raises:
            InputError: the condition or an attribute cannot be used.
        """
        seen = Candidates.of([past.seen]) if past.seen is not None else None
        with self._scoring:
            rows_1k, scores_1k = self.recommender.top_rows(past.histories, query, seen=seen)
        found = np.count_nonzero(rows_1k[0] >= 0)
        return Ranking(rows_1k[0][:found], scores_1k[0][:found], [])

    def similar(self, item: Any, *, k: int = 10, where: str | None = None) -> Ranking:
        """The items whose vectors have the highest cosine with that of `item`, without itself.

        Raises:
            NotFoundError: the model does not know the item.
            InputError: the model has no item vectors, or the condition cannot be used.
        """
        row = self.row(item)
        with self._scoring:
            return Ranking(*self.recommender.similar(row, k=k, where=where or ""), [])

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

        A database that cannot be written does not keep the slot from being filled.

        Args:
            name: the slot.
            past: the visitor's history.
            visitor: who the visitor is, for the treatment; by default the user of the history. A visitor of whom nothing is
                known is somebody new each time.
            preview: only look: nothing is recorded.
            treatment: the treatment to look at, in a preview, instead of the visitor's own.

        Raises:
            NotFoundError: no such slot, or no such treatment in it.
        """
        slots = self._slots_with(name, treatment)
        impression_id = uuid.uuid4().hex
        visitor = visitor or past.user_id or f"anonymous-{impression_id}"
        treatment = treatment or slots.treatment(name, visitor)
        with self._scoring:
            chosen = slots.select(name, past.histories, treatment, seen=past.seen)
        reasons = slots.reasons(name, chosen, past.histories)
        filled = Filled(Ranking(chosen.rows, chosen.scores, []), treatment, None, reasons)
        if preview or not len(chosen.rows):  # an empty slot is not an impression
            return filled
        shown, slot = tuple(map(str, self.ids(chosen.rows))), slots.slots[name]
        impression = Impression(
            impression_id, name, treatment, visitor, shown, self._now(), self.version, slot.salt, slot.treatments
        )
        try:
            self.store.add_impression(impression, seconds=_IMPRESSION_SECONDS)
        except StoreUnavailable as error:
            return replace(filled, note=f"this impression is not counted: {error.problem}")
        return replace(filled, impression_id=impression_id)

    def _slots_with(self, name: str, treatment: str | None) -> SlotBook:
        if self.slots is None or name not in [slot.name for slot in self.slots.slots]:
            raise NotFoundError("there is no such slot", got=repr(name), fix="GET /slots lists them")
        known = self.slots.slots[name].treatments
        if treatment is not None and treatment not in known:
            raise NotFoundError(f"slot {name!r} has no such treatment", got=repr(treatment)[:100], expected=", ".join(known))
        return self.slots

    # Items

    def rows(self, items: Sequence[Any]) -> np.ndarray:
        """Rows of item ids, int64; -1 for an id that the model does not know."""
        return self.ranker.items.rows(items)

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
        """Item ids of rows, as JSON has them."""
        return [json_id(item) for item in self.ranker.items.take(rows).to_pylist()]

    def titles(self, rows: np.ndarray) -> list[str]:
        """The items of rows in words, as `Ranker.describe`."""
        table, places = self.ranker.attributes, pa.array(rows, pa.int64())
        columns = [words(table[name].take(places)) for name in word_columns(table.column_names)]
        in_words = zip(*columns, strict=True) if columns else [()] * len(rows)
        return [" · ".join(filter(None, said)) or str(item) for said, item in zip(in_words, self.ids(rows), strict=True)]

    def attributes(self, rows: np.ndarray) -> list[dict[str, Any]]:
        """What is known of the items of rows, as JSON has it."""
        return json_rows(self.ranker.attributes.take(pa.array(rows, pa.int64()))) or [{}] * len(rows)

    def search(self, text: str, limit: int) -> np.ndarray:
        """Rows of items whose id is `text` or whose words contain it, most popular first, int64."""
        found = np.full(len(self.ranker.items), not text)
        for column in self._words:
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

    @cached_property
    def _words(self) -> list[pa.ChunkedArray | pa.Array]:
        """What titles and categories say, [I] texts each."""
        table = self.ranker.attributes
        columns = [table[name] for name in word_columns(table.column_names)]
        return [c if pa.types.is_string(c.type) else pa.array(words(c), pa.string()) for c in columns]


def _refused(event: Event, latest: int) -> str | None:
    """Why an event cannot be stored, if it cannot."""
    if not 0 <= event.time <= latest:
        return "timestamp absurd or in the future"
    for name in (event.event_id, event.user_id, event.item_id, event.kind):
        if not is_storable(name):
            return f"an id of more than {ID_CHARACTERS} characters, or with NUL: {name[:40]!r}"
    return None


def _without_row(items: Sequence[Any], rows: np.ndarray) -> list[Any]:
    return [json_id(item) for item, row in zip(items, rows, strict=True) if row < 0]


def _distinct(rows: np.ndarray) -> np.ndarray:
    """The rows without repetitions, in the order of their first places."""
    _, first = np.unique(rows, return_index=True)
    return rows[np.sort(first)]
