"""What the terms of a score see: conditioned embeddings of history and candidates.

Shapes: B users, L items of a history (padded), C candidates, D embedding width, I items, F features.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import torch

from heedful.model.encode import HistoryBatch, properties_of
from heedful.model.side_features import FeatureCodes, FeatureVectors

__all__ = ["InputLayer", "Inputs", "ItemVectors", "Noise", "mean_vector"]

_CHUNK_ITEMS = 65_536
# A device with memory of its own keeps the table there if that takes at most this part of what is free.
_RESIDENT_SHARE = 0.5
_DAY = 86400
# An item of age t weighs (1 + 256 t / period) ** -0.8 in a mean by recency.
_AGE_UNITS, _AGE_POWER = 256, 0.8

T = TypeVar("T")
Noise = Callable[[torch.Size], torch.Tensor]
"""Standard normal numbers of a shape."""


@dataclass(frozen=True)
class Inputs:
    """B users and their candidates, as `Term.forward` takes them.

    Attributes:
        x_BLD: conditioned embeddings of the history, newest first.
        used_BL: 1 for an item of the history, 0 in the padding.
        recency_BL: weight of each item of the history by its age, 0 in the padding.
        xq_BCD: conditioned embeddings of the candidates, or [1, C, D] for the same candidates for all.
        popularity_BCF: features of the candidates' popularity at the time of ranking; None where
            `at_time` has the values that follow from them.
        actions_BLA: properties of the actions with each item of the history (`InputLayer.actions`); None where no term needs
            them.
        at_time: values, [B, C] or [C], of the terms that were computed for a time (`Term.at_time`).
        made: what terms made of the candidates alone, which other users of the same candidates need as well (`once`).
    """

    x_BLD: torch.Tensor
    used_BL: torch.Tensor
    recency_BL: torch.Tensor
    xq_BCD: torch.Tensor
    popularity_BCF: torch.Tensor | None = None
    actions_BLA: torch.Tensor | None = None
    at_time: Mapping[str, torch.Tensor] = field(default_factory=dict)
    made: dict[object, Any] = field(default_factory=dict)

    def once(self, term: object, make: Callable[[], T]) -> T:
        """What a term makes of the candidates alone, made by the first of the users that share `made`."""
        if term not in self.made:
            self.made[term] = make()
        found: T = self.made[term]
        return found


class InputLayer:
    """From item rows to what a model sees.

    Args:
        vectors: conditioned item vectors.
        users_of_item: distinct users of each item in the training log, int64 [I].
        span: length of the training log's period, seconds.
        noise: size of the noise of `__call__`.
        codes: values of the items' side features; None without side features.
        learnt: the vectors of these values.
        n_kinds: kinds of actions whose properties are told apart; 0: none.
    """

    def __init__(
        self,
        vectors: ItemVectors,
        users_of_item: np.ndarray,
        *,
        span: float,
        noise: float = 0.0,
        codes: FeatureCodes | None = None,
        learnt: FeatureVectors | None = None,
        n_kinds: int = 0,
    ) -> None:
        self.vectors, self.users_of_item, self.span = vectors, users_of_item, span
        self.noise, self.codes, self.learnt, self.n_kinds = noise, codes, learnt, n_kinds

    @property
    def device(self) -> torch.device:
        """Where inputs are made."""
        return self.vectors.device

    def history(self, batch: HistoryBatch, noise: Noise | None = None) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(x_BLD, used_BL, recency_BL) of `Inputs`."""
        used, recency = batch.counts > 0, self._recency(batch)
        x_BLD = self(batch.rows, noise)
        used_BL, recency_BL = (torch.from_numpy(array.astype(np.float32)).to(self.device) for array in (used, recency))
        return x_BLD, used_BL, recency_BL

    def actions(self, batch: HistoryBatch) -> torch.Tensor | None:
        """`Inputs.actions_BLA`; None where kinds are not told apart."""
        if not self.n_kinds:
            return None
        return torch.from_numpy(properties_of(batch, self._recency(batch), self.n_kinds)).to(self.device)

    def _recency(self, batch: HistoryBatch) -> np.ndarray:
        return np.asarray((batch.counts > 0) * (1 + _AGE_UNITS * _DAY * batch.ages / self.span) ** -_AGE_POWER)

    def __call__(self, rows: np.ndarray, noise: Noise | None = None) -> torch.Tensor:
        """Conditioned embeddings of rows of any shape, float [..., D].

        The table was learnt from the very actions that a training instance has to predict, and the
        fewer users an item has, the more its vector tells of them. With `noise` each vector is given
        no more precision than a vector learnt from so many users has about anybody else.
        """
        vectors = self.vectors(rows)
        if noise is not None:
            users = np.maximum(self.users_of_item[rows], 1)
            deviation = self.noise / np.sqrt(users * vectors.shape[-1])
            size = torch.from_numpy(deviation.astype(np.float32)).to(self.device)
            size = size[..., None] * vectors.norm(dim=-1, keepdim=True)
            vectors = vectors + size * noise(vectors.shape)
        if self.codes is None or self.learnt is None:
            return vectors
        codes = torch.from_numpy(self.codes.codes[:, rows]).to(self.device)
        learnt: torch.Tensor = self.learnt(codes)
        return vectors + learnt


