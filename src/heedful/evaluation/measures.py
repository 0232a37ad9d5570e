"""One model's results for each test user: in every pool, at every size, and over the whole catalogue."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np

from heedful.errors import InputError
from heedful.evaluation.pools import Pools
from heedful.evaluation.sources import Source
from heedful.events.candidates import Candidates
from heedful.events.histories import ragged_positions
from heedful.events.targets import Target
from heedful.metrics import Ranks, hit_rate, ndcg, nested_ranks, ranks, recall
from heedful.progress import Meter, progress

__all__ = [
    "CATALOGUE",
    "NEW_ITEMS",
    "REPEATS",
    "Block",
    "Measure",
    "ModelResult",
    "Values",
    "Wanted",
    "blocks_of",
    "frequent_items",
    "measure",
    "measure_pools",
    "pool_name",
]

CATALOGUE = "catalogue"
TOP = 10
"""Length of the lists whose coverage, novelty and share of frequent items is measured."""
NEW_ITEMS, REPEATS = "of new items", "of repeats"
"""What follows the name of a metric of a part of the positives."""
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
        shown: whether an item is in anybody's first 10 of the catalogue, bool [I]; None if that was not measured.
    """

    by_user: dict[Measure, np.ndarray] = field(default_factory=dict)
    shown: np.ndarray | None = None

    @property
    def coverage(self) -> float | None:
        """Share of the catalogue's items that are in anybody's first 10; None if that was not measured."""
        return None if self.shown is None else float(self.shown.mean())

    def add(self, other: Values) -> None:
        """Take over what was measured of other users."""
        for measure, values in other.by_user.items():
            mine = self.by_user.setdefault(measure, np.full(len(values), np.nan))
            np.copyto(mine, values, where=~np.isnan(values))
        if other.shown is not None:
            self.shown = other.shown if self.shown is None else self.shown | other.shown


@dataclass
class ModelResult:
    """Results of one model.

    Attributes:
        plain: with scores as the model gives them.
        corrected: with the sampling prior for the pool at hand; None for a model that has none.
        is_rival: whether it is not one of heedful's trained models, but something to compare them with.
        scoring_seconds: time spent in the model.
        ranking_seconds: time spent in the evaluation around it.
    """

    name: str
    plain: Values = field(default_factory=Values)
    corrected: Values | None = None
    is_rival: bool = True
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


@dataclass(frozen=True)
class Wanted:
    """What is measured of each model.

    Attributes:
        size: negatives in the pools of the tables.
        sizes: of figure 2, rising; those above `Pools.size` are measured for the users of `Pools.wide` alone.
        ks: lengths of the lists in the pools.
        catalogue_ks: lengths of the lists over the whole catalogue.
        catalogue_users: the test users (positions) ranked against the whole catalogue, where the model can.
    """

    size: int
    sizes: tuple[int, ...]
    ks: tuple[int, ...]
    catalogue_ks: tuple[int, ...] = ()
    catalogue_users: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))


class Block(NamedTuple):
    """Test users who are measured together.

    Attributes:
        catalogue: over the whole catalogue (and, where its scores serve them, in their pools), or in their pools alone.
        users: their positions, int64.
    """

    catalogue: bool
    users: np.ndarray


