"""`heedful embed`, `heedful import` and `heedful similar`."""

from __future__ import annotations

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
from heedful.embeddings.continuing import continue_embeddings
from heedful.embeddings.importing import read_embeddings
from heedful.embeddings.skipgram import SkipGram, SkipGramConfig
from heedful.embeddings.table import ItemEmbeddings
from heedful.errors import InputError
from heedful.events.catalog import describe
from heedful.events.log import EventLog
from heedful.folders import check_writable

__all__ = ["COMMANDS"]


_FROM = (
    "Go on from this folder of embeddings: items keep their rows and, about, their vectors; a fifth of the passes at two "
    "fifths of the rate. Options that are not given are those of its training."
)


@click.command("embed")
@click.argument("sequences", type=click.Path())
@out_option("the folder of embeddings")
@file_option("embed")
@config_options(SkipGramConfig)
@overwrite_option
@cluster_option
@click.option("--from", "start", default=None, type=click.Path(), help=_FROM)
def embed_command(
    sequences: str, out: str, settings: str | None, overwrite: bool, cluster: str | None, start: str | None, **options: Any
) -> None:
    """Sequences -> item embeddings, by skip-gram with negative sampling."""
    given = with_file(options, settings, "embed", SkipGramConfig)
    trainer = SkipGram(**given)
    if start is not None:
        refuse_cluster(cluster, "--from")
        check_writable(out, kind="embeddings", overwrite=overwrite)
        items = continue_embeddings(ItemEmbeddings.load(start), EventLog.load(sequences), **given)
        items.save(out, overwrite=overwrite)
        n_items, width = len(items), items.width
    elif cluster:
        with on_cluster.connect(cluster):
            facts = on_cluster.embed(trainer, sequences, out, overwrite=overwrite)
        click.echo(f"{facts['workers']} workers, each sent {facts['bytes_sent'] / 1e6:,.1f} MB")
        n_items, width = facts["n_items"], facts["width"]
    else:
        check_writable(out, kind="embeddings", overwrite=overwrite)
        items = trainer.fit(EventLog.load(sequences))
        items.save(out, overwrite=overwrite)
        n_items, width = len(items), items.width
    click.echo(f"{out}: {n_items:,} items, width {width}")
    click.echo(f"next: heedful train {sequences} --embeddings {out} --out model/")


@click.command("import")
@click.argument("source", type=click.Path())
@out_option("the folder of embeddings")
@click.option("--ids", default=None, type=click.Path(), help="Ids of the rows of an .npy file: .txt, .parquet or .npy.")
@overwrite_option
def import_command(source: str, out: str, ids: str | None, overwrite: bool) -> None:
    """Your own vectors -> item embeddings: .npy with --ids, Parquet, word2vec text or binary."""
    check_writable(out, kind="embeddings", overwrite=overwrite)
    items = read_embeddings(source, ids=ids)
    items.save(out, overwrite=overwrite)
    click.echo(f"{out}: {len(items):,} items, width {items.width}")


@click.command("similar")
@click.argument("item")
@click.option("--embeddings", default="embeddings", show_default=True, type=click.Path(), help="Folder of embeddings.")
@click.option("-k", default=10, show_default=True, help="Neighbours to list.")
def similar_command(item: str, embeddings: str, k: int) -> None:
    """The neighbours of ITEM by cosine, with titles."""
    table = ItemEmbeddings.load(embeddings)
    row = int(table.items.rows([item])[0])
    if row < 0:
        table.similar(item, k)  # raises, naming ids of similar spelling
        raise InputError("the table does not have that item", got=repr(item))
    found = table.similar(table.items.ids[row].as_py(), k)
    click.echo(f"{item}  {describe(table.items, table.attributes, row)}")
    for neighbour, cosine in found:
        place = int(table.items.rows([neighbour])[0])
        click.echo(f"  {cosine:6.3f}  {neighbour}  {describe(table.items, table.attributes, place)}")


COMMANDS = {"embed": embed_command, "import": import_command, "similar": similar_command}
