"""Item-item neighbours by implicit: cosine and BM25 similarity, summed over the history.

Shapes: B users, I items, K neighbours.
"""

from __future__ import annotations

import warnings
from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from heedful.config import Config, option, require
from heedful.events.histories import Histories
from heedful.folders import Folder
from heedful.rankers.external.base import imported, one_blas_thread
from heedful.rankers.external.clock import RELEVANCE_FLOOR, ClockConfig, ClockRanker, relative

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

__all__ = ["BM25Config", "BM25Neighbours", "CosineConfig", "CosineNeighbours"]


@dataclass(frozen=True, kw_only=True)
class _NeighboursConfig(ClockConfig):
    """What both have."""

    neighbours: int = option(100, "most similar items that are kept of each item")

    def __post_init__(self) -> None:
        """Check every option."""
        super().__post_init__()
        require(self.neighbours >= 1, "neighbours", got=self.neighbours, expected="1 or more")


@dataclass(frozen=True, kw_only=True)
class CosineConfig(_NeighboursConfig):
    """Cosine of the items' columns."""


@dataclass(frozen=True, kw_only=True)
class BM25Config(_NeighboursConfig):
    """BM25 weights of the items' columns."""

    saturation: float = option(1.2, "K1 of BM25: how much an item with few users gains")
    length_weight: float = option(0.75, "B of BM25: how much the weight falls with an item's users, 0 to 1")

    def __post_init__(self) -> None:
        """Check every option."""
        super().__post_init__()
        require(self.saturation >= 0, "saturation", got=self.saturation, expected="0 or more")
        require(0 <= self.length_weight <= 1, "length_weight", got=self.length_weight, expected="0 to 1")


class _Neighbours(ClockRanker):
    """Scores are the sum of the similarities between an item and those of the history (Sarwar et al. 2001).

    Attributes:
        similarity: of each item (row) to its K most similar, itself among them, float32 [I, I].
    """

    config: _NeighboursConfig
    similarity: csr_matrix

    @abstractmethod
    def _model(self, module: Any) -> Any:
        """The unfitted model of `implicit.nearest_neighbours`."""

    def _learn_from(self, touched: csr_matrix) -> None:
        model = self._model(imported("implicit.nearest_neighbours"))
        with one_blas_thread(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # implicit tells itself that it gave itself another sparse format
            model.fit(touched, show_progress=False)
        self.similarity = model.similarity.astype(np.float32)

    def _catalogue_logits(self, histories: Histories) -> np.ndarray:
        sums_BI = np.asarray((self._past(histories) @ self.similarity).toarray())
        return self._with_trend(relative(sums_BI) + RELEVANCE_FLOOR) if self.config.recency else sums_BI

    def _write(self, folder: Path) -> None:
        super()._write(folder)
        for part in ("data", "indices", "indptr"):
            np.save(folder / f"similarity_{part}.npy", getattr(self.similarity, part))

    def _read(self, folder: Folder, settings: dict[str, Any]) -> None:
        super()._read(folder, settings)
        parts = (np.load(folder.file(f"similarity_{part}.npy")) for part in ("data", "indices", "indptr"))
        matrix = imported("scipy.sparse").csr_matrix
        self.similarity = matrix(tuple(parts), shape=(len(self.items), len(self.items)))


class CosineNeighbours(_Neighbours):
    """Neighbours by the cosine between the items' columns."""

    name: ClassVar[str] = "cosine"
    config_class: ClassVar[type[Config]] = CosineConfig
    config: CosineConfig

    def _model(self, module: Any) -> Any:
        return module.CosineRecommender(K=self.config.neighbours, num_threads=1)


class BM25Neighbours(_Neighbours):
    """Neighbours by the product of the items' columns, weighted by BM25 (Robertson and Walker 1994)."""

    name: ClassVar[str] = "bm25"
    config_class: ClassVar[type[Config]] = BM25Config
    config: BM25Config

    def _model(self, module: Any) -> Any:
        config = self.config
        return module.BM25Recommender(K=config.neighbours, K1=config.saturation, B=config.length_weight, num_threads=1)
