"""`backtest`: how often this shop must train. Day by day from a cut, a frozen model and models that are kept up to date.

OUT.stages/
backtest.json                      what all days have in common
frozen/ updated-3/ scratch-3/      embeddings/, model/, seconds.json of each training
day-3.parquet                      what was measured on the third day
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from heedful.embeddings.table import KIND as EMBEDDINGS
from heedful.errors import ConfigError, InputError
from heedful.evaluation.comparison import compare, draw_pools
from heedful.evaluation.options import EvaluationConfig
from heedful.evaluation.pools import Pools, drawable_items
from heedful.events.log import EventLog, parse_time
from heedful.events.times import iso
from heedful.folders import check_writable, write_atomically
from heedful.progress import progress, say
from heedful.rankers.base import Ranker
from heedful.rankers.catching_up import caught_up
from heedful.rankers.registry import load_ranker
from heedful.rankers.saving import KIND as MODEL
from heedful.updating.backtest_report import KIND, write_backtest
from heedful.updating.days import DAY, Backtest, Day, Seconds
from heedful.updating.options import FROZEN, REFRESHED, SCRATCH, UPDATED, BacktestConfig
from heedful.updating.training import Recipe, is_finished

__all__ = ["backtest", "stages_of"]

_GAMMAS = (0.0,)
_SECONDS = "seconds.json"
# What may change between two runs of one backtest.
_FREE = ("cut", "days", "alpha")
# The tests of `compare` are not used.
_RESAMPLES = 100


def backtest(
    log: EventLog,
    out: str | os.PathLike[str],
    *,
    config: BacktestConfig | None = None,
    settings: str | None = None,
    start: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
) -> Backtest:
    """Compare, day by day, a model that stays as it is with models that are kept up to date, and write a report.

    On each day the models rank what users take on that day, and know the events before it. On the first day all are
    the frozen model. Finished days are kept in a folder beside the report, and the same call goes on after an interrupt.

    Args:
        log: all events, those of the days too.
        out: folder of the report: report.md, week.png, week.svg, results.json, per_user.parquet.
        config: the cut, the days and the models.
        settings: TOML file with options of training, as for `heedful embed` and `heedful train`.
        start: folder of a model that was trained on events before the cut: the frozen one. None: train it.
        overwrite: replace a finished report.

    Raises:
        ConfigError: the days that are kept were measured with other options; a pool larger than the catalogue.
        InputError: the cut is outside the log, nobody can be tested, or `start` was trained on events after the cut.
        FolderError: a folder cannot be read or written.
        TrainingError: there is nothing to learn from.
    """
    config = config or BacktestConfig()
    check_writable(out, kind=KIND, overwrite=overwrite)
    frozen = Night.of(Path(start)) if start is not None else None
    name = load_ranker(frozen.model).name if frozen is not None else config.model
    config = replace(config, model=name)
    job = _Job(log, stages_of(out), config, Recipe(name, settings, False, config.changed()), _cut(log, config), frozen)
    found = Backtest(config, job.cut, job.run())
    write_backtest(found, out, overwrite=overwrite)
    return found


def stages_of(out: str | os.PathLike[str]) -> Path:
    """Where the finished days of a backtest are kept."""
    return Path(f"{out}.stages")


def _cut(log: EventLog, config: BacktestConfig) -> int:
    """Begin of the first day, unix seconds."""
    if config.cut is not None:
        return parse_time(config.cut)
    if not log.n_events:
        raise InputError("the log has no events", fix="check the log that was prepared")
    return int(log.histories.times.max()) + 1 - config.days * DAY


@dataclass(frozen=True)
class Night:
    """Vectors and weights of one training.

    Attributes:
        embeddings: folder of the table.
        model: folder of the model.
        seconds: what the training took; None where that is not known.
    """

    embeddings: Path
    model: Path
    seconds: Seconds | None = None

    @classmethod
    def of(cls, model: Path) -> Self:
        """Those of a model that was trained before.

        Raises:
            ConfigError: the model has no vectors that could be trained on.
        """
        ranker = load_ranker(model)
        folder = ranker.embeddings.folder if ranker.embeddings is not None else None
        if folder is None:
            raise ConfigError(
                f"{model} cannot be trained on", got=ranker.name, expected="a model of `heedful train` with embeddings"
            )
        return cls(folder.path, model)


@dataclass
class _Job:
    """One run of `backtest`."""

    log: EventLog
    stages: Path
    config: BacktestConfig
    recipe: Recipe
    cut: int
    start: Night | None

    def run(self) -> tuple[Day, ...]:
        """All days; those that are finished are read."""
        self._check()
        days: list[Day] = []
        with progress("backtest", self.config.days, "days") as meter:
            for number in range(1, self.config.days + 1):
                place = self.stages / f"day-{number}.parquet"
                kept = place.exists()
                if not kept:
                    self._day(number).save(place)
                    self._clear(number)
                days.append(Day.load(place))
                if kept:
                    meter.resume_at(number)
                else:
                    meter.advance(note=days[-1].line())
        return tuple(days)

    def _check(self) -> None:
        """Find out before hours of training what cannot be done."""
        if self.start is not None:
            self._check_start(self.start)
        past, future = self.log.split(self.cut, days=self.config.days)
        self._pools(past, future)
        start = load_ranker(self.start.model).content_hash if self.start is not None else None
        options = {name: value for name, value in self.config.to_dict().items() if name not in _FREE}
        log = self.log.folder.content_hash if self.log.folder else self.log.facts()
        identity = {"log": log, "cut": self.cut, "start": start, **options, "training": self.recipe.facts()}
        self._check_identity(json.loads(json.dumps(identity, default=str)))

    def _check_start(self, start: Night) -> None:
        last = load_ranker(start.model).last_time
        if last >= self.cut:
            raise InputError(
                f"{start.model} was trained on events after the cut", got=f"events up to {iso(last)}",
                expected=f"none from {iso(self.cut)} on", fix="choose a later cut, or let the model be trained",
            )  # fmt: skip

    def _check_identity(self, identity: dict[str, Any]) -> None:
        place = self.stages / "backtest.json"
        if not place.exists():
            with write_atomically(place) as partial:
                partial.write_text(json.dumps(identity, indent=1) + "\n")
            return
        known = json.loads(place.read_text())
        different = [name for name in identity.keys() | known.keys() if identity.get(name) != known.get(name)]
        if different:
            raise ConfigError(
                f"{self.stages} has the days of a backtest with another log or other options",
                got=f"different: {', '.join(sorted(different))}",
                expected="the same log and options, but for days and alpha",
                fix=f"give the same ones to go on, remove {self.stages} to start again, or choose another --out",
            )

    def _day(self, number: int) -> Day:
        """Train in the night before a day, and measure on it."""
        begin = self.cut + (number - 1) * DAY
        try:
            past, future = self.log.split(begin, days=1)
            options, pools = self._pools(past, future)
        except InputError as error:
            say(f"day {number} is left out: {error.problem}")
            return Day.left_out(number, begin, error.problem)
        models, seconds = self._models(number, past)
        found = compare(models, future, past=past, pools=pools, config=options)
        measured = {name: result.best for name, result in found.results.items()}
        by_mode = {mode: measured.get(mode, measured[FROZEN]) for mode in self.config.modes}
        return Day.of(number, begin, found, by_mode, seconds)

    def _pools(self, past: EventLog, future: EventLog) -> tuple[EvaluationConfig, Pools]:
        config = self.config
        options = EvaluationConfig(
            **config.plain().to_dict(), gammas=_GAMMAS, pool=config.pool, max_users=config.users,
            catalogue_users=config.users, seed=config.seed, resamples=_RESAMPLES,
        )  # fmt: skip
        pool = options.fitted(drawable_items(past, None, _GAMMAS)).pool
        assert pool is not None
        return draw_pools(past, future, items=None, config=replace(options, pool_sizes=(pool,)))

    def _models(self, number: int, past: EventLog) -> tuple[dict[str, Ranker], dict[str, Seconds]]:
        """The models of a day, and what they took in the night before."""
        frozen = self._frozen
        models: dict[str, Ranker] = {FROZEN: load_ranker(frozen.model)}
        if number == 1:
            return models, {FROZEN: frozen.seconds} if frozen.seconds is not None else {}
        seconds: dict[str, Seconds] = {}
        if REFRESHED in self.config.modes:
            begun = time.perf_counter()
            models[REFRESHED] = caught_up(models[FROZEN], past)
            seconds[REFRESHED] = {"counts": time.perf_counter() - begun}
        again = replace(self.recipe, from_scratch=True)
        for mode, recipe, before in ((UPDATED, self.recipe, self._before(number)), (SCRATCH, again, frozen)):
            if mode in self.config.modes:
                night = self._train(f"{mode}-{number}", past, recipe, before)
                models[mode] = load_ranker(night.model)
                if night.seconds is not None:
                    seconds[mode] = night.seconds
        return models, seconds

    @cached_property
    def _frozen(self) -> Night:
        past, _ = self.log.split(self.cut, days=self.config.days)
        return self.start or self._train(FROZEN, past, self.recipe, None)

    def _before(self, number: int) -> Night:
        """The latest training before the night before a day."""
        for earlier in range(number - 1, 1, -1):
            night = self._night(f"{UPDATED}-{earlier}")
            if is_finished(night.model, MODEL):
                return night
        return self._frozen

    def _train(self, name: str, past: EventLog, recipe: Recipe, before: Night | None) -> Night:
        """Vectors and weights in a folder of the stages; finished ones are used again."""
        night = self._night(name)
        if is_finished(night.embeddings, EMBEDDINGS) and is_finished(night.model, MODEL):
            return night
        whole = not (self.stages / name).exists()
        say(f"training {name}")
        begun = time.perf_counter()
        table = recipe.embed(past, before.embeddings if before is not None else None, night.embeddings)
        between = time.perf_counter()
        model = before.model if before is not None else None
        recipe.train(past, table, model, night.model, periods=model or night.model)
        if whole:  # otherwise a part of it was done by an earlier run
            seconds = {"vectors": between - begun, "weights": time.perf_counter() - between}
            with write_atomically(self.stages / name / _SECONDS) as partial:
                partial.write_text(json.dumps(seconds) + "\n")
        return self._night(name)

    def _night(self, name: str) -> Night:
        folder = self.stages / name
        try:
            seconds: Mapping[str, float] | None = json.loads((folder / _SECONDS).read_text())
        except (OSError, ValueError):
            seconds = None
        return Night(folder / "embeddings", folder / "model", dict(seconds) if seconds is not None else None)

    def _clear(self, number: int) -> None:
        """Remove the trainings that no later night goes on from."""
        for mode in (UPDATED, SCRATCH):
            for folder in self.stages.glob(f"{mode}-*"):
                if mode == SCRATCH or folder.name != f"{UPDATED}-{number}":
                    shutil.rmtree(folder)
