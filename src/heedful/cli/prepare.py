"""`heedful prepare`."""

from __future__ import annotations

from typing import Any

import click

from heedful import cluster as on_cluster
from heedful.cli.options import chosen, cluster_option, config_options, out_option, overwrite_option
from heedful.events.preparing import PrepareConfig, prepare

__all__ = ["COMMANDS"]


@click.command("prepare")
@click.argument("sources", nargs=-1, required=True)
@out_option("the folder of sequences")
@click.option("--items", default=None, help="File with item attributes: an item id column, title, category, anything.")
@config_options(PrepareConfig)
@overwrite_option
@cluster_option
def prepare_command(
    sources: tuple[str, ...], out: str, items: str | None, overwrite: bool, cluster: str | None, **options: Any
) -> None:
    """Event log -> sequences.

    SOURCES: Parquet or CSV files (also .gz), globs, folders of Parquet, or the URL of a database table:
    duckdb:///FILE?table=T, sqlite:///FILE?table=T, postgresql://USER:PASSWORD@HOST/DB?table=T.
    """
    config = PrepareConfig.from_dict(chosen(options))
    source = sources[0] if len(sources) == 1 else list(sources)
    if cluster:
        with on_cluster.connect(cluster):
            log = on_cluster.prepare(source, out, items=items, config=config, overwrite=overwrite)
    else:
        log = prepare(source, out, items=items, config=config, overwrite=overwrite)
    click.echo(f"{out}: {log.n_events:,} events of {len(log.users):,} users on {len(log.catalog):,} items")
    if log.rejected is not None and len(log.rejected):
        click.echo(f"{len(log.rejected):,} rows were set aside; see {out}/rejected.parquet")
    click.echo(f"next: heedful embed {out} --out embeddings/")


COMMANDS = {"prepare": prepare_command}
