"""`heedful evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from heedful.cli.options import chosen, config_options, overwrite_option
from heedful.cli.train import make_ranker
from heedful.embeddings.skipgram import SkipGram
from heedful.embeddings.table import ItemEmbeddings
from heedful.errors import ConfigError
from heedful.evaluation.options import EvaluationConfig
from heedful.events.log import EventLog
from heedful.experiment import Workspace, run_experiment
from heedful.folders import check_writable
from heedful.ranking.models import MODELS

__all__ = ["COMMANDS"]


@click.command("evaluate")
@click.argument("sequences", type=click.Path())
@click.option("--out", required=True, type=click.Path(), help="Folder of the report.")
@click.option("--models", default=",".join(MODELS), show_default=True, help="Models to compare, with commas between them.")
@click.option(
    "--preset",
    default="default",
    show_default=True,
    type=click.Choice(["default", "paper"]),
    help="Preset of the trained models.",
)
@click.option(
    "--embeddings",
    default=None,
    type=click.Path(),
    help="Embeddings to use; they must not know the test period. By default they are learnt from the past.",
)
@click.option(
    "--workspace",
    default=None,
    type=click.Path(),
    help="Where embeddings and models are kept for the next run.  [OUT.stages]",
)
@config_options(EvaluationConfig)
@overwrite_option
def evaluate_command(
    sequences: str,
    out: str,
    models: str,
    preset: str,
    embeddings: str | None,
    workspace: str | None,
    overwrite: bool,
    **options: Any,
) -> None:
    """Split in time, train the models on the past, compare them on what came after, write a report."""
    config = EvaluationConfig.from_dict(chosen(options))
    names = [name.strip() for name in models.split(",") if name.strip()]
    unknown = [name for name in names if name not in MODELS]
    if unknown or not names:
        raise ConfigError("unknown models", got=", ".join(unknown) or "none", expected=", ".join(MODELS))
    check_writable(out, kind="report", overwrite=overwrite)
    experiment = run_experiment(
        EventLog.load(sequences),
        {name: make_ranker(name, preset, {}) for name in names},
        out,
        workspace=Workspace(workspace or f"{Path(out)}.stages"),
        config=config,
        skipgram=SkipGram(),
        items=ItemEmbeddings.load(embeddings) if embeddings else None,
        overwrite=overwrite,
    )
    click.echo(str(experiment.comparison))
    click.echo(f"\n{out}: report.html, figures, results.json, per_user.parquet, pools.parquet")


COMMANDS = {"evaluate": evaluate_command}
