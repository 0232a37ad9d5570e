"""One model's results for each test user: in every pool, at every size, and over the whole catalogue."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from heedful.errors import InputError
from heedful.evaluation.metrics import Ranks, hit_rate, ndcg, nested_ranks, ranks, recall
from heedful.evaluation.pools import Pools
from heedful.evaluation.sources import Source
from heedful.events.candidates import Candidates
from heedful.progress import Meter

__all__ = [
    "CATALOGUE",
    "Measure",
    "ModelResult",
    "Values",
    "frequent_items",
    "measure_catalogue",
    "measure_pools",
    "pool_name",
]

CATALOGUE = "catalogue"
TOP = 10
"""Length of the lists whose coverage, novelty and share of frequent items is measured."""
_CANDIDATES_AT_ONCE = 2_000_000
_USERS_AT_ONCE = 1024


class Measure(NamedTuple):
    """What is measured, and where.

    Attributes:
        pool: "gamma 1", "gamma 0.75", ..., or "catalogue".
        size: negatives in the pool; 0 for the whole catalogue.
        metric: "NDCG", "Recall@10", ...
    """

    pool: str
    size: int
    metric: str

    def __str__(self) -> str:
        return (
            f"{self.pool}, {self.metric}" if self.pool == CATALOGUE else f"{self.pool}, {self.size} negatives, {self.metric}"
        )


@dataclass
class Values:
    """Results of one way of scoring.

    Attributes:
        by_user: for each measure a value for each test user, float64 [B]; NaN where a user was not measured.
        coverage: share of the catalogue's items that stand in anybody's first 10; None if that was not measured.
    """

    by_user: dict[Measure, np.ndarray] = field(default_factory=dict)
    coverage: float | None = None


@dataclass
class ModelResult:
    """Results of one model.

    Attributes:
        plain: with scores as the model gives them.
        corrected: with the sampling prior for the pool at hand; None for a model that has none.
        scoring_seconds: time spent in the model.
        ranking_seconds: time spent in the evaluation around it.
    """

    name: str
    plain: Values = field(default_factory=Values)
    corrected: Values | None = None
    scoring_seconds: float = 0.0
    ranking_seconds: float = 0.0

    @property
    def best(self) -> Values:
        """The results that count: corrected where the model has a prior."""
        return self.plain if self.corrected is None else self.corrected

    def ways(self) -> Iterator[tuple[str, Values]]:
        """Each way of scoring under a name for tables: first the one that counts, then the model without its prior."""
        yield self.name, self.best
        if self.corrected is not None:
            yield f"{self.name}, no prior", self.plain


def pool_name(gamma: float) -> str:
    """Name of the pools drawn for one gamma."""
    return f"gamma {gamma:g}"


def frequent_items(counts: np.ndarray) -> np.ndarray:
    """The most popular items that together account for half of all (user, item) pairs, bool [I]; the others are rare."""
    order = np.argsort(-counts, kind="stable")
    before = np.cumsum(counts[order]) - counts[order]
    frequent = np.zeros(len(counts), bool)
    frequent[order[before < counts.sum() / 2]] = True
    return frequent


def measure_pools(
    result: ModelResult,
    source: Source,
    pools: Pools,
    *,
    size: int,
    sizes: tuple[int, ...],
    ks: tuple[int, ...],
    meter: Meter,
) -> None:
    """Add the results in every pool to `result`: NDCG at each of `sizes`, at `size` Recall@K too."""
    frequent = frequent_items(pools.counts)[pools.positives.rows]
    for gamma in pools.gammas:
        for users in _parts(pools, gamma):
            started = time.perf_counter()
            scores = source.pool(gamma, users)
            scored = time.perf_counter()
            for way, flat in ((result.plain, scores.plain), (result.corrected, scores.corrected)):
                if way is not None and flat is not None:
                    nested = _nested(flat, pools, gamma, users, sizes)
                    is_frequent = frequent[pools.positives.offsets[users.start] : pools.positives.offsets[users.stop]]
                    for at, positives in zip(sizes, nested, strict=True):
                        _put(way, Measure(pool_name(gamma), at, "NDCG"), ndcg(positives), users, len(pools))
                    for metric, values in _recalls(nested[sizes.index(size)], is_frequent, ks):
                        _put(way, Measure(pool_name(gamma), size, metric), values, users, len(pools))
            result.scoring_seconds += scored - started
            result.ranking_seconds += time.perf_counter() - scored
            meter.advance(users.stop - users.start)


def measure_catalogue(
    result: ModelResult,
    source: Source,
    pools: Pools,
    touched: Candidates,
    *,
    users: np.ndarray,
    ks: tuple[int, ...],
    meter: Meter,
) -> None:
    """Add the results over the whole catalogue to `result`: every item is ranked but those that the user touched before.

    Args:
        result: what is added to.
        source: where the scores come from.
        pools: the test users and their positives; no negatives are needed here.
        touched: for each test user the items touched before the cut, in rows of the pools.
        users: the test users (positions) to be measured.
        ks: lengths of the lists.
        meter: for the progress.
    """
    frequent = frequent_items(pools.counts)
    surprise = _surprise(pools.counts)
    shown = {id(way): np.zeros(len(pools.items), bool) for way in (result.plain, result.corrected)}
    step = max(1, min(256, _CANDIDATES_AT_ONCE // max(len(pools.items), 1)))
    for start in range(0, len(users), step):
        part = users[start : start + step]
        started = time.perf_counter()
        scores = source.catalogue(part)
        scored = time.perf_counter()
        for way, table in ((result.plain, scores.plain), (result.corrected, scores.corrected)):
            if way is not None and table is not None:
                positives, top = _rank_catalogue(table, pools.positives.take(part), touched.take(part))
                shown[id(way)][top[top >= 0]] = True
                for metric, values in _catalogue_metrics(positives, top, ks, frequent, surprise):
                    _put(way, Measure(CATALOGUE, 0, metric), values, part, len(pools))
        result.scoring_seconds += scored - started
        result.ranking_seconds += time.perf_counter() - scored
        meter.advance(len(part))
    for way in (result.plain, result.corrected):
        if way is not None:
            way.coverage = float(shown[id(way)].mean())


def _parts(pools: Pools, gamma: float) -> Iterator[slice]:
    """Consecutive users with about two million candidates."""
    widest = int((pools.negatives[gamma].lengths + pools.positives.lengths).max())
    step = max(1, min(_USERS_AT_ONCE, _CANDIDATES_AT_ONCE // widest))
    for start in range(0, len(pools), step):
        yield slice(start, min(start + step, len(pools)))


def _nested(flat: np.ndarray, pools: Pools, gamma: float, users: slice, sizes: tuple[int, ...]) -> list[Ranks]:
    positives, negatives = pools.positives.part(users), pools.negatives[gamma].part(users)
    scores = pools.reveal(flat, gamma, users)
    return nested_ranks(scores, positives.offsets + negatives.offsets, positives.lengths, sizes)


def _recalls(positives: Ranks, is_frequent: np.ndarray, ks: tuple[int, ...]) -> Iterator[tuple[str, np.ndarray]]:
    for k in ks:
        yield f"Recall@{k}", recall(positives, k)
    yield f"Recall@{TOP} of frequent items", recall(positives.where(is_frequent), TOP)
    yield f"Recall@{TOP} of rare items", recall(positives.where(~is_frequent), TOP)


def _rank_catalogue(scores: np.ndarray, positives: Candidates, touched: Candidates) -> tuple[Ranks, np.ndarray]:
    """Ranks of the positives among the items not touched before, and the first items of each user, int64 [B, TOP]."""
    # NaN compares with nothing, so that it takes no part in the ranks.
    scores[touched.owners, touched.rows] = np.nan
    n_users, n_items = scores.shape
    is_positive = np.zeros(scores.shape, bool)
    is_positive[positives.owners, positives.rows] = True
    found = ranks(scores.reshape(-1), np.arange(n_users + 1, dtype=np.int64) * n_items, is_positive.reshape(-1))
    return found, _top(np.where(np.isnan(scores), -np.inf, scores), min(TOP, n_items))


def _top(scores: np.ndarray, k: int) -> np.ndarray:
    rows = np.argpartition(-scores, k - 1, axis=1)[:, :k]
    best = np.take_along_axis(scores, rows, axis=1)
    order = np.argsort(-best, axis=1, kind="stable")
    rows, best = np.take_along_axis(rows, order, axis=1), np.take_along_axis(best, order, axis=1)
    return np.where(np.isfinite(best), rows, -1)


def _catalogue_metrics(
    positives: Ranks, top: np.ndarray, ks: tuple[int, ...], frequent: np.ndarray, surprise: np.ndarray
) -> Iterator[tuple[str, np.ndarray]]:
    yield f"NDCG@{TOP}", ndcg(positives, TOP)
    yield "NDCG", ndcg(positives)
    for k in ks:
        yield f"Recall@{k}", recall(positives, k)
    yield f"Hit rate@{TOP}", hit_rate(positives, TOP)
    there = top >= 0
    filled = np.maximum(there.sum(1), 1)
    yield f"Novelty@{TOP}", np.where(there, surprise[top], 0.0).sum(1) / filled
    yield f"Frequent items@{TOP}", (there & frequent[top]).sum(1) / filled


def _surprise(counts: np.ndarray) -> np.ndarray:
    """Self-information of each item in bits, from its share of all (user, item) pairs; an unseen one counts half."""
    if not counts.sum():
        raise InputError("nobody touched any of the items before the cut", fix="give the items of this log")
    return np.asarray(-np.log2(np.maximum(counts, 0.5) / counts.sum()))


def _put(way: Values, measure: Measure, values: np.ndarray, users: slice | np.ndarray, n_users: int) -> None:
    way.by_user.setdefault(measure, np.full(n_users, np.nan))[users] = values