def blocks_of(source: Source, pools: Pools, wanted: Wanted) -> list[Block]:
    """All users in blocks: the scores of the whole catalogue serve the pools of the same users, too."""
    blocks, rest = [], np.arange(len(pools))
    if source.ranks_catalogue and len(wanted.catalogue_users):
        users = wanted.catalogue_users
        step = max(1, min(256, _CANDIDATES_AT_ONCE // max(len(pools.items), 1)))
        blocks = [Block(True, users[start : start + step]) for start in range(0, len(users), step)]
        if source.pointwise:
            rest = np.setdiff1d(rest, users)
    return blocks + [Block(False, users) for users in _blocks(rest, pools.lengths[rest])]


def measure(
    result: ModelResult, source: Source, pools: Pools, wanted: Wanted, *, blocks: Sequence[Block] | None = None
) -> None:
    """Add the results of a model over the whole catalogue and in every pool to `result`.

    A user's pools of all gammas are scored at once, and the largest serves all sizes.

    Args:
        result: what is added to.
        source: where the scores come from.
        pools: whom and what to rank.
        wanted: what is measured.
        blocks: some of `blocks_of`; all of them when None.
    """
    task = _Task(result, source, pools, wanted)
    blocks = blocks_of(source, pools, wanted) if blocks is None else blocks
    for catalogue, title in ((True, "on the catalogue"), (False, "in pools")):
        chosen = [block.users for block in blocks if block.catalogue == catalogue]
        if not chosen:
            continue
        each = 1 if catalogue else len(pools.gammas)
        with progress(f"evaluating {result.name} {title}", each * sum(map(len, chosen)), "users") as meter:
            for users in chosen:
                (task.catalogue if catalogue else task.pools)(users)
                meter.advance(each * len(users))


def measure_pools(
    result: ModelResult,
    source: Source,
    pools: Pools,
    *,
    size: int,
    sizes: tuple[int, ...],
    ks: tuple[int, ...],
    meter: Meter,
    users: np.ndarray | None = None,
) -> None:
    """Add the results in every pool to `result`: NDCG at each of `sizes`, at `size` Recall@K too.

    Args:
        result: what is added to.
        source: where the scores come from.
        pools: whom and what to rank.
        size: as in `Wanted`, like `sizes` and `ks`.
        meter: advanced by one for each user and gamma.
        users: only these test users (positions, int64); None for all.
    """
    task = _Task(result, source, pools, Wanted(size, sizes, ks))
    chosen = np.arange(len(pools)) if users is None else users
    for part in _blocks(chosen, pools.lengths[chosen]):
        task.pools(part)
        meter.advance(len(part) * len(pools.gammas))


class _Task:
    """One model being measured: scores block by block, with the time that each side takes."""

    def __init__(self, result: ModelResult, source: Source, pools: Pools, wanted: Wanted) -> None:
        self._result, self._source, self._pools, self._wanted = result, source, pools, wanted
        self._frequent = frequent_items(pools.counts)
        self._surprise = _surprise(pools.counts)
        self._priors = {gamma: source.prior(gamma) for gamma in (*pools.gammas, 0.0)}
        self._wide = pools.wide

    def pools(self, users: np.ndarray) -> None:
        """Measure some users in their pools."""
        with self._clock("scoring"):
            scores = self._source.pools(users)
        with self._clock("ranking"):
            for gamma, flat in scores.items():
                self._put_pool(gamma, users, flat, self._pools.drawn(gamma, users))

    def catalogue(self, users: np.ndarray) -> None:
        """Measure some users over the whole catalogue and, where its scores serve them, in their pools."""
        with self._clock("scoring"):
            table = self._source.catalogue(users)
        with self._clock("ranking"):
            if self._source.pointwise:
                for gamma in self._pools.gammas:
                    drawn = self._pools.drawn(gamma, users)
                    self._put_pool(gamma, users, table[drawn.owners, drawn.rows], drawn)
            self._put_catalogue(users, table)

    @contextmanager
    def _clock(self, what: Literal["scoring", "ranking"]) -> Iterator[None]:
        started = time.perf_counter()
        yield
        name = f"{what}_seconds"
        setattr(self._result, name, getattr(self._result, name) + time.perf_counter() - started)

    def _put_pool(self, gamma: float, users: np.ndarray, flat: np.ndarray, drawn: Candidates) -> None:
        """Add what the scores of some users' pool say: NDCG at each size, Recall@K at that of the tables."""
        wanted, positives, parts = self._wanted, self._pools.positives.take(users), self._parts(users)
        is_frequent, pool = self._frequent[positives.rows], pool_name(gamma)
        for way, scores in self._ways(flat, gamma, drawn.rows):
            nested = nested_ranks(scores, drawn.offsets, positives.lengths, wanted.sizes)
            for at, found in zip(wanted.sizes, nested, strict=True):
                values = ndcg(found)
                if at > self._pools.size:
                    values[~self._wide[users]] = np.nan
                self._put(way, Measure(pool, at, "NDCG"), values, users)
            found = nested[wanted.sizes.index(wanted.size)]
            for metric, values in (*_recalls(found, is_frequent, wanted.ks), *_apart(found, parts, wanted.ks, None)):
                self._put(way, Measure(pool, wanted.size, metric), values, users)

    def _put_catalogue(self, users: np.ndarray, table: np.ndarray) -> None:
        positives, parts, ks = self._pools.positives.take(users), self._parts(users), self._wanted.catalogue_ks
        for way, scores in self._ways(table, 0.0, slice(None)):
            found, top = _rank_catalogue(scores, positives, self._pools.seen.take(users), self._pools.targets.target)
            way.shown = np.zeros(len(self._pools.items), bool) if way.shown is None else way.shown
            way.shown[top[top >= 0]] = True
            metrics = _catalogue_metrics(found, top, ks, self._frequent, self._surprise)
            for metric, values in (*metrics, *_apart(found, parts, ks, TOP)):
                self._put(way, Measure(CATALOGUE, 0, metric), values, users)

    def _parts(self, users: np.ndarray) -> dict[str, np.ndarray]:
        """What is reported apart of some users' positives, bool [P] each."""
        if self._pools.targets.target != "all":
            return {}
        positives = self._pools.positives
        repeats = self._pools.repeats[ragged_positions(positives.offsets[users], positives.lengths[users])]
        return {NEW_ITEMS: ~repeats, REPEATS: repeats}

    def _ways(self, scores: np.ndarray, gamma: float, rows: np.ndarray | slice) -> Iterator[tuple[Values, np.ndarray]]:
        """With the prior where the model has one, and without; the last is `scores` itself."""
        prior = self._priors[gamma]
        if prior is not None and self._result.corrected is not None:
            yield self._result.corrected, scores + prior[rows]
        yield self._result.plain, scores

    def _put(self, way: Values, measure: Measure, values: np.ndarray, users: np.ndarray) -> None:
        way.by_user.setdefault(measure, np.full(len(self._pools), np.nan))[users] = values


def _blocks(users: np.ndarray, lengths: np.ndarray) -> Iterator[np.ndarray]:
    """Users in turn with about two million candidates, or as many as are handled at once."""
    ends = np.cumsum(lengths)
    start = 0
    while start < len(users):
        before = ends[start] - lengths[start]
        stop = max(int(np.searchsorted(ends, before + _CANDIDATES_AT_ONCE, side="right")), start + 1)
        stop = min(stop, start + _USERS_AT_ONCE)
        yield users[start:stop]
        start = stop


def _recalls(positives: Ranks, is_frequent: np.ndarray, ks: tuple[int, ...]) -> Iterator[tuple[str, np.ndarray]]:
    for k in ks:
        yield f"Recall@{k}", recall(positives, k)
    yield f"Recall@{TOP} of frequent items", recall(positives.where(is_frequent), TOP)
    yield f"Recall@{TOP} of rare items", recall(positives.where(~is_frequent), TOP)


def _apart(
    positives: Ranks, parts: dict[str, np.ndarray], ks: tuple[int, ...], top: int | None
) -> Iterator[tuple[str, np.ndarray]]:
    """NDCG and recall of parts of the positives, which stay ranked among all candidates (Li et al. 2023)."""
    for name, is_part in parts.items():
        part = positives.where(is_part)
        yield f"NDCG{f'@{top}' if top else ''} {name}", ndcg(part, top)
        for k in ks:
            yield f"Recall@{k} {name}", recall(part, k)


def _rank_catalogue(scores: np.ndarray, positives: Candidates, seen: Candidates, target: Target) -> tuple[Ranks, np.ndarray]:
    """Ranks of the positives among the items that can be targets, and the first items of each user, int64 [B, TOP]."""
    # NaN compares with nothing, so that it takes no part in the ranks.
    if target == "new":
        scores[seen.owners, seen.rows] = np.nan
    elif target == "repeat":
        is_seen = np.zeros(scores.shape, bool)
        is_seen[seen.owners, seen.rows] = True
        scores[~is_seen] = np.nan
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
