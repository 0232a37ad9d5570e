"""`heedful train`."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import click

from heedful import cluster as on_cluster
from heedful.cli.options import cluster_option, config_options, file_option, out_option, overwrite_option, with_file
from heedful.embeddings.table import ItemEmbeddings
from heedful.errors import ConfigError
from heedful.events.log import EventLog
from heedful.folders import check_writable
from heedful.ranking.heuristics import Popularity, WeightedSumConfig
from heedful.ranking.models import ALL_MODELS
from heedful.ranking.neural import NeuralRanker
from heedful.ranking.public.base import PublicRanker
from heedful.ranking.ranker import Ranker
from heedful.ranking.rankers import AttentionConfig, AveragingConfig

__all__ = ["COMMANDS", "make_ranker"]

_PUBLIC = [model.config_class for model in ALL_MODELS.values() if issubclass(model, PublicRanker)]
_CONFIGS = (AttentionConfig, AveragingConfig, WeightedSumConfig, *_PUBLIC)


@click.command("train")
@click.argument("sequences", type=click.Path())
@click.option("--embeddings", default=None, type=click.Path(), help="Folder of embeddings, for the models that need them.")
@out_option("the model folder")
@click.option("--model", default="attention", show_default=True, type=click.Choice(list(ALL_MODELS)), help="Which ranker.")
@click.option("--preset", default="default", show_default=True, type=click.Choice(["default", "paper"]),
              help="paper: the settings of section 4.3, for a large log and patience.")  # fmt: skip
@click.option("--resume", is_flag=True, help="Go on from the checkpoint that a killed run left beside --out.")
@click.option("--pack", is_flag=True, help="Copy the embeddings into the model folder, so that it can be shipped alone.")
@file_option("train")
@config_options(*_CONFIGS)
@overwrite_option
@cluster_option
def train_command(
    sequences: str,
    embeddings: str | None,
    out: str,
    model: str,
    preset: str,
    resume: bool,
    pack: bool,
    settings: str | None,
    overwrite: bool,
    cluster: str | None,
    **options: Any,
) -> None:
    """Sequences and embeddings -> model.

    Options that a model does not have are refused. The checkpoint lies beside --out until the model is finished.
    """
    ranker = make_ranker(model, preset, with_file(options, settings, "train", *_CONFIGS))
    if embeddings is None and ranker.needs_embeddings:
        raise ConfigError(f"{model} needs embeddings", got="no --embeddings", fix="name a folder of `heedful embed`")
    if cluster:
        if embeddings is None:
            raise ConfigError(f"{model} is not trained on a cluster", fix="leave --cluster out")
        with on_cluster.connect(cluster):
            facts = on_cluster.train(ranker, sequences, embeddings, out, resume=resume, pack=pack, overwrite=overwrite)
        click.echo(
            f"{out}: {model}, {facts['n_parameters']:,} parameters, {facts['steps']:,} steps, {facts['workers']} workers, "
            f"hold-out loss {facts['best_loss']:.4f} at step {facts['best_step']:,}"
        )
        return
    check_writable(out, kind="model", overwrite=overwrite)
    log = EventLog.load(sequences)
    items = ItemEmbeddings.load(embeddings) if embeddings is not None else None
    if isinstance(ranker, NeuralRanker):
        assert items is not None
        checkpoints = Path(f"{Path(out)}.training")
        ranker.fit(log, items, checkpoints=checkpoints, resume=resume)
        ranker.save(out, overwrite=overwrite, pack=pack)
        shutil.rmtree(checkpoints, ignore_errors=True)
        assert ranker.report is not None
        click.echo(
            f"{out}: {model}, {ranker.n_parameters:,} parameters, {ranker.report.steps:,} steps, "
            f"hold-out loss {ranker.report.best_loss:.4f} at step {ranker.report.best_step:,}"
        )
    else:
        _fit(ranker, log, items)
        ranker.save(out, overwrite=overwrite, pack=pack)
        click.echo(f"{out}: {model}")
    click.echo(f"next: heedful recommend {out} requests.parquet --out recommendations.parquet -k 10")


def _fit(ranker: Ranker, log: EventLog, items: ItemEmbeddings | None) -> None:
    if isinstance(ranker, PublicRanker | Popularity):
        ranker.fit(log, items)
    else:
        assert items is not None
        ranker.fit(log, items)


def make_ranker(model: str, preset: str, options: dict[str, Any]) -> Ranker:
    """A ranker that is not yet fitted.

    Raises:
        ConfigError: an option that this model does not have, or a value out of range.
    """
    ranker_class = ALL_MODELS[model]
    names = [field.name for field in dataclasses.fields(ranker_class.config_class)]
    foreign = [f"--{name.replace('_', '-')}" for name in options if name not in names]
    if foreign:
        raise ConfigError(f"{model} does not have these options", got=", ".join(foreign), fix="leave them out")
    if issubclass(ranker_class, NeuralRanker):
        return ranker_class(preset=preset, **options)
    return ranker_class(**options)


COMMANDS = {"train": train_command}
