"""Search for the rows of a matrix with the highest inner products: exact, or by inverted lists for large catalogues.

Shapes: I items, W width of the item vectors, Q queries, n rows asked for.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from heedful.errors import FolderError, MissingExtraError
from heedful.progress import progress
from heedful.rankers.topk import top_places

__all__ = ["EXACT_ITEMS", "ExactIndex", "Index", "InvertedLists", "faiss_is_installed"]

EXACT_ITEMS = 200_000
"""Up to so many items an exact search takes a few milliseconds, and inverted lists are not worth their building."""

_BLOCK_ROWS = 65_536
# Inner products that an exact search makes at a time.
_PRODUCTS = 2**22
# This part of the lists is searched, and no fewer than that many.
_PROBED_PART = 1 / 64
_FEWEST_PROBED = 32
_TRAINING_ROWS_PER_LIST = 64
_TRAINING_ROUNDS = 10
# faiss compares vectors of other widths without vector instructions, which takes seven times as long.
_LANES = 16

Rows = Callable[[np.ndarray], np.ndarray]
"""Item vectors float32 [n, W] of rows int64 [n]: a catalogue is read in blocks and never copied as a whole."""


class Index(Protocol):
    """What an index does."""

    def search(self, queries_QW: np.ndarray, n: int, *, eligible: np.ndarray | None = None) -> np.ndarray:
        """Rows of the n highest inner products with each query.

        Args:
            queries_QW: float32 [Q, W].
            n: rows for each query.
            eligible: the items that may be found, bool [I]; None: all.

        Returns:
            int64 [Q, n], best first; -1 where there are fewer.
        """


class ExactIndex:
    """Every inner product: the reference for every other index.

    Args:
        vectors: the item vectors.
        n_items: I.
    """

    def __init__(self, vectors: Rows, n_items: int) -> None:
        self._vectors_IW = torch.from_numpy(np.concatenate(list(map(vectors, _blocks(n_items)))))

    def search(self, queries_QW: np.ndarray, n: int, *, eligible: np.ndarray | None = None) -> np.ndarray:
        """See `Index.search`."""
        found = np.full((len(queries_QW), n), -1, np.int64)
        # A few queries at a time: the table is read once for all of them, the products stay small.
        together = max(_PRODUCTS // len(self._vectors_IW), 1)
        for start in range(0, len(queries_QW), together):
            some_QW = torch.from_numpy(queries_QW[start : start + together])
            products_QI = (some_QW @ self._vectors_IW.T).numpy()
            if eligible is not None:
                products_QI[:, ~eligible] = -np.inf
            for q, products_I in enumerate(products_QI, start):
                top = top_places(products_I, n)
                found[q, : len(top)] = top
        return found


class InvertedLists:
    """k-means lists of 8-bit vectors (faiss), of which the lists whose centres have the highest products are searched.

    Items go to the nearest centre, but lists are chosen by inner product: an item's own term is part of its vector, and
    choosing by distance would look for items of middling popularity.

    Args:
        index: a trained and filled faiss.IndexIVFScalarQuantizer.

    Attributes:
        n_lists: K, the number of lists.
        probes: how many of them are searched.
    """

    def __init__(self, index: Any) -> None:
        self._index = index
        self._centres_KW = index.quantizer.reconstruct_n(0, index.nlist)
        self.n_lists = int(index.nlist)
        self.probes = min(self.n_lists, max(_FEWEST_PROBED, round(self.n_lists * _PROBED_PART)))

    @classmethod
    def build(cls, vectors: Rows, n_items: int, *, seed: int = 1) -> InvertedLists:
        """Train the centres on a sample and sort all items into their lists.

        Raises:
            MissingExtraError: faiss is not installed.
        """
        faiss = _faiss()
        n_lists = int(max(1, min(2 ** round(np.log2(max(2 * np.sqrt(n_items), 1))), n_items // 40)))
        sample = min(n_items, n_lists * _TRAINING_ROWS_PER_LIST)
        rows = np.sort(np.random.default_rng(seed).choice(n_items, sample, replace=False))
        width = -(-vectors(rows[:1]).shape[1] // _LANES) * _LANES
        index = faiss.IndexIVFScalarQuantizer(
            faiss.IndexFlatL2(width), width, n_lists, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT, False
        )
        index.cp.niter, index.cp.seed = _TRAINING_ROUNDS, seed
        index.cp.min_points_per_centroid, index.cp.max_points_per_centroid = 1, _TRAINING_ROWS_PER_LIST
        with progress("building the index", n_items, "items") as meter:
            index.train(_padded(vectors(rows), width))
            for block in _blocks(n_items):
                index.add(_padded(vectors(block), width))
                meter.advance(len(block))
        return cls(index)

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> InvertedLists:
        """Read what `write` wrote."""
        faiss = _faiss()
        try:
            return cls(faiss.read_index(str(path)))
        except RuntimeError as error:
            raise FolderError(f"{path} is not an index", got=error, fix="remove it; it will be built again") from error

    def write(self, path: Path) -> None:
        """Write the index into one file, in the format of faiss."""
        _faiss().write_index(self._index, str(path))

    def __len__(self) -> int:
        return int(self._index.ntotal)

    def search(self, queries_QW: np.ndarray, n: int, *, eligible: np.ndarray | None = None) -> np.ndarray:
        """See `Index.search`; the fewer items are eligible, the more lists are searched."""
        probes, options = self.probes, {}
        if eligible is not None:
            share = max(np.count_nonzero(eligible) / len(eligible), 1 / self.n_lists)
            probes = min(self.n_lists, round(self.probes / share))
            bits = np.packbits(eligible, bitorder="little")
            options = {"sel": _faiss().IDSelectorBitmap(bits)}
        queries_QW = _padded(queries_QW, self._index.d)
        products_QK = queries_QW @ self._centres_KW.T
        lists_QP = np.argpartition(products_QK, -probes, axis=1)[:, -probes:]
        centre_QP = np.take_along_axis(products_QK, lists_QP, axis=1)
        return self._search_lists(queries_QW, n, lists_QP, centre_QP, options)

    def _search_lists(
        self,
        queries_QW: np.ndarray,
        n: int,
        lists_QP: np.ndarray,
        products_QP: np.ndarray,
        options: dict[str, Any],
    ) -> np.ndarray:
        """The best of the chosen lists, int64 [Q, n].

        With the number of lists as a parameter of this call: threads share the index. The Python
        form of `search_preassigned` takes no parameters.
        """
        faiss = _faiss()
        found = np.empty((len(queries_QW), n), np.int64)
        given = [np.ascontiguousarray(array) for array in (queries_QW, lists_QP, products_QP)]
        results = [np.empty(found.shape, np.float32), found]
        queries, lists, products, distances, rows = map(faiss.swig_ptr, given + results)
        parameters = faiss.SearchParametersIVF(nprobe=lists_QP.shape[1], **options)
        self._index.search_preassigned_c(len(queries_QW), queries, n, lists, products, distances, rows, False, parameters)
        return found

    def add(self, vectors: Rows, n_items: int) -> None:
        """Sort the items after those that are there into the lists, up to n_items."""
        for start in range(len(self), n_items, _BLOCK_ROWS):
            rows = np.arange(start, min(start + _BLOCK_ROWS, n_items))
            self._index.add(_padded(vectors(rows), self._index.d))


def faiss_is_installed() -> bool:
    """Whether `InvertedLists` can be used."""
    return importlib.util.find_spec("faiss") is not None


def _faiss() -> Any:
    try:
        import faiss
    except ImportError as error:
        raise MissingExtraError("faiss-cpu", "retrieval") from error
    return faiss


def _padded(vectors: np.ndarray, width: int) -> np.ndarray:
    """The vectors with zeros up to a width, float32."""
    return np.pad(np.asarray(vectors, np.float32), ((0, 0), (0, width - vectors.shape[1])))


def _blocks(n_items: int) -> list[np.ndarray]:
    return [np.arange(low, min(low + _BLOCK_ROWS, n_items)) for low in range(0, n_items, _BLOCK_ROWS)]
