"""What a comparison found: results, verdicts, and the tables that show them."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from heedful.evaluation.leads import Lead, find_leads
from heedful.evaluation.measures import CATALOGUE, NEW_ITEMS, REPEATS, TOP, Measure, ModelResult, Values, pool_name
from heedful.evaluation.options import EvaluationConfig
from heedful.evaluation.pools import Pools
from heedful.evaluation.tables import Table
from heedful.evaluation.verdicts import Verdict, verdict_table

__all__ = ["Comparison", "Estimate", "estimate", "headline_measures", "table_measures"]


class Estimate(NamedTuple):
    """A mean over users, its standard error, and the number of users."""

    mean: float
    error: float
    users: int


@dataclass(frozen=True)
class Comparison:
    """The results of `compare`; printing it gives tables.

    Attributes:
        config: the options, with pool sizes filled in.
        pools: whom and what was ranked.
        results: by model, in the order given.
        verdicts: paired tests of all pairs of models in the measures of the tables.
        notes: what a reader should know.
        history_lengths: events of each test user before the cut, int64 [B].
        seconds: time spent on "pools" and on "tests"; that of each model is in its result.
    """

    config: EvaluationConfig
    pools: Pools
    results: dict[str, ModelResult]
    verdicts: tuple[Verdict, ...]
    notes: tuple[str, ...]
    history_lengths: np.ndarray
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Negatives in the pools of the tables."""
        assert self.config.pool is not None
        return self.config.pool

    @property
    def figure_users(self) -> np.ndarray | None:
        """The test users in figure 2, bool [B], where its largest pools were drawn for some only; None for all."""
        return self.pools.wide if max(self.config.pool_sizes) > self.pools.size else None

    def measures(self) -> list[Measure]:
        """The measures of the tables, and of the verdicts."""
        return table_measures(self.config)

    def means(self) -> dict[Measure, dict[str, float]]:
        """For each headline measure the mean over users of each model that was measured."""
        found = {
            measure: {name: estimate(result.best, measure) for name, result in self.results.items()}
            for measure in headline_measures(self.config)
        }
        return {m: {name: value.mean for name, value in of.items() if value is not None} for m, of in found.items()}

    def leads(self) -> list[Lead]:
        """The best model of heedful beside the strongest rival in each headline measure."""
        return find_leads(self.means(), [name for name, result in self.results.items() if result.is_rival], self.verdicts)

    def estimate(
        self, model: str, measure: Measure, *, prior: bool = True, users: np.ndarray | None = None
    ) -> Estimate | None:
        """Mean and standard error over users; None where the model was not measured.

        Args:
            model: its name.
            measure: what to report.
            prior: False for the model without its sampling prior.
            users: only test users where this holds, bool [B].
        """
        result = self.results[model]
        return estimate(result.best if prior else result.plain, measure, users)

    def user_classes(self) -> dict[str, np.ndarray]:
        """Test users by thirds of the length of their history: light, medium and heavy, bool [B] each."""
        place = np.argsort(np.argsort(self.history_lengths, kind="stable"), kind="stable")
        third = place * 3 // max(len(place), 1)
        return {name: third == number for number, name in enumerate(("light", "medium", "heavy"))}

    def accuracy_tables(self) -> list[Table]:
        """For each gamma, and for the whole catalogue: the measures of `measures`, with standard errors."""
        tables = []
        for pool, group in itertools.groupby(self.measures(), key=lambda measure: measure.pool):
            measures = list(group)
            rows = [
                (label, *(_cell(estimate(way, measure)) for measure in measures))
                for label, way in self._ways()
                if any(measure in way.by_user for measure in measures)
            ]
            if rows:
                tables.append(Table(self._title(pool), ("model", *(m.metric for m in measures)), tuple(rows)))
        return tables

    def verdict_table(self, *, first: str | None = None, metrics: tuple[str, ...] = ()) -> Table:
        """The paired tests: all, or those that concern the model `first` and the named metrics."""
        chosen = [
            verdict
            for verdict in self.verdicts
            if (first is None or first in (verdict.first, verdict.second))
            and (not metrics or verdict.measure.metric in metrics)
        ]
        return verdict_table(chosen, alpha=self.config.alpha, comparisons=len(self.verdicts))

    def beyond_table(self) -> Table | None:
        """Coverage, novelty and share of frequent items in everybody's first 10; None if no catalogue was ranked."""
        metrics = (f"Novelty@{TOP}", f"Frequent items@{TOP}", f"Hit rate@{TOP}")
        rows = [
            (label, f"{way.coverage:.4f}", *(_cell(estimate(way, Measure(CATALOGUE, 0, metric))) for metric in metrics))
            for label, way in self._ways()
            if way.coverage is not None
        ]
        title = (
            f"Beyond accuracy, in the first {TOP} of the whole catalogue: share of all items that anybody is shown, mean "
            "self-information in bits, share of frequent items (the most popular ones, with half of all touches)"
        )
        header = ("model", f"Coverage@{TOP}", *metrics)
        return Table(title, header, tuple(rows)) if rows else None

    def class_tables(self) -> list[Table]:
        """NDCG for light, medium and heavy users, and Recall@10 of frequent and rare items, for each gamma."""
        classes = self.user_classes()
        names = [f"{name} ({int(users.sum())})" for name, users in classes.items()]
        tables = []
        for gamma in self.config.gammas:
            ndcg = Measure(pool_name(gamma), self.size, "NDCG")
            items = [Measure(pool_name(gamma), self.size, f"Recall@{TOP} of {kind} items") for kind in ("frequent", "rare")]
            rows = [
                (
                    label,
                    *(_cell(estimate(way, ndcg, users)) for users in classes.values()),
                    *(_cell(estimate(way, measure)) for measure in items),
                )
                for label, way in self._ways()
            ]
            title = f"{self._title(pool_name(gamma))}: NDCG by third of history length, and Recall@{TOP} by kind of item"
            header = ("model", *names, "frequent items", "rare items")
            tables.append(Table(title, header, tuple(rows)))
        return tables

    def __str__(self) -> str:
        """The best rival, accuracy, the first model against the others, and what to know when reading it."""
        leads = "\n".join(lead.sentence(self.config.alpha) for lead in self.leads())
        parts = [leads] if leads else []
        parts += [table.text() for table in self.accuracy_tables()]
        if self.verdicts:
            metrics = ("NDCG", f"NDCG@{TOP}")
            parts.append(self.verdict_table(first=next(iter(self.results)), metrics=metrics).text())
        parts.append("\n".join(self.notes))
        parts.append(f"pools {self.pools.hash[:16]}, seed {self.pools.seed}; values are means over users ± standard error")
        return "\n\n".join(parts)

    def _ways(self) -> list[tuple[str, Values]]:
        return [way for result in self.results.values() for way in result.ways()]

    def _title(self, pool: str) -> str:
        if pool == CATALOGUE:
            users = max((int(np.isfinite(v).sum()) for _, w in self._ways() for m, v in w.by_user.items() if m.pool == pool))
            ranked = {"new": "items but those seen", "repeat": "items, of which those seen", "all": "items"}
            return f"whole catalogue: {len(self.pools.items):,} {ranked[self.pools.targets.target]}, {users:,} users"
        return f"{pool}: among {self.size:,} sampled negatives, {len(self.pools):,} users"

    def to_dict(self) -> dict[str, Any]:
        """Everything but the single users, fit for JSON; the same seed gives the same numbers."""
        return {
            "config": self.config.to_dict(),
            "pools": {"hash": self.pools.hash, "users": len(self.pools), "items": len(self.pools.items)},
            "notes": list(self.notes),
            "leads": [lead.to_dict() for lead in self.leads()],
            "rivals": [name for name, result in self.results.items() if result.is_rival],
            "models": {name: _described(self, name) for name in self.results},
            "verdicts": [verdict.to_dict() for verdict in self.verdicts],
        }

    def per_user(self) -> pa.Table:
        """A row for each test user, model and way of scoring: user_id, history_length, model, prior, and every measure."""
        tables = []
        for name, result in self.results.items():
            for _, way in result.ways():
                columns: dict[str, Any] = {
                    "user_id": self.pools.users,
                    "history_length": self.history_lengths,
                    "positives": self.pools.positives.lengths,
                    "model": [name] * len(self.pools),
                    "prior": [way is result.corrected] * len(self.pools),
                }
                tables.append(pa.table(columns | {str(m): pa.array(v, from_pandas=True) for m, v in way.by_user.items()}))
        return pa.concat_tables(tables, promote_options="default")


