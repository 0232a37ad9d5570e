"""The paper's experiment on any log: split in time, embed and train on the past, compare the models on what came after.

Each stage is kept in a workspace and used again by the next run whose inputs and options are the same.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from heedful.config import require
from heedful.embeddings.skipgram import SkipGram
from heedful.embeddings.table import ItemEmbeddings
from heedful.errors import ConfigError, FolderError
from heedful.evaluation.comparison import Comparison, Measuring, compare, draw_pools, measure_here
from heedful.evaluation.depths import DepthStudy, check_depths, study_depths
from heedful.evaluation.options import EvaluationConfig
from heedful.evaluation.pools import Pools
from heedful.evaluation.report import write_report
from heedful.evaluation.series import Report, Series, write_series
from heedful.evaluation.sources import Model, source_of
from heedful.events.log import EventLog
from heedful.folders import FORMAT_VERSION, write_atomically
from heedful.progress import say
from heedful.rankers.base import Ranker
from heedful.rankers.mixed import MixedRanker
from heedful.rankers.neural import NeuralRanker
from heedful.rankers.registry import load_ranker

__all__ = ["Experiment", "Workspace", "run_experiment", "run_series", "write_requests"]

Stage = TypeVar("Stage")
_STAGES = "stages.json"


class Workspace:
    """A folder of finished stages, each remembered with a fingerprint of what it was made from.

    Args:
        path: the folder; made when needed.
        suffix: what the names of new stages end with.
    """

    def __init__(self, path: str | os.PathLike[str], *, suffix: str = "") -> None:
        self.path, self.suffix = Path(path), suffix

    def stage(
        self, name: str, inputs: Mapping[str, Any], make: Callable[[Path], None], load: Callable[[Path], Stage]
    ) -> Stage:
        """The stage of that name: a finished one, maybe of another name, if it had the same inputs, a new one otherwise.

        Args:
            name: of the folder in the workspace.
            inputs: what determines the result, fit for JSON.
            make: writes the stage's folder at a path.
            load: reads it.
        """
        fingerprint, name = _fingerprint(inputs), name + self.suffix
        folder = self.path / name
        same = [known for known, of in self._known().items() if of == fingerprint and (self.path / known).exists()]
        for finished in sorted(same, key=lambda known: known != name):
            try:
                found = load(self.path / finished)
            except FolderError as error:
                say(f"{self.path / finished} is made again: {error}")
            else:
                say(f"{self.path / finished} is finished already")
                return found
        if folder.exists():
            shutil.rmtree(folder)
        say(f"making {folder}")
        make(folder)
        self._remember(name, fingerprint)
        return load(folder)

    def _known(self) -> dict[str, str]:
        try:
            known: dict[str, str] = json.loads((self.path / _STAGES).read_text())
        except (OSError, ValueError):
            return {}
        return known

    def _remember(self, name: str, fingerprint: str) -> None:
        with write_atomically(self.path / _STAGES) as path:
            path.write_text(json.dumps({**self._known(), name: fingerprint}, indent=1) + "\n")


@dataclass(frozen=True)
class Experiment:
    """What `run_experiment` made.

    Attributes:
        past: the events before the cut.
        future: those of the test period.
        items: embeddings learnt from the past, or those that were given.
        rankers: the models by name, trained on the past.
        comparison: how they compare on the future.
        depths: how the rankers of several depths compare; None if there were none.
    """

    past: EventLog
    future: EventLog
    items: ItemEmbeddings
    rankers: dict[str, Ranker]
    comparison: Comparison
    depths: DepthStudy | None = None


def run_experiment(
    log: EventLog,
    rankers: Mapping[str, Ranker],
    out: str | os.PathLike[str],
    *,
    workspace: Workspace,
    config: EvaluationConfig,
    skipgram: SkipGram,
    items: ItemEmbeddings | None = None,
    others: Mapping[str, Model] | None = None,
    depths: Mapping[int, Ranker] | None = None,
    depth_model: str = "attention",
    overwrite: bool = False,
    measuring: Measuring = measure_here,
) -> Experiment:
    """Split the log, train every ranker on the past with the same embeddings, compare them, write the report.

    Args:
        log: the whole log.
        rankers: models by name, not yet fitted.
        out: folder of the report.
        workspace: where the past, the embeddings and the models are kept.
        config: the cut, the pools and the tests.
        skipgram: trainer of the embeddings.
        items: embeddings to use instead. They must not have been learnt from the test period, which cannot be checked.
        others: more models by name, measured as they are, as for `compare`: functions, fitted rankers, or files of scores
            for the requests of `write_requests`.
        depths: rankers by number of layers, not yet fitted, for figure 4.
        depth_model: what these are, in words.
        overwrite: replace a finished report.
        measuring: how each model is measured; `heedful.cluster` has another way.

    Raises:
        ConfigError: two models of one name, a pool larger than the catalogue, a single depth or one below 1.
        InputError: the cut leaves nothing before it, nothing after it, or no new items after it; a file of scores answers
            other requests.
        FolderError: a folder cannot be written.
    """
    others, depths = others or {}, depths or {}
    _check_names(rankers, others)
    if depths:
        check_depths(depths)
    past, future = config.split(log)
    # What may be wrong with users and pools is said before hours of training.
    given = items.items if items is not None else past.catalog.items
    fitted_config, pools = draw_pools(past, future, items=given, config=config)
    past = _kept_past(log, past, config, workspace)
    items = items if items is not None else _embedded(past, skipgram, workspace)
    if items.items != given:
        fitted_config, pools = draw_pools(past, future, items=items.items, config=config)
    for name, model in others.items():
        source_of(name, model, pools, past)
    fitted = {name: _fitted(_folder_name(name), ranker, past, items, workspace) for name, ranker in rankers.items()}
    by_depth = {
        depth: _fitted(_folder_name(f"{depth_model} depth {depth}"), ranker, past, items, workspace)
        for depth, ranker in depths.items()
    }
    models = {**fitted, **others}
    comparison = compare(models, future, past=past, pools=pools, config=fitted_config, measuring=measuring)
    study = study_depths(by_depth, comparison, past, model=depth_model) if by_depth else None
    facts = {"Training events": f"{past.n_events:,}", "Training users": f"{len(past.users):,}"}
    write_report(comparison, out, depths=study, facts=facts, overwrite=overwrite)
    return Experiment(past, future, items, fitted, comparison, study)


def run_series(
    log: EventLog,
    rankers: Mapping[str, Ranker],
    out: str | os.PathLike[str],
    *,
    cuts: Sequence[str | None],
    seeds: int,
    workspace: Workspace,
    config: EvaluationConfig,
    skipgram: SkipGram,
    items: ItemEmbeddings | None = None,
    overwrite: bool = False,
    measuring: Measuring = measure_here,
) -> Series:
    """Run an experiment for each cut and seed, and write one report of all.

    Each experiment is kept in the workspace with its report, so that a run that was stopped goes on where it was.

    Args:
        log: the whole log.
        rankers: models by name, not yet fitted.
        out: folder of the report.
        cuts: as `EvaluationConfig.cut`.
        seeds: how many; the n-th adds n to the seeds of users and pools, of the embeddings and of the models.
        workspace: where everything is kept; each cut has a folder there.
        config: the pools and the tests; its cut is not used.
        skipgram: trainer of the embeddings.
        items: embeddings to use instead, as for `run_experiment`.
        overwrite: replace a finished report.
        measuring: how each model is measured.

    Raises:
        ConfigError: no models, no cuts, no seeds or a cut twice; and what `run_experiment` raises.
    """
    if not rankers:
        raise ConfigError("there is nothing to compare", got="no models", expected="one or more")
    require(len(set(cuts)) == len(cuts) > 0, "cuts", got=list(cuts), expected="one or more, each once")
    require(seeds >= 1, "seeds", got=seeds, expected="1 or more")
    for cut in cuts:  # an invalid cut is reported before hours of training
        replace(config, cut=cut).split(log)
    reports: dict[tuple[str, int], Report] = {}
    for cut in cuts:
        name = f"last {config.days:g} days" if cut is None else cut
        for number in range(seeds):
            own = replace(config, cut=cut, seed=config.seed + number)
            place = Workspace(workspace.path / _folder_name(name), suffix=f"-seed-{number}" if number else "")
            seeded = {model: _seeded(ranker, number) for model, ranker in rankers.items()}
            embed = SkipGram(**{**skipgram.config.to_dict(), "seed": skipgram.config.seed + number})
            say(f"cut {name}, seed {own.seed}")
            reports[name, own.seed] = _report(
                log, seeded, workspace=place, config=own, skipgram=embed, items=items, measuring=measuring
            )
    names, numbers = zip(*reports, strict=True)
    series = Series(tuple(dict.fromkeys(names)), tuple(dict.fromkeys(numbers)), reports)
    write_series(series, out, overwrite=overwrite)
    return series


def _report(
    log: EventLog,
    rankers: Mapping[str, Ranker],
    *,
    workspace: Workspace,
    config: EvaluationConfig,
    skipgram: SkipGram,
    items: ItemEmbeddings | None,
    measuring: Measuring,
) -> Report:
    """The report of one experiment, from the workspace if it is finished there."""

    def make(folder: Path) -> None:
        run_experiment(
            log,
            rankers,
            folder,
            workspace=workspace,
            config=config,
            skipgram=skipgram,
            items=items,
            measuring=measuring,
        )

    inputs = {
        "log": _identity(log),
        "config": config.to_dict(),
        "items": skipgram.config.to_dict() if items is None else items.content_hash,
        "models": {name: {"model": ranker.name, **ranker.config.to_dict()} for name, ranker in rankers.items()},
    }
    return workspace.stage("report", inputs, make, Report.read)


def _seeded(ranker: Ranker, number: int) -> Ranker:
    """A ranker that is not yet fitted with a number added to its seed, where it has one."""
    seeded = copy.copy(ranker)
    options = ranker.config.to_dict()
    if "seed" in options:
        seeded.config = type(ranker.config).from_dict({**options, "seed": options["seed"] + number})
    return seeded


def _identity(log: EventLog) -> Any:
    """What a log is known by."""
    return log.folder.content_hash if log.folder else log.facts()


def _check_names(rankers: Mapping[str, Ranker], others: Mapping[str, Model]) -> None:
    twice = sorted(set(rankers) & set(others))
    if twice:
        raise ConfigError("two models have the same name", got=", ".join(twice), fix="give yours another name")


def _kept_past(log: EventLog, past: EventLog, config: EvaluationConfig, workspace: Workspace) -> EventLog:
    identity = {"log": _identity(log), "cut": config.cut, "days": config.days}
    return workspace.stage("past", identity, past.save, EventLog.load)


def _embedded(past: EventLog, skipgram: SkipGram, workspace: Workspace) -> ItemEmbeddings:
    inputs = {"past": _content_hash(past), **skipgram.config.to_dict()}
    return workspace.stage("embeddings", inputs, lambda folder: skipgram.fit(past).save(folder), ItemEmbeddings.load)


def _content_hash(past: EventLog) -> str:
    assert past.folder is not None
    return past.folder.content_hash


def write_requests(
    log: EventLog, out: str | os.PathLike[str], *, config: EvaluationConfig, items: ItemEmbeddings | None = None
) -> Pools:
    """Write the pools that `run_experiment` with the same log and options will use, as requests for another system.

    Args:
        log: the whole log.
        out: Parquet file to write, see `Pools.save_requests`.
        config: as for `run_experiment`.
        items: the embeddings that will be given to it, None for embeddings learnt from the past.

    Raises:
        ConfigError: a pool larger than the catalogue.
        InputError: the cut leaves nothing before it, nothing after it, or no new items after it.
    """
    past, future = config.split(log)
    _, pools = draw_pools(past, future, items=items.items if items is not None else None, config=config)
    pools.save_requests(out, past)
    return pools


def _folder_name(name: str) -> str:
    """A model's name as that of its folder: "attention (paper)" lies in attention-paper."""
    return re.sub(r"[^\w.]+", "-", name).strip("-.") or "model"


def _fitted(name: str, ranker: Ranker, past: EventLog, items: ItemEmbeddings, workspace: Workspace) -> Ranker:
    inputs = {"past": _content_hash(past), "items": items.content_hash}
    described: dict[str, Any] = {**inputs, "model": ranker.name, **ranker.config.to_dict()}

    def make(folder: Path) -> None:
        if isinstance(ranker, NeuralRanker | MixedRanker):
            training = folder.with_name(f"{folder.name}.training")
            # Only a run with the same inputs may go on from a checkpoint.
            checkpoints = training / _fingerprint(described)[:12]
            ranker.fit(past, items, checkpoints=checkpoints, resume=checkpoints.exists())
            shutil.rmtree(training, ignore_errors=True)
        else:
            ranker.fit(past, items)
        ranker.save(folder)

    def load(folder: Path) -> Ranker:
        return load_ranker(folder, embeddings=items)

    return workspace.stage(name, described, make, load)


def _fingerprint(inputs: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps([FORMAT_VERSION, inputs], sort_keys=True, default=str).encode()).hexdigest()
