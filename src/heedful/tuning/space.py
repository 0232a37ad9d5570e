"""What `tune` searches: a table from option to range. To search another option, or another range, change the table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from heedful.config import Config
from heedful.embeddings.skipgram import SkipGramConfig
from heedful.errors import ConfigError
from heedful.rankers.attention import AttentionConfig, AttentionRanker
from heedful.rankers.registry import ALL_MODELS
from heedful.tuning.settings import MODEL_SECTIONS

__all__ = [
    "SIZE_BOUND",
    "SPACE",
    "Choice",
    "Real",
    "Whole",
    "default_values",
    "paper_values",
    "searched_options",
    "suggest",
    "to_settings",
]


@dataclass(frozen=True)
class Whole:
    """Whole numbers from `low` to `high`, both among them; on a logarithmic scale if `log`."""

    low: int
    high: int
    log: bool = False

    def __contains__(self, value: Any) -> bool:
        return isinstance(value, int) and self.low <= value <= self.high


@dataclass(frozen=True)
class Real:
    """Numbers from `low` to `high`, with four digits; on a logarithmic scale if `log`."""

    low: float
    high: float
    log: bool = False

    def __contains__(self, value: Any) -> bool:
        return isinstance(value, int | float) and self.low <= value <= self.high


@dataclass(frozen=True)
class Choice:
    """One of a few values, which have no order."""

    values: tuple[bool | int | float | str, ...]

    def __contains__(self, value: Any) -> bool:
        return value in self.values


Domain = Whole | Real | Choice

_HALF_LIVES = Choice((0.0, 15.0, 30.0, 60.0, 120.0, 240.0))
_CLOCK: dict[str, Domain] = {
    "half_life": _HALF_LIVES,
    "history_half_life": _HALF_LIVES,
    "recency": Real(0.0, 1.5),
    "recent_days": Real(1.0, 120.0, log=True),
}
_FACTORS = Choice((32, 64, 128, 256))
_SESSIONS: dict[str, Domain] = {
    "factors": Choice((32, 64, 128)),
    "blocks": Whole(1, 3),
    "dropout": Real(0.0, 0.5),
    "session_length": Choice((30, 50, 100, 200)),
    "learning_rate": Real(3e-4, 3e-3, log=True),
    "negatives": Whole(64, 512, log=True),
}
_OF_MODELS: dict[str, dict[str, Domain]] = {
    "mixed": {
        "stage_windows": Whole(1, 6),
        "stage_users": Whole(1000, 10_000, log=True),
        "learning_rate": Real(3e-4, 0.01, log=True),
        "gamma": Real(0.0, 1.0),
        "max_history": Whole(25, 1000, log=True),
        "depth": Whole(0, 10),
    },
    "averaging": {
        "learning_rate": Real(3e-4, 0.01, log=True),
        "positives": Whole(2, 20, log=True),
        "negatives": Whole(16, 256, log=True),
        "gamma": Real(0.0, 1.0),
        "max_history": Whole(25, 1000, log=True),
        "hidden": Choice((32, 64, 128, 256)),
    },
    "recent-popularity": {"days": Real(0.5, 365.0, log=True), "half_life": Choice((0.0, 1.0, 3.0, 7.0, 14.0, 30.0, 90.0))},
    "two-stage": {"windows": Whole(1, 6), "users": Whole(1000, 10_000, log=True)},
    "ease": {"regularization": Real(10.0, 3000.0, log=True), **_CLOCK},
    "als": {
        "factors": _FACTORS,
        "alpha": Real(0.5, 50.0, log=True),
        "iterations": Whole(5, 30),
        "penalty": Real(1e-3, 1.0, log=True),
    },
    "bpr": {
        "factors": _FACTORS,
        "iterations": Whole(30, 300, log=True),
        "step": Real(2e-3, 0.1, log=True),
        "penalty": Real(1e-3, 0.1, log=True),
    },
    "cosine": {"neighbours": Whole(20, 1000, log=True), **_CLOCK},
    "bm25": {
        "neighbours": Whole(20, 1000, log=True),
        "saturation": Real(0.1, 10.0, log=True),
        "length_weight": Real(0.0, 1.0),
        **_CLOCK,
    },
    "sasrec": _SESSIONS,
    "gsasrec": {**_SESSIONS, "calibration": Real(0.0, 1.0)},
    "esasrec": _SESSIONS,
    "hstu": _SESSIONS,
    "tifu-knn": {
        "group": Whole(1, 20),
        "decay": Real(0.5, 1.0),
        "group_decay": Real(0.3, 1.0),
        "neighbours": Whole(50, 1000, log=True),
        "own_weight": Real(0.1, 1.0),
    },
    "up-cf": {"recent_baskets": Whole(1, 200, log=True), "locality": Real(0.5, 30.0, log=True), "asymmetry": Real(0.0, 1.0)},
}

# The default of every option lies in its range, and so does the paper's value.
SPACE: dict[str, Domain] = {
    "embed.width": Choice((32, 64, 128)),
    "embed.window": Whole(3, 50, log=True),
    "embed.dynamic_window": Choice((True, False)),
    "embed.negatives": Whole(2, 15, log=True),
    "embed.negative_exponent": Real(-0.5, 1.0),
    "embed.subsample": Choice((0.0, 1e-5, 1e-4, 1e-3)),
    "embed.epochs": Choice((0, 5, 10, 20, 40)),
    "embed.learning_rate": Real(0.01, 0.1, log=True),
    "train.learning_rate": Real(3e-4, 0.01, log=True),
    "train.batch_users": Choice((32, 64, 128)),
    "train.steps": Choice((0, 350, 700, 1400)),
    "train.objective": Choice(("softmax", "logistic", "bpr", "warp")),
    "train.split": Choice(("random_time", "last_items")),
    "train.positives": Whole(2, 20, log=True),
    "train.negatives": Whole(16, 256, log=True),
    "train.gamma": Real(0.0, 1.0),
    "train.max_history": Whole(25, 1000, log=True),
    "train.scale": Real(1.0, 8.0, log=True),
    "train.depth": Whole(0, 10),
    "train.hidden": Choice((32, 64, 128, 256)),
    "train.null_tokens": Whole(0, 8),
    **{f"{model}.{name}": domain for model in MODEL_SECTIONS for name, domain in _OF_MODELS[model].items()},
}

SIZE_BOUND = ("embed.epochs", "train.steps")
"""Options whose best value depends on the size of the log: on a sample of the users they are searched only by name."""

_CONFIGS: dict[str, type[Config]] = {
    "embed": SkipGramConfig,
    "train": AttentionConfig,
    **{model: ALL_MODELS[model].config_class for model in MODEL_SECTIONS},
}


class Suggesting(Protocol):
    """What is needed of an Optuna trial."""

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int:
        """A whole number."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        """A number."""

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """One of the choices."""


def searched_options(
    names: Sequence[str], *, sampled: bool, sections: Sequence[str] = ("embed", "train")
) -> tuple[str, ...]:
    """The options to search, in the order of the table.

    Args:
        names: options with their section ("embed.window") or without ("window": wherever there is one), or sections
            ("embed"); none for all.
        sampled: only a part of the users is used; options that depend on the size of the log are then left out unless
            they are named.
        sections: those of the model that is tuned.

    Raises:
        ConfigError: a name that the table does not have for these sections.
    """
    space = [option for option in SPACE if option.partition(".")[0] in sections]
    if not names:
        return tuple(option for option in space if not (sampled and option in SIZE_BOUND))
    found: set[str] = set()
    for name in names:
        meant = [option for option in space if name in (option, *option.split("."))]
        if not meant:
            raise ConfigError("that option is not searched", got=name, expected=f"some of {', '.join(space)}")
        by_section = name in _CONFIGS
        found |= {option for option in meant if not (sampled and by_section and option in SIZE_BOUND)}
    return tuple(option for option in space if option in found)


def default_values(options: Sequence[str]) -> dict[str, Any]:
    """The defaults of the options."""
    values = {section: config().to_dict() for section, config in _CONFIGS.items()}
    return {option: _in_section(values, option) for option in options}


def paper_values(options: Sequence[str]) -> dict[str, Any]:
    """The options as the preset `paper` has them, where it has them."""
    paper = {f"train.{name}": value for name, value in AttentionRanker.presets["paper"].items()}
    return {option: paper.get(option, value) for option, value in default_values(options).items()}


def suggest(trial: Suggesting, options: Sequence[str]) -> dict[str, Any]:
    """Values of the options as a trial suggests them, rounded as they will be used and written."""
    return {option: _suggest(trial, option, SPACE[option]) for option in options}


def to_settings(values: Mapping[str, Any], *, fixed: Mapping[str, Any] | None = None) -> dict[str, dict[str, Any]]:
    """Section -> option -> value, of those that differ from their defaults, and all that are `fixed`."""
    settings: dict[str, dict[str, Any]] = {"embed": {}, "train": {}}
    defaults = default_values(list(values))
    differing = {option: value for option, value in values.items() if value != defaults[option]}
    for option, value in {**differing, **(fixed or {})}.items():
        section, _, name = option.partition(".")
        settings.setdefault(section, {})[name] = value
    return settings


def _in_section(values: Mapping[str, Mapping[str, Any]], option: str) -> Any:
    section, _, name = option.partition(".")
    return values[section][name]


def _suggest(trial: Suggesting, option: str, domain: Domain) -> Any:
    if isinstance(domain, Choice):
        return trial.suggest_categorical(option, domain.values)
    if isinstance(domain, Whole):
        return trial.suggest_int(option, domain.low, domain.high, log=domain.log)
    return float(f"{trial.suggest_float(option, domain.low, domain.high, log=domain.log):.4g}")