def table_measures(config: EvaluationConfig) -> list[Measure]:
    """For each gamma NDCG and Recall@K in the pools of the tables, then NDCG@10 and Recall@K over the catalogue.

    Where new items and repeats are targets, those over the catalogue are there of both apart, too.
    """
    assert config.pool is not None
    recalls = [f"Recall@{k}" for k in config.ks]
    in_pools = [Measure(pool_name(g), config.pool, metric) for g in config.gammas for metric in ("NDCG", *recalls)]
    parts = (NEW_ITEMS, REPEATS) if config.target == "all" else ()
    apart = [f"{metric} {part}" for part in parts for metric in (f"NDCG@{TOP}", *recalls)]
    return in_pools + [Measure(CATALOGUE, 0, metric) for metric in (f"NDCG@{TOP}", *recalls, *apart)]


def headline_measures(config: EvaluationConfig) -> list[Measure]:
    """NDCG in the pools of each gamma, and NDCG@10 over the catalogue."""
    return [measure for measure in table_measures(config) if measure.metric in ("NDCG", f"NDCG@{TOP}")]


def estimate(values: Values, measure: Measure, users: np.ndarray | None = None) -> Estimate | None:
    """Mean and standard error of a measure over the users measured (and of `users`, bool [B]); None if there are none."""
    by_user = values.by_user.get(measure)
    if by_user is None:
        return None
    chosen = by_user[np.isfinite(by_user) if users is None else np.isfinite(by_user) & users]
    if not len(chosen):
        return None
    error = float(chosen.std(ddof=1) / math.sqrt(len(chosen))) if len(chosen) > 1 else math.nan
    return Estimate(float(chosen.mean()), error, len(chosen))


def _described(comparison: Comparison, name: str) -> dict[str, Any]:
    ways = {}
    for label, way in comparison.results[name].ways():
        found = {str(measure): estimate(way, measure) for measure in way.by_user}
        ways[label] = {"coverage": way.coverage} | {key: _plain(e._asdict()) for key, e in found.items() if e is not None}
    return ways


def _plain(facts: dict[str, Any]) -> dict[str, Any]:
    """JSON has no NaN."""
    return {key: None if isinstance(value, float) and math.isnan(value) else value for key, value in facts.items()}


def _cell(found: Estimate | None) -> str:
    if found is None:
        return "–"
    return f"{found.mean:.4f}" if math.isnan(found.error) else f"{found.mean:.4f} ± {found.error:.4f}"
