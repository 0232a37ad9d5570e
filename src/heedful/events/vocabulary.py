"""Ids and row numbers: the one place where the outside name of a user or item becomes a number, and a name again."""

from __future__ import annotations

from functools import cached_property
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from heedful.errors import InputError
from heedful.events.ids import Ids, as_ids, listed, named_ids, plain_ids
from heedful.events.lookup import IdIndex

__all__ = ["Ids", "Vocabulary"]


class Vocabulary:
    """Distinct ids, strings or integers, in row order.

    Args:
        ids: the ids, as any sequence or Arrow array; kept exactly as they are. Null, empty or repeated ids are an error.

    Raises:
        InputError: an id is null, empty or repeated, or the ids are neither strings nor integers.

    """

    def __init__(self, ids: Ids) -> None:
        array = as_ids(ids)
        if array.null_count:
            raise InputError("an id is missing", got=f"{array.null_count} nulls", expected="an id in each row")
        if len(array) and len(array) != pc.count_distinct(array).as_py():
            counts = pc.value_counts(array)
            first = counts.filter(pc.greater(counts.field("counts"), 1))[0].as_py()
            raise InputError("ids are repeated", got=f"{first['values']!r} {first['counts']} times", expected="distinct ids")
        self.ids = array

    @classmethod
    def known(cls, ids: Ids, index: IdIndex | None = None) -> Self:
        """Ids that a vocabulary held before, as read from a folder of ours: they are not checked again.

        With the index of that vocabulary none has to be made.
        """
        vocabulary = cls.__new__(cls)
        vocabulary.ids = as_ids(ids)
        if index is not None:
            vocabulary.__dict__["index"] = index
        return vocabulary

    def __len__(self) -> int:
        return len(self.ids)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vocabulary) and self.ids.equals(other.ids)

    __hash__ = None  # type: ignore[assignment]  # equal by content, and large

    def __repr__(self) -> str:
        return f"Vocabulary({len(self)} ids of type {self.ids.type})"

    def rows(self, ids: Ids) -> np.ndarray:
        """Row of each id, int64 [N]; -1 where the vocabulary does not have it.

        Ids of other types than the vocabulary's are taken as `heedful.events.ids` says.

        Raises:
            InputError: a text instead of a list, or an array of a type that names nothing.
        """
        ids = listed(ids, "ids")
        if len(ids) == 0:
            return np.empty(0, np.int64)
        given = isinstance(ids, pa.Array | pa.ChunkedArray)
        if not given and len(ids) <= _FEW and len(self) <= _DICTIONARY_IDS:
            plain = plain_ids(ids, self.ids.type)
            return np.fromiter((self._places.get(one, -1) for one in plain), np.int64, len(ids))
        array = named_ids(ids, self.ids.type)
        if "index" in self.__dict__ or _MANY_TIMES * len(array) < len(self):
            return self.index.find(array, self.ids)
        found = pc.fill_null(pc.index_in(array, value_set=self.ids, skip_nulls=True), -1)
        return np.asarray(found.to_numpy(zero_copy_only=False), np.int64)

    def take(self, rows: np.ndarray) -> pa.Array:
        """The ids of rows, as an Arrow array; a row outside the vocabulary is an `IndexError`."""
        return self.ids.take(pa.array(rows, pa.int64()))

    @cached_property
    def _places(self) -> dict[Any, int]:
        return {name: row for row, name in enumerate(self.ids.to_pylist())}

    @cached_property
    def index(self) -> IdIndex:
        """Where each id is."""
        return IdIndex.of(self.ids)


# Up to this many ids are looked up in a dictionary.
_FEW = 4096
# A dictionary is quickest, but of more ids than this it takes long to make, and much memory.
_DICTIONARY_IDS = 200_000
# An index is made for fewer ids than this part of the vocabulary; for more, Arrow's hash table, which is made for each call.
_MANY_TIMES = 2
