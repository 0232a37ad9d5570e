"""The training loop of section 4.3, for every module that scores candidates.

Adam, clipping of gradients, validation, and a checkpoint at each validation.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import nn

from heedful.errors import ConfigError, TrainingError
from heedful.model.popularity import PopularityIndex
from heedful.progress import progress, say
from heedful.training.batch import Batch
from heedful.training.checkpoint import CHECKPOINT, Progress, Weights, resume_from, save_checkpoint
from heedful.training.forward import Forward
from heedful.training.loader import batches_ahead
from heedful.training.losses import LOSSES
from heedful.training.recipe import (
    BETAS,
    GRADIENT_NORM,
    LINEAR_LAST_RATE,
    PLATEAU,
    WARM_UP_STEPS,
    TrainingConfig,
)
from heedful.training.sampler import InstanceSampler, Position

__all__ = ["TrainingLoop", "TrainingReport", "Workers", "as_device"]


@dataclass(frozen=True)
class TrainingReport:
    """What a training run did; saved in the model's manifest.

    Attributes:
        steps: updates made.
        best_step: the update after which the kept weights were found.
        best_loss: their loss on the validation users.
        losses: (step, loss on training batches since the last validation, loss on validation users) of each
            validation.
    """

    steps: int
    best_step: int
    best_loss: float
    losses: list[tuple[int, float, float]]


class Workers(Protocol):
    """Several processes that train one module, each on its share of every batch."""

    rank: int
    size: int

    def once(self, build: Callable[[], PopularityIndex]) -> PopularityIndex:
        """What the workers of a machine can share: built by one of them, memory-mapped by all."""

    def share(self, module: nn.Module, forward: Forward) -> Forward:
        """The forward pass, after which the gradients of `module` are the mean over the workers."""

    def total(self, values: list[float]) -> list[float]:
        """The sums of some numbers over the workers."""

    def saved(self, folder: Path, report: dict[str, float]) -> None:
        """Called by every worker after a validation; the checkpoint is in the `folder` of the first."""


def as_device(name: str) -> torch.device:
    """The device of an option: "auto" is CUDA when there is one.

    Raises:
        ConfigError: there is no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError("there is no such device", got=name, expected="auto, cpu, cuda or cuda:N") from error
    return device


