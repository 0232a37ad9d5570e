"""Section 4.3 of the paper, and what is the default here: every constant of training, side by side.

The paper's preset is its model and its settings. The default is made for the size of the log and for a
CPU; docs/results.md has what each difference is worth.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from heedful.config import option, require
from heedful.events.targets import TargetConfig
from heedful.training.losses import LOSSES

__all__ = [
    "BETAS",
    "DEFAULT",
    "GRADIENT_NORM",
    "LINEAR_LAST_RATE",
    "PAPER",
    "PLATEAU",
    "WARM_UP_STEPS",
    "Plateau",
    "TrainingConfig",
]

PAPER: dict[str, Any] = {
    "terms": ("attention",),  # 4.1: the logit is attention's alone
    "depth": 10,  # 4.3: K
    "hidden": 128,  # 4.3: d'
    "null_tokens": 0,
    "scale": 2.0,  # not in the paper; attention does not train on raw vectors
    "noise": 0.0,
    "split": "last_items",  # 4.2: S_u are the last items of A_u
    "objective": "logistic",  # 4.2: the balanced logistic loss
    "positives": 10,  # 4.3: |S_u|, at most half of the user's items
    "negatives": 100,  # 4.3: |N_u|
    "gamma": 0.75,  # 4.2, equation 5
    "batch_users": 64,  # 4.3
    "max_history": 1000,  # 4.3
    "learning_rate": 0.002,  # 4.3: Adam
    "schedule": "plateau",  # 4.3
}
"""Section 4.3."""

DEFAULT: dict[str, Any] = {
    "terms": ("attention", "item_interactions", "user_tower", "popularity_over_time", "kinds"),
    "depth": 2,
    "hidden": 128,
    "null_tokens": 4,
    "scale": 3.0,
    "noise": 4.0,
    "split": "random_time",
    "objective": "softmax",
    "positives": 10,
    "negatives": 64,
    "gamma": 0.75,
    "batch_users": 64,
    "max_history": 200,
    "learning_rate": 0.002,
    "schedule": "linear",
}
"""What is trained unless something else is asked for."""

# Of both.
BETAS = (0.9, 0.999)  # 4.3: Adam's
GRADIENT_NORM = 10.0  # 4.3: gradients of a larger norm are scaled down to it


@dataclass(frozen=True)
class Plateau:
    """4.3: the rate is multiplied by `factor` after `patience` validations without improvement.

    Training ends after `reductions` of these.
    """

    patience: int = 5
    factor: float = 0.8
    reductions: int = 20


PLATEAU = Plateau()
# The linear schedule (ours) rises over the first steps and ends at this share of the first rate.
WARM_UP_STEPS, LINEAR_LAST_RATE = 50, 0.005


@dataclass(frozen=True, kw_only=True)
class TrainingConfig(TargetConfig):
    """How a ranker is trained."""

    seed: int = option(1, "seed of all random choices")
    batch_users: int = option(DEFAULT["batch_users"], "users in a batch")
    learning_rate: float = option(DEFAULT["learning_rate"], "Adam's first learning rate")
    schedule: Literal["linear", "plateau"] = option(
        DEFAULT["schedule"],
        "linear: the rate falls to zero over --steps; plateau: rate x 0.8 after 5 validations without "
        "improvement, end after 20 reductions",
    )
    steps: int = option(0, "most updates; 0: chosen from the size of the log (linear) or no limit (plateau)")
    validate_every: int = option(
        0,
        "updates between validations, each of which writes a checkpoint; 0: a tenth of --steps, or an epoch",
        research=True,
    )
    objective: Literal["softmax", "logistic", "bpr", "warp"] = option(
        DEFAULT["objective"],
        "softmax: sampled softmax; logistic: balanced logistic loss, the paper's; bpr, warp: pairwise losses",
    )
    split: Literal["random_time", "last_items"] = option(
        DEFAULT["split"],
        "how a user's events are split into history and targets. random_time: at a random time, targets "
        "are the next days; last_items: targets are the last items, as in the paper",
    )
    positives: int = option(DEFAULT["positives"], "most target items of an instance, |S_u|", research=True)
    negatives: int = option(DEFAULT["negatives"], "sampled negatives of an instance, |N_u|")
    gamma: float = option(DEFAULT["gamma"], "exponent of the popularity that negatives are drawn from")
    max_history: int = option(DEFAULT["max_history"], "most recent distinct items of a history that are used")
    validation_users: int = option(0, "users set aside for validation; 0: a twentieth, 2,000 at most", research=True)
    device: str = option("auto", "auto, cpu, cuda or cuda:N")

    def __post_init__(self) -> None:
        """Check every option."""
        super().__post_init__()
        for name in ("batch_users", "positives", "negatives", "max_history"):
            require(getattr(self, name) >= 1, name, got=getattr(self, name), expected="1 or more")
        for name in ("steps", "validate_every", "validation_users", "seed"):
            require(getattr(self, name) >= 0, name, got=getattr(self, name), expected="0 or more")
        require(0 < self.learning_rate < math.inf, "learning_rate", got=self.learning_rate, expected="more than 0")
        require(math.isfinite(self.gamma), "gamma", got=self.gamma, expected="a finite number")
        for name, choices in (
            ("schedule", ("linear", "plateau")),
            ("objective", tuple(LOSSES)),
            ("split", ("random_time", "last_items")),
        ):
            value = getattr(self, name)
            require(value in choices, name, got=value, expected=" or ".join(choices))
        splits = self.target == "new" or self.split == "random_time"
        require(splits, "split", got=self.split, expected=f"random_time for the target {self.target}")
