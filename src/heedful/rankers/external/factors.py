"""Matrix factorisation by implicit: ALS and BPR, with the user's vector made from the history that is asked about.

Shapes: B users, I items, D width, L distinct past items of a user.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numba
import numpy as np

from heedful.config import Config, option, require
from heedful.events.histories import Histories
from heedful.folders import Folder
from heedful.kernels.rng import first_state, next_random
from heedful.rankers.external.base import FactorRanker, bag, imported, one_blas_thread

__all__ = ["ALS", "BPR", "ALSConfig", "BPRConfig"]


@dataclass(frozen=True, kw_only=True)
class _FactorsConfig(Config):
    """What both have."""

    seed: int = option(1, "seed of the start and the order")
    factors: int = option(128, "width of the vectors of users and items")

    def __post_init__(self) -> None:
        """Check every option."""
        require(self.factors >= 1, "factors", got=self.factors, expected="1 or more")


@dataclass(frozen=True, kw_only=True)
class ALSConfig(_FactorsConfig):
    """Alternating least squares."""

    alpha: float = option(5.0, "confidence of an action, against 1 for the lack of one")
    iterations: int = option(15, "alternations")
    penalty: float = option(0.01, "weight of the squared length of the vectors")

    def __post_init__(self) -> None:
        """Check every option."""
        super().__post_init__()
        require(self.alpha > 0, "alpha", got=self.alpha, expected="more than 0")
        require(self.iterations >= 1, "iterations", got=self.iterations, expected="1 or more")
        require(self.penalty > 0, "penalty", got=self.penalty, expected="more than 0")


class ALS(FactorRanker):
    """Weighted matrix factorisation (Hu, Koren and Volinsky 2008).

    The user's vector is the least-squares solution for the history that is asked about, as implicit's `recalculate_user`
    gives it, for users of the log and for new ones.
    """

    name: ClassVar[str] = "als"
    config_class: ClassVar[type[Config]] = ALSConfig
    config: ALSConfig

    def _learn(self, histories: Histories) -> None:
        als = imported("implicit.cpu.als")
        config = self.config
        with one_blas_thread():
            model = als.AlternatingLeastSquares(
                factors=config.factors, alpha=config.alpha, iterations=config.iterations, regularization=config.penalty,
                random_state=config.seed, num_threads=1,
            )  # fmt: skip
            model.fit(bag(histories, len(self.items)), show_progress=False)
        self.item_factors = np.asarray(model.item_factors, np.float32)
        self._gram = self._regular_gram()

    def _regular_gram(self) -> np.ndarray:
        """Y^T Y + lambda, [D, D]."""
        wide = self.item_factors.astype(np.float64)
        return np.asarray(wide.T @ wide + self.config.penalty * np.eye(wide.shape[1]))

    def _user_factors(self, histories: Histories) -> np.ndarray:
        past = bag(histories, len(self.items))
        users_BD = np.zeros((len(histories), self.item_factors.shape[1]), np.float32)
        for user in range(len(histories)):
            part = slice(past.indptr[user], past.indptr[user + 1])
            confidence_L = self.config.alpha * past.data[part].astype(np.float64)
            items_LD = self.item_factors[past.indices[part]].astype(np.float64)
            gram = self._gram + items_LD.T @ ((confidence_L - 1)[:, None] * items_LD)
            users_BD[user] = np.linalg.solve(gram, confidence_L @ items_LD)
        return users_BD

    def _write(self, folder: Path) -> None:
        np.save(folder / "item_factors.npy", self.item_factors)

    def _read(self, folder: Folder, settings: dict[str, Any]) -> None:
        self.item_factors = np.load(folder.file("item_factors.npy"))
        self._gram = self._regular_gram()


@dataclass(frozen=True, kw_only=True)
class BPRConfig(_FactorsConfig):
    """Bayesian personalised ranking."""

    iterations: int = option(100, "passes over the log")
    step: float = option(0.01, "of stochastic gradient descent")
    penalty: float = option(0.01, "weight of the squared length of the vectors")

    def __post_init__(self) -> None:
        """Check every option."""
        super().__post_init__()
        require(self.iterations >= 1, "iterations", got=self.iterations, expected="1 or more")
        require(self.step > 0, "step", got=self.step, expected="more than 0")
        require(self.penalty >= 0, "penalty", got=self.penalty, expected="0 or more")


class BPR(FactorRanker):
    """Matrix factorisation by pairs of a touched and an untouched item (Rendle et al. 2009).

    implicit has no way to make the vector of a user who is not in the log. Here it is learnt for every user, those of the
    log too, from the history that is asked about, by the same steps as in training with the items kept as they are.

    Attributes:
        item_factors: vectors and, in the last column, the bias of each item, float32 [I, D + 1].
        actions: actions of the log with each item up to its row, in whose proportion other items are drawn, int64 [I].
    """

    name: ClassVar[str] = "bpr"
    config_class: ClassVar[type[Config]] = BPRConfig
    config: BPRConfig
    actions: np.ndarray

    def _learn(self, histories: Histories) -> None:
        bpr = imported("implicit.cpu.bpr")
        config = self.config
        touched = bag(histories, len(self.items))
        with one_blas_thread():
            model = bpr.BayesianPersonalizedRanking(
                factors=config.factors, learning_rate=config.step, regularization=config.penalty,
                iterations=config.iterations, random_state=config.seed, num_threads=1,
            )  # fmt: skip
            model.fit(touched, show_progress=False)
        self.item_factors = np.asarray(model.item_factors, np.float32)
        self.actions = np.cumsum(self.users_of_item, dtype=np.int64)

    def _user_factors(self, histories: Histories) -> np.ndarray:
        past = bag(histories, len(self.items))
        past.sort_indices()
        users_BD = np.zeros((len(histories), self.item_factors.shape[1]), np.float32)
        users_BD[:, -1] = 1  # meets the items' biases
        config = self.config
        _fold_in(
            past.indptr.astype(np.int64), past.indices.astype(np.int64), self.item_factors, self.actions,
            config.iterations, config.step, config.penalty, config.seed, users_BD,
        )  # fmt: skip
        return users_BD

    def _write(self, folder: Path) -> None:
        np.save(folder / "item_factors.npy", self.item_factors)

    def _read(self, folder: Folder, settings: dict[str, Any]) -> None:
        self.item_factors = np.load(folder.file("item_factors.npy"))
        self.actions = np.cumsum(self.users_of_item, dtype=np.int64)


@numba.njit(nogil=True, cache=True)
def _fold_in(
    offsets: Any,
    rows: Any,
    items: Any,
    actions: Any,
    passes: int,
    step: float,
    penalty: float,
    seed: int,
    users: Any,
) -> None:
    """Learn `users` [B, D + 1] in place: in each pass as many pairs as the user has items, a touched and another item."""
    width = items.shape[1] - 1
    for b in range(len(users)):
        past = rows[offsets[b] : offsets[b + 1]]
        state = first_state(seed, 0, 0)
        for _ in range(passes * len(past)):
            state, bits = next_random(state)
            liked = past[np.int64(bits % np.uint64(len(past)))]
            state, bits = next_random(state)
            other = np.searchsorted(actions, np.int64(bits % np.uint64(actions[-1])), side="right")
            place = np.searchsorted(past, other)
            if place < len(past) and past[place] == other:
                continue
            difference = items[liked, width] - items[other, width]
            for d in range(width):
                difference += users[b, d] * (items[liked, d] - items[other, d])
            pull = 1 / (1 + np.exp(difference))
            for d in range(width):
                users[b, d] += step * (pull * (items[liked, d] - items[other, d]) - penalty * users[b, d])
