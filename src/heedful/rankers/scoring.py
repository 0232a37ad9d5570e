"""Logits of many users without gradients: users in groups of like length, items in blocks.

Shapes: B users, L items of a history (padded), C candidates, I items.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from heedful.events.candidates import Candidates
from heedful.model.encode import HistoryBatch
from heedful.model.inputs import InputLayer, Inputs
from heedful.model.score import ScoreModel

__all__ = ["SharedCandidates", "catalogue_logits", "inputs_of", "list_logits", "shared_logits"]

# Elements of the largest intermediate array: users x candidates x (items of the history + hidden width). Larger ones
# leave the cache and go back to the operating system each time, which took a third of all time. A GPU wants more.
_ELEMENTS = 2**19
_ELEMENTS_GPU = 2**27
# What is made of a block of a catalogue is shared by all users, so that blocks can be larger.
_BLOCK_ITEMS, _ELEMENTS_CATALOGUE = 2048, 2**22

Values = Mapping[str, np.ndarray]
"""Values of terms at a time, float32 [I] each (`Term.at_time`)."""


@dataclass(frozen=True)
class SharedCandidates:
    """The same candidates for every user; safe to share between threads.

    Attributes:
        xq_1CD: their conditioned vectors.
        at_time: values of terms at the time, [C] each.
        made: what terms make of them alone, by the first users that are scored.
    """

    xq_1CD: torch.Tensor
    at_time: Mapping[str, torch.Tensor]
    made: dict[object, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, layer: InputLayer, rows: np.ndarray, at_time: Values) -> SharedCandidates:
        """Candidates in `rows`, int64 [C]."""
        with torch.inference_mode():
            return cls(layer(rows)[None], _values_of(layer, rows, at_time))

    def __len__(self) -> int:
        return self.xq_1CD.shape[1]


def inputs_of(layer: InputLayer, history: HistoryBatch, rows: np.ndarray, at_time: Values) -> Inputs:
    """Inputs of the candidates in `rows`, int64 [B, C] or [1, C]."""
    known = _values_of(layer, rows, at_time)
    return Inputs(*layer.history(history), layer(rows), actions_BLA=layer.actions(history), at_time=known)


def _values_of(layer: InputLayer, rows: np.ndarray, at_time: Values) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(values[rows]).to(layer.device) for name, values in at_time.items()}


def list_logits(
    model: ScoreModel, layer: InputLayer, history: HistoryBatch, candidates: Candidates, at_time: Values
) -> np.ndarray:
    """Logits of each user's own candidates, float32 [C]."""
    logits = np.empty(len(candidates.rows), np.float32)
    elements = _ELEMENTS if layer.device.type == "cpu" else _ELEMENTS_GPU
    for users in _groups(history.lengths, candidates.lengths, elements):
        longest = int(candidates.lengths[users].max())
        places = candidates.offsets[:-1][users][:, None] + np.arange(longest)
        used = np.arange(longest) < candidates.lengths[users][:, None]
        rows = candidates.rows[np.minimum(places, len(candidates.rows) - 1)]
        with torch.inference_mode():
            scores = model(inputs_of(layer, history.take(users), rows, at_time)).float().cpu().numpy()
        logits[places[used]] = scores[used]
    return logits


def shared_logits(model: ScoreModel, layer: InputLayer, history: HistoryBatch, candidates: SharedCandidates) -> np.ndarray:
    """Logits of the same candidates for each user, float32 [B, C]."""
    logits = np.empty((len(history), len(candidates)), np.float32)
    for users, past in _encoded_groups(layer, history, len(candidates)):
        logits[users] = _shared(model, past, candidates)
    return logits


def catalogue_logits(
    model: ScoreModel, layer: InputLayer, history: HistoryBatch, n_items: int, at_time: Values
) -> np.ndarray:
    """Logits of every item for each user, float32 [B, I]."""
    logits = np.empty((len(history), n_items), np.float32)
    block = min(_BLOCK_ITEMS, n_items)
    groups = list(_encoded_groups(layer, history, block))
    for start in range(0, n_items, block):
        rows = np.arange(start, min(start + block, n_items))
        candidates = SharedCandidates.of(layer, rows, at_time)
        for users, past in groups:
            logits[users, start : start + block] = _shared(model, past, candidates)
    return logits


Past = tuple[tuple[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor | None]
"""Encoded histories, and properties of their actions."""


def _encoded_groups(layer: InputLayer, history: HistoryBatch, candidates: int) -> Iterator[tuple[np.ndarray, Past]]:
    elements = _ELEMENTS_CATALOGUE if layer.device.type == "cpu" else _ELEMENTS_GPU
    for users in _groups(history.lengths, np.full(len(history), candidates), elements):
        part = history.take(users)
        with torch.inference_mode():
            past = layer.history(part), layer.actions(part)
        yield users, past  # outside, or the mode would hold for whoever takes it


def _shared(model: ScoreModel, past: Past, candidates: SharedCandidates) -> np.ndarray:
    inputs = Inputs(*past[0], candidates.xq_1CD, actions_BLA=past[1], at_time=candidates.at_time, made=candidates.made)
    with torch.inference_mode():
        return np.asarray(model(inputs).float().cpu())


def _groups(lengths: np.ndarray, candidates: np.ndarray, elements: int) -> Iterator[np.ndarray]:
    """Users in groups of like length of at most so many elements together, so that little is spent on padding."""
    order = np.argsort(lengths, kind="stable")
    start = 0
    while start < len(order):
        stop = start + 1
        most = candidates[order[start]]
        while stop < len(order):
            most = max(most, candidates[order[stop]])
            size = lengths[order[stop]]
            if (stop + 1 - start) * most * (size + 128) > elements or size > 1.25 * lengths[order[start]] + 8:
                break
            stop += 1
        yield order[start:stop]
        start = stop
