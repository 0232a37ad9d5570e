"""`heedful clicks`: what was clicked, and the simulator."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from heedful.cli.options import chosen, config_options
from heedful.errors import MissingExtraError
from heedful.events.log import EventLog
from heedful.folders import write_atomically
from heedful.rankers.registry import load_ranker
from heedful.serving.bots import DEFAULT_BOT_RULES
from heedful.serving.clicks import ClickConfig, Report, report, report_counts
from heedful.serving.figures import figure5
from heedful.serving.selection import SlotBook
from heedful.serving.slots import read_slots

try:
    from heedful.serving.simulator import SimulationConfig, simulate
    from heedful.serving.store import Store
except ModuleNotFoundError as error:
    raise MissingExtraError(str(error.name), "serve") from error

__all__ = ["COMMANDS"]


@click.group("clicks")
def clicks_group() -> None:
    """Click-through of content slots: the report, and a replay of past days that fills it."""


@clicks_group.command("report")
@click.argument("database")
@click.option("--slot", default=None, help="Only this slot.")
@click.option("--figure", default=None, type=click.Path(), help="Write Figure 5, as .png or .svg.")
@click.option("--json", "json_path", default=None, type=click.Path(), help="Write the report as JSON.")
@click.option("--simulated/--real", default=None, help="Which impressions to count. [real, if there are any]")
@config_options(ClickConfig)
def report_command(
    database: str, slot: str | None, figure: str | None, json_path: str | None, simulated: bool | None, **options: Any
) -> None:
    """Click-through by slot and treatment, with intervals, lifts that may be watched, and sample sizes.

    DATABASE is the SQLite file or PostgreSQL URL that `heedful serve --database` uses.
    """
    store = Store.open(database, create=False)
    try:
        config = ClickConfig(**chosen(options))
        if config.bot_rules == DEFAULT_BOT_RULES:
            found = report_counts(store.click_counts(slot, simulated=simulated), config)
        else:  # the running sums know the bots by the usual rules alone
            found = report(store.outcomes(slot=slot), config, simulated=simulated)
    finally:
        store.close()
    _show(found, figure, json_path)


@clicks_group.command("simulate")
@click.argument("model", type=click.Path())
@click.argument("sequences", type=click.Path())
@click.option("--slots", required=True, type=click.Path(), help="TOML file with the content slots.")
@click.option("--database", required=True, help="SQLite file or PostgreSQL URL that impressions and clicks go to.")
@click.option("--figure", default=None, type=click.Path(), help="Write Figure 5, as .png or .svg.")
@config_options(SimulationConfig)
def simulate_command(model: str, sequences: str, slots: str, database: str, figure: str | None, **options: Any) -> None:
    """Replay days after the training period: what slots would have shown, a click where the user did act.

    MODEL was trained on the events of SEQUENCES before the cut. Impressions and clicks are marked as simulated; another
    replay of the same days adds nothing.
    """
    config = SimulationConfig(**chosen(options))
    book = SlotBook(read_slots(slots), load_ranker(model))
    for note in book.notes:
        click.echo(f"heedful: {note}", err=True)
    store = Store.open(database)
    try:
        done = simulate(EventLog.load(sequences), book, store, config)
        click.echo(
            f"{done.users:,} users on {done.visits:,} visits: {done.impressions:,} impressions, {done.clicks:,} clicks\n"
        )
        _show(report_counts(store.click_counts(simulated=True)), figure, None)
    finally:
        store.close()


def _show(found: Report, figure: str | None, json_path: str | None) -> None:
    click.echo(str(found))
    if figure is not None:
        figure5(found, figure)
    if json_path is not None:
        with write_atomically(Path(json_path)) as path:
            path.write_text(json.dumps(found.to_dict(), indent=1) + "\n")


COMMANDS = {"clicks": clicks_group}
