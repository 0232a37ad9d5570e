"""The simple models of section 5.2 that rank by cosine: last item, and a weighted sum tuned by CMA-ES.

Shapes: B users, L distinct items of a history, C candidates laid end to end, D embedding width, I items.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from heedful.config import Config, option, require
from heedful.embeddings.table import ItemEmbeddings
from heedful.errors import TrainingError
from heedful.events.candidates import Candidates
from heedful.events.histories import Histories
from heedful.events.log import EventLog
from heedful.folders import Folder
from heedful.metrics import batch_ndcg
from heedful.model.encode import HistoryBatch, encode
from heedful.progress import progress
from heedful.rankers.base import Ranker
from heedful.training.sampler import InstanceSampler, SamplingConfig

__all__ = ["LastItem", "LastItemConfig", "WeightedSum", "WeightedSumConfig"]


# Items whose scores are computed together when the whole catalogue is ranked.
_CHUNK_ITEMS = 65_536
# Exponent of the popularity that the candidates of validation users are drawn from.
_GAMMA = 0.75


@dataclass(frozen=True, kw_only=True)
class LastItemConfig(Config):
    """Last item has no options."""


class _VectorRanker(Ranker):
    """Ranks by the cosine of each candidate with one vector that represents the user."""

    @abstractmethod
    def _user_vectors(self, histories: Histories) -> np.ndarray:
        """One vector for each user, float32 [B, D]; its length does not matter."""

    def _recount(self, histories: Histories) -> None:
        """Nothing is counted."""

    def _logits(self, histories: Histories, candidates: Candidates) -> np.ndarray:
        users_BD = _unit(self._user_vectors(histories))
        owner = np.repeat(np.arange(len(histories)), candidates.lengths)
        return np.asarray(np.einsum("cd,cd->c", users_BD[owner], self._unit_rows(candidates.rows)))

    def _catalogue_logits(self, histories: Histories) -> np.ndarray:
        assert self.embeddings is not None
        users_BD = _unit(self._user_vectors(histories))
        scores_BI = np.empty((len(users_BD), len(self.items)), np.float32)
        for start in range(0, len(self.items), _CHUNK_ITEMS):
            part = slice(start, start + _CHUNK_ITEMS)
            scores_BI[:, part] = users_BD @ _unit(np.asarray(self.embeddings.vectors[part])).T
        return scores_BI

    def _unit_rows(self, rows: np.ndarray) -> np.ndarray:
        assert self.embeddings is not None
        return _unit(np.asarray(self.embeddings.vectors[rows]))


class LastItem(_VectorRanker):
    """Ranks items by cosine with the last item that the user touched (section 5.2; Grbovic and Cheng 2018)."""

    name: ClassVar[str] = "last-item"
    config_class: ClassVar[type[Config]] = LastItemConfig

    def fit(self, log: EventLog, items: ItemEmbeddings) -> Self:
        """Take over the embeddings; nothing is learnt."""
        self._learn_catalogue(log, items)
        return self

    def _user_vectors(self, histories: Histories) -> np.ndarray:
        last = np.maximum(histories.offsets[1:] - 1, 0)
        rows = histories.items[last] if len(histories.items) else np.zeros(len(histories), np.int64)
        return self._unit_rows(rows)


@dataclass(frozen=True, kw_only=True)
class WeightedSumConfig(Config):
    """How the weights are tuned."""

    seed: int = option(1, "seed of the validation users, their candidates and CMA-ES")
    evaluations: int = option(300, "settings of the weights that CMA-ES tries")
    validation_users: int = option(500, "validation users on whose last items the weights are tuned, at most half of all")
    positives: int = option(10, "most future items of a user")
    negatives: int = option(100, "sampled candidates of a user")
    max_history: int = option(256, "most recent distinct items that are summed")
    target_kinds: tuple[str, ...] = option((), "event kinds that count as future items; none: all")

    def __post_init__(self) -> None:
        """Check every option."""
        for name in ("evaluations", "validation_users", "positives", "negatives", "max_history"):
            require(getattr(self, name) >= 1, name, got=getattr(self, name), expected="1 or more")


class WeightedSum(_VectorRanker):
    """Ranks items by cosine with a weighted sum of the user's past items (section 5.2).

    The weight of past item i is exp(-a age_i) (1 + place_i)^-b count_i^c w(kind_i): time, order and number of
    interactions, and their kind; a, b, c and w are tuned with CMA-ES (Hansen et al. 2003) for NDCG on validation users.

    Attributes:
        parameters: log a (a in 1/days), b, c, and log w of every kind but the first, float64.
    """

    name: ClassVar[str] = "weighted-sum"
    config_class: ClassVar[type[Config]] = WeightedSumConfig
    config: WeightedSumConfig
    parameters: np.ndarray

    def fit(self, log: EventLog, items: ItemEmbeddings) -> Self:
        """Tune the weights on users of the log.

        Raises:
            TrainingError: no user has two distinct items.
        """
        config = self.config
        histories = self._learn_catalogue(log, items)
        sampling = SamplingConfig(
            batch_users=min(64, config.validation_users), split="last_items", positives=config.positives,
            negatives=config.negatives, gamma=_GAMMA, avoid_history=True, max_history=config.max_history,
            validation_users=max(1, min(config.validation_users, len(histories) // 2)), seed=config.seed,
        )  # fmt: skip
        batches = InstanceSampler(histories, self.targets, self.users_of_item, sampling).validation()
        if not batches:
            raise TrainingError("there is no one to tune the weights on", expected="users with two or more distinct items")
        cosines = [self._cosines(batch.history, batch.candidates) for batch in batches]
        known = [
            (batch.history, cosine, batch.positive, batch.weights > 0)
            for batch, cosine in zip(batches, cosines, strict=True)
        ]

        def loss(parameters: np.ndarray) -> float:
            scores = [np.einsum("bcl,bl->bc", s, self._weights(m, parameters)) for m, s, _, _ in known]
            ndcg = np.concatenate([batch_ndcg(s, p, v) for s, (_, _, p, v) in zip(scores, known, strict=True)])
            return -float(ndcg.mean())

        self.parameters = self._minimise(loss)
        return self

    def _minimise(self, loss: Any) -> np.ndarray:
        import cma  # brings matplotlib and scipy with it, which would be most of the time that opening a model takes

        start = np.zeros(3 + max(len(self.kinds) - 1, 0))
        start[0] = np.log(1 / 30)  # a month
        options = {"maxfevals": self.config.evaluations, "seed": self.config.seed + 1, "verbose": -9}
        search = cma.CMAEvolutionStrategy(start, 1.0, options)
        with progress("tuning weighted sum", self.config.evaluations, "settings") as meter:
            while not search.stop():
                settings = search.ask()
                search.tell(settings, [loss(setting) for setting in settings])
                meter.advance(len(settings), note=f"NDCG {-search.result.fbest:.4f}")
        return np.asarray(search.result.xbest, np.float64)

    def _cosines(self, history: HistoryBatch, candidates_BC: np.ndarray) -> np.ndarray:
        """Cosine of every candidate with every past item, float32 [B, C, L]; the weights' scale is all that is unknown."""
        return np.asarray(self._unit_rows(candidates_BC) @ self._unit_rows(history.rows).transpose(0, 2, 1))

    def _weights(self, history: HistoryBatch, parameters: np.ndarray) -> np.ndarray:
        """Weights of the past items, float32 [B, L]; 0 in the padding."""
        decay, order, repetition = np.exp(np.clip(parameters[0], -20, 5)), parameters[1], parameters[2]
        of_kind = np.concatenate([[0.0], parameters[3:]])
        place = np.arange(history.rows.shape[1])
        logs = -decay * history.ages - order * np.log1p(place) + repetition * np.log(np.maximum(history.counts, 1))
        logs = np.where(history.counts > 0, logs + of_kind[history.kinds], -np.inf)
        highest = logs.max(axis=1, keepdims=True, initial=-1e30)
        return np.asarray(np.exp(logs - highest), np.float32)

    def _user_vectors(self, histories: Histories) -> np.ndarray:
        ends = histories.offsets[1:]
        last = histories.times[np.maximum(ends - 1, 0)] if len(histories.times) else np.zeros(len(histories), np.int64)
        now = np.maximum(last, self.last_time)
        history = encode(histories, now, max_items=self.config.max_history)
        weights_BL = self._weights(history, self.parameters)
        return np.asarray(np.einsum("bl,bld->bd", weights_BL, self._unit_rows(history.rows)))

    def _settings(self) -> dict[str, Any]:
        return {"parameters": self.parameters.tolist()}

    def _read(self, folder: Folder, settings: dict[str, Any]) -> None:
        self.parameters = np.array(settings["parameters"])


def _unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors scaled to length one; a zero vector stays zero."""
    lengths = np.sqrt(np.einsum("...d,...d->...", vectors, vectors))[..., None]
    return np.asarray(vectors / np.maximum(lengths, 1e-12), np.float32)
