"""The catalogue: every item of a log, how often it occurs, and what else is known of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from heedful.events.values import word_columns, words
from heedful.events.vocabulary import Vocabulary

__all__ = ["Catalog", "describe"]


@dataclass(frozen=True)
class Catalog:
    """Items in row order, most frequent first.

    Attributes:
        items: the ids, [I].
        events: events of each item, int64 [I].
        users: distinct users of each item, int64 [I]: the sum over u of 1{i in A_u} in equation 5 of the paper.
        attributes: any columns from the item file (title, category, ...), in row order with nulls where nothing is
            known; no columns when there was no file.

    """

    items: Vocabulary
    events: np.ndarray
    users: np.ndarray
    attributes: pa.Table

    def __len__(self) -> int:
        return len(self.items)

    def describe(self, row: int) -> str:
        """The item of a row in words."""
        return describe(self.items, self.attributes, row)


def describe(items: Vocabulary, attributes: pa.Table, row: int) -> str:
    """An item in words: its title and category where the attributes have them, otherwise its id."""
    columns = [attributes[name].slice(row, 1) for name in word_columns(attributes.column_names)]
    known = [said for column in columns for said in words(column) if said]
    return " · ".join(known) if known else str(items.ids[row])
