"""The deep averaging network as a ranker (section 5.2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from heedful.config import option, require
from heedful.model.averaging import DeepAveraging
from heedful.model.popularity import PopularityOverTime
from heedful.model.score import Term
from heedful.rankers.neural import NeuralConfig, NeuralRanker
from heedful.training.recipe import DEFAULT, PAPER

__all__ = ["AveragingConfig", "AveragingRanker"]

_TERMS = ("averaging", "popularity_over_time")
_NOT_OF_AVERAGING = ("terms", "depth", "null_tokens")


def _recipe(preset: dict[str, Any], terms: tuple[str, ...]) -> dict[str, Any]:
    """The attention ranker's recipe, for terms of this one."""
    return {name: value for name, value in preset.items() if name not in _NOT_OF_AVERAGING} | {"terms": terms}


@dataclass(frozen=True, kw_only=True)
class AveragingConfig(NeuralConfig):
    """The deep averaging network."""

    known_terms: ClassVar[tuple[str, ...]] = _TERMS

    terms: tuple[str, ...] = option(_TERMS, "terms that add up to the score; averaging alone: the paper's model")
    form: Literal["inner", "sum"] = option("inner", "inner: mu(mean)^T x_q; sum: mu(mean + x_q)")
    hidden: int = option(DEFAULT["hidden"], "rectified linear units of each of the two layers")

    def __post_init__(self) -> None:
        """Check every option."""
        super().__post_init__()
        require(self.form in ("inner", "sum"), "form", got=self.form, expected="inner or sum")
        require(self.hidden >= 1, "hidden", got=self.hidden, expected="1 or more")


class AveragingRanker(NeuralRanker):
    """The deep averaging network of section 5.2, trained exactly as the attention ranker is.

    Args:
        preset: "default", or "paper" for the settings of section 4.3.
        options: fields of `AveragingConfig`, which overrule the preset.
    """

    name: ClassVar[str] = "averaging"
    config_class = AveragingConfig
    presets = {"default": _recipe(DEFAULT, _TERMS), "paper": _recipe(PAPER, ("averaging",))}  # noqa: RUF012
    config: AveragingConfig

    def _new_terms(self, width: int) -> dict[str, Term]:
        config = self.config
        make = {
            "averaging": lambda: DeepAveraging(width=width, hidden=config.hidden, form=config.form),
            "popularity_over_time": PopularityOverTime,
        }
        return {name: make[name]() for name in _TERMS if name in config.terms}
