"""What the adapters share: they learn from the log alone, score whole catalogues, and import their library when fitting.

Shapes: B users, I items, C candidates laid end to end, D width of the factors.
"""

from __future__ import annotations

import importlib
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np

from heedful.embeddings.table import ItemEmbeddings
from heedful.errors import MissingExtraError, TrainingError
from heedful.events.candidates import Candidates
from heedful.events.histories import Histories
from heedful.events.log import EventLog
from heedful.rankers.base import Ranker

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

__all__ = ["FactorRanker", "PublicRanker", "bag", "imported", "one_blas_thread"]

_EXTRA = "bench"
# RecTools asks for numpy 1 on Python 3.11 and 3.12, but works with numpy 2 there as on 3.13.
_BESIDE = {"rectools": "--no-deps rectools==0.19.0"}
_CHUNK_USERS = 64


class PublicRanker(Ranker):
    """A recommender that knows items by their place in the log alone: no embeddings, no sampling prior."""

    needs_embeddings: ClassVar[bool] = False

    def fit(self, log: EventLog, items: ItemEmbeddings | None = None) -> Self:
        """Learn from a log; a table of embeddings is of no use to it, and it ranks the items of the log alone.

        Raises:
            MissingExtraError: the library is not installed.
            TrainingError: no user has two distinct items, so that nothing goes with anything.
        """
        histories = self._learn_catalogue(log, None)
        distinct = histories.distinct(len(self.items))
        if distinct.lengths.max(initial=0) < 2:
            raise TrainingError("there is nothing to learn from", expected="users with two or more distinct items")
        self._learn(histories)
        return self

    @abstractmethod
    def _learn(self, histories: Histories) -> None:
        """Learn from the actions of the log, in rows of this ranker."""

    def _logits(self, histories: Histories, candidates: Candidates) -> np.ndarray:
        scores = np.empty(len(candidates.rows), np.float32)
        for users, part in histories.chunks(_CHUNK_USERS):
            asked = slice(candidates.offsets[users.start], candidates.offsets[users.stop])
            owner = np.repeat(np.arange(len(part)), candidates.lengths[users])
            scores[asked] = self._catalogue_logits(part)[owner, candidates.rows[asked]]
        return scores

    @abstractmethod
    def _catalogue_logits(self, histories: Histories) -> np.ndarray:
        """Scores of every item, float [B, I]."""


class FactorRanker(PublicRanker):
    """Ranks by the dot product of a vector for the user, made from the history, with one for each item.

    Attributes:
        item_factors: float32 [I, D].
    """

    item_factors: np.ndarray

    @abstractmethod
    def _user_factors(self, histories: Histories) -> np.ndarray:
        """Vectors of B users from their histories alone, float32 [B, D]."""

    def _logits(self, histories: Histories, candidates: Candidates) -> np.ndarray:
        users_BD = self._user_factors(histories)
        scores = np.empty(len(candidates.rows), np.float32)
        for user, vector in enumerate(users_BD):
            asked = slice(candidates.offsets[user], candidates.offsets[user + 1])
            scores[asked] = self.item_factors[candidates.rows[asked]] @ vector
        return scores

    def _catalogue_logits(self, histories: Histories) -> np.ndarray:
        return np.asarray(self._user_factors(histories) @ self.item_factors.T)


def imported(name: str) -> ModuleType:
    """A module of an optional package, imported when it is needed.

    Raises:
        MissingExtraError: the package is not installed, or lacks one that it needs.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        missing = (error.name or name).partition(".")[0]
        raise MissingExtraError(missing, _EXTRA, beside=_BESIDE.get(missing)) from error


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """One thread for linear algebra inside, as implicit asks for: its own threads would fight with those."""
    with imported("threadpoolctl").threadpool_limits(1, "blas"):
        yield


def bag(histories: Histories, n_items: int) -> csr_matrix:
    """Histories as a sparse matrix float32 [B, I] with 1 for each item that was touched."""
    sparse = imported("scipy.sparse")
    ones = np.ones(len(histories.items), np.float32)
    matrix: csr_matrix = sparse.csr_matrix(
        (ones, np.array(histories.items, np.int32), np.array(histories.offsets)), shape=(len(histories), n_items)
    )
    matrix.sum_duplicates()
    matrix.data[:] = 1
    return matrix
