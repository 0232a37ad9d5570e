"""The forward pass of a training batch.

Shapes: B users, L items of a history (padded), C candidates, D embedding width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch

from heedful.model.inputs import InputLayer, Inputs, Noise
from heedful.model.score import ScoreModel
from heedful.training.batch import Batch

__all__ = ["Forward", "TrainingForward"]


class Forward(Protocol):
    """Turns a batch into logits, float [B, C]."""

    def __call__(self, batch: Batch) -> torch.Tensor:
        """The logits of the candidates of a batch."""


@dataclass(frozen=True)
class TrainingForward:
    """A model's logits of a batch, with noise on its inputs and what corrects for how negatives were drawn."""

    model: ScoreModel
    inputs: InputLayer

    def __call__(self, batch: Batch) -> torch.Tensor:
        """The logits of the candidates, float [B, C]."""
        learning = self.model.training and self.inputs.noise > 0
        noise = _noise(batch, self.inputs.device) if learning else None
        history, xq_BCD = self.inputs.history(batch.history, noise), self.inputs(batch.candidates, noise)
        actions_BLA = self.inputs.actions(batch.history)
        if batch.popularity is None:
            return self.model(Inputs(*history, xq_BCD, actions_BLA=actions_BLA))  # type: ignore[no-any-return]
        features, offset = (
            torch.from_numpy(array).to(xq_BCD.device) for array in (batch.popularity.features, batch.popularity.offset)
        )
        logits_BC: torch.Tensor = self.model(Inputs(*history, xq_BCD, features, actions_BLA)) + offset
        return logits_BC


def _noise(batch: Batch, device: torch.device) -> Noise:
    """The numbers of a batch; for a share of one, those that its users have in the whole batch."""
    generator, share = torch.Generator(device).manual_seed(batch.seed), batch.share
    if share is None:
        return lambda shape: torch.randn(shape, generator=generator, device=device)
    places, longest = torch.from_numpy(share.places).to(device), batch.history.rows.shape[1]

    def drawn(shape: torch.Size) -> torch.Tensor:
        whole = share.longest if shape[1] == longest else shape[1]
        size = (share.users, whole, *shape[2:])
        return torch.randn(size, generator=generator, device=device)[places, : shape[1]]

    return drawn
