"""`heedful backtest`."""

from __future__ import annotations

from typing import Any

import click

from heedful.cli.options import chosen, config_options, overwrite_option
from heedful.events.log import EventLog
from heedful.updating.backtest import backtest, stages_of
from heedful.updating.options import BacktestConfig

__all__ = ["COMMANDS"]


@click.command("backtest")
@click.argument("sequences", type=click.Path())
@click.option("--out", required=True, type=click.Path(), help="Folder of the report; OUT.stages beside it keeps the days.")
@click.option(
    "--from",
    "start",
    default=None,
    type=click.Path(),
    help="Model that was trained on the events before the cut: the frozen one, instead of --model.",
)
@click.option(
    "--config",
    "settings",
    default=None,
    type=click.Path(),
    help="TOML file with options of training, such as tuned.toml.",
)
@config_options(BacktestConfig)
@overwrite_option
def backtest_command(
    sequences: str, out: str, start: str | None, settings: str | None, overwrite: bool, **options: Any
) -> None:
    """How often to train: day by day from a cut, a model that stays as it is and models that are kept up to date.

    Each night models are refreshed and trained on, and the day after is ranked: NDCG@10 over the whole catalogue and NDCG
    among sampled items, with paired differences and the seconds of training. The same command continues after an interrupt,
    and with more --days.
    """
    config = BacktestConfig.from_dict(chosen(options))
    try:
        found = backtest(EventLog.load(sequences), out, config=config, settings=settings, start=start, overwrite=overwrite)
    except KeyboardInterrupt:
        click.echo(f"\nthe days so far are kept in {stages_of(out)}; the same command continues", err=True)
        raise
    click.echo(str(found))
    click.echo(f"\n{out}: report.md, week.png, week.svg, results.json, per_user.parquet")


COMMANDS = {"backtest": backtest_command}
