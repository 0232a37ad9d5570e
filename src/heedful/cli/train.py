"""`heedful train`: a sub-command for each model, with that model's options."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from heedful import cluster as on_cluster
from heedful.cli.options import (
    cluster_option,
    config_options,
    file_option,
    out_option,
    overwrite_option,
    refuse_cluster,
    with_file,
)
from heedful.embeddings.table import ItemEmbeddings
from heedful.errors import ConfigError
from heedful.events.log import EventLog
from heedful.folders import check_writable
from heedful.rankers.attention import AttentionRanker
from heedful.rankers.base import Ranker
from heedful.rankers.external.base import PublicRanker
from heedful.rankers.mixed import MixedRanker
from heedful.rankers.neural import NeuralRanker
from heedful.rankers.periods import copy_periods, periods_beside
from heedful.rankers.popularity import Popularity
from heedful.rankers.registry import ALL_MODELS, load_ranker, new_ranker
from heedful.tuning.settings import section_of

__all__ = ["COMMANDS"]

_DEFAULT = "mixed"
# What these ask for is the attention ranker's alone.
_OF_ATTENTION = ("--cluster", "--preset")

_FROM = "Go on from the weights of this model: a quarter of the steps. Options that are not given are those of that model."

_BESIDE_CONFIG = ("embeddings", "preset", "resume", "pack", "cluster", "start")

Command = Callable[..., Any]


class _Models(click.Group):
    """A sub-command for each model; without the name of one, the first argument is the default model's."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in (*self.commands, *ctx.help_option_names):
            named = {arg.partition("=")[0] for arg in args}
            alone = named.intersection(_OF_ATTENTION) or os.environ.get("RAY_ADDRESS")
            args = [AttentionRanker.name if alone else _DEFAULT, *args]
        return super().parse_args(ctx, args)


@click.group("train", cls=_Models, subcommand_metavar="[MODEL] SEQUENCES [OPTIONS]")
def train_command() -> None:
    """Sequences and embeddings -> model.

    Without MODEL, mixed is trained: the attention ranker under a last stage; with --cluster or --preset, attention
    alone. `heedful train MODEL --help` lists the options of a model.
    """


def _command(model: type[Ranker]) -> click.Command:
    """The sub-command of one model."""

    @click.argument("sequences", type=click.Path())
    @out_option("the model folder")
    @file_option("train")
    @overwrite_option
    def run(sequences: str, out: str, settings: str | None, overwrite: bool, **options: Any) -> None:
        chosen = with_file(options, settings, section_of(settings, model.name), model.config_class)
        given: dict[str, Any] = {name: options.get(name) for name in _BESIDE_CONFIG}
        if model.needs_embeddings and given["embeddings"] is None:
            raise ConfigError(
                f"{model.name} needs embeddings", got="no --embeddings", fix="name a folder of `heedful embed`"
            )
        if given["start"] is not None:
            given["from"] = given["start"]
            given["start"] = _start(model, given["from"], given["cluster"])
            chosen = {**given["start"].config.to_dict(), **chosen}
        ranker = new_ranker(model.name, preset=given["preset"] or "default", options=chosen)
        if given["cluster"]:
            _train_on_cluster(ranker, sequences, out, overwrite, given)
        else:
            _train_here(ranker, sequences, out, overwrite, given)

    command: Any = run
    for decorate in (*_model_options(model), config_options(model.config_class)):
        command = decorate(command)
    line = (model.__doc__ or "").partition("\n")[0]
    return click.command(model.name, help=line, short_help=line)(command)


def _model_options(model: type[Ranker]) -> list[Callable[[Command], Command]]:
    """The options beside its configuration that a model has."""
    options: list[Callable[[Command], Command]] = []
    if issubclass(model, NeuralRanker | MixedRanker):
        resume = "Go on from the checkpoint that a killed run left beside --out."
        options.append(click.option("--resume", is_flag=True, help=resume))
        options.append(click.option("--from", "start", default=None, type=click.Path(), help=_FROM))
    if issubclass(model, NeuralRanker):
        preset = "paper: the settings of section 4.3, for a large log and patience."
        options += [
            cluster_option,
            click.option(
                "--preset", default="default", show_default=True, type=click.Choice(list(model.presets)), help=preset
            ),
        ]
    if model.needs_embeddings:
        line = "Copy the embeddings into the model folder, so that it can be shipped alone."
        options.append(click.option("--pack", is_flag=True, help=line))
    line = "Folder of embeddings." if model.needs_embeddings else "Folder of embeddings, whose items are ranked."
    if not issubclass(model, PublicRanker):
        options.append(click.option("--embeddings", default=None, type=click.Path(), help=line))
    return options


def _start(model: type[Ranker], path: str, cluster: str | None) -> Ranker:
    """The model to go on from.

    Raises:
        ConfigError: it is of another kind, or a cluster is asked for.
    """
    refuse_cluster(cluster, "--from")
    found = load_ranker(path)
    if type(found) is not model:
        raise ConfigError(
            f"{path} is a model of another kind", got=found.name, expected=model.name,
            fix=f"heedful train {found.name} ...",
        )  # fmt: skip
    return found


def _train_on_cluster(ranker: Ranker, sequences: str, out: str, overwrite: bool, given: dict[str, Any]) -> None:
    with on_cluster.connect(given["cluster"]):
        facts = on_cluster.train(
            ranker, sequences, given["embeddings"], out, resume=given["resume"], pack=given["pack"], overwrite=overwrite
        )
    click.echo(
        f"{out}: {ranker.name}, {facts['n_parameters']:,} parameters, {facts['steps']:,} steps, {facts['workers']} workers, "
        f"validation loss {facts['best_loss']:.4f} at step {facts['best_step']:,}"
    )


def _train_here(ranker: Ranker, sequences: str, out: str, overwrite: bool, given: dict[str, Any]) -> None:
    check_writable(out, kind="model", overwrite=overwrite)
    log = EventLog.load(sequences)
    items = ItemEmbeddings.load(given["embeddings"]) if given["embeddings"] is not None else None
    said = ranker.name
    if isinstance(ranker, NeuralRanker | MixedRanker):
        assert items is not None
        checkpoints = Path(f"{Path(out)}.training")
        more: dict[str, Any] = {"checkpoints": checkpoints, "resume": bool(given["resume"]), "start": given["start"]}
        if isinstance(ranker, MixedRanker) and given["start"] is not None:
            copy_periods(Path(given["from"]), Path(out))
            more["periods"] = periods_beside(Path(out))
        ranker.fit(log, items, **more)
        assert ranker.report is not None
        said += (
            f", {ranker.n_parameters:,} parameters, {ranker.report.steps:,} steps, "
            f"validation loss {ranker.report.best_loss:.4f} at step {ranker.report.best_step:,}"
        )
    else:
        _fit(ranker, log, items)
    ranker.save(out, overwrite=overwrite, pack=bool(given["pack"]))
    shutil.rmtree(Path(f"{Path(out)}.training"), ignore_errors=True)
    click.echo(f"{out}: {said}")
    click.echo(f"next: heedful recommend {out} requests.parquet --out recommendations.parquet -k 10")


def _fit(ranker: Ranker, log: EventLog, items: ItemEmbeddings | None) -> None:
    if isinstance(ranker, PublicRanker | Popularity):
        ranker.fit(log, items)
    else:
        assert items is not None
        ranker.fit(log, items)


for _model in ALL_MODELS.values():
    train_command.add_command(_command(_model))

COMMANDS = {"train": train_command}
