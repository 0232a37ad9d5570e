"""What a backtest measured: its days, kept one by one, and what they say together.

Shapes: C days after the first with test users, B users of any of them, T pairs of models.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from heedful.errors import FolderError, InputError
from heedful.evaluation.comparison import Comparison
from heedful.evaluation.measures import CATALOGUE, Measure, Values, pool_name
from heedful.evaluation.significance import PairedTest, paired_tests
from heedful.evaluation.tables import Table
from heedful.events.times import iso
from heedful.events.vocabulary import Vocabulary
from heedful.folders import write_atomically
from heedful.updating.options import FROZEN, REFRESHED, SCRATCH, UPDATED, BacktestConfig

__all__ = ["DAY", "NDCG", "POOLED", "Backtest", "Day", "Seconds"]

DAY = 86_400
NDCG, POOLED = "NDCG@10", "NDCG in pools"
"""Over the whole catalogue, and among sampled negatives."""

Seconds = dict[str, float]
"""What a training took, by part."""

_RESAMPLES = 10_000
_KEY = b"heedful.day"
_PAIRS = ((REFRESHED, FROZEN), (UPDATED, FROZEN), (SCRATCH, FROZEN), (UPDATED, REFRESHED), (UPDATED, SCRATCH))


@dataclass(frozen=True)
class Day:
    """One day.

    Attributes:
        number: from 1.
        begin: unix seconds.
        pool: negatives in the pools.
        values: user_id, and a column for each model and measure, such as "frozen, NDCG@10"; a row for each test user.
        seconds: by model, what the training in the night before took, as far as that is known.
        note: why nobody was tested; empty where somebody was.
    """

    number: int
    begin: int
    pool: int
    values: pa.Table
    seconds: dict[str, Seconds]
    note: str = ""

    @classmethod
    def of(
        cls, number: int, begin: int, found: Comparison, models: Mapping[str, Values], seconds: dict[str, Seconds]
    ) -> Self:
        """The day of a comparison."""
        measures = {NDCG: Measure(CATALOGUE, 0, NDCG), POOLED: Measure(pool_name(0.0), found.size, "NDCG")}
        columns: dict[str, Any] = {"user_id": found.pools.users}
        for model, way in models.items():
            columns |= {f"{model}, {name}": way.by_user[measure] for name, measure in measures.items()}
        return cls(number, begin, found.size, pa.table(columns), seconds)

    @classmethod
    def left_out(cls, number: int, begin: int, note: str) -> Self:
        """A day on which nobody can be tested; nothing is trained in the night before it."""
        return cls(number, begin, 0, pa.table({"user_id": pa.array([], pa.string())}), {}, note)

    def save(self, path: Path) -> None:
        """Write a file."""
        facts = {"number": self.number, "begin": self.begin, "pool": self.pool, "seconds": self.seconds, "note": self.note}
        with write_atomically(path) as partial:
            pq.write_table(self.values.replace_schema_metadata({_KEY: json.dumps(facts)}), partial)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read that file.

        Raises:
            FolderError: it cannot be read.
        """
        try:
            values = pq.read_table(path)
            return cls(values=values, **json.loads(values.schema.metadata[_KEY]))
        except (OSError, pa.ArrowInvalid, KeyError, TypeError, ValueError) as error:
            fix = "remove it, so that the day is measured again"
            raise FolderError(f"{path} cannot be read", got=error, fix=fix) from error

    @property
    def users(self) -> int:
        """How many were tested."""
        return len(self.values)

    def of_model(self, model: str, measure: str) -> np.ndarray:
        """A measure of each test user, float64."""
        return np.asarray(self.values[f"{model}, {measure}"], np.float64)

    def mean(self, model: str, measure: str) -> float:
        """Mean over the test users; NaN without any."""
        return float(self.of_model(model, measure).mean()) if self.users else math.nan

    def line(self) -> str:
        """The day in a few words."""
        if self.note:
            return f"{iso(self.begin)[:10]}: nobody tested"
        models = [name.removesuffix(f", {NDCG}") for name in self.values.column_names if name.endswith(f", {NDCG}")]
        return f"{iso(self.begin)[:10]}: " + ", ".join(f"{model} {self.mean(model, NDCG):.4f}" for model in models)


