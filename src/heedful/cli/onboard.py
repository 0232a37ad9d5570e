"""`heedful extend`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import pyarrow as pa

from heedful.cli.options import chosen, config_options, out_option, overwrite_option
from heedful.embeddings.onboarding import OnboardingConfig, extend_table
from heedful.embeddings.table import ItemEmbeddings
from heedful.errors import ConfigError
from heedful.events.attributes import lookalikes, read_items
from heedful.events.log import EventLog
from heedful.events.preparing import read_events
from heedful.events.vocabulary import Vocabulary
from heedful.folders import check_writable

__all__ = ["COMMANDS"]


@click.command("extend")
@click.argument("embeddings", type=click.Path())
@click.option("--events", default=None, type=click.Path(), help="Events, or a folder of sequences, that have the new items.")
@click.option("--items", default=None, type=click.Path(), help="File of new items: item_id and attributes.")
@out_option("the extended embeddings")
@config_options(OnboardingConfig)
@overwrite_option
def extend_command(
    embeddings: str, events: str | None, items: str | None, out: str, overwrite: bool, **options: Any
) -> None:
    """Embeddings and new items -> extended embeddings, with which a trained model ranks the new items at once.

    A new item is fitted to its first actions among --events and to what its attributes say. The rows that were there stay
    as they are, so a model that was trained on EMBEDDINGS takes the extension with --embeddings. Give all events that there
    are, not the latest alone: how often the known items occur matters too.
    """
    if events is None and items is None:
        raise ConfigError("there is nothing to extend the embeddings with", expected="--events, --items or both")
    check_writable(out, kind="embeddings", overwrite=overwrite)
    table = ItemEmbeddings.load(embeddings)
    attributes: pa.Table | None = read_items(items) if items is not None else None
    config = OnboardingConfig.from_dict(chosen(options))
    extension = extend_table(table, None if events is None else _log(events), attributes=attributes, config=config)
    extension.table.save(out, overwrite=overwrite)
    by_actions = int((extension.pairs > 0).sum())
    by_attributes = int(((extension.pairs == 0) & extension.described).sum())
    new = len(extension.users)
    click.echo(f"{out}: {new:,} new items, {len(extension.table):,} in all")
    click.echo(f"  {by_actions:,} fitted to their first actions, {by_attributes:,} from attributes alone")
    if attributes is not None:
        _say_described(table, attributes)
    if new > by_actions + by_attributes:
        click.echo(f"  {new - by_actions - by_attributes:,} of which nothing is known have the mean vector")
    click.echo(f"next: heedful recommend MODEL requests.parquet --embeddings {out} --out recommendations.parquet")


def _say_described(table: ItemEmbeddings, attributes: pa.Table) -> None:
    """How many rows of the item file are of items that the table had, with a warning where ids look alike."""
    described = Vocabulary(attributes["item_id"])
    known = int((table.items.rows(described.ids) >= 0).sum())
    others = len(described) - known
    click.echo(f"  the item file describes {known:,} of {len(table):,} items that were there, and {others:,} others")
    if not known and (alike := lookalikes(table.items, described)):
        click.echo(f"  warning: ids differ in form alone, such as {alike}; these are taken for other items")


def _log(events: str) -> EventLog:
    return EventLog.load(events) if (Path(events) / "manifest.json").exists() else read_events(events)


COMMANDS = {"extend": extend_command}
