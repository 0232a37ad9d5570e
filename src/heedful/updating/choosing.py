"""Which model is published: the one that goes on from yesterday's, yesterday's with renewed counts, or none.

The newest events are left out of what the models know, and the models are compared on what their users newly touched there,
user by user. Shapes: B users.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from heedful.errors import ConfigError, InputError
from heedful.evaluation.comparison import draw_pools, measure_models
from heedful.evaluation.measures import Measure, pool_name
from heedful.evaluation.options import EvaluationConfig
from heedful.evaluation.pools import Pools
from heedful.evaluation.significance import PairedTest, paired_tests
from heedful.events.log import EventLog
from heedful.rankers.base import Ranker
from heedful.updating.options import REFRESHED, UpdateConfig

__all__ = ["NEW", "REFRESHED", "SERVED", "Choice", "Trial", "choose", "find_cut"]

NEW, SERVED = "new", "served"
_RESAMPLES = 2000
_GAMMA = 0.0


def find_cut(base: EventLog, fresh: EventLog, hours: float) -> int | None:
    """The time from which on events are for the comparison alone; None where all new events are late ones.

    Half of the new events come before it, so that the models differ in what they know; and it is at most so many hours
    before the end.
    """
    times, known = fresh.histories.times, int(base.histories.times.max())
    after = times[times > known]
    if not len(after):
        return None
    return max(int(np.median(after)), int(after.max()) + 1 - round(hours * 3600), known + 1)


@dataclass(frozen=True)
class Trial:
    """The users, their positives and the candidates on which models are compared."""

    past: EventLog
    pools: Pools
    config: EvaluationConfig

    @classmethod
    def of(cls, log: EventLog, cut: int, config: UpdateConfig) -> Trial | None:
        """Of what happened from a time on; None where too few users took anything new."""
        options = EvaluationConfig(gammas=(_GAMMA,), max_users=config.test_users, catalogue_users=1, resamples=_RESAMPLES)
        try:
            past, future = log.split(cut, days=1e6)
            options, pools = draw_pools(past, future, items=None, config=options)
        except (InputError, ConfigError):
            return None
        size = options.pool
        assert size is not None
        options, pools = EvaluationConfig(**{**vars(options), "pool_sizes": (size,)}), pools.narrowed(size)
        return cls(past, pools, options) if len(pools) >= config.fewest_test_users else None

    def measure(self, models: Mapping[str, Ranker]) -> dict[str, np.ndarray]:
        """NDCG of each model for each user among items drawn from the whole catalogue, float64 [B]."""
        found = measure_models(models, self.past, self.pools, self.config, catalogue=False)
        assert self.config.pool is not None
        measure = Measure(pool_name(_GAMMA), self.config.pool, "NDCG")
        return {name: result.best.by_user[measure] for name, result in found.results.items()}


@dataclass(frozen=True)
class Choice:
    """What is published, and why.

    Attributes:
        publish: NEW or REFRESHED; None: nothing.
        reason: in words.
        figures: means by model, and the paired tests.
    """

    publish: str | None
    reason: str
    figures: dict[str, Any]


def choose(values: Mapping[str, np.ndarray], config: UpdateConfig) -> Choice:
    """Publish the new model unless it is shown worse than the best other one by more than the bound, else the refreshed one.

    Args:
        values: NDCG by model for the same users, float64 [B] each.
        config: bound and level.
    """
    means = {name: float(np.nanmean(one)) for name, one in values.items()}
    tests: dict[str, Any] = {}
    figures = {"ndcg": means, "users": len(next(iter(values.values()))), "harm_percent": config.harm, "tests": tests}
    refused: list[str] = []
    for name in (NEW, REFRESHED):
        others = [other for other in values if other not in (name, *(NEW,) * (name == REFRESHED))]
        if name not in values or not others:
            continue
        best = max(others, key=lambda other: means[other])
        test = _test(values[name], values[best], config)
        tests[f"{name} - {best}"] = {**vars(test), "harm_at_most_percent": _harm(test, means[best])}
        said = f"{name} {means[name]:.4f}, {best} {means[best]:.4f} ({test.low:+.4f} to {test.high:+.4f})"
        if not (test.high < 0 and test.difference < -config.harm / 100 * means[best]):
            return Choice(name, said if not refused else f"{said}; {'; '.join(refused)}", figures)
        refused.append(f"worse by more than {config.harm:g} %: {said}")
    return Choice(None, "; ".join(refused), figures)


def _test(first: np.ndarray, second: np.ndarray, config: UpdateConfig) -> PairedTest:
    differences = (first - second)[np.isfinite(first - second), None]
    return paired_tests(differences, confidence=1 - config.alpha, resamples=_RESAMPLES, seed=0)[0]


def _harm(test: PairedTest, mean: float) -> float:
    """By how many percent the first may be worse, at the confidence of the interval."""
    return round(max(-test.low, 0.0) / mean * 100, 2) if mean > 0 else 0.0
