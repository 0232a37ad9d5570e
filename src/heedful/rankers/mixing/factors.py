"""A truncated singular value decomposition of the matrix of users and items: tastes shared beyond baskets.

Shapes: E past actions, I items, D factors, B users, C candidates laid end to end.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from heedful.events.candidates import Candidates
from heedful.events.histories import Histories

__all__ = ["Factors"]

# 8, 16 and 64 factors, powers of 0 and 0.5, and ALS in their place were no better on three logs (docs/log.md).
_FACTORS = 32
_POWER = 0.25
_LEAST_ITEMS = 3


@dataclass(frozen=True)
class Factors:
    """Right singular vectors of a matrix whose columns were divided by users ** 0.25 (PureSVD, Cremonesi et al. 2010).

    Attributes:
        items: the vectors, float32 [I, D]; D is 0 for a log of fewer than three users or items.
        scale: what each column was divided by, float32 [I].
    """

    names: ClassVar[tuple[str, ...]] = ("factors", "factors_scaled")
    items: np.ndarray
    scale: np.ndarray

    @classmethod
    def of(cls, past: Histories, n_items: int) -> Self:
        """Decompose the matrix of users and their distinct past items, E in all."""
        from scipy.sparse import csr_matrix  # here: importing it takes longer than loading a model
        from scipy.sparse.linalg import svds

        users = np.bincount(past.items, minlength=n_items)
        scale = (np.maximum(users, 1) ** _POWER).astype(np.float32)
        shape = (len(past), n_items)
        if min(shape) < _LEAST_ITEMS or not len(past.items):
            return cls(np.zeros((n_items, 0), np.float32), scale)
        matrix = csr_matrix((1 / scale[past.items], past.items, past.offsets), shape=shape)
        count = min(_FACTORS, min(shape) - 1)
        # Without a start of ours, one would be drawn at random in each call.
        start = np.random.default_rng(0).random(min(shape), np.float32)
        _, _, vectors = svds(matrix, k=count, v0=start, return_singular_vectors="vh")
        return cls(np.ascontiguousarray(vectors.T, np.float32), scale)

    def scores(self, past: Histories, candidates: Candidates) -> np.ndarray:
        """How well candidates fit the distinct past items of B users: as reconstructed, and before scaling back; [C, 2]."""
        owner = np.repeat(np.arange(len(past)), past.lengths)
        users_BD = np.zeros((len(past), self.items.shape[1]), np.float32)
        np.add.at(users_BD, owner, self.items[past.items] / self.scale[past.items, None])
        scaled = (users_BD[candidates.owners] * self.items[candidates.rows]).sum(axis=1)
        return np.stack([scaled * self.scale[candidates.rows], scaled], axis=1)

    def extended(self, n_items: int) -> Factors:
        """With further items, which fit nobody."""
        more = n_items - len(self.items)
        return Factors(np.pad(self.items, ((0, more), (0, 0))), np.pad(self.scale, (0, more), constant_values=1))