@dataclass(frozen=True)
class Backtest:
    """The days of a backtest; printing it gives tables.

    On the first day all models are the frozen one, so means and differences are over the days after it.

    Attributes:
        config: its options.
        cut: begin of the first day, unix seconds.
        days: the days.
    """

    config: BacktestConfig
    cut: int
    days: tuple[Day, ...]

    def __post_init__(self) -> None:
        """Refuse days on which nobody was tested."""
        if not self.later:
            raise InputError(
                "nobody can be tested after the first day", got="; ".join(dict.fromkeys(day.note for day in self.days[1:])),
                fix="choose another cut, or more days",
            )  # fmt: skip

    @property
    def models(self) -> tuple[str, ...]:
        """What was compared."""
        return self.config.modes

    @property
    def later(self) -> list[Day]:
        """The days after the first on which somebody was tested, [C]."""
        return [day for day in self.days[1:] if day.users]

    def mean(self, model: str, measure: str) -> float:
        """Mean over the days after the first of the means over users."""
        return float(np.mean([day.mean(model, measure) for day in self.later]))

    @cached_property
    def differences(self) -> dict[str, dict[tuple[str, str], PairedTest]]:
        """For each measure and pair of models the first less the second, user by user within days."""
        pairs = [pair for pair in _PAIRS if set(pair) <= set(self.models)]
        return {measure: dict(zip(pairs, self._tests(measure, pairs), strict=True)) for measure in (NDCG, POOLED)}

    def _tests(self, measure: str, pairs: list[tuple[str, str]]) -> list[PairedTest]:
        ids = [chunk for day in self.later for chunk in day.values["user_id"].chunks]
        users = Vocabulary(pc.unique(pa.chunked_array(ids)))
        values = np.full((len(self.later), len(users), len(pairs)), np.nan)
        for place, day in zip(values, self.later, strict=True):
            found = [day.of_model(first, measure) - day.of_model(second, measure) for first, second in pairs]
            place[users.rows(day.values["user_id"].combine_chunks())] = np.stack(found, axis=1)
        return paired_tests(values, confidence=1 - self.config.alpha, resamples=_RESAMPLES, seed=self.config.seed)

    def seconds(self, model: str, part: str | None = None) -> list[float]:
        """What each night's training took, or a part of it, where that is known."""
        nights = [day.seconds[model] for day in self.days if model in day.seconds]
        return [sum(night.values()) if part is None else night.get(part, 0.0) for night in nights]

    def share_of_time(self) -> float | None:
        """Seconds of going on over those from nothing, in the nights where both are known; None without such a night."""
        both = [day.seconds for day in self.days if {UPDATED, SCRATCH} <= day.seconds.keys()]
        of = {mode: sum(sum(seconds[mode].values()) for seconds in both) for mode in (UPDATED, SCRATCH)}
        return of[UPDATED] / of[SCRATCH] if both else None

    # Tables

    def tables(self) -> list[Table]:
        """NDCG by day, the differences, and the time that training took."""
        return [*(self._by_day(measure) for measure in (NDCG, POOLED)), self._difference_table(), self._time_table()]

    def _by_day(self, measure: str) -> Table:
        rows = [
            (
                f"{day.number}, {iso(day.begin)}", f"{day.users:,}",
                *(f"{day.mean(model, measure):.4f}" if day.users else "–" for model in self.models),
            )
            for day in self.days
        ]  # fmt: skip
        means = (f"{self.mean(model, measure):.4f}" for model in self.models)
        rows.append((f"mean after day {self.days[0].number}", "", *means))
        return Table(self.title_of(measure), ("day", "users", *self.models), tuple(rows))

    def title_of(self, measure: str) -> str:
        """A measure in words."""
        if measure == NDCG:
            return "NDCG@10 over the whole catalogue"
        sizes = sorted({day.pool for day in self.days if day.users})
        among = " to ".join(f"{size:,}" for size in dict.fromkeys((sizes[0], sizes[-1])))
        return f"NDCG among {among} items of the catalogue"

    def _difference_table(self) -> Table:
        rows = []
        for pair in self.differences[NDCG]:
            cells: list[str] = []
            for measure in (NDCG, POOLED):
                test, mean = self.differences[measure][pair], self.mean(pair[1], measure)
                # A multiple of what is nearly nothing tells nothing.
                share = f" ({test.difference / mean:+.1%})" if abs(test.difference) < 10 * mean else ""
                cells += [f"{test.difference:+.4f}{share}", f"{test.low:+.4f} to {test.high:+.4f}"]
            rows.append((" - ".join(pair), *cells))
        interval = f"{1 - self.config.alpha:.0%} interval"
        title = f"Paired differences over the days after day {self.days[0].number}"
        return Table(title, ("models", NDCG, interval, POOLED, interval), tuple(rows))

    def _time_table(self) -> Table:
        rows = []
        for model in self.models:
            known = self.seconds(model)
            if known:
                parts = dict.fromkeys(part for day in self.days for part in day.seconds.get(model, {}))
                listed = ", ".join(f"{part} {np.mean(self.seconds(model, part)):.1f}" for part in parts)
                rows.append((model, str(len(known)), f"{np.mean(known):.1f}", listed))
        return Table("Seconds of each training, mean", ("model", "trainings", "seconds", "of these"), tuple(rows))

    def notes(self) -> list[str]:
        """What a reader should know."""
        notes = [
            f"{self.config.model}, trained on the events before {iso(self.cut)} UTC. On day 1 all models are the frozen "
            "one. On each later day they know the events before that day, but for the frozen one, and all see the users' "
            "histories up to it. Items that appear during a day are not among those ranked on it."
        ]
        share = self.share_of_time()
        if share is not None:
            notes.append(f"updated takes {share:.0%} of the time of scratch.")
        return notes + [f"Day {day.number} is left out: {day.note}" for day in self.days if day.note]

    def __str__(self) -> str:
        """The tables, and what to know when reading them."""
        return "\n\n".join([*(table.text() for table in self.tables() if table.rows), "\n".join(self.notes())])

    def to_dict(self) -> dict[str, Any]:
        """Everything but the single users, fit for JSON."""
        return {
            "config": self.config.to_dict(),
            "cut": iso(self.cut),
            "days": [self._described(day) for day in self.days],
            "means": {measure: {model: self.mean(model, measure) for model in self.models} for measure in (NDCG, POOLED)},
            "differences": {
                measure: {" - ".join(pair): vars(test) for pair, test in tests.items()}
                for measure, tests in self.differences.items()
            },
            "time_updated_to_scratch": self.share_of_time(),
            "notes": self.notes(),
        }

    def _described(self, day: Day) -> dict[str, Any]:
        means = {m: {model: day.mean(model, m) for model in self.models} for m in (NDCG, POOLED)} if day.users else {}
        facts = {"day": day.number, "begin": iso(day.begin), "users": day.users, "pool": day.pool, "note": day.note}
        return {**facts, **means, "seconds": day.seconds}
