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

from heedful.errors import FolderError, MissingExtraError
from heedful.progress import progress

__all__ = ["EXACT_ITEMS", "ExactIndex", "Index", "InvertedLists", "faiss_is_installed"]

EXACT_ITEMS = 200_000
"""Up to so many items an exact search takes a few milliseconds, and inverted lists are not worth their building."""

_BLOCK_ROWS = 65_536
# This part of the lists is searched, and no fewer than that many.
_PROBED_PART = 1 / 64
_FEWEST_PROBED = 24
_TRAINING_ROWS_PER_LIST = 64
_TRAINING_ROUNDS = 10
# faiss compares vectors of other widths without vector instructions, which takes seven times as long.
_LANES = 16

Rows = Callable[[np.ndarray], np.ndarray]
"""Item vectors float32 [n, W] of rows int64 [n]: a catalogue is read in blocks and never copied as a whole."""


class Index(Protocol):
    """What an index does."""

    def search(self, queries_QW: np.ndarray, n: int) -> np.ndarray:
        """Rows of the n highest inner products with each query, int64 [Q, n], best first; -1 where fewer."""


class ExactIndex:
    """Every inner product: the oracle of every other index.

    Args:
        vectors: the item vectors.
        n_items: I.
    """

    def __init__(self, vectors: Rows, n_items: int) -> None:
        self._vectors_IW = np.concatenate([vectors(block) for block in _blocks(n_items)])

    def search(self, queries_QW: np.ndarray, n: int) -> np.ndarray:
        """See `Index.search`."""
        n_items, wanted = len(self._vectors_IW), min(n, len(self._vectors_IW))
        found = np.full((len(queries_QW), n), -1, np.int64)
        for q, query_W in enumerate(queries_QW):
            products_I = self._vectors_IW @ query_W
            top = np.argpartition(products_I, n_items - wanted)[n_items - wanted :]
            found[q, :wanted] = top[np.argsort(-products_I[top], kind="stable")]
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
            raise FolderError(f"{path} is no index", got=error, fix="remove it; it will be built again") from error

    def write(self, path: Path) -> None:
        """Write the index into one file, in the format of faiss."""
        _faiss().write_index(self._index, str(path))

    def __len__(self) -> int:
        return int(self._index.ntotal)

    def search(self, queries_QW: np.ndarray, n: int) -> np.ndarray:
        """See `Index.search`."""
        queries_QW = _padded(queries_QW, self._index.d)
        products_QK = queries_QW @ self._centres_KW.T
        lists_QP = np.argpartition(products_QK, -self.probes, axis=1)[:, -self.probes :]
        centre_QP = np.take_along_axis(products_QK, lists_QP, axis=1)
        self._index.nprobe = self.probes
        _, found = self._index.search_preassigned(queries_QW, n, lists_QP, centre_QP)
        return np.asarray(found, np.int64)


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
