"""The best of heedful's models beside the strongest rival: what a report says first."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from heedful.evaluation.measures import Measure
from heedful.evaluation.significance import PairedTest
from heedful.evaluation.verdicts import Verdict

__all__ = ["Lead", "find_leads"]


@dataclass(frozen=True)
class Lead:
    """The two models in one measure.

    Attributes:
        measure: where they are compared.
        model: the model of heedful with the highest mean.
        rival: the other model with the highest mean.
        mean, rival_mean: their means.
        test: the paired test of the model minus the rival; its interval is not corrected for other comparisons.
        better: the better of both, or None where the data do not show one after Holm's correction.
    """

    measure: Measure
    model: str
    rival: str
    mean: float
    rival_mean: float
    test: PairedTest
    better: str | None

    def sentence(self, alpha: float) -> str:
        """The comparison in words, with the interval at confidence 1 - alpha."""
        test = self.test
        share = f" ({100 * test.difference / self.rival_mean:+.1f} %)" if self.rival_mean else ""
        shown = f"{self.better} is better" if self.better else "no difference is shown"
        return (
            f"{self.measure}: {self.model} {self.mean:.4f}, best rival {self.rival} {self.rival_mean:.4f}; difference "
            f"{test.difference:+.4f}{share}, {100 * (1 - alpha):g} % interval [{test.low:+.4f}, {test.high:+.4f}]; {shown}."
        )

    def to_dict(self) -> dict[str, Any]:
        """All of it, fit for JSON."""
        return vars(self) | {"measure": str(self.measure), "test": vars(self.test)}


def find_leads(
    means: Mapping[Measure, Mapping[str, float]], rivals: Collection[str], verdicts: Sequence[Verdict]
) -> list[Lead]:
    """The lead in each measure that has models of both sorts.

    Args:
        means: for each measure the mean of each model that was measured.
        rivals: the models that are not heedful's.
        verdicts: paired tests of all pairs of models.
    """
    tests = {(v.measure, v.first, v.second): v for v in (*verdicts, *(verdict.reversed() for verdict in verdicts))}
    leads = []
    for measure, of in means.items():
        own = [name for name in of if name not in rivals]
        others = [name for name in of if name in rivals]
        if own and others:
            model, rival = (max(names, key=of.__getitem__) for names in (own, others))
            found = tests[measure, model, rival]
            leads.append(Lead(measure, model, rival, of[model], of[rival], found.test, found.better))
    return leads
