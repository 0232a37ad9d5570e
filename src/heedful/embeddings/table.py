"""`ItemEmbeddings`: one vector for each item, on disk or in memory, with its origin and a hash that names it.

Shape suffixes: I items, D width, Q items asked for.
"""

from __future__ import annotations

import difflib
import hashlib
import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Self, overload

import numpy as np
import pyarrow as pa

from heedful.config import require
from heedful.errors import FolderError, InputError
from heedful.events.mapped import load_items, save_items
from heedful.events.vocabulary import Ids, Vocabulary
from heedful.folders import Folder, new_folder, open_folder

__all__ = ["KIND", "ItemEmbeddings"]

KIND = "embeddings"
_BLOCK_ROWS = 65_536
_SPELLING_SAMPLE = 20_000

ItemId = str | int


class ItemEmbeddings:
    """Item vectors, made by `SkipGram.fit`, `read_embeddings`, `from_arrays` or `load`, and not changed afterwards.

    Attributes:
        items: the ids, [I].
        vectors: the embeddings x of the paper, float32 [I, D]; memory-mapped when loaded.
        contexts: the context vectors y of the paper, float32 [I, D], or None where the trainer has none.
        attributes: what else is known of the items (title, category, ...), in row order; maybe without columns.
        provenance: how the table came about, plain values.
        folder: the stage folder that it was loaded from, if any.

    """

    def __init__(
        self,
        items: Vocabulary,
        vectors: np.ndarray,
        contexts: np.ndarray | None = None,
        *,
        attributes: pa.Table | None = None,
        provenance: Mapping[str, Any] | None = None,
        folder: Folder | None = None,
    ) -> None:
        self.items = items
        self.vectors = vectors
        self.contexts = contexts
        self.attributes = attributes if attributes is not None else pa.table({})
        self.provenance = dict(provenance or {})
        self.folder = folder

    @classmethod
    def from_arrays(
        cls,
        ids: Ids,
        vectors: np.ndarray,
        contexts: np.ndarray | None = None,
        *,
        attributes: pa.Table | None = None,
        provenance: Mapping[str, Any] | None = None,
    ) -> Self:
        """A table from ids [I] and numbers [I, D] of any real type; nothing is copied that is float32 already.

        A vector of zeros is allowed: it is like nothing, its cosine with every item is 0 (see `zero_rows`).

        Raises:
            InputError: no items, repeated or missing ids, shapes that do not match, numbers that are not finite.

        """
        items = ids if isinstance(ids, Vocabulary) else Vocabulary(ids)
        checked = _as_table(vectors, items, "vectors")
        if checked.size == 0:
            raise InputError("the table is empty", got=f"shape {checked.shape}", expected="at least one item and width 1")
        context_table = None if contexts is None else _as_table(contexts, items, "contexts")
        if context_table is not None and context_table.shape != checked.shape:
            raise InputError(
                "contexts and vectors have different widths", got=context_table.shape[1], expected=checked.shape[1]
            )
        if attributes is not None and attributes.num_columns and len(attributes) != len(items):
            raise InputError("attributes do not match the items", got=f"{len(attributes)} rows", expected=len(items))
        return cls(items, checked, context_table, attributes=attributes, provenance=provenance)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Open a folder of embeddings; vectors, ids and attributes stay on disk, memory-mapped.

        Raises:
            FolderError: the folder is missing, unfinished, damaged, or of another kind.

        """
        folder = open_folder(path, kind=KIND)
        items, attributes = load_items(folder)
        names = [name for name in ("vectors", "contexts") if name == "vectors" or folder.has(f"{name}.npy")]
        arrays = {name: np.load(folder.file(f"{name}.npy"), mmap_mode="r", allow_pickle=False) for name in names}
        shape = (len(items), folder.manifest.get("width"))
        for name, array in arrays.items():
            if array.dtype != np.float32 or array.shape != shape:
                raise FolderError(
                    f"{folder.path / name}.npy does not belong to this folder",
                    got=f"{array.dtype} {array.shape}",
                    expected=f"float32 {shape}",
                    fix="make the folder again",
                )
        return cls(
            items,
            arrays["vectors"],
            arrays.get("contexts"),
            attributes=attributes,
            provenance=folder.manifest.get("provenance"),
            folder=folder,
        )

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write a folder of embeddings: the items, vectors.npy, contexts.npy where there are any.

        Raises:
            FolderError: the place is taken, or cannot be written.

        """
        with new_folder(path, kind=KIND, overwrite=overwrite) as folder:
            save_items(folder.path, self.items, self.attributes)
            np.save(folder.path / "vectors.npy", self.vectors, allow_pickle=False)
            if self.contexts is not None:
                np.save(folder.path / "contexts.npy", self.contexts, allow_pickle=False)
            folder.manifest.update(
                table_hash=self.content_hash,
                n_items=len(self),
                width=self.width,
                zero_rows=self.zero_rows,
                provenance=self.provenance,
            )

    @cached_property
    def content_hash(self) -> str:
        """Hash of the ids and vectors, the same before and after saving: what a model remembers of its table.

        Context vectors, attributes and provenance do not count: rankings do not depend on them.
        """
        if self.folder is not None and "table_hash" in self.folder.manifest:
            return str(self.folder.manifest["table_hash"])
        return self._hash()

    def _hash(self) -> str:
        digest = hashlib.sha256(f"{len(self)} {self.width}".encode())
        for low in range(0, len(self), _BLOCK_ROWS):
            names = [str(name).encode() for name in self.items.ids.slice(low, _BLOCK_ROWS).to_pylist()]
            digest.update(np.array([len(name) for name in names], "<i8").tobytes())
            digest.update(b"".join(names))
            digest.update(np.asarray(self.vectors[low : low + _BLOCK_ROWS], "<f4").tobytes())
        return digest.hexdigest()

    def head(self, n_items: int) -> Self:
        """The table of the first `n_items` rows, nothing copied: of an extension, what it extends.

        Its hash is computed from its own ids and vectors, whatever a manifest says.
        """
        return type(self)(
            Vocabulary(self.items.ids.slice(0, n_items)),
            self.vectors[:n_items],
            None if self.contexts is None else self.contexts[:n_items],
            attributes=self.attributes.slice(0, n_items),
            provenance=self.provenance,
        )

    def extends(self, content_hash: str, n_items: int) -> bool:
        """Whether the first `n_items` rows are, id by id and number by number, the table of that hash."""
        return len(self) >= n_items and self.head(n_items).content_hash == content_hash

    @property
    def width(self) -> int:
        """Number of dimensions, D."""
        return int(self.vectors.shape[1])

    @property
    def zero_rows(self) -> int:
        """Number of items whose vector is all zeros."""
        return int(np.count_nonzero(self._norms == 0))

    def __len__(self) -> int:
        return len(self.items)

    def __repr__(self) -> str:
        contexts = "with" if self.contexts is not None else "no"
        return f"ItemEmbeddings({len(self)} items, width {self.width}, {contexts} contexts)"

    def vector(self, item: ItemId) -> np.ndarray:
        """The vector of one item, float32 [D], a copy.

        Raises:
            InputError: the table does not have the item; the message names ids of similar spelling.

        """
        return np.array(self.vectors[self._rows([item])[0]])

    @overload
    def similar(self, item: ItemId, k: int = 10) -> list[tuple[ItemId, float]]: ...

    @overload
    def similar(self, item: list[Any] | tuple[Any, ...] | np.ndarray, k: int = 10) -> list[list[tuple[ItemId, float]]]: ...

    def similar(self, item: Any, k: int = 10) -> Any:
        """The k items with the highest cosine, best first: (item_id, cosine), without the item itself; exact.

        Args:
            item: one id, or several in a list, tuple or array, for one answer each.
            k: how many; the whole table answers when it is smaller.

        Raises:
            InputError: the table does not have an item; the message names ids of similar spelling.
            ConfigError: k is not positive.

        """
        require(k >= 1, "k", got=k, expected="at least 1")
        if hasattr(item, "__len__") and not isinstance(item, str | bytes):
            return self._similar(self._rows(item), k)
        return self._similar(self._rows([item]), k)[0]

    def _similar(self, rows_Q: np.ndarray, k: int) -> list[list[tuple[ItemId, float]]]:
        queries_QD = self._units(rows_Q)
        best = [(np.empty(0, np.int64), np.empty(0, np.float32))] * len(rows_Q)
        for low in range(0, len(self), _BLOCK_ROWS):
            block = np.arange(low, min(low + _BLOCK_ROWS, len(self)))
            cosines_QB = queries_QD @ self._units(slice(low, low + _BLOCK_ROWS)).T
            for q, row in enumerate(rows_Q):
                if block[0] <= row <= block[-1]:
                    cosines_QB[q, row - low] = -np.inf
                best[q] = _best(np.concatenate([best[q][0], block]), np.concatenate([best[q][1], cosines_QB[q]]), k)
        return [
            [(name, float(c)) for name, c in zip(self.items.take(rows).to_pylist(), cosines, strict=True) if c > -np.inf]
            for rows, cosines in best
        ]

    def _units(self, which: slice | np.ndarray) -> np.ndarray:
        """Vectors of a block of rows, or of single rows, at length 1; zeros stay zeros."""
        norms_Q = self._norms[which]
        units_QD: np.ndarray = self.vectors[which] / np.where(norms_Q > 0, norms_Q, 1)[:, None]
        return units_QD.astype(np.float32)

    @cached_property
    def _norms(self) -> np.ndarray:
        """Length of each vector, float64 [I], which holds the square of any float32."""
        norms_I = np.empty(len(self))
        for low in range(0, len(self), _BLOCK_ROWS):
            block_BD = np.asarray(self.vectors[low : low + _BLOCK_ROWS], np.float64)
            norms_I[low : low + _BLOCK_ROWS] = np.sqrt(np.einsum("bd,bd->b", block_BD, block_BD))
        return norms_I

    def _rows(self, names: Sequence[Any]) -> np.ndarray:
        rows_Q = self.items.rows(names)
        if (rows_Q < 0).any():
            unknown = names[int(np.argmax(rows_Q < 0))]
            close = difflib.get_close_matches(
                str(unknown), [str(i) for i in self.items.ids.slice(0, _SPELLING_SAMPLE).to_pylist()], n=3, cutoff=0.5
            )
            raise InputError(
                "the table does not have that item",
                got=repr(unknown),
                expected=f"one of its {len(self)} ids" + (f", such as {', '.join(close)}" if close else ""),
            )
        return rows_Q


