"""The attention ranker (sections 4.1 to 4.3)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from heedful.config import option, require
from heedful.model.attention import Attention
from heedful.model.kinds import KindWeights
from heedful.model.popularity import PopularityOverTime
from heedful.model.score import Term
from heedful.model.terms import ItemInteractions, UserTower
from heedful.rankers.neural import NeuralConfig, NeuralRanker
from heedful.training.recipe import DEFAULT, PAPER

__all__ = ["AttentionConfig", "AttentionRanker"]

_TERMS = DEFAULT["terms"]


@dataclass(frozen=True, kw_only=True)
class AttentionConfig(NeuralConfig):
    """The attention ranker."""

    known_terms: ClassVar[tuple[str, ...]] = _TERMS

    terms: tuple[str, ...] = option(_TERMS, "terms that add up to the score; attention alone: the paper's model")
    depth: int = option(DEFAULT["depth"], "layers of attention, K")
    hidden: int = option(DEFAULT["hidden"], "width of the layers, d'")
    null_tokens: int = option(DEFAULT["null_tokens"], "learnt tokens in each layer's memory; 0: the paper's model")

    def __post_init__(self) -> None:
        """Check every option."""
        super().__post_init__()
        require(self.depth >= 0, "depth", got=self.depth, expected="0 or more")
        require(self.hidden >= 1, "hidden", got=self.hidden, expected="1 or more")
        require(self.null_tokens >= 0, "null_tokens", got=self.null_tokens, expected="0 or more")


class AttentionRanker(NeuralRanker):
    """The paper's attention ranker (sections 4.1 to 4.3), and unless switched off what was found to improve it.

    Args:
        preset: "default", or "paper" for the exact model and settings of section 4.
        options: fields of `AttentionConfig`, which overrule the preset.
    """

    name: ClassVar[str] = "attention"
    config_class = AttentionConfig
    presets = {"default": DEFAULT, "paper": PAPER}  # noqa: RUF012
    config: AttentionConfig

    def _new_terms(self, width: int) -> dict[str, Term]:
        config = self.config
        make: dict[str, Callable[[], Term]] = {
            "attention": lambda: Attention(
                width=width, hidden=config.hidden, depth=config.depth, null_tokens=config.null_tokens, scale=config.scale
            ),
            "item_interactions": lambda: ItemInteractions(width=width, scale=config.scale),
            "user_tower": lambda: UserTower(width=width),
            "popularity_over_time": PopularityOverTime,
            "kinds": lambda: KindWeights(n_kinds=self._n_kinds(), scale=config.scale),
        }
        # One kind tells nothing.
        known = _TERMS if self._n_kinds() else _TERMS[:-1]
        return {name: make[name]() for name in known if name in config.terms}