class ItemVectors:
    """Vectors of items, centred and scaled: scale decides whether attention trains at all.

    On a CPU the rows asked for are read from the memory-mapped table. A GPU holds a copy of the table
    where it fits, so that a batch sends it rows instead of vectors.

    Args:
        table: embeddings, float [I, D].
        mean: their mean, float32 [D].
        scale: length that each vector gets after centring.
        device: where vectors are wanted.
    """

    def __init__(self, table: np.ndarray, mean: np.ndarray, scale: float, device: torch.device) -> None:
        self._table, self._scale, self.device = table, scale, device
        self._mean = torch.from_numpy(mean).to(device)
        self._resident = _copy_to(table, device) if _fits(table.nbytes, device) else None

    def __call__(self, rows: np.ndarray) -> torch.Tensor:
        """Vectors of rows of any shape, float32 [..., D]."""
        vectors = self._gathered(rows) - self._mean
        lengths = vectors.norm(dim=-1, keepdim=True).clamp(min=1e-6)
        scaled: torch.Tensor = vectors * (self._scale / lengths)
        return scaled

    def _gathered(self, rows: np.ndarray) -> torch.Tensor:
        if self._resident is None:
            return torch.from_numpy(np.asarray(self._table[rows], np.float32)).to(self.device)
        return self._resident[torch.from_numpy(np.asarray(rows, np.int64)).to(self.device)].float()


def mean_vector(table: np.ndarray) -> np.ndarray:
    """Mean of the rows, float32 [D], without a copy of the table."""
    total = np.zeros(table.shape[1])
    for start in range(0, len(table), _CHUNK_ITEMS):
        total += table[start : start + _CHUNK_ITEMS].sum(axis=0, dtype=np.float64)
    return np.asarray(total / max(len(table), 1), np.float32)


def _fits(size: int, device: torch.device) -> bool:
    if device.type != "cuda":
        return False
    free, _ = torch.cuda.mem_get_info(device)
    return size <= _RESIDENT_SHARE * free


def _copy_to(table: np.ndarray, device: torch.device) -> torch.Tensor:
    """A copy of the table, made in parts: it may be larger than the free memory of the processor."""
    starts = range(0, len(table), _CHUNK_ITEMS)
    parts = (np.array(table[start : start + _CHUNK_ITEMS]) for start in starts)
    kind = torch.from_numpy(np.empty(0, table.dtype)).dtype
    copy = torch.empty(table.shape, dtype=kind, device=device)
    for number, part in enumerate(parts):
        copy[number * _CHUNK_ITEMS :][: len(part)] = torch.from_numpy(part)
    return copy
