"""Several cuts and seeds in one report: means with their variance over both, and paired tests over users within cuts.

Shapes: C cuts, S seeds, B users of any of the experiments.
"""

from __future__ import annotations

import html
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from heedful.evaluation.leads import Lead, find_leads
from heedful.evaluation.measures import Measure
from heedful.evaluation.options import EvaluationConfig
from heedful.evaluation.page import definitions, join, leads_section, page, section
from heedful.evaluation.report import KIND
from heedful.evaluation.results import headline_measures, table_measures
from heedful.evaluation.tables import Table
from heedful.evaluation.verdicts import Verdict, find_verdicts, verdict_table
from heedful.folders import new_folder, open_folder

__all__ = ["Report", "Series", "Spread", "write_series"]

_TITLE = "Recommenders compared over several cuts and seeds"
_INTRODUCTION = (
    "Each cut and seed is an experiment of its own, with its own embeddings, models, test users and pools. A mean is over "
    "cuts, of means over users, of each user's mean over seeds. “SD of cuts” is the standard deviation of the cuts' means. "
    "“SD of seeds” is that of the means of single seeds within a cut, as the root of its mean square over cuts. Tests flip "
    "the signs of a user's differences in all cuts together, and intervals draw users with all their cuts."
)


@dataclass(frozen=True)
class Report:
    """The report of one experiment, as `write_report` wrote it.

    Attributes:
        per_user: see `Comparison.per_user`.
        results: what is in results.json.
    """

    per_user: pa.Table
    results: dict[str, Any]

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Self:
        """Read a report's folder.

        Raises:
            FolderError: it is missing, unfinished or damaged.
        """
        folder = open_folder(path, kind=KIND)
        results = json.loads(folder.file("results.json").read_text(encoding="utf-8"))
        return cls(pq.read_table(folder.file("per_user.parquet")), results)

    @property
    def config(self) -> EvaluationConfig:
        """Its options, with pool sizes filled in."""
        return EvaluationConfig.from_dict(self.results["config"])

    @property
    def models(self) -> list[str]:
        """In the order given."""
        return list(self.results["models"])

    def counted(self, model: str) -> pa.Table:
        """The users' rows of a model that count: with its sampling prior where it has one."""
        rows = self.per_user.filter(pc.equal(self.per_user["model"], model))
        prior = rows["prior"]
        return rows.filter(prior) if pc.any(prior).as_py() else rows


class Spread(NamedTuple):
    """A mean over cuts and seeds; standard deviations are None where there is one cut, or one seed."""

    mean: float
    sd_of_cuts: float | None
    sd_of_seeds: float | None
    by_cut: tuple[float, ...]


