"""EASE, the shallow linear autoencoder (Steck 2019).

Shapes: B users, I items, N items of the dense part.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from heedful.config import Config, option, require
from heedful.events.histories import Histories
from heedful.folders import Folder
from heedful.rankers.external.base import imported
from heedful.rankers.external.clock import RELEVANCE_FLOOR, ClockConfig, ClockRanker, relative

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

__all__ = ["EASE", "EASEConfig"]


@dataclass(frozen=True, kw_only=True)
class EASEConfig(ClockConfig):
    """How much is learnt."""

    top_items: int = option(12_000, "items with most users, which are learnt; memory grows with the square")
    regularization: float = option(300.0, "lambda, added to the diagonal of the items' Gram matrix")

    def __post_init__(self) -> None:
        """Check every option."""
        super().__post_init__()
        require(self.top_items >= 2, "top_items", got=self.top_items, expected="2 or more")
        require(self.regularization > 0, "regularization", got=self.regularization, expected="more than 0")


class EASE(ClockRanker):
    """Each item's score is a learnt sum over the history; the weights have a closed form.

    With X the binary matrix of users and items, P = (X^T X + lambda)^-1 and weights W = -P / diag P with a diagonal of
    zeros, scores are x W. Only the items with most users are learnt; the others come below them, by popularity. With
    `recency` they have a relevance below that of any learnt item, by popularity, and the same factor.

    Attributes:
        rows: rows of the learnt items, ascending, int64 [N].
        weights: of each past item (row) for each item, float32 [N, N].
    """

    name: ClassVar[str] = "ease"
    config_class: ClassVar[type[Config]] = EASEConfig
    config: EASEConfig
    rows: np.ndarray
    weights: np.ndarray

    def _learn_from(self, touched: csr_matrix) -> None:
        order = np.argsort(-self.users_of_item, kind="stable")
        self.rows = np.sort(order[: self.config.top_items])
        touched = touched[:, self.rows]
        gram = (touched.T @ touched).toarray().astype(np.float32)
        self.weights = _weights(gram, self.config.regularization)
        self._know_bound()

    def _know_bound(self) -> None:
        """Below this no learnt item ever comes, whatever the history."""
        lowest = np.zeros(len(self.rows), np.float64)
        for start in range(0, len(self.rows), 1024):
            lowest += np.minimum(self.weights[start : start + 1024], 0).sum(axis=0, dtype=np.float64)
        self._below = float(lowest.min(initial=0)) - 1

    def _catalogue_logits(self, histories: Histories) -> np.ndarray:
        sums_BN = self._past(histories)[:, self.rows] @ self.weights
        scores_BI = np.empty((len(histories), len(self.items)), np.float32)
        if self.config.recency:
            scores_BI[:] = self._floor()
            scores_BI[:, self.rows] += relative(sums_BN)
            return self._with_trend(scores_BI)
        scores_BI[:] = self._below + self.log_shares[:] - self.log_shares[:].max()
        scores_BI[:, self.rows] = sums_BN
        return scores_BI

    def _floor(self) -> np.ndarray:
        """Relevance of each item to somebody without a history, float64 [I]: less for what is not learnt, by users."""
        users = np.maximum(np.asarray(self.users_of_item), 0.5)
        floor: np.ndarray = RELEVANCE_FLOOR * users / users[self.rows].mean()
        floor[self.rows] = RELEVANCE_FLOOR
        return floor

    def _write(self, folder: Path) -> None:
        super()._write(folder)
        np.save(folder / "rows.npy", self.rows)
        np.save(folder / "item_weights.npy", self.weights)

    def _read(self, folder: Folder, settings: dict[str, Any]) -> None:
        super()._read(folder, settings)
        self.rows = np.load(folder.file("rows.npy"))
        self.weights = np.load(folder.file("item_weights.npy"), mmap_mode="r")
        self._know_bound()


def _weights(gram: np.ndarray, regularization: float) -> np.ndarray:
    """The closed form, float32 [N, N]; `gram` is overwritten."""
    lapack = imported("scipy.linalg.lapack")
    np.fill_diagonal(gram, gram.diagonal() + np.float32(regularization))
    factor, failed = lapack.spotrf(gram.T, lower=0, overwrite_a=1)
    assert not failed  # X^T X + lambda is positive definite
    inverse, failed = lapack.spotri(factor, lower=0, overwrite_c=1)
    assert not failed
    # Only the upper triangle is set.
    diagonal = inverse.diagonal().copy()
    for row in range(1, len(inverse)):
        inverse[row, :row] = inverse[:row, row]
    inverse /= -diagonal
    np.fill_diagonal(inverse, 0)
    return np.ascontiguousarray(inverse)
