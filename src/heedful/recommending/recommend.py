"""Recommending: retrieve, keep to the eligible, exclude past items, rank, limit, page.

Python, the commands and the server all come here.

Shapes: B users, I items of the ranker, k items of a page.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from heedful.config import require
from heedful.errors import InputError
from heedful.events.candidates import Candidates
from heedful.events.histories import Histories
from heedful.rankers.base import Ranker
from heedful.rankers.topk import top_places
from heedful.recommending.eligibility import Eligibility, hides_items
from heedful.recommending.explanation import Explanation, Reason, explain, explain_items
from heedful.recommending.limits import Limit, take_within
from heedful.recommending.retrieval import RETRIEVED, SCANNED, Retriever, default_retriever, new_retriever

__all__ = ["Query", "Recommendations", "Recommender"]

# Retrieval finds so many items for each that is asked for, at least.
_RETRIEVED_EACH = 4
# Scores of a catalogue that are kept at a time.
_SCORES = 2**22


@dataclass(frozen=True, kw_only=True)
class Query:
    """Which items are asked for.

    Attributes:
        k: items of the page, 1 or more.
        offset: better items that are skipped.
        where: SQL condition over the items' attributes, see `Eligibility`; empty: every item.
        at_most: most items of one value, by attribute, such as {"category": 2}.
        exclude_history: leave out the user's seen items; None: as the ranker's `targets` say. One that was trained for
            repeats alone is then asked for nothing but seen items.
        pool_gamma: as in `Ranker.score`.

    Raises:
        ConfigError: a number is out of range.
    """

    k: int = 10
    offset: int = 0
    where: str = ""
    at_most: Mapping[str, int] = field(default_factory=dict)
    exclude_history: bool | None = None
    pool_gamma: float | None = 0.0

    def __post_init__(self) -> None:
        """Check every number."""
        require(self.k >= 1, "k", got=self.k, expected="1 or more")
        require(self.offset >= 0, "offset", got=self.offset, expected="0 or more")
        for most in self.at_most.values():
            require(most >= 1, "at_most", got=most, expected="1 or more of a value")


@dataclass(frozen=True)
class Recommendations:
    """The best items for one user.

    Attributes:
        items: ids, best first.
        scores: float32 [k].
        ranker: the ranker that made them.
        history: the user's past actions as the ranker saw them.
        pool_gamma: as in `Ranker.score`.
    """

    items: list[Any]
    scores: np.ndarray
    ranker: Ranker
    history: Histories
    pool_gamma: float | None

    def __len__(self) -> int:
        return len(self.items)

    def __str__(self) -> str:
        rows = self.ranker.items.rows(self.items)
        lines = [f"{n:3d}. {self.ranker.describe(int(row))}" for n, row in enumerate(rows, 1)]
        return "\n".join(lines)

    def explain(self, place: int) -> list[Reason]:
        """The past items behind the item at `place` (0 is the best), the most important first.

        See `heedful.recommending.explanation`.
        """
        row = int(self.ranker.items.rows([self.items[place]])[0])
        return explain(self.ranker, self.history, row, pool_gamma=self.pool_gamma)

    def explanations(self) -> list[Explanation]:
        """Why each item was recommended: all at once, with attention and words."""
        rows = self.ranker.items.rows(self.items)
        return explain_items(self.ranker, self.history, rows, pool_gamma=self.pool_gamma)


class Recommender:
    """Finds the best items of a catalogue; safe to share between threads.

    Args:
        ranker: any fitted ranker.
        exact: score every item, instead of some that are retrieved. Catalogues of few items, and
            those of rankers that do not retrieve, are always scored whole.
        retrieve: items to retrieve and score for each user; None: `RETRIEVED`.
        retriever: one made beforehand, instead.
        eligibility: conditions over the ranker's items; made from the ranker when None.

    Raises:
        ConfigError: `retrieve` for a ranker that does not retrieve.
    """

    def __init__(
        self,
        ranker: Ranker,
        *,
        exact: bool = False,
        retrieve: int | None = None,
        retriever: Retriever | None = None,
        eligibility: Eligibility | None = None,
    ) -> None:
        self.ranker = ranker
        self._eligibility = eligibility
        self._codes: dict[str, np.ndarray] = {}
        if retrieve is not None and retriever is None:
            retriever = new_retriever(ranker, candidates=retrieve)
        self.retriever = None if exact else retriever or default_retriever(ranker)

    @cached_property
    def eligibility(self) -> Eligibility:
        """Conditions over the ranker's items."""
        return self._eligibility if self._eligibility is not None else Eligibility.of(self.ranker)

    def counted_on(self, ranker: Ranker) -> Recommender:
        """The same for a ranker with newer counts, whose conditions see them as `users`; the index is shared."""
        retriever = self.retriever.counted_on(ranker) if self.retriever is not None else None
        eligibility = Eligibility.of(ranker, beside=self.eligibility)
        return Recommender(ranker, exact=retriever is None, retriever=retriever, eligibility=eligibility)

    def over(self, ranker: Ranker) -> Recommender:
        """The same for a ranker whose items have other attributes, and nothing else; the index is shared."""
        eligibility = Eligibility.of(ranker, beside=self.eligibility)
        return Recommender(ranker, exact=self.retriever is None, retriever=self.retriever, eligibility=eligibility)

    def recommend(
        self,
        history: Sequence[Any],
        *,
        history_times: Sequence[int] | None = None,
        history_kinds: Sequence[str] | None = None,
        **query: Any,
    ) -> Recommendations:
        """The best items for a user.

        Args:
            history: ids of past items, oldest first; unknown ones are left out.
            history_times: unix seconds of each past action, as in `Ranker.score`.
            history_kinds: event kind of each past action.
            query: fields of `Query`, such as k.

        Raises:
            ConfigError: a number of the query is out of range.
            InputError: times or kinds are not one for each past action; the condition or an
                attribute cannot be used.
        """
        wanted = Query(**query)
        histories = self.ranker.histories_of([history], [history_times], [history_kinds])
        rows, scores = self.top_rows(histories, wanted)
        found = rows[0][rows[0] >= 0]
        items = self.ranker.items.take(found).to_pylist()
        best = scores[0][: len(found)]
        return Recommendations(items, best, self.ranker, histories, wanted.pool_gamma)

    def top_rows(
        self, histories: Histories, query: Query, *, seen: Candidates | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The page of each of B users.

        Args:
            histories: what the ranker reads.
            query: which items are asked for.
            seen: all seen items of each user, where the histories are only the latest actions.

        Returns:
            Rows int64 [B, k'], best first, -1 where there are no more, and their scores float32
            [B, k']; k' is k, or less where the catalogue ends. Equal scores are in row order.

        Raises:
            InputError: the condition or an attribute cannot be used.
        """
        eligible = self._eligible(query.where)
        pool = None if eligible is None else np.flatnonzero(eligible)
        n_pool = len(self.ranker.items) if pool is None else len(pool)
        n = min(query.offset + query.k, n_pool)
        best = _Best(n, self._limits(query.at_most))
        seen = self.ranker.seen(histories) if seen is None else seen
        target = self.ranker.targets.target
        exclude = target == "new" if query.exclude_history is None else query.exclude_history
        excluded = seen if exclude else None
        n_retrieved = self._to_retrieve(n)
        if target == "repeat" and query.exclude_history is None:
            rows, scores = self._rank(histories, _eligible_of(seen, eligible), best, query.pool_gamma)
        elif not self._retrieves(n_retrieved, eligible):
            rows, scores = self._scan(histories, pool, best, query.pool_gamma, excluded)
        else:
            assert self.retriever is not None
            found = self.retriever.retrieve(
                histories,
                n_retrieved,
                eligible=eligible,
                exclude_history=exclude,
                seen=seen,
                pool_gamma=query.pool_gamma,
            )
            rows, scores = self._rank(histories, found, best, query.pool_gamma)
            # Limits or an index may leave too few; then every eligible item is scored.
            short = np.flatnonzero((rows < 0).any(axis=1))
            still = excluded.take(short) if excluded is not None else None
            again = self._scan(histories.take(short), pool, best, query.pool_gamma, still)
            rows[short], scores[short] = again
        return rows[:, query.offset :], scores[:, query.offset :]

    def similar(self, row: int, *, k: int, where: str = "") -> tuple[np.ndarray, np.ndarray]:
        """The items whose vectors have the highest cosine with that of an item, without itself.

        Returns:
            Rows int64 [k'], best first, and cosines float32 [k'].

        Raises:
            InputError: the model has no item vectors, or the condition cannot be used.
        """
        table = self.ranker.embeddings
        if table is None:
            fix = "use one that has, such as attention"
            raise InputError("this model has no item vectors", got=self.ranker.name, fix=fix)
        eligible = self._eligible(where)
        rows = self._near(row, min(k, len(table)), eligible)
        rows = rows[rows != row]
        lengths = np.linalg.norm(table.vectors[rows], axis=1) * np.linalg.norm(table.vectors[row])
        products = table.vectors[rows] @ table.vectors[row]
        cosines = np.divide(products, lengths, out=np.zeros_like(products), where=lengths > 0)
        best = top_places(cosines, k)
        return rows[best], cosines[best]

    def _near(self, row: int, k: int, eligible: np.ndarray | None) -> np.ndarray:
        """Rows of the items that are looked at for the k most similar ones, in order."""
        n = self._to_retrieve(k + 1)
        if self._retrieves(n, eligible):
            assert self.retriever is not None
            found = self.retriever.near(row, n, eligible=eligible)
            if len(found) > k:
                return np.sort(found)
        everything = np.ones(len(self.ranker.items), bool) if eligible is None else eligible
        return np.flatnonzero(everything)

    def _eligible(self, where: str) -> np.ndarray | None:
        needed = where.strip() or hides_items(self.ranker.attributes)
        return self.eligibility.mask(where) if needed else None

    def _retrieves(self, n_retrieved: int, eligible: np.ndarray | None) -> bool:
        """Whether items are retrieved, because scoring all that are eligible would cost more."""
        n_pool = len(self.ranker.items) if eligible is None else np.count_nonzero(eligible)
        return self.retriever is not None and bool(n_pool > SCANNED * n_retrieved)

    def _to_retrieve(self, n: int) -> int:
        """Items to retrieve for the n best: N, or a doubling of it, so that most pages agree."""
        n_retrieved = self.retriever.candidates if self.retriever is not None else RETRIEVED
        while n_retrieved < _RETRIEVED_EACH * n and n_retrieved < len(self.ranker.items):
            n_retrieved *= 2
        return n_retrieved

    def _limits(self, at_most: Mapping[str, int]) -> list[Limit]:
        attributes, limits = self.ranker.attributes, []
        for name, most in at_most.items():
            if name not in attributes.column_names:
                known = ", ".join(attributes.column_names) or "none"
                raise InputError("at_most names an unknown attribute", got=name, expected=known)
            if name not in self._codes:
                self._codes[name] = Limit.of(attributes[name], most).codes
            limits.append(Limit(most, self._codes[name]))
        return limits

    def _rank(
        self, histories: Histories, found: Candidates, best: _Best, pool_gamma: float | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The best of what was retrieved, in which past items are only where they may be."""
        all_scores = self.ranker.score_rows(histories, found, pool_gamma=pool_gamma)
        rows, scores = best.empty(len(histories))
        for user in range(len(histories)):
            part = slice(found.offsets[user], found.offsets[user + 1])
            top = part.start + best.places(found.rows[part], all_scores[part])
            rows[user, : len(top)], scores[user, : len(top)] = found.rows[top], all_scores[top]
        return rows, scores

    def _scan(
        self,
        histories: Histories,
        pool: np.ndarray | None,
        best: _Best,
        pool_gamma: float | None,
        excluded: Candidates | None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """The best of all items, or of those in `pool`, int64 [P]; a few users at a time."""
        rows, scores = best.empty(len(histories))
        n_items = len(self.ranker.items)
        items = np.arange(n_items) if pool is None else pool
        for part, chunk in histories.chunks(max(_SCORES // n_items, 1)):
            scores_BP = self._scores(chunk, items, pool_gamma)
            for user, scores_P in enumerate(scores_BP, part.start):
                if excluded is not None:
                    past = excluded.rows[excluded.offsets[user] : excluded.offsets[user + 1]]
                    scores_P[np.isin(items, past, kind="table")] = -np.inf
                top = best.places(items, scores_P)
                rows[user, : len(top)], scores[user, : len(top)] = items[top], scores_P[top]
        return rows, scores

    def _scores(self, histories: Histories, items: np.ndarray, pool_gamma: float | None) -> np.ndarray:
        """Scores of the same items for each user, float32 [B, P]."""
        if len(items) > len(self.ranker.items) / SCANNED:
            scores_BI = self.ranker.score_catalogue(histories, pool_gamma=pool_gamma)
            return scores_BI if len(items) == scores_BI.shape[1] else scores_BI[:, items]
        candidates = Candidates.same_for_all(len(histories), items)
        scores = self.ranker.score_rows(histories, candidates, pool_gamma=pool_gamma)
        return scores.reshape(len(histories), len(items))


def _eligible_of(seen: Candidates, eligible: np.ndarray | None) -> Candidates:
    """The distinct eligible items of each user, in row order."""
    distinct = Candidates.of([np.unique(seen.rows[seen.offsets[b] : seen.offsets[b + 1]]) for b in range(len(seen))])
    return distinct if eligible is None else distinct.where(eligible[distinct.rows])


@dataclass(frozen=True)
class _Best:
    """Chooses the best of scored items.

    Attributes:
        n: how many.
        limits: most items of one value.
    """

    n: int
    limits: list[Limit]

    def empty(self, users: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows of -1 and scores of -inf, [users, n]."""
        return np.full((users, self.n), -1, np.int64), np.full((users, self.n), -np.inf, np.float32)

    def places(self, rows: np.ndarray, scores: np.ndarray) -> np.ndarray:
        """Places of the best of scored items, whose rows are in order; int64 [n or fewer]."""
        if not self.limits:
            return top_places(scores, self.n)
        order = top_places(scores, len(scores)).tolist()
        limits = [Limit(limit.most, limit.codes[rows]) for limit in self.limits]
        return np.array(take_within(order, limits, self.n), np.int64)
