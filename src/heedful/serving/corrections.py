"""Attributes of the items of a ranker, with what was said of them since it was trained.

Shapes: N values that are said, I items of the ranker.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from heedful.errors import InputError
from heedful.events.values import column_from_json, from_json, named_column
from heedful.rankers.base import Ranker
from heedful.serving.arrivals import Told

__all__ = ["Corrections"]


class Corrections:
    """What is said of items, of which a ranker knows some; what is said later counts.

    Args:
        ranker: its attributes say which columns there are, and of which types.

    Attributes:
        left_out: by column, values that do not fit its type, or of a column that the ranker's items do not have.
    """

    def __init__(self, ranker: Ranker) -> None:
        self._items, self._attributes = ranker.items, ranker.attributes
        self._said: dict[str, list[tuple[np.ndarray, pa.Array]]] = defaultdict(list)
        self.left_out: Counter[str] = Counter()

    def add(self, items: Sequence[str], attributes: Sequence[Mapping[str, Any]]) -> None:
        """Say attributes of items as JSON has them; those of unknown items are passed over."""
        rows = self._items.rows(items)
        said: dict[str, tuple[list[int], list[Any]]] = defaultdict(lambda: ([], []))
        for row, named in zip(rows.tolist(), attributes, strict=True):
            if row >= 0:
                for name, value in named.items():
                    said[name][0].append(row)
                    said[name][1].append(value)
        for name, (places, values) in said.items():
            column = named_column(self._attributes.column_names, name)
            if column is None:
                self.left_out[name] += len(values)
            else:
                self._add_fitting(column, np.array(places), values)

    def _add_fitting(self, column: str, rows: np.ndarray, values: list[Any]) -> None:
        kind = self._attributes.schema.field(column).type
        try:
            self._put(column, rows, column_from_json(values, kind))
        except InputError:
            fits = [_fits(value, kind) for value in values]
            self.left_out[column] += fits.count(False)
            kept = [value for value, fit in zip(values, fits, strict=True) if fit]
            self._put(column, rows[fits], column_from_json(kept, kind))

    def tell(self, told: Told) -> None:
        """Say attributes in the columns of the ranker."""
        rows = self._items.rows(told.ids)
        for name, given in told.given.items():
            there = given & (rows >= 0)
            self._put(name, rows[there], told.values[name].filter(pa.array(there)).combine_chunks())

    def _put(self, column: str, rows: np.ndarray, values: pa.Array) -> None:
        if len(rows):
            self._said[column].append((rows, values))

    def attributes(self) -> pa.Table:
        """The ranker's attributes with all that is said, [I]; the very same table where that is nothing."""
        table = self._attributes
        for name, parts in self._said.items():
            place = table.column_names.index(name)
            table = table.set_column(place, table.schema.field(place), _replaced(table[name], parts))
        return table


def _replaced(column: pa.ChunkedArray, parts: list[tuple[np.ndarray, pa.Array]]) -> pa.ChunkedArray:
    """A column with other values in some rows; of a row that is there twice the last value."""
    rows = np.concatenate([rows for rows, _ in parts])
    places = np.arange(len(column))
    places[rows] = len(column) + np.arange(len(rows))
    everything = pa.chunked_array([*column.chunks, *(values for _, values in parts)], column.type)
    # One chunk: rows are looked up many times more quickly than in several.
    return pa.chunked_array([everything.unify_dictionaries().take(pa.array(places)).combine_chunks()], column.type)


def _fits(value: Any, kind: pa.DataType) -> bool:
    try:
        from_json(value, kind)
    except InputError:
        return False
    return True
