"""`heedful synth`."""

from __future__ import annotations

from typing import Any

import click

from heedful.cli.options import chosen, config_options, out_option, overwrite_option
from heedful.events.synthetic import SyntheticConfig, synthesize

__all__ = ["COMMANDS"]


@click.command("synth")
@out_option("the folder of the synthetic log")
@config_options(SyntheticConfig)
@overwrite_option
def synth_command(out: str, overwrite: bool, **options: Any) -> None:
    """A synthetic event log of any size, to try and to measure with.

    The folder has events/*.parquet and items.parquet, as `heedful prepare` reads them.
    """
    facts = synthesize(out, config=SyntheticConfig.from_dict(chosen(options)), overwrite=overwrite)
    click.echo(f"{out}: {facts['n_events']:,} events of {facts['n_users']:,} users on {facts['n_items']:,} items")
    click.echo(f"next: heedful prepare {out}/events --items {out}/items.parquet --out sequences/")


COMMANDS = {"synth": synth_command}
