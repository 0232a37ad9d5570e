"""Side features: a learnt vector for each value of an item attribute, such as a category, added to the item's embedding.

Section 7 of the paper names non-behavioural features as future work. They say something where an embedding, learnt from
few actions, says little. Where the attribute is the item's id itself, each embedding has an offset of its own, learnt with
the rest of the model: adapted embeddings, which the same section names.

Shapes: I items, F attributes, V values of an attribute, D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import nn

from heedful.errors import ConfigError

__all__ = ["FeatureCodes", "FeatureVectors"]

_MOST_VALUES = 100_000
_ID = "item_id"


@dataclass(frozen=True)
class FeatureCodes:
    """Each item's values of the chosen attributes as numbers.

    Attributes:
        values: of each attribute by name, its known values as text; the first has code 1.
        codes: int32 [F, I]; 0 for an item without a value, or with one that is not known.
    """

    values: Mapping[str, Sequence[str]]
    codes: np.ndarray

    @classmethod
    def learn(cls, ids: pa.Array, attributes: pa.Table, names: Sequence[str]) -> FeatureCodes:
        """Take the values that the attributes have, most frequent first.

        Args:
            ids: the items' ids, which are themselves an attribute, `item_id`.
            attributes: what else is known of them, [I] rows.
            names: the chosen attributes.

        Raises:
            ConfigError: an attribute that the items do not have, or one with too many values to be a category.
        """
        described = _described(ids, attributes)
        return cls._of(described, {name: _values(described, name) for name in names})

    @classmethod
    def of(cls, ids: pa.Array, attributes: pa.Table, values: Mapping[str, Sequence[str]]) -> FeatureCodes:
        """The codes of items by values that are known already, such as those of a loaded model."""
        return cls._of(_described(ids, attributes), values)

    @classmethod
    def _of(cls, described: pa.Table, values: Mapping[str, Sequence[str]]) -> FeatureCodes:
        codes = np.zeros((len(values), described.num_rows), np.int32)
        for place, (name, known) in enumerate(values.items()):
            if name in described.column_names:
                found = pc.index_in(_as_text(described[name]), pa.array(known, pa.string()))
                codes[place] = pc.fill_null(found, -1).to_numpy() + 1
        return cls(values, codes)


class FeatureVectors(nn.Module):
    """The vectors of the values; zero at first, and always for a value that is not known.

    Args:
        counts: V of each attribute.
        width: D.
    """

    def __init__(self, *, counts: Sequence[int], width: int) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(count + 1, width, padding_idx=0) for count in counts)
        for table in self.tables:
            nn.init.zeros_(table.weight)  # type: ignore[arg-type]

    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        """The sum of the vectors of each item, float [..., D], from codes int [F, ...]."""
        total: torch.Tensor = torch.stack([table(code) for table, code in zip(self.tables, codes, strict=True)]).sum(0)
        return total


def _described(ids: pa.Array, attributes: pa.Table) -> pa.Table:
    """The attributes with the ids as the last of them."""
    return pa.table({**{name: attributes[name] for name in attributes.column_names}, _ID: ids})


def _values(attributes: pa.Table, name: str) -> list[str]:
    if name not in attributes.column_names:
        raise ConfigError(
            "the items have no such attribute",
            got=name,
            expected=", ".join(attributes.column_names),
            fix="name another with --features, or give the items' file to `heedful prepare --items`",
        )
    counts = pc.value_counts(_as_text(attributes[name]).drop_null())
    if len(counts) > _MOST_VALUES:
        raise ConfigError(
            "the attribute has too many values to be a category",
            got=f"{name}: {len(counts):,}",
            expected=f"{_MOST_VALUES:,} at most",
        )
    order = np.lexsort((np.arange(len(counts)), -counts.field("counts").to_numpy()))
    return counts.field("values").take(pa.array(order)).to_pylist()  # type: ignore[no-any-return]


def _as_text(column: pa.ChunkedArray) -> pa.Array:
    """Values as text, so that a value is the same whatever type another file has for it."""
    return pc.cast(column.combine_chunks(), pa.string())
