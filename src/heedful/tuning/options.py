"""How settings are searched: the options of `tune`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from heedful.config import option, require, require_gammas
from heedful.events.targets import TargetConfig
from heedful.tuning.settings import MODEL_SECTIONS

__all__ = ["TuneConfig"]

# Options that may change between two runs of one search.
_BUDGET = ("trials", "minutes", "threads")


@dataclass(frozen=True, kw_only=True)
class TuneConfig(TargetConfig):
    """How settings are searched."""

    model: str = option("attention", "attention, with its embeddings, or one of " + ", ".join(MODEL_SECTIONS))
    trials: int = option(40, "settings to try in all, those of earlier runs among them")
    minutes: float = option(0.0, "begin no trial that would end later, confirmation included; 0: no limit")
    users: int = option(3000, "users to train on, a random sample; 0: all; validation users come from the whole log")
    days: float = option(7.0, "length in days of the validation period at the end of the log; nothing trains on it")
    validation_users: int = option(1000, "users whose NDCG chooses among the settings; as many others confirm the choice")
    gammas: tuple[float, ...] = option(
        (1.0, 0.75, 0.0), "negatives of validation users are drawn by popularity ** gamma; NDCG is averaged over these pools"
    )
    pool: int = option(300, "negatives of a validation user for each gamma, fewer where the catalogue is smaller")
    search: tuple[str, ...] = option((), "options to search: embed, train, embed.window, window, ...; none: all")
    alpha: float = option(0.01, "1 less the confidence of the interval that decides whether the gain is real")
    threads: int = option(0, "processor threads of the embeddings; 0 is all; 1 gives the same trials each time")
    seed: int = option(1, "seed of users, validation users, search and training")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("gammas", "target_kinds", "seen_kinds", "search"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        models = ("attention", *MODEL_SECTIONS)
        require(self.model in models, "model", got=self.model, expected=", ".join(models))
        require(self.trials >= 2, "trials", got=self.trials, expected="2 or more; the first is the default")
        for name in ("minutes", "users", "threads", "seed"):
            value = getattr(self, name)
            require(value >= 0 and math.isfinite(value), name, got=value, expected="0 or more")
        require(0 < self.days < math.inf, "days", got=self.days, expected="more than 0")
        for name in ("validation_users", "pool"):
            require(getattr(self, name) >= 1, name, got=getattr(self, name), expected="1 or more")
        require_gammas(self.gammas)
        require(0 < self.alpha < 1, "alpha", got=self.alpha, expected="between 0 and 1")

    @property
    def sections(self) -> tuple[str, ...]:
        """The sections whose options are searched."""
        return ("embed", "train") if self.model == "attention" else (self.model,)

    def identity(self) -> dict[str, Any]:
        """What a search that goes on must have in common with its beginning, fit for JSON."""
        return {name: value for name, value in self.to_dict().items() if name not in _BUDGET}
