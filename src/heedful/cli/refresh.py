"""`heedful refresh`."""

from __future__ import annotations

import click

from heedful.cli.options import overwrite_option
from heedful.embeddings.table import ItemEmbeddings
from heedful.events.log import EventLog
from heedful.events.times import iso
from heedful.folders import check_writable
from heedful.rankers.refreshing import refresh

__all__ = ["COMMANDS"]


@click.command("refresh")
@click.argument("model", type=click.Path())
@click.argument("sequences", type=click.Path())
@click.option("--out", default=None, type=click.Path(), help="Where to write the model; default: in the place of MODEL.")
@click.option("--embeddings", default=None, type=click.Path(), help="Embeddings of the model, when they were moved.")
@overwrite_option
def refresh_command(model: str, sequences: str, out: str | None, embeddings: str | None, overwrite: bool) -> None:
    """Model and newer sequences -> the same model with the counts of today, in seconds.

    What is popular and bought together is counted again as of the end of SEQUENCES, which hold all events that are to
    count, also those of training. What was learnt stays: weights, embeddings and items. A server on MODEL takes over.
    """
    if out is not None:
        check_writable(out, kind="model", overwrite=overwrite)
    table = ItemEmbeddings.load(embeddings) if embeddings is not None else None
    done = refresh(model, EventLog.load(sequences), out, embeddings=table, overwrite=overwrite)
    click.echo(f"{out or model}: {done.events:,} events counted, up to {iso(done.last_time)}")
    days = abs(done.older_by) / 86_400
    click.echo(f"  the counts before were {days:.3g} days {'older' if done.older_by >= 0 else 'newer'}")
    if done.unknown_items:
        click.echo(f"  {done.unknown_items:,} items are left out, which the model does not know: train it again for them")
    if done.unknown_kinds:
        click.echo(f"  events of these kinds are left out, which the model does not know: {', '.join(done.unknown_kinds)}")


COMMANDS = {"refresh": refresh_command}
