"""The training loop of section 4.3, for every module that scores candidates: Adam, clipping, assessment, checkpoints.

Each assessment writes one checkpoint file with everything that the rest of the run depends on, so that a run that was
killed and resumed ends with the very same weights as one that was not.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal, Protocol

import safetensors
import safetensors.torch
import torch
from torch import nn

from heedful.config import Config, option, require
from heedful.errors import ConfigError, FolderError, TrainingError
from heedful.folders import write_atomically
from heedful.progress import progress, say
from heedful.ranking.instances import Batch, InstanceSampler, Position, Recipe
from heedful.ranking.objective import OBJECTIVES
from heedful.ranking.trend import TrendIndex

__all__ = ["Scoring", "Team", "TrainingConfig", "TrainingReport", "as_device", "train_module", "write_tensors"]

_CHECKPOINT = "checkpoint.safetensors"
_BETAS = (0.9, 0.999)
# Threads that make batches for a GPU.
_MAKERS = 8
# Section 4.3: the rate is cut after 5 assessments without improvement, training ends after 20 cuts.
_PLATEAU_ASSESSMENTS, _PLATEAU_FACTOR, _PLATEAU_REDUCTIONS = 5, 0.8, 20
# The linear schedule rises over the first steps and ends at this share of the first rate.
_WARM_UP_STEPS, _LAST_RATE = 50, 0.005


@dataclass(frozen=True, kw_only=True)
class TrainingConfig(Config):
    """How a ranker is trained; the defaults of the neural rankers stand in their own configurations."""

    seed: int = option(1, "seed of all random choices")
    batch_users: int = option(64, "users in a minibatch")
    learning_rate: float = option(0.002, "Adam's first learning rate")
    schedule: Literal["linear", "plateau"] = option(
        "linear",
        "linear: rate falls to zero over --steps; plateau: rate x 0.8 after 5 assessments without improvement, end after 20",
    )
    steps: int = option(0, "updates at most; 0: chosen from the size of the log (linear) or no limit (plateau)")
    assess_every: int = option(
        0,
        "updates between assessments, each of which writes a checkpoint; 0: a tenth of --steps, or an epoch if those are 0",
    )
    gradient_norm: float = option(10.0, "gradients of a larger norm are scaled down to it")
    average: float = option(0.0, "decay of the running average of weights that is kept as the result; 0: none")
    objective: Literal["softmax", "logistic", "bpr", "warp"] = option(
        "softmax", "softmax: sampled softmax; logistic: balanced logistic loss, the paper's; bpr, warp: pairwise losses"
    )
    cuts: Literal["moments", "fresh", "last"] = option(
        "moments",
        "how past and future are parted. moments: at any time, the future being the next days; fresh: before one "
        "of the user's events, drawn anew each epoch; last: before the user's last items, as in the paper",
    )
    positives: int = option(10, "most future items of an instance, |S_u|")
    negatives: int = option(64, "sampled negatives of an instance, |N_u|")
    gamma: float = option(0.75, "exponent of the popularity that negatives are drawn from")
    avoid_history: bool = option(True, "negatives are never items that the user has already touched")
    max_history: int = option(200, "most recent distinct items that make up a user's memory")
    holdout_users: int = option(0, "users set aside for assessment; 0: a twentieth, 2,000 at most")
    device: str = option("auto", "auto, cpu, cuda or cuda:N")

    def __post_init__(self) -> None:
        """Check every option."""
        for name in ("batch_users", "positives", "negatives", "max_history"):
            require(getattr(self, name) >= 1, name, got=getattr(self, name), expected="1 or more")
        for name in ("steps", "assess_every", "holdout_users", "seed"):
            require(getattr(self, name) >= 0, name, got=getattr(self, name), expected="0 or more")
        for name in ("learning_rate", "gradient_norm"):
            require(0 < getattr(self, name) < math.inf, name, got=getattr(self, name), expected="more than 0")
        require(0 <= self.average < 1, "average", got=self.average, expected="from 0 to less than 1")
        require(math.isfinite(self.gamma), "gamma", got=self.gamma, expected="a finite number")
        require(self.schedule in ("linear", "plateau"), "schedule", got=self.schedule, expected="linear or plateau")
        require(self.objective in OBJECTIVES, "objective", got=self.objective, expected=", ".join(OBJECTIVES))
        require(self.cuts in ("moments", "fresh", "last"), "cuts", got=self.cuts, expected="moments, fresh or last")


@dataclass(frozen=True)
class TrainingReport:
    """What a training run did; saved in the model's manifest.

    Attributes:
        steps: updates made.
        best_step: the update after which the kept weights stood.
        best_loss: their loss on the hold-out users.
        losses: (step, loss on training batches since the last assessment, loss on hold-out users) of each assessment.
    """

    steps: int
    best_step: int
    best_loss: float
    losses: list[tuple[int, float, float]]


class Scoring(Protocol):
    """Turns a batch into logits, float [B, C]."""

    def __call__(self, batch: Batch) -> torch.Tensor:
        """The logits of the candidates of a batch."""


class Team(Protocol):
    """Several workers that train one module, each on its part of every batch."""

    rank: int
    size: int

    def once(self, build: Callable[[], TrendIndex]) -> TrendIndex:
        """What the workers of a machine can share: built by one of them, mapped by all."""

    def share(self, module: nn.Module, scoring: Scoring) -> Scoring:
        """The forward pass, after which the gradients of `module` are the mean over the workers."""

    def total(self, values: list[float]) -> list[float]:
        """The sums of some numbers over the workers."""

    def saved(self, folder: Path, report: dict[str, float]) -> None:
        """Called by every worker after an assessment; the checkpoint lies in the `folder` of the first."""


@dataclass
class _Progress:
    """Everything but the tensors that a resumed run needs."""

    step: int = 0
    position: Position = field(default_factory=Position)
    best_step: int = 0
    best_loss: float = math.inf
    stale: int = 0
    reductions: int = 0
    rate: float = 0.0
    losses: list[tuple[int, float, float]] = field(default_factory=list)


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


def train_module(
    module: nn.Module,
    scoring: Scoring,
    sampler: InstanceSampler,
    config: TrainingConfig,
    *,
    title: str,
    data: str = "",
    checkpoints: Path | None = None,
    resume: bool = False,
    team: Team | None = None,
) -> TrainingReport:
    """Train `module` in place; it ends with the weights that did best on the hold-out users.

    Args:
        module: the parameters.
        scoring: the forward pass of a batch through the module.
        sampler: where batches come from.
        config: rates, lengths and the seed; `steps` and `assess_every` resolved (above zero, or `steps` zero for plateau).
        title: name shown with the progress.
        data: what names the log and the table, so that a run is not resumed on others.
        checkpoints: folder for the checkpoint; none is written when None.
        resume: go on from the checkpoint, if there is one.
        team: the workers of whom this is one, whose sampler makes parts of batches; None: alone.

    Raises:
        TrainingError: a loss is not finite; the module then has the weights of the last good assessment.
        FolderError: the checkpoint cannot be written, or belongs to another run.
    """
    return _Run(module, scoring, sampler, config, data, checkpoints, team).go(title, resume)


class _Run:
    """One training run: the module, Adam, the progress made, and the best weights so far."""

    def __init__(
        self,
        module: nn.Module,
        scoring: Scoring,
        sampler: InstanceSampler,
        config: TrainingConfig,
        data: str,
        folder: Path | None,
        team: Team | None = None,
    ) -> None:
        self.module, self.sampler, self.config, self.team = module, sampler, config, team
        self.scoring = team.share(module, scoring) if team else scoring
        self.data, self.folder = data, folder
        self.parameters = dict(module.named_parameters())
        # Fused: one pass over all weights.
        self.adam = torch.optim.Adam(self.parameters.values(), lr=config.learning_rate, betas=_BETAS, fused=True)
        self.state = _Progress(rate=config.learning_rate)
        self.averaged = self._copy() if config.average else {}
        self.best = self._copy()
        self.holdout = sampler.holdout()

    def go(self, title: str, resume: bool) -> TrainingReport:
        if resume:
            self._resume()
        with _flushed_subnormals(), progress(title, self.config.steps or None, "steps") as meter:
            meter.resume_at(self.state.step)
            total, count = 0.0, 0
            for batch, position in self.batches():
                if self._finished():
                    break
                total, count = total + self._update(batch), count + 1
                self.state.step, self.state.position = self.state.step + 1, position
                meter.advance()
                if self.state.step % self.config.assess_every == 0 or self.state.step == self.config.steps:
                    loss = self._assess(total / count)
                    meter.advance(0, note=f"loss {total / count:.4f}, hold-out {loss:.4f}")
                    total, count = 0.0, 0
        self._load(self.best)
        return TrainingReport(self.state.step, self.state.best_step, self.state.best_loss, self.state.losses)

    def batches(self) -> Iterator[tuple[Batch, Position]]:
        """The batches from here on, and where to go on after each."""
        on_cpu = all(parameter.device.type == "cpu" for parameter in self.parameters.values())
        # A GPU takes batches faster than one thread makes them; on a processor training itself needs the cores.
        makers = 1 if on_cpu else max(min(_MAKERS, (os.cpu_count() or 1) - 1), 1)
        return _ahead(self.sampler.recipes(self.state.position), makers)

    def _update(self, batch: Batch) -> float:
        for group in self.adam.param_groups:
            group["lr"] = self._rate()
        self.module.train()
        self.adam.zero_grad(set_to_none=True)
        loss = self._loss(batch)
        loss.backward()  # type: ignore[no-untyped-call]
        value = loss.item()  # after the backward pass, so that a GPU is given all of its work before this waits for it
        if not math.isfinite(value):
            self._stop(f"the training loss became {value} at step {self.state.step + 1}")
        norm = nn.utils.get_total_norm(p.grad for p in self.parameters.values() if p.grad is not None)
        if norm > self.config.gradient_norm:
            nn.utils.clip_grads_with_norm_(self.parameters.values(), self.config.gradient_norm, norm)
        self.adam.step()
        self._average()
        return value

    def _loss(self, batch: Batch) -> torch.Tensor:
        logits = self.scoring(batch)
        positive = torch.from_numpy(batch.positive).to(logits.device)
        weights = torch.from_numpy(batch.weights).to(logits.device)
        loss = OBJECTIVES[self.config.objective](logits, positive, weights)
        return loss if batch.part is None else loss * batch.part.share

    def _rate(self) -> float:
        if self.config.schedule == "plateau":
            return self.state.rate
        warm = min(1.0, (self.state.step + 1) / _WARM_UP_STEPS)
        return self.config.learning_rate * warm * max(1 - self.state.step / self.config.steps, _LAST_RATE)

    def _average(self) -> None:
        """Running average of the weights, its memory growing with the steps so that the first weights do not linger."""
        decay = min(self.config.average, (self.state.step + 1) / (self.state.step + 10))
        with torch.no_grad():
            for name, average in self.averaged.items():
                average.lerp_(self.parameters[name], 1 - decay)

    def _assess(self, training_loss: float) -> float:
        """Loss on the hold-out users; keeps the best weights, cuts the rate on a plateau, writes the checkpoint."""
        current = self._copy()
        self._load(self.averaged or current)
        self.module.eval()
        with torch.no_grad():
            users = float(sum(len(batch.now) for batch in self.holdout))
            total = sum(float(self._loss(batch)) * len(batch.now) for batch in self.holdout)
            if self.team:
                total, users, training_loss = self.team.total([total, users, training_loss / self.team.size])
            loss = total / users if users else training_loss
        if not math.isfinite(loss):
            self._stop(f"the hold-out loss became {loss} at step {self.state.step}")
        self.state.losses.append((self.state.step, training_loss, loss))
        self._compare(loss)
        self._load(current)
        if not self.team or self.team.rank == 0:
            self._save()
        if self.team and self.folder is not None:
            self.team.saved(self.folder, {"step": self.state.step, "loss": training_loss, "holdout_loss": loss})
        return loss

    def _compare(self, loss: float) -> None:
        if loss < self.state.best_loss:
            self.state.best_loss, self.state.best_step, self.state.stale = loss, self.state.step, 0
            self.best = self._copy()
            return
        self.state.stale += 1
        if self.config.schedule == "plateau" and self.state.stale >= _PLATEAU_ASSESSMENTS:
            self.state.stale, self.state.reductions = 0, self.state.reductions + 1
            self.state.rate *= _PLATEAU_FACTOR

    def _finished(self) -> bool:
        if self.config.steps and self.state.step >= self.config.steps:
            return True
        return self.config.schedule == "plateau" and self.state.reductions >= _PLATEAU_REDUCTIONS

    def _stop(self, why: str) -> None:
        """Give up with the weights of the last good assessment."""
        self._load(self.best)
        kept = "no checkpoint was asked for"
        if self.folder is not None:
            kept = f"{self.folder / _CHECKPOINT} has step {self.state.losses[-1][0] if self.state.losses else 0}"
        raise TrainingError(
            why,
            expected="a finite number",
            fix=f"lower --learning-rate or check the embeddings; the last good state is kept: {kept}",
        )

    def _copy(self) -> dict[str, torch.Tensor]:
        return {name: parameter.detach().clone() for name, parameter in self.parameters.items()}

    def _load(self, weights: dict[str, torch.Tensor]) -> None:
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(weights[name])

    def _save(self) -> None:
        if self.folder is None:
            return
        tensors = {f"weights/{name}": p.detach().contiguous() for name, p in self.parameters.items()}
        tensors |= {f"best/{name}": weight for name, weight in self.best.items()}
        tensors |= {f"averaged/{name}": weight for name, weight in self.averaged.items()}
        for name, parameter in self.parameters.items():
            for moment, value in self.adam.state[parameter].items():
                tensors[f"adam.{moment}/{name}"] = value
        facts = {"state": json.dumps(asdict(self.state)), "config": json.dumps(self.config.to_dict()), "data": self.data}
        with write_atomically(self.folder / _CHECKPOINT) as path:
            write_tensors(tensors, path, metadata=facts)

    def _resume(self) -> None:
        path = self.folder / _CHECKPOINT if self.folder is not None else None
        if path is None or not path.exists():
            say("no checkpoint to resume from: training starts at the beginning")
            return
        tensors, facts = _read_checkpoint(path)
        if "config" not in facts or "state" not in facts:
            raise FolderError(f"{path} is no checkpoint of a training run", fix="remove it to start anew")
        if json.loads(facts["config"]) != json.loads(json.dumps(self.config.to_dict())):
            raise FolderError(
                f"{path} belongs to a run with other options", fix="resume with the same options, or remove it to start anew"
            )
        if facts.get("data") != self.data:
            raise FolderError(
                f"{path} belongs to a run on another log or table", fix="give the same ones, or remove it to start anew"
            )
        try:
            self._load({name: tensors[f"weights/{name}"] for name in self.parameters})
            for name, parameter in self.parameters.items():
                self.best[name] = tensors[f"best/{name}"].to(parameter.device)
                if name in self.averaged:
                    self.averaged[name] = tensors[f"averaged/{name}"].to(parameter.device)
                keys = [key for key in tensors if key.startswith("adam.") and key.partition("/")[2] == name]
                moments = {key[5:].partition("/")[0]: tensors[key].to(parameter.device) for key in keys}
                self.adam.state[parameter] = moments
        except (KeyError, RuntimeError) as error:
            raise FolderError(f"{path} belongs to another model", got=error, fix="remove it to start anew") from error
        state = json.loads(facts["state"])
        position = Position(**state.pop("position"))
        losses = [(step, training, held_out) for step, training, held_out in state.pop("losses")]
        self.state = _Progress(**state, position=position, losses=losses)
        say(f"resumed at step {self.state.step}")


def write_tensors(tensors: dict[str, torch.Tensor], path: Path, *, metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file; a disk that is full or cannot be written is an `OSError`, as with any other file."""
    try:
        safetensors.torch.save_file(tensors, path, metadata=metadata)
    except safetensors.SafetensorError as error:
        raise OSError(str(error)) from error


def _read_checkpoint(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except (safetensors.SafetensorError, OSError) as error:
        raise FolderError(f"{path} cannot be read", got=error, fix="remove it to start anew") from error


def _ahead(recipes: Iterator[Recipe], makers: int) -> Iterator[tuple[Batch, Position]]:
    """The batches of recipes, in their order, the next ones being made by other threads while this one computes."""
    with ThreadPoolExecutor(1, "plans") as planner, ThreadPoolExecutor(makers, "batches") as pool:

        def start() -> Future[tuple[Batch, Position]]:
            return pool.submit(_made, planner.submit(next, recipes))

        waiting = deque(start() for _ in range(makers + 1))
        try:
            while True:
                ready = waiting.popleft().result()
                waiting.append(start())
                yield ready
        finally:
            for future in waiting:
                future.cancel()


def _made(recipe: Future[Recipe]) -> tuple[Batch, Position]:
    make, position = recipe.result()
    return make(), position


@contextlib.contextmanager
def _flushed_subnormals() -> Iterator[None]:
    """Treat subnormal numbers as zero: saturated attention is full of them, and they slow the arithmetic 2 to 3 times."""
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)