@dataclass(frozen=True)
class Series:
    """What several experiments with the same models found; printing it gives tables.

    Attributes:
        cuts: in words, C.
        seeds: of users, pools and tests, S.
        reports: by cut and seed.
    """

    cuts: tuple[str, ...]
    seeds: tuple[int, ...]
    reports: dict[tuple[str, int], Report]

    @property
    def config(self) -> EvaluationConfig:
        """Options of the first experiment."""
        return next(iter(self.reports.values())).config

    @property
    def models(self) -> list[str]:
        """In the order given."""
        return next(iter(self.reports.values())).models

    @property
    def rivals(self) -> list[str]:
        """The models that are not heedful's."""
        return list(next(iter(self.reports.values())).results["rivals"])

    def notes(self) -> list[str]:
        """What a reader should know."""
        first, *others = (report.results["notes"] for report in self.reports.values())
        common = [note for note in first if all(note in notes for notes in others)]
        sizes = {cut: self.reports[cut, self.seeds[0]].config.pool for cut in self.cuts}
        if len(set(sizes.values())) > 1:
            listed = ", ".join(f"{size} at {cut}" for cut, size in sizes.items())
            common.append(f"The pools differ in their size: {listed}. Give --pool for pools of one size.")
        return common

    @cached_property
    def values(self) -> dict[str, dict[Measure, np.ndarray]]:
        """For each model and measure of the tables each user's mean over seeds, float64 [C, B]; NaN where there is none."""
        users = pa.chunked_array([c for report in self.reports.values() for c in report.per_user["user_id"].chunks])
        everybody = pc.unique(users)
        found: dict[str, dict[Measure, np.ndarray]] = {}
        for model in self.models:
            cuts = [self._seeds(model, cut, everybody) for cut in self.cuts]
            found[model] = {m: _mean(np.stack([cut[m] for cut in cuts]), axis=1) for m in cuts[0]}
        return found

    def _seeds(self, model: str, cut: str, everybody: pa.Array) -> dict[Measure, np.ndarray]:
        """A model's measures at one cut, float64 [S, B]."""
        reports = [self.reports[cut, seed] for seed in self.seeds]
        rows = [report.counted(model) for report in reports]
        own = [[str(measure) for measure in table_measures(report.config)] for report in reports]
        found = {}
        for number, measure in enumerate(table_measures(self.config)):
            if all(names[number] in table.column_names for names, table in zip(own, rows, strict=True)):
                found[measure] = np.stack(
                    [_placed(table, names[number], everybody) for names, table in zip(own, rows, strict=True)]
                )
        return found

    def spread(self, model: str, measure: Measure) -> Spread | None:
        """The mean of a measure and how it varies; None where the model was not measured."""
        values = self.values[model].get(measure)
        if values is None:
            return None
        by_cut = np.nanmean(values, axis=1)
        means = self.means_of_experiments(model, measure)
        of_cuts = float(by_cut.std(ddof=1)) if len(self.cuts) > 1 else None
        of_seeds = float(np.sqrt(means.var(axis=1, ddof=1).mean())) if len(self.seeds) > 1 else None
        return Spread(float(by_cut.mean()), of_cuts, of_seeds, tuple(by_cut.tolist()))

    def means_of_experiments(self, model: str, measure: Measure) -> np.ndarray:
        """Means over users of a measure of the tables, float64 [C, S]."""
        number = table_measures(self.config).index(measure)
        found = np.empty((len(self.cuts), len(self.seeds)))
        for place in np.ndindex(*found.shape):
            report = self.reports[self.cuts[place[0]], self.seeds[place[1]]]
            column = report.counted(model)[str(table_measures(report.config)[number])]
            found[place] = pc.mean(column).as_py()
        return found

    @cached_property
    def verdicts(self) -> tuple[Verdict, ...]:
        """Paired tests of all pairs of models in the headline measures, over users within cuts."""
        return find_verdicts(self.values, headline_measures(self.config), self.config)

    def leads(self) -> list[Lead]:
        """The best model of heedful beside the strongest rival in each headline measure."""
        means: dict[Measure, dict[str, float]] = {}
        for measure in headline_measures(self.config):
            found = {model: self.spread(model, measure) for model in self.models}
            means[measure] = {model: of.mean for model, of in found.items() if of is not None}
        return find_leads(means, self.rivals, self.verdicts)

    def tables(self, measures: Sequence[Measure]) -> list[Table]:
        """For each measure every model's mean, its variance, and the mean at each cut."""
        header = ("model", "mean", "SD of cuts", "SD of seeds", *self.cuts)
        tables = []
        for measure in measures:
            found = {model: self.spread(model, measure) for model in self.models}
            rows = [(model, *_cells(of)) for model, of in found.items() if of is not None]
            if rows:
                tables.append(Table(str(measure), header, tuple(rows)))
        return tables

    def verdict_table(self) -> Table:
        """All paired tests."""
        return verdict_table(self.verdicts, alpha=self.config.alpha, comparisons=len(self.verdicts))

    def to_dict(self) -> dict[str, Any]:
        """Everything but the single users, fit for JSON."""
        return {
            "config": self.config.to_dict(),
            "cuts": list(self.cuts),
            "seeds": list(self.seeds),
            "pools": {f"{cut}, seed {seed}": report.results["pools"] for (cut, seed), report in self.reports.items()},
            "notes": self.notes(),
            "leads": [lead.to_dict() for lead in self.leads()],
            "rivals": self.rivals,
            "models": {model: self._described(model) for model in self.models},
            "verdicts": [verdict.to_dict() for verdict in self.verdicts],
        }

    def _described(self, model: str) -> dict[str, Any]:
        found = {}
        for measure in self.values[model]:
            spread = self.spread(model, measure)
            assert spread is not None
            means = self.means_of_experiments(model, measure).tolist()
            found[str(measure)] = spread._asdict() | {"by_cut_and_seed": means}
        return found

    def per_user(self) -> pa.Table:
        """`Comparison.per_user` of all experiments, with their cut and seed in front."""
        tables = []
        for (cut, seed), report in self.reports.items():
            table = report.per_user.add_column(0, "seed", pa.array([seed] * len(report.per_user), pa.int64()))
            tables.append(table.add_column(0, "cut", pa.array([cut] * len(table), pa.string())))
        return pa.concat_tables(tables, promote_options="default")

    def __str__(self) -> str:
        """The best rival, the headline measures, and what to know when reading them."""
        leads = "\n".join(lead.sentence(self.config.alpha) for lead in self.leads())
        tables = [table.text() for table in self.tables(headline_measures(self.config))]
        return "\n\n".join(part for part in (leads, *tables, "\n".join(self.notes())) if part)


