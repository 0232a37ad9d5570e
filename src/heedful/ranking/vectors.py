"""Item vectors as the rankers' modules see them, on the device that computes.

Shapes: I items, D embedding width.
"""

from __future__ import annotations

import numpy as np
import torch

__all__ = ["ItemVectors", "mean_vector"]

_CHUNK_ITEMS = 65_536
# A device with memory of its own keeps the table there if it takes no more than this part of what is free.
_RESIDENT_SHARE = 0.5


class ItemVectors:
    """Vectors of items, centred and scaled: scale decides whether attention trains at all.

    On a CPU the rows asked for are read from the memory-mapped table. A GPU holds a copy of the table where it fits, so that
    a batch sends it rows instead of vectors.

    Args:
        table: embeddings, float [I, D].
        mean: their mean, float32 [D].
        scale: length that each vector gets after centring; 0: vectors are taken as they are.
        device: where vectors are wanted.
    """

    def __init__(self, table: np.ndarray, mean: np.ndarray, scale: float, device: torch.device) -> None:
        self._table, self._scale, self._device = table, scale, device
        self._mean = torch.from_numpy(mean).to(device)
        self._resident = _copy_to(table, device) if _fits(table.nbytes, device) else None

    def __call__(self, rows: np.ndarray) -> torch.Tensor:
        """Vectors of rows of any shape, float32 [..., D]."""
        vectors = self._gathered(rows)
        if not self._scale:
            return vectors
        vectors = vectors - self._mean
        scaled: torch.Tensor = vectors * (self._scale / vectors.norm(dim=-1, keepdim=True).clamp(min=1e-6))
        return scaled

    def _gathered(self, rows: np.ndarray) -> torch.Tensor:
        if self._resident is None:
            return torch.from_numpy(np.asarray(self._table[rows], np.float32)).to(self._device)
        return self._resident[torch.from_numpy(np.asarray(rows, np.int64)).to(self._device)].float()


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
    """A copy of the table, made part by part: it may be larger than what the processor's memory has to spare."""
    parts = (np.array(table[start : start + _CHUNK_ITEMS]) for start in range(0, len(table), _CHUNK_ITEMS))
    copy = torch.empty(table.shape, dtype=torch.from_numpy(np.empty(0, table.dtype)).dtype, device=device)
    for number, part in enumerate(parts):
        copy[number * _CHUNK_ITEMS :][: len(part)] = torch.from_numpy(part)
    return copy