def _best(rows: np.ndarray, scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k highest scores with their rows, best first; equal scores in row order."""
    if len(scores) > k:
        # Everything above the k-th score, and of those equal to it the first rows.
        kth = np.partition(scores, len(scores) - k)[len(scores) - k]
        above, equal = np.flatnonzero(scores > kth), np.flatnonzero(scores == kth)
        kept = np.concatenate([above, equal[: k - len(above)]])
        rows, scores = rows[kept], scores[kept]
    order = np.lexsort((rows, -scores))
    return rows[order], scores[order]


def _as_table(numbers: np.ndarray, items: Vocabulary, name: str) -> np.ndarray:
    """Numbers as float32 [I, D], checked."""
    array = np.asarray(numbers)
    if array.ndim != 2 or len(array) != len(items):
        raise InputError(f"{name} do not match the ids", got=f"shape {array.shape}", expected=f"({len(items)}, width)")
    if array.dtype.kind not in "fiu":
        raise InputError(f"{name} are not real numbers", got=array.dtype, expected="float32 or what converts to it")
    with np.errstate(over="ignore"):  # what is too large becomes infinite, and is reported below
        table = np.ascontiguousarray(array, np.float32)
    bad_I = np.zeros(len(items), bool)
    for low in range(0, len(items), _BLOCK_ROWS):
        bad_I[low : low + _BLOCK_ROWS] = ~np.isfinite(table[low : low + _BLOCK_ROWS]).all(axis=1)
    if bad_I.any():
        first = items.ids[int(np.argmax(bad_I))].as_py()
        raise InputError(
            f"{name} are not finite",
            got=f"NaN or infinity in {int(bad_I.sum())} of {len(items)} rows, the first that of item {first!r}",
            expected="finite float32 numbers",
            fix="remove or repair these items",
        )
    return table