def write_series(series: Series, out: str | os.PathLike[str], *, overwrite: bool = False) -> None:
    """Write a report folder: report.html, results.json and per_user.parquet.

    Args:
        series: what the experiments found.
        out: the folder to be made.
        overwrite: replace a finished report.

    Raises:
        FolderError: the place is taken or cannot be written.
    """
    with new_folder(out, kind=KIND, overwrite=overwrite) as folder:
        results = json.dumps(series.to_dict(), indent=1, allow_nan=False)
        (folder.path / "results.json").write_text(results + "\n", encoding="utf-8")
        pq.write_table(series.per_user(), folder.path / "per_user.parquet")
        (folder.path / "report.html").write_text(_page(series), encoding="utf-8")


def _page(series: Series) -> str:
    headline = headline_measures(series.config)
    others = [measure for measure in table_measures(series.config) if measure not in headline]
    pools = {f"{cut}, seed {seed}": report.results["pools"] for (cut, seed), report in series.reports.items()}
    facts = {name: f"{of['users']:,} test users, {of['items']:,} items, {of['hash'][:16]}" for name, of in pools.items()}
    notes = "".join(f"<li>{html.escape(note)}</li>" for note in series.notes())
    options = {name: json.dumps(value) for name, value in series.config.to_dict().items() if name not in ("cut", "seed")}
    sections = [
        f"<header><h1>{_TITLE}</h1><p>{_INTRODUCTION}</p>{definitions(facts)}</header>",
        leads_section(series.leads(), series.config.alpha),
        section("Accuracy", join(series.tables(headline)), f'<ul class="notes">{notes}</ul>'),
        section("Other measures", f"<details><summary>Recall</summary>{join(series.tables(others))}</details>"),
        section("Verdicts", series.verdict_table().html()) if series.verdicts else "",
        section("Options", definitions(options)),
    ]
    return page(_TITLE, sections)


def _placed(table: pa.Table, column: str, everybody: pa.Array) -> np.ndarray:
    """A column's values at the places of their users, float64 [B]."""
    found = np.full(len(everybody), np.nan)
    places = pc.index_in(table["user_id"], everybody).to_numpy()
    found[places] = table[column].to_numpy(zero_copy_only=False).astype(np.float64)
    return found


def _mean(values: np.ndarray, axis: int) -> np.ndarray:
    """The mean of what is finite, NaN where nothing is."""
    count = np.isfinite(values).sum(axis)
    total = np.where(np.isfinite(values), values, 0.0).sum(axis)
    return np.asarray(np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0))


def _cells(spread: Spread) -> list[str]:
    numbers = (spread.mean, spread.sd_of_cuts, spread.sd_of_seeds, *spread.by_cut)
    return ["–" if number is None else f"{number:.4f}" for number in numbers]
