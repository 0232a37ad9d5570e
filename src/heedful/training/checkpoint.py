"""One file with everything that the rest of a training run depends on.

A run that was killed and resumed ends with the very same weights as one that was not.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import nn

from heedful.errors import FolderError
from heedful.folders import write_atomically
from heedful.progress import say
from heedful.training.sampler import Position

__all__ = ["CHECKPOINT", "Progress", "Weights", "resume_from", "save_checkpoint", "write_tensors"]

CHECKPOINT = "checkpoint.safetensors"

Weights = dict[str, torch.Tensor]


@dataclass
class Progress:
    """Everything but the tensors that a resumed run needs."""

    step: int = 0
    position: Position = field(default_factory=Position)
    best_step: int = 0
    best_loss: float = math.inf
    stale: int = 0
    reductions: int = 0
    rate: float = 0.0
    losses: list[tuple[int, float, float]] = field(default_factory=list)


def save_checkpoint(
    folder: Path,
    parameters: Mapping[str, nn.Parameter],
    best: Weights,
    adam: torch.optim.Adam,
    progress: Progress,
    facts: Mapping[str, str],
) -> None:
    """Write the checkpoint atomically.

    Args:
        folder: where it is written.
        parameters: the weights now.
        best: the weights that did best on the validation users.
        adam: the optimiser.
        progress: the state of the run.
        facts: what names the run: its config, its log and table.

    Raises:
        FolderError: the folder cannot be written.
    """
    tensors = {f"weights/{name}": p.detach().contiguous() for name, p in parameters.items()}
    tensors |= {f"best/{name}": weight for name, weight in best.items()}
    for name, parameter in parameters.items():
        for moment, value in adam.state[parameter].items():
            tensors[f"adam.{moment}/{name}"] = value
    with write_atomically(folder / CHECKPOINT) as path:
        write_tensors(tensors, path, metadata={"state": json.dumps(asdict(progress)), **facts})


def resume_from(
    folder: Path | None,
    parameters: Mapping[str, nn.Parameter],
    best: Weights,
    adam: torch.optim.Adam,
    facts: Mapping[str, str],
) -> Progress | None:
    """Take weights, best weights and the optimiser's state from the checkpoint.

    Returns:
        The state of the run; None where there is no checkpoint.

    Raises:
        FolderError: the checkpoint cannot be read, or belongs to another run.
    """
    path = folder / CHECKPOINT if folder is not None else None
    if path is None or not path.exists():
        say("no checkpoint to resume from: training starts at the beginning")
        return None
    tensors, found = _read(path)
    _check_same_run(path, found, facts)
    try:
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(tensors[f"weights/{name}"])
                best[name] = tensors[f"best/{name}"].to(parameter.device)
                keys = [key for key in tensors if key.startswith("adam.") and key.partition("/")[2] == name]
                moments = {key[5:].partition("/")[0]: tensors[key].to(parameter.device) for key in keys}
                adam.state[parameter] = moments
    except (KeyError, RuntimeError) as error:
        raise FolderError(f"{path} belongs to another model", got=error, fix="remove it to start again") from error
    return _progress(json.loads(found["state"]))


def write_tensors(tensors: Weights, path: Path, *, metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file; a full or read-only disk is an `OSError`, as with any other file."""
    try:
        safetensors.torch.save_file(tensors, path, metadata=metadata)
    except safetensors.SafetensorError as error:
        raise OSError(str(error)) from error


def _read(path: Path) -> tuple[Weights, dict[str, str]]:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            names = file.keys()
            return {name: file.get_tensor(name) for name in names}, dict(file.metadata() or {})
    except (safetensors.SafetensorError, OSError) as error:
        raise FolderError(f"{path} cannot be read", got=error, fix="remove it to start again") from error


def _check_same_run(path: Path, found: Mapping[str, str], facts: Mapping[str, str]) -> None:
    if "config" not in found or "state" not in found:
        raise FolderError(f"{path} is not a training checkpoint", fix="remove it to start again")
    if json.loads(found["config"]) != json.loads(facts["config"]):
        raise FolderError(
            f"{path} belongs to a run with other options",
            fix="resume with the same options, or remove it to start again",
        )
    if found.get("data") != facts["data"]:
        raise FolderError(
            f"{path} belongs to a run on another log or table",
            fix="give the same ones, or remove it to start again",
        )


def _progress(state: dict[str, Any]) -> Progress:
    position = Position(**state.pop("position"))
    losses = [(step, training, validation) for step, training, validation in state.pop("losses")]
    return Progress(**state, position=position, losses=losses)
