"""Rivals of the literature on next baskets, which rank what users took before by how often and how lately.

All go by baskets (`heedful.rankers.baskets`), and rank all items.

Shapes: B users, U training users, I items, N (user, item, basket) triples.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from heedful.config import Config, option, require
from heedful.events.histories import Histories
from heedful.events.targets import TargetConfig
from heedful.folders import Folder
from heedful.rankers.baskets import Baskets
from heedful.rankers.external.base import PublicRanker, imported

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

__all__ = ["OwnFrequent", "OwnFrequentConfig", "TifuKnn", "TifuKnnConfig", "UpCf", "UpCfConfig"]


@dataclass(frozen=True, kw_only=True)
class OwnFrequentConfig(TargetConfig):
    """Own most frequent items have no options of their own."""

    target: Literal["new", "repeat", "all"] = option("all", "items that are asked for: new, repeat or all")


@dataclass(frozen=True, kw_only=True)
class UpCfConfig(OwnFrequentConfig):
    """UP-CF@r."""

    recent_baskets: int = option(25, "r: latest baskets that count; 0: all")
    locality: float = option(5.0, "q: exponent of the similarity of users; the higher, the fewer count")
    asymmetry: float = option(0.25, "how much of the similarity is divided by the user's own number of items, 0 to 1")

    def __post_init__(self) -> None:
        """Check every option."""
        super().__post_init__()
        require(self.recent_baskets >= 0, "recent_baskets", got=self.recent_baskets, expected="0 or more")
        require(0 <= self.locality < np.inf, "locality", got=self.locality, expected="0 or more")
        require(0 <= self.asymmetry <= 1, "asymmetry", got=self.asymmetry, expected="0 to 1")


@dataclass(frozen=True, kw_only=True)
class TifuKnnConfig(OwnFrequentConfig):
    """TIFU-KNN."""

    group: int = option(7, "m: baskets of a group")
    decay: float = option(0.9, "r_b: weight of a basket in its group for each later basket")
    group_decay: float = option(0.7, "r_g: weight of a group for each later group")
    neighbours: int = option(300, "k: nearest users")
    own_weight: float = option(0.7, "alpha: weight of the user's own vector against that of the neighbours")

    def __post_init__(self) -> None:
        """Check every option."""
        super().__post_init__()
        for name in ("group", "neighbours"):
            require(getattr(self, name) >= 1, name, got=getattr(self, name), expected="1 or more")
        for name in ("decay", "group_decay", "own_weight"):
            require(0 <= getattr(self, name) <= 1, name, got=getattr(self, name), expected="0 to 1")


class OwnFrequent(PublicRanker):
    """The user's own most frequent items, then the most popular of the others (GP-TopFreq of Li et al. 2023)."""

    name: ClassVar[str] = "own-frequent"
    config_class: ClassVar[type[Config]] = OwnFrequentConfig

    def _learn(self, histories: Histories) -> None:
        """Nothing but popularity."""

    def _catalogue_logits(self, histories: Histories) -> np.ndarray:
        baskets = Baskets.of(histories, len(self.items))
        users = np.asarray(self.users_of_item, np.float64)
        scores_BI = np.tile(users / (users.max(initial=0) + 1), (len(histories), 1))
        scores_BI[baskets.users, baskets.items] += baskets.sizes
        return scores_BI


class _NextBasket(PublicRanker):
    """Compares users by a vector of items each, with those of the training users.

    Attributes:
        known: vectors of the training users, float32 [U, I].
    """

    known: csr_matrix

    def _vectors(self, histories: Histories) -> csr_matrix:
        """Vectors of users, float32 [B, I]."""
        baskets = Baskets.of(histories, len(self.items))
        weights = baskets.total(self._weights(baskets)).astype(np.float32)
        matrix: csr_matrix = imported("scipy.sparse").csr_matrix(
            (weights, (baskets.users, baskets.items)), shape=(len(histories), len(self.items))
        )
        matrix.eliminate_zeros()
        return matrix

    @abstractmethod
    def _weights(self, baskets: Baskets) -> np.ndarray:
        """What each basket with an item counts, [N]."""

    def _learn(self, histories: Histories) -> None:
        self.known = self._vectors(histories)

    def _write(self, folder: Path) -> None:
        imported("scipy.sparse").save_npz(folder / "known.npz", self.known, compressed=False)

    def _read(self, folder: Folder, settings: dict[str, Any]) -> None:
        self.known = imported("scipy.sparse").load_npz(folder.file("known.npz"))


