"""The trained rankers: attention (sections 4.1 to 4.3) and the deep averaging network (section 5.2).

Shapes: B users, L past items (padded), C candidates, D embedding width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import nn

from heedful.config import option, require
from heedful.ranking.attention import Attention
from heedful.ranking.averaging import DeepAveraging
from heedful.ranking.neural import NeuralConfig, NeuralRanker, Past
from heedful.ranking.relevance import Relevance, UserTower

__all__ = ["AttentionConfig", "AttentionRanker", "AveragingConfig", "AveragingRanker"]

_PAPER: dict[str, Any] = {
    "learning_rate": 0.002,
    "schedule": "plateau",
    "batch_users": 64,
    "gradient_norm": 10.0,
    "cuts": "last",
    "objective": "logistic",
    "positives": 10,
    "negatives": 100,
    "max_history": 1000,
    "gamma": 0.75,
    "avoid_history": False,
    "scale": 2.0,
    "noise": 0.0,
    "trend": False,
    "hidden": 128,
}
"""Section 4.3; the length of the input vectors is not in the paper, but attention does not train on raw ones."""


@dataclass(frozen=True, kw_only=True)
class AttentionConfig(NeuralConfig):
    """The attention ranker."""

    depth: int = option(2, "layers of attention, K")
    hidden: int = option(128, "width of the layers, d'")
    null_rows: int = option(4, "learnt rows in each layer's memory; 0: the paper's model")
    relations: int = option(3, "relations of the direct relevance term, in which past items add up; 0: the paper's model")
    user_tower: bool = option(True, "add a term from averages of the past; off: the paper's model")

    def __post_init__(self) -> None:
        """Check every option."""
        super().__post_init__()
        require(self.depth >= 0, "depth", got=self.depth, expected="0 or more")
        require(self.hidden >= 1, "hidden", got=self.hidden, expected="1 or more")
        require(self.null_rows >= 0, "null_rows", got=self.null_rows, expected="0 or more")
        require(self.relations >= 0, "relations", got=self.relations, expected="0 or more")


class AttentionRanker(NeuralRanker):
    """The paper's attention ranker (sections 4.1 to 4.3), and unless switched off what was found to improve it.

    Args:
        preset: "default", or "paper" for the exact model and settings of section 4.
        options: fields of `AttentionConfig`, which overrule the preset.
    """

    name: ClassVar[str] = "attention"
    config_class = AttentionConfig
    presets = {  # noqa: RUF012
        "default": {},
        "paper": {**_PAPER, "depth": 10, "null_rows": 0, "relations": 0, "user_tower": False},
    }
    config: AttentionConfig

    def _model(self, width: int) -> nn.Module:
        return _AttentionNet(width, self.config)


class _AttentionNet(nn.Module):
    """The attention of section 4.1 and the terms beside it."""

    def __init__(self, width: int, config: AttentionConfig) -> None:
        super().__init__()
        scale = config.scale or 1.0
        self.attention = Attention(
            width=width, hidden=config.hidden, depth=config.depth, null_rows=config.null_rows, scale=scale
        )
        self.relevance = Relevance(width=width, relations=config.relations, scale=scale) if config.relations else None
        self.tower = UserTower(width=width) if config.user_tower else None

    def forward(self, past: Past, xq_BCD: torch.Tensor) -> torch.Tensor:
        logits_BC: torch.Tensor = self.attention(past.x_BLD, torch.log(past.used_BL), xq_BCD)
        if self.relevance is not None:
            logits_BC = logits_BC + self.relevance(past.x_BLD, past.used_BL, xq_BCD)
        if self.tower is not None:
            logits_BC = logits_BC + self.tower(past.x_BLD, past.used_BL, past.recency_BL, xq_BCD)
        return logits_BC


@dataclass(frozen=True, kw_only=True)
class AveragingConfig(NeuralConfig):
    """The deep averaging network."""

    form: Literal["inner", "sum"] = option("inner", "inner: mu(mean)^T x_q; sum: mu(mean + x_q)")
    hidden: int = option(128, "rectified linear units of each of the two layers")

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
    presets = {"default": {}, "paper": {**_PAPER, "form": "inner"}}  # noqa: RUF012
    config: AveragingConfig

    def _model(self, width: int) -> nn.Module:
        return _AveragingNet(DeepAveraging(width=width, hidden=self.config.hidden, form=self.config.form))


class _AveragingNet(nn.Module):
    def __init__(self, averaging: DeepAveraging) -> None:
        super().__init__()
        self.averaging = averaging

    def forward(self, past: Past, xq_BCD: torch.Tensor) -> torch.Tensor:
        logits_BC: torch.Tensor = self.averaging(past.x_BLD, past.used_BL, xq_BCD)
        return logits_BC
