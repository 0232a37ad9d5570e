"""Which of two models is better in a measure: paired tests of all pairs of models, as values and as a table.

Shapes: C cuts, B users, T tests.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np

from heedful.evaluation.measures import Measure
from heedful.evaluation.options import EvaluationConfig
from heedful.evaluation.significance import PairedTest, holm, paired_tests
from heedful.evaluation.tables import Table

__all__ = ["Verdict", "find_verdicts", "verdict_table"]


@dataclass(frozen=True)
class Verdict:
    """Whether two models differ in one measure.

    Attributes:
        measure: where they are compared.
        first, second: the models.
        test: the paired test of first minus second.
        p_holm: its p-value, corrected for all comparisons made.
        better: the better model, or None where the data do not show one at the level alpha.
    """

    measure: Measure
    first: str
    second: str
    test: PairedTest
    p_holm: float
    better: str | None

    def reversed(self) -> Self:
        """The same with the models in the other order."""
        return replace(self, first=self.second, second=self.first, test=self.test.reversed())

    def to_dict(self) -> dict[str, Any]:
        """All of it, fit for JSON."""
        facts = {"measure": str(self.measure), "first": self.first, "second": self.second}
        return facts | vars(self.test) | {"p_holm": self.p_holm, "better": self.better}


def find_verdicts(
    values: Mapping[str, Mapping[Measure, np.ndarray]], measures: Sequence[Measure], config: EvaluationConfig
) -> tuple[Verdict, ...]:
    """All pairs of models in some measures; one family for Holm's correction.

    Args:
        values: for each model and measure a value for each user in each cut, float64 [C, B]; NaN where there is none.
        measures: where the models are compared; those that a model lacks are left out.
        config: level, resamples and seed.
    """
    cases = [
        (measure, first, second)
        for measure in measures
        for first, second in itertools.combinations(values, 2)
        if all(np.isfinite(values[name].get(measure, np.nan)).any() for name in (first, second))
    ]
    tests: dict[int, PairedTest] = {}
    for numbers, differences in _groups(cases, values):
        # So many flips that one test among all of them can still pass the corrected level.
        flips = max(config.resamples, math.ceil(2 * len(cases) / config.alpha))
        found = paired_tests(
            differences, confidence=1 - config.alpha, resamples=config.resamples, seed=config.seed, flips=flips
        )
        tests |= dict(zip(numbers, found, strict=True))
    corrected = holm([tests[number].p for number in range(len(cases))])
    return tuple(
        Verdict(*case, tests[number], p, _better(case, tests[number], p <= config.alpha))
        for number, (case, p) in enumerate(zip(cases, corrected, strict=True))
    )


def _groups(
    cases: list[tuple[Measure, str, str]], values: Mapping[str, Mapping[Measure, np.ndarray]]
) -> list[tuple[list[int], np.ndarray]]:
    """Differences of the cases that concern the same users, float64 [C, B, T], with the numbers of the cases."""
    groups: dict[bytes, list[int]] = {}
    differences = [values[a][measure] - values[b][measure] for measure, a, b in cases]
    for number, difference in enumerate(differences):
        groups.setdefault(np.isfinite(difference).tobytes(), []).append(number)
    return [
        (numbers, np.stack([differences[n][:, np.isfinite(differences[n]).any(axis=0)] for n in numbers], axis=2))
        for numbers in groups.values()
    ]


def _better(case: tuple[Measure, str, str], test: PairedTest, significant: bool) -> str | None:
    if not significant:
        return None
    return case[1] if test.difference > 0 else case[2]


def verdict_table(verdicts: Sequence[Verdict], *, alpha: float, comparisons: int) -> Table:
    """Some of a family of paired tests.

    Args:
        verdicts: those to show.
        alpha: the level.
        comparisons: tests in the whole family.
    """
    confidence = f"{100 * (1 - alpha):g} % interval"
    header = ("comparison", "where", "difference", confidence, "p (Holm)", "d_z", "better")
    title = (
        f"Paired differences over users: sign-flip tests at level {alpha:g} after Holm's correction for "
        f"all {comparisons} comparisons, bootstrap intervals, effect size d_z"
    )
    marked = frozenset(number for number, verdict in enumerate(verdicts) if verdict.better)
    return Table(title, header, tuple(_row(verdict) for verdict in verdicts), marked)


def _row(verdict: Verdict) -> tuple[str, ...]:
    test = verdict.test
    where = f"{verdict.measure.pool} {verdict.measure.metric}"
    return (
        f"{verdict.first} − {verdict.second}",
        where,
        f"{test.difference:+.4f}",
        f"[{test.low:+.4f}, {test.high:+.4f}]",
        f"{verdict.p_holm:.2g}",
        f"{test.effect:+.2f}",
        verdict.better or "not shown",
    )
