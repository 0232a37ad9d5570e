"""What a ranker is given, in its own rows: a log with a table of embeddings, lists with a history."""

from __future__ import annotations

import pyarrow as pa

from heedful.embeddings.table import ItemEmbeddings
from heedful.errors import InputError
from heedful.events.histories import Histories
from heedful.events.log import EventLog

__all__ = ["attributes_of", "check_one_each", "in_table_rows"]


def check_one_each(what: str, request: int, got: int, expected: int) -> None:
    """Refuse times or kinds that are not one for each past item, with an `InputError`."""
    if got != expected:
        raise InputError(
            f"{what} of request {request} does not fit its history",
            got=f"{got} values",
            expected=f"{expected}, one for each past item",
        )


def attributes_of(log: EventLog, embeddings: ItemEmbeddings) -> pa.Table:
    """What is known of the table's items: by the table itself, or, where it knows nothing, by the log."""
    known = log.catalog.attributes
    if embeddings.attributes.num_columns or not known.num_columns:
        return embeddings.attributes
    rows = log.catalog.items.rows(embeddings.items.ids)
    return known.take(pa.array(rows, mask=rows < 0))


def in_table_rows(log: EventLog, embeddings: ItemEmbeddings) -> Histories:
    """The log's histories in rows of the table, without items that it lacks.

    Raises:
        InputError: the table has none of the log's items.
    """
    if log.catalog.items == embeddings.items:
        return log.histories
    rows = embeddings.items.rows(log.catalog.items.ids)
    if not (rows >= 0).any():
        raise InputError(
            "the embedding table is for other items",
            got=f"none of the log's {len(rows)} items, e.g. {log.catalog.items.ids[0].as_py()!r}"
            if len(rows)
            else "no items",
            expected=f"ids such as {embeddings.items.ids[0].as_py()!r}",
            fix="embed this log, or give the table that belongs to it",
        )
    return log.histories.with_rows(rows)
