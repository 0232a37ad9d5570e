"""`heedful items`."""

from __future__ import annotations

import os

import click
import pyarrow as pa

from heedful.errors import ConfigError
from heedful.events.attributes import read_items
from heedful.serving.sending import numbers_of, send_items

__all__ = ["COMMANDS"]

_KEY = "HEEDFUL_KEY"


@click.group("items")
def items_group() -> None:
    """What a running server knows of items: stock, prices, titles, new items."""


@items_group.command("load")
@click.argument("source")
@click.option("--server", default="http://127.0.0.1:8000", show_default=True, help="Address of `heedful serve`.")
@click.option("--columns", default=None, help="Attributes to send, with commas between them.  [all]")
@click.option("--numbers", default=None, help="Columns of a CSV file that are numbers in the catalogue.")
def load_command(source: str, server: str, columns: str | None, numbers: str | None) -> None:
    """SOURCE -> a running server: the attributes of many items, of known ones and of new ones.

    SOURCE is a Parquet or CSV file, or the URL of a database table, with a column of item ids and columns named as in the
    catalogue. An empty value clears an attribute. A key of the role admin is taken from the environment variable
    HEEDFUL_KEY. Sending the same again changes nothing.
    """
    items = read_items(source)
    if columns is not None:
        items = items.select(["item_id", *_named(items, columns)])
    for name in _named(items, numbers or ""):
        items = items.set_column(items.column_names.index(name), name, numbers_of(items[name], name))
    counts = send_items(items, server, key=os.environ.get(_KEY))
    click.echo(f"{server}: {counts['added']:,} items added, {counts['corrected']:,} corrected")


def _named(items: pa.Table, names: str) -> list[str]:
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    if missing := [name for name in wanted if name not in items.column_names]:
        raise ConfigError("there is no such column", got=", ".join(missing), expected=", ".join(items.column_names[1:]))
    return wanted


COMMANDS = {"items": items_group}
