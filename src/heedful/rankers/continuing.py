"""How long a ranker is trained, from nothing or on from yesterday's weights, and which of these it takes over."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TypeVar

import numpy as np
import torch

from heedful.errors import ConfigError
from heedful.events.histories import Histories
from heedful.model.score import ScoreModel
from heedful.model.side_features import FeatureCodes
from heedful.training.recipe import TrainingConfig

__all__ = ["longer_values", "resolved", "shorter", "take_weights"]

C = TypeVar("C", bound=TrainingConfig)

# Updates when none are asked for: some passes over the users, within limits. More updates on a small log overfit.
_PASSES, _FEWEST_STEPS, _MOST_STEPS = 2, 700, 5000
# The plateau schedule of section 4.3 validates every 5,000 updates, a 125th of an epoch of 40 million users. On a smaller
# log it validates after each epoch, but not so often that the noise of the loss decides.
_PLATEAU_UPDATES = (100, 5000)
# Of the steps of a training from nothing. The rate is the same. Chosen for time; not tuned.
_STEPS = 0.25


def resolved(config: C, histories: Histories) -> C:
    """Fill in the options that depend on the size of the log."""
    users = int(np.count_nonzero(histories.lengths >= 2))
    validation = config.validation_users or min(2000, users // 20)
    steps = config.steps
    if not steps and config.schedule == "linear":
        steps = min(max(_PASSES * users // config.batch_users, _FEWEST_STEPS), _MOST_STEPS)
    in_epoch = int(np.clip(users // config.batch_users, *_PLATEAU_UPDATES))
    every = config.validate_every or (max(steps // 10, 1) if steps else in_epoch)
    return replace(config, steps=steps, validate_every=every, validation_users=min(validation, users // 2))


def shorter(config: C) -> C:
    """The configuration of a training that goes on: a quarter of the steps."""
    steps = math.ceil(_STEPS * config.steps)
    every = max(min(config.validate_every, math.ceil(steps / 5)), 1) if steps else config.validate_every
    return replace(config, steps=steps, validate_every=every)


def longer_values(known: FeatureCodes, found: FeatureCodes) -> dict[str, list[str]]:
    """The values of each attribute that were known, which keep their codes, followed by new ones."""
    return {name: list(dict.fromkeys([*known.values.get(name, ()), *values])) for name, values in found.values.items()}


def take_weights(model: ScoreModel, start: ScoreModel) -> None:
    """Begin with the weights of another model; vectors of attribute values that are new stay zero.

    Raises:
        ConfigError: the models have other terms or shapes.
    """
    own, given = model.state_dict(), start.state_dict()
    differ = sorted({*own, *given} - ({*own} & {*given}))
    differ = differ or [name for name in own if not _fits(name, given[name], own[name])]
    if differ:
        raise ConfigError(
            "the model to go on from has other weights", got=", ".join(differ[:3]),
            expected="the same terms, depth, hidden size and features", fix="leave these options as they were",
        )  # fmt: skip
    with torch.no_grad():
        for name, weight in own.items():
            (weight[: len(given[name])] if weight.dim() else weight).copy_(given[name])


def _fits(name: str, given: torch.Tensor, weight: torch.Tensor) -> bool:
    if name.startswith("side_features."):
        return given.shape[1:] == weight.shape[1:] and len(given) <= len(weight)
    return given.shape == weight.shape
