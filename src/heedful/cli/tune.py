"""`heedful tune`."""

from __future__ import annotations

from typing import Any

import click

from heedful.cli.options import chosen, config_options, out_option
from heedful.events.log import EventLog
from heedful.tuning.options import TuneConfig
from heedful.tuning.search import study_folder, tune

__all__ = ["COMMANDS"]


@click.command("tune")
@click.argument("sequences", type=click.Path())
@out_option("the settings found; OUT.study beside it keeps the trials")
@click.option("--cut", default=None, help="Leave out all events from this ISO date or time (UTC) on: the test period.")
@config_options(TuneConfig)
@click.option("--overwrite", is_flag=True, help="Remove the trials of earlier runs and start again.")
def tune_command(sequences: str, out: str, cut: str | None, overwrite: bool, **options: Any) -> None:
    """Search the settings of a model on the last days of the training log: by default attention and its embeddings.

    SEQUENCES must end before the test period, or be cut there with --cut. The same command continues after an interrupt, and
    with more --trials. The settings found are written to OUT/tuned.toml, which embed, train and
    evaluate read with --config.
    """
    try:
        found = tune(EventLog.load(sequences), out, cut=cut, overwrite=overwrite, **chosen(options))
    except KeyboardInterrupt:
        click.echo(f"\nthe trials so far are kept in {study_folder(out)}; the same command continues", err=True)
        raise
    click.echo(str(found))
    click.echo(f"\n{out}: tuned.toml, trials.parquet, trials.json")
    if found.config.model == "attention":
        click.echo(f"next: heedful embed {sequences} --config {out}/tuned.toml --out embeddings/")
    else:
        click.echo(f"next: heedful train {found.config.model} {sequences} --config {out}/tuned.toml --out model/")


COMMANDS = {"tune": tune_command}
