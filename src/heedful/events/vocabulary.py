"""Ids and row numbers: the one place where the outside name of a user or item becomes a number, and a name again."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, Self, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from heedful.errors import InputError
from heedful.events.lookup import IdIndex

__all__ = ["Vocabulary", "as_ids"]

Ids: TypeAlias = Sequence[Any] | np.ndarray | pa.Array | pa.ChunkedArray


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

        An integer matches a vocabulary of strings by its decimal text, and a string of digits one of integers.
        """
        if len(ids) == 0:
            return np.empty(0, np.int64)
        given = isinstance(ids, pa.Array | pa.ChunkedArray)
        if not given and len(ids) <= _FEW and len(self) <= _DICTIONARY_IDS:
            return np.fromiter((self._places.get(one, -1) for one in self._plain(ids)), np.int64, len(ids))
        array = _like(as_ids(ids), self.ids.type) if given or len(ids) > _FEW else pa.array(self._plain(ids), self.ids.type)
        if "index" in self.__dict__ or _MANY_TIMES * len(array) < len(self):
            return self.index.find(array, self.ids)
        found = pc.fill_null(pc.index_in(array, value_set=self.ids, skip_nulls=True), -1)
        return np.asarray(found.to_numpy(zero_copy_only=False), np.int64)

    def take(self, rows: np.ndarray) -> pa.Array:
        """The ids of rows, as an Arrow array; a row outside the vocabulary is an `IndexError`."""
        return self.ids.take(pa.array(rows, pa.int64()))

    def _plain(self, ids: Sequence[Any] | np.ndarray) -> list[Any]:
        """Ids of any types as they would stand here, None where one cannot."""
        if not pa.types.is_integer(self.ids.type):
            return [str(i) for i in ids]
        lowest, highest = (0, 2**64) if pa.types.is_uint64(self.ids.type) else (-(2**63), 2**63)
        return [n if n is not None and lowest <= n < highest else None for n in map(_integer_or_none, ids)]

    @cached_property
    def _places(self) -> dict[Any, int]:
        return {name: row for row, name in enumerate(self.ids.to_pylist())}

    @cached_property
    def index(self) -> IdIndex:
        """Where each id is."""
        return IdIndex.of(self.ids)


# Up to this many ids each is taken for what it says, also where they are of several types.
_FEW = 4096
# A dictionary is quickest, but of more ids than this it takes long to make, and much memory.
_DICTIONARY_IDS = 200_000
# An index is made for fewer ids than this part of the vocabulary; for more, Arrow's hash table, which is made for each call.
_MANY_TIMES = 2


def as_ids(ids: Ids) -> pa.Array:
    """Ids as one Arrow array of strings or of 64-bit integers.

    Raises:
        InputError: the ids are neither strings nor integers.

    """
    if isinstance(ids, pa.ChunkedArray):
        ids = ids.chunk(0) if ids.num_chunks == 1 else ids.combine_chunks()  # one chunk may be a mapped file
    try:
        array = ids if isinstance(ids, pa.Array) else pa.array(ids)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise InputError("ids of mixed types", got=error, expected="all strings or all integers") from error
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
    kind = array.type
    if pa.types.is_dictionary(kind):
        return as_ids(array.dictionary_decode())
    if pa.types.is_integer(kind):
        return array.cast(pa.uint64() if pa.types.is_uint64(kind) else pa.int64())
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind) or pa.types.is_null(kind):
        return array.cast(pa.string() if array.nbytes < 2**31 - 2**20 else pa.large_string())
    raise InputError("ids of a type that cannot name anything", got=kind, expected="strings or integers")


def _like(array: pa.Array, kind: pa.DataType) -> pa.Array:
    if array.type == kind:
        return array
    if pa.types.is_integer(kind) and not pa.types.is_integer(array.type):
        digits = pc.match_substring_regex(array, r"^-?[0-9]{1,18}$")
        return pc.if_else(digits, array, pa.scalar(None, array.type)).cast(kind)
    return array.cast(kind)


def _integer_or_none(value: Any) -> int | None:
    try:
        return int(value)
    except (TypeError, ValueError):
        return None