class UpCf(_NextBasket):
    """UP-CF@r: how often similar users, and the user most of all, took an item lately (Faggioli et al. 2020).

    A user's vector is the share of their latest r baskets that have each item. Scores are the sum of these vectors over all
    users, weighed by the asymmetric cosine of the sets of items that they ever took, to the power of q.

    Attributes:
        touched: items of the training users, float32 [U, I], 1 for each.
    """

    name: ClassVar[str] = "up-cf"
    config_class: ClassVar[type[Config]] = UpCfConfig
    config: UpCfConfig
    touched: csr_matrix

    def _weights(self, baskets: Baskets) -> np.ndarray:
        users = np.repeat(baskets.users, baskets.sizes)
        most = self.config.recent_baskets or np.iinfo(np.int64).max
        return np.asarray((baskets.since < most) / np.minimum(baskets.counts[users], most))

    def _learn(self, histories: Histories) -> None:
        super()._learn(histories)
        self.touched = self._touched(histories)

    def _touched(self, histories: Histories) -> csr_matrix:
        past = histories.distinct(len(self.items))
        ones = np.ones(len(past.items), np.float32)
        matrix: csr_matrix = imported("scipy.sparse").csr_matrix(
            (ones, past.items.astype(np.int32), past.offsets), shape=(len(past), len(self.items))
        )
        return matrix

    def _catalogue_logits(self, histories: Histories) -> np.ndarray:
        own, sizes_U = self._touched(histories), np.diff(self.touched.indptr)
        sizes_B = np.diff(own.indptr)
        common_BU = (own @ self.touched.T).toarray()
        a = self.config.asymmetry
        similar_BU = common_BU / np.maximum(sizes_B[:, None] ** a * sizes_U ** (1 - a), 1e-9)
        # Who has the same items is taken for the user, who counts once, with what is known now.
        similar_BU[(common_BU == sizes_B[:, None]) & (common_BU == sizes_U)] = 0
        return np.asarray(similar_BU**self.config.locality @ self.known + self._vectors(histories).toarray())

    def _write(self, folder: Path) -> None:
        super()._write(folder)
        imported("scipy.sparse").save_npz(folder / "touched.npz", self.touched, compressed=False)

    def _read(self, folder: Folder, settings: dict[str, Any]) -> None:
        super()._read(folder, settings)
        self.touched = imported("scipy.sparse").load_npz(folder.file("touched.npz"))


class TifuKnn(_NextBasket):
    """TIFU-KNN: temporal item frequencies of the user and of the nearest other users (Hu et al. 2020).

    A user's vector is the mean over groups of baskets, decayed by group, of the mean over the baskets of a group, decayed by
    basket.
    """

    name: ClassVar[str] = "tifu-knn"
    config_class: ClassVar[type[Config]] = TifuKnnConfig
    config: TifuKnnConfig

    def _weights(self, baskets: Baskets) -> np.ndarray:
        config = self.config
        counts = baskets.counts[np.repeat(baskets.users, baskets.sizes)]
        group, place = baskets.since // config.group, baskets.since % config.group
        groups = -(-counts // config.group)
        # The oldest group has what is left over.
        size = np.where(group == groups - 1, counts - (groups - 1) * config.group, config.group)
        return np.asarray(config.decay**place * config.group_decay**group / (size * groups))

    def _catalogue_logits(self, histories: Histories) -> np.ndarray:
        config, own = self.config, self._vectors(histories)
        squares_U = np.asarray(self.known.multiply(self.known).sum(axis=1)).ravel()
        squares_B = np.asarray(own.multiply(own).sum(axis=1)).ravel()
        distance_BU = squares_B[:, None] + squares_U - 2 * (own @ self.known.T).toarray()
        k = min(config.neighbours, distance_BU.shape[1])
        nearest = np.argpartition(distance_BU, k - 1, axis=1)[:, :k]
        weights_BU = np.zeros(distance_BU.shape, np.float32)
        np.put_along_axis(weights_BU, nearest, np.float32((1 - config.own_weight) / k), axis=1)
        return np.asarray(config.own_weight * own.toarray() + weights_BU @ self.known)