class TrainingLoop:
    """Trains a module in place; it ends with the weights that did best on the validation users.

    Args:
        module: the parameters.
        forward: the forward pass of a batch through the module.
        sampler: where batches come from.
        config: rates, lengths and the seed; `steps` and `validate_every` resolved (above zero, or `steps`
            zero for plateau).
        data: what names the log and the table, so that a run is not resumed on others.
        folder: where checkpoints are written; None: none is written.
        workers: the processes of which this is one, whose sampler makes shares of batches; None: alone.
    """

    def __init__(
        self,
        module: nn.Module,
        forward: Forward,
        sampler: InstanceSampler,
        config: TrainingConfig,
        *,
        data: str = "",
        folder: Path | None = None,
        workers: Workers | None = None,
    ) -> None:
        self.module, self.sampler, self.config, self.workers = module, sampler, config, workers
        self.forward = workers.share(module, forward) if workers else forward
        self.facts, self.folder = {"config": json.dumps(config.to_dict()), "data": data}, folder
        self.parameters = dict(module.named_parameters())
        # Fused: one pass over all weights.
        self.adam = torch.optim.Adam(self.parameters.values(), lr=config.learning_rate, betas=BETAS, fused=True)
        self.state = Progress(rate=config.learning_rate)
        self.best = self._copy()
        self.validation = sampler.validation()

    def run(self, title: str, *, resume: bool = False) -> TrainingReport:
        """Train, with progress under this title; `resume` goes on from the checkpoint, if there is one.

        Raises:
            TrainingError: a loss is not finite; the module then has the weights of the last good validation.
            FolderError: the checkpoint cannot be written, or belongs to another run.
        """
        if resume:
            found = resume_from(self.folder, self.parameters, self.best, self.adam, self.facts)
            if found is not None:
                self.state = found
                say(f"resumed at step {found.step}")
        with _flushed_subnormals(), progress(title, self.config.steps or None, "steps") as meter:
            meter.resume_at(self.state.step)
            total, count = 0.0, 0
            for batch, position in self.batches():
                if self._finished():
                    break
                total, count = total + self.update(batch), count + 1
                self.state.step, self.state.position = self.state.step + 1, position
                meter.advance()
                if self.state.step % self.config.validate_every == 0 or self.state.step == self.config.steps:
                    loss = self._validate(total / count)
                    meter.advance(0, note=f"loss {total / count:.4f}, validation {loss:.4f}")
                    total, count = 0.0, 0
        self._load(self.best)
        return TrainingReport(self.state.step, self.state.best_step, self.state.best_loss, self.state.losses)

    def batches(self) -> Iterator[tuple[Batch, Position]]:
        """The batches from here on, and where to go on after each."""
        on_cpu = all(parameter.device.type == "cpu" for parameter in self.parameters.values())
        return batches_ahead(self.sampler.recipes(self.state.position), on_cpu=on_cpu)

    def update(self, batch: Batch) -> float:
        """One step of Adam; its loss."""
        for group in self.adam.param_groups:
            group["lr"] = self._rate()
        self.module.train()
        self.adam.zero_grad(set_to_none=True)
        loss = self._loss(batch)
        loss.backward()  # type: ignore[no-untyped-call]
        value = loss.item()  # after the backward pass, so that a GPU has all of its work before this waits for it
        if not math.isfinite(value):
            self._stop(f"the training loss became {value} at step {self.state.step + 1}")
        norm = nn.utils.get_total_norm(p.grad for p in self.parameters.values() if p.grad is not None)
        if norm > GRADIENT_NORM:
            nn.utils.clip_grads_with_norm_(self.parameters.values(), GRADIENT_NORM, norm)
        self.adam.step()
        return value

    def _loss(self, batch: Batch) -> torch.Tensor:
        logits = self.forward(batch)
        positive = torch.from_numpy(batch.positive).to(logits.device)
        weights = torch.from_numpy(batch.weights).to(logits.device)
        loss = LOSSES[self.config.objective](logits, positive, weights)
        return loss if batch.share is None else loss * batch.share.weight

    def _rate(self) -> float:
        if self.config.schedule == "plateau":
            return self.state.rate
        warm = min(1.0, (self.state.step + 1) / WARM_UP_STEPS)
        return self.config.learning_rate * warm * max(1 - self.state.step / self.config.steps, LINEAR_LAST_RATE)

    def _validate(self, training_loss: float) -> float:
        """Loss on the validation users; keeps the best weights, cuts the rate on a plateau, writes the checkpoint."""
        self.module.eval()
        with torch.no_grad():
            users = float(sum(len(batch.now) for batch in self.validation))
            total = sum(float(self._loss(batch)) * len(batch.now) for batch in self.validation)
        if self.workers:
            mean = training_loss / self.workers.size
            total, users, training_loss = self.workers.total([total, users, mean])
        loss = total / users if users else training_loss
        if not math.isfinite(loss):
            self._stop(f"the validation loss became {loss} at step {self.state.step}")
        self.state.losses.append((self.state.step, training_loss, loss))
        self._compare(loss)
        self._save()
        if self.workers and self.folder is not None:
            report = {"step": self.state.step, "loss": training_loss, "validation_loss": loss}
            self.workers.saved(self.folder, report)
        return loss

    def _compare(self, loss: float) -> None:
        state = self.state
        if loss < state.best_loss:
            state.best_loss, state.best_step, state.stale = loss, state.step, 0
            self.best = self._copy()
            return
        state.stale += 1
        if self.config.schedule == "plateau" and state.stale >= PLATEAU.patience:
            state.stale, state.reductions = 0, state.reductions + 1
            state.rate *= PLATEAU.factor

    def _finished(self) -> bool:
        if self.config.steps and self.state.step >= self.config.steps:
            return True
        return self.config.schedule == "plateau" and self.state.reductions >= PLATEAU.reductions

    def _stop(self, why: str) -> None:
        """Give up with the weights of the last good validation."""
        self._load(self.best)
        kept = "no checkpoint was asked for"
        if self.folder is not None:
            kept = f"{self.folder / CHECKPOINT} has step {self.state.losses[-1][0] if self.state.losses else 0}"
        raise TrainingError(
            why,
            expected="a finite number",
            fix=f"lower --learning-rate or check the embeddings; the last good state is kept: {kept}",
        )

    def _copy(self) -> Weights:
        return {name: parameter.detach().clone() for name, parameter in self.parameters.items()}

    def _load(self, weights: Weights) -> None:
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(weights[name])

    def _save(self) -> None:
        if self.folder is not None and (not self.workers or self.workers.rank == 0):
            save_checkpoint(self.folder, self.parameters, self.best, self.adam, self.state, self.facts)


@contextlib.contextmanager
def _flushed_subnormals() -> Iterator[None]:
    """Treat subnormal numbers as zero: saturated attention is full of them, and they slow arithmetic 2 to 3 times."""
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)
