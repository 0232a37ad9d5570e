"""How many layers of attention pay: rankers of several depths over the same users and pools (paper, figure 4)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from heedful.errors import ConfigError
from heedful.evaluation.comparison import measure_models
from heedful.evaluation.measures import Measure, ModelResult, pool_name
from heedful.evaluation.results import Comparison
from heedful.evaluation.sources import Model
from heedful.evaluation.tables import Table
from heedful.evaluation.verdicts import Verdict
from heedful.events.log import EventLog

__all__ = ["DepthStudy", "check_depths", "study_depths"]


@dataclass(frozen=True)
class DepthStudy:
    """What `study_depths` found.

    Attributes:
        depths: numbers of layers, rising.
        comparison: the models of `name_of` each depth; its verdicts are a family of tests of their own.
        model: what the rankers are, in words.
    """

    depths: tuple[int, ...]
    comparison: Comparison
    model: str = "attention"

    @property
    def results(self) -> dict[int, ModelResult]:
        """By depth."""
        return {depth: self.comparison.results[name_of(depth)] for depth in self.depths}

    def sentences(self, gamma: float) -> list[str]:
        """What the tests of NDCG in the pools of one gamma say, in words."""
        means = self._means(gamma)
        best = max(means, key=lambda depth: means[depth])
        above = self._above(gamma)
        said = [f"NDCG is highest at depth {best} ({means[best]:.4f}).", self._enough(above)]
        if best < self.depths[-1]:
            worse = [depth for depth in self.depths if depth > best and (best, depth) in above]
            where = f"s {_listed(worse)}" if len(worse) > 1 else f" {_listed(worse)}"
            said.append(f"Loss after {best} is shown at depth{where}." if worse else f"No loss after {best} is shown.")
        return said + [self._difference(above[best, depth], best, depth) for depth in self.depths if (best, depth) in above]

    def tables(self) -> list[Table]:
        """For each gamma NDCG and Recall@K by depth, with standard errors."""
        return self.comparison.accuracy_tables()

    def to_dict(self) -> dict[str, Any]:
        """All numbers, fit for JSON."""
        found = self.comparison.to_dict()
        said = {pool_name(gamma): self.sentences(gamma) for gamma in self.comparison.config.gammas}
        return {"model": self.model, "depths": list(self.depths), "sentences": said} | {
            name: found[name] for name in ("models", "verdicts")
        }

    def per_user(self) -> pa.Table:
        """As `Comparison.per_user`, with the depth in the place of the model."""
        table = self.comparison.per_user()
        depth_of = {name_of(depth): depth for depth in self.depths}
        depths = pa.array([depth_of[name] for name in table["model"].to_pylist()], pa.int32())
        return table.set_column(table.column_names.index("model"), "depth", depths)

    def __str__(self) -> str:
        """The tables, and under each what its tests say."""
        parts = []
        for gamma, table in zip(self.comparison.config.gammas, self.tables(), strict=True):
            parts.append("\n".join([f"Depth of {self.model}, {table.text()}", *self.sentences(gamma)]))
        return "\n\n".join(parts)

    def _means(self, gamma: float) -> dict[int, float]:
        measure = Measure(pool_name(gamma), self.comparison.size, "NDCG")
        return {depth: float(result.best.by_user[measure].mean()) for depth, result in self.results.items()}

    def _above(self, gamma: float) -> dict[tuple[int, int], Verdict]:
        """The tests of NDCG that show one depth, named first, to be better than another."""
        depth_of = {name_of(depth): depth for depth in self.depths}
        found = {}
        for verdict in self.comparison.verdicts:
            if verdict.better and verdict.measure.pool == pool_name(gamma) and verdict.measure.metric == "NDCG":
                worse = verdict.second if verdict.better == verdict.first else verdict.first
                found[depth_of[verdict.better], depth_of[worse]] = verdict
        return found

    def _difference(self, verdict: Verdict, better: int, worse: int) -> str:
        test = verdict.test
        low, high = (test.low, test.high) if test.difference > 0 else (-test.high, -test.low)
        confidence = f"{100 * (1 - self.comparison.config.alpha):g} %"
        return (
            f"Depth {better} is above depth {worse} by {abs(test.difference):.4f} "
            f"({confidence} interval {low:.4f} to {high:.4f})."
        )

    def _enough(self, above: Mapping[tuple[int, int], Verdict]) -> str:
        enough = next(
            depth for depth in self.depths if not any((deeper, depth) in above for deeper in self.depths if deeper > depth)
        )
        if enough == self.depths[-1]:
            return f"The deepest, {enough}, is shown to be better than the one before it."
        return f"No gain after {enough} is shown."


def study_depths(
    rankers: Mapping[int, Model], comparison: Comparison, past: EventLog, *, model: str = "attention"
) -> DepthStudy:
    """Measure rankers of several depths on the users, pools and gammas of a comparison, and test all pairs.

    NDCG and Recall@K are measured in the pools of the tables; Holm's correction is over the tests of this study.

    Args:
        rankers: by number of layers, trained on the past.
        comparison: whose pools and options are used.
        past: the events before the cut.
        model: what the rankers are, in words.

    Raises:
        ConfigError: fewer than two depths, or one below 1.
        InputError: a model gave scores that cannot be used.
    """
    check_depths(rankers)
    size = comparison.size
    config = replace(comparison.config, pool_sizes=(size,))
    named = {name_of(depth): rankers[depth] for depth in sorted(rankers)}
    found = measure_models(named, past, comparison.pools.narrowed(size), config, catalogue=False)
    return DepthStudy(tuple(sorted(rankers)), found, model)


def check_depths(depths: Collection[int]) -> None:
    """Raise `ConfigError` unless there are two or more different depths of 1 or more."""
    if min(depths, default=0) < 1 or len(set(depths)) < 2:
        raise ConfigError(
            "these depths cannot be compared",
            got=", ".join(map(str, depths)) or "none",
            expected="two or more different numbers of layers, 1 or more each",
        )


def name_of(depth: int) -> str:
    """Name of the model of a depth."""
    return f"depth {depth}"


def _listed(depths: list[int]) -> str:
    return " and ".join(part for part in (", ".join(map(str, depths[:-1])), *map(str, depths[-1:])) if part)
