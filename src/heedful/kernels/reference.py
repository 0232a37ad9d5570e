"""The plain form of each kernel: slow, obvious, in whatever precision its inputs have. Tests and
benchmarks compare with it.

Shape suffixes: B users, L past items (padded), C candidates, D embedding width, H hidden width, M
null tokens, R rows; for skip-gram I items and N pairs.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from heedful.kernels.attention_cpu import AttentionParameters

__all__ = [
    "PlainAttention",
    "positive_part",
    "skipgram_gradient",
    "skipgram_loss",
    "softmax",
    "softmax_gradient",
    "splitmix64",
]


class PlainAttention(nn.Module):
    """Section 4.1 as it is written: every layer projects every past item. The reference of `attention_cpu`.

    Args:
        width: D.
        hidden: H.
        depth: K.
        null_tokens: M, learnt rows beside the past items in each layer; 0 is the paper's model.
    """

    def __init__(self, *, width: int, hidden: int, depth: int, null_tokens: int = 0) -> None:
        super().__init__()
        self.h = nn.Linear(width, hidden)
        self.f = nn.ModuleList(nn.Linear(width, hidden) for _ in range(depth))
        self.g = nn.ModuleList(nn.Linear(width, hidden) for _ in range(depth))
        self.phi = nn.Linear(hidden, 1, bias=False)
        self.null = nn.ParameterList(
            nn.Parameter(torch.zeros(null_tokens, width)) for _ in range(depth if null_tokens else 0)
        )

    @classmethod
    def of(cls, parameters: AttentionParameters) -> PlainAttention:
        """The same function, from a copy of its parameters; the bias of each f is zero."""
        hidden, width = parameters.h.weight.shape
        null_tokens = len(parameters.null[0]) if parameters.null else 0
        plain = cls(width=width, hidden=hidden, depth=len(parameters.f), null_tokens=null_tokens)
        with torch.no_grad():
            plain.h.load_state_dict(parameters.h.state_dict())
            plain.g.load_state_dict(parameters.g.state_dict())
            plain.null.load_state_dict(parameters.null.state_dict())
            plain.phi.weight.copy_(parameters.phi)
            for layer, matrix in zip(plain.f, parameters.f, strict=True):
                layer.load_state_dict({"weight": matrix, "bias": torch.zeros(hidden)})
        return plain

    def forward(self, x_BLD: torch.Tensor, used_BL: torch.Tensor, xq_BCD: torch.Tensor) -> torch.Tensor:
        """The logit of each candidate, float [B, C].

        Args:
            x_BLD: past items.
            used_BL: bool, False in the padding.
            xq_BCD: candidates.
        """
        z_BCH = self.h(xq_BCD)
        for k, (f, g) in enumerate(zip(self.f, self.g, strict=True)):
            memory_BND, used_BN = self._memory(k, x_BLD, used_BL)
            mask_B1N = torch.zeros_like(used_BN, dtype=z_BCH.dtype).masked_fill(~used_BN, -torch.inf)[:, None, :]
            p_BCN = (torch.bmm(z_BCH, f(memory_BND).transpose(1, 2)) + mask_B1N).softmax(-1)
            z_BCH = z_BCH + torch.bmm(p_BCN, g(memory_BND))
        logits_BC: torch.Tensor = self.phi(z_BCH).squeeze(-1)
        return logits_BC

    def _memory(self, k: int, x_BLD: torch.Tensor, used_BL: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.null:
            return x_BLD, used_BL
        null_BMD = self.null[k].expand(len(x_BLD), -1, -1)
        return torch.cat([x_BLD, null_BMD], dim=1), nn.functional.pad(used_BL, (0, null_BMD.shape[1]), value=True)


def softmax(scores_RC: np.ndarray) -> np.ndarray:
    """The softmax of each column, [R, C]. The reference of `matmul.softmax`."""
    weights_RC = np.exp(scores_RC - scores_RC.max(axis=0))
    return np.asarray(weights_RC / weights_RC.sum(axis=0))


def softmax_gradient(d_RC: np.ndarray, weights_RC: np.ndarray) -> np.ndarray:
    """The gradient of the scores from that of the weights, [R, C]. The reference of `matmul.softmax_gradient`."""
    return np.asarray(weights_RC * (d_RC - (weights_RC * d_RC).sum(axis=0)))


def positive_part(z_RC: np.ndarray, threshold: float) -> np.ndarray:
    """Sum and largest of relu(z - threshold) of each column, [2, C]. The reference of `matmul.positive_part`."""
    above_RC = np.maximum(z_RC - threshold, 0)
    return np.stack([above_RC.sum(axis=0), above_RC.max(axis=0, initial=0)])


def skipgram_loss(
    x_ID: np.ndarray, y_ID: np.ndarray, inputs: Sequence[int], trues: Sequence[int], negatives: Sequence[int]
) -> float:
    """The loss of section 3 for pairs that share negatives, from item vectors x and context vectors y."""

    def log_sigmoid(z: np.ndarray) -> np.ndarray:
        return np.asarray(-np.logaddexp(0, -z))

    terms = [
        log_sigmoid(x_ID[i] @ y_ID[j]) + log_sigmoid(-y_ID[negatives] @ x_ID[i]).sum()
        for i, j in zip(inputs, trues, strict=True)
    ]
    return -float(sum(terms))


def skipgram_gradient(
    x_ID: np.ndarray, y_ID: np.ndarray, inputs: Sequence[int], trues: Sequence[int], negatives: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """The gradients of `skipgram_loss` for x and y. The reference of `skipgram.update`, whose step is rate times these."""
    d_x_ID, d_y_ID = np.zeros_like(x_ID), np.zeros_like(y_ID)
    for i, j in zip(inputs, trues, strict=True):
        for row, label in [(j, 1), *((negative, 0) for negative in negatives)]:
            factor = 1 / (1 + np.exp(-x_ID[i] @ y_ID[row])) - label
            d_x_ID[i] += factor * y_ID[row]
            d_y_ID[row] += factor * x_ID[i]
    return d_x_ID, d_y_ID


def splitmix64(state: int) -> tuple[int, int]:
    """(next state, 64 random bits), on Python's integers. The reference of `rng.next_random`."""
    state = (state + 0x9E3779B97F4A7C15) % 2**64
    z = state
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
    return state, z ^ (z >> 31)
