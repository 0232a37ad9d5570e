"""At most so many items of one value of an attribute, such as two of a category.

Shapes: I items, C candidates.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from heedful.errors import InputError

__all__ = ["Limit", "take_within"]


@dataclass(frozen=True)
class Limit:
    """The most items of one value.

    Attributes:
        most: items of one value, 1 or more.
        codes: the value of each item or candidate as a number, int [I] or [C]; -1 where it is not known, which is not
            limited.
    """

    most: int
    codes: np.ndarray

    @classmethod
    def of(cls, column: pa.ChunkedArray, most: int) -> Limit:
        """A limit on the values of a column.

        Raises:
            InputError: the column holds lists or structures.
        """
        if pa.types.is_nested(column.type):
            raise InputError("at_most needs single values", got=f"an attribute of type {column.type}")
        values = column.combine_chunks()
        indices = values.indices if pa.types.is_dictionary(values.type) else values.dictionary_encode().indices
        return cls(most, pc.fill_null(indices, -1).to_numpy(zero_copy_only=False))


def take_within(order: Iterable[int], limits: Sequence[Limit], n: int, *, first: Sequence[int] = ()) -> list[int]:
    """The first n places of an order that keep the limits, after those in `first`, which count but are never left out."""
    taken: list[dict[int, int]] = [{} for _ in limits]
    places = list(first)
    for place in places:
        _count(place, limits, taken)
    for place in order:
        if len(places) >= n:
            break
        if all(_has_room(place, limit, of) for limit, of in zip(limits, taken, strict=True)):
            places.append(place)
            _count(place, limits, taken)
    return places


def _has_room(place: int, limit: Limit, taken: dict[int, int]) -> bool:
    code = int(limit.codes[place])
    return code < 0 or taken.get(code, 0) < limit.most


def _count(place: int, limits: Sequence[Limit], taken: list[dict[int, int]]) -> None:
    for limit, of in zip(limits, taken, strict=True):
        code = int(limit.codes[place])
        of[code] = of.get(code, 0) + 1
