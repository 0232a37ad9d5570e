"""SASRec (Kang and McAuley 2018) and what became of it: gSASRec, eSASRec and HSTU.

The blocks are those of RecTools; how they are trained is in `heedful.rankers.external.transformer`.

Shapes: N targets of a step, K negatives of a session.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from torch import nn

from heedful.config import Config, option, require
from heedful.rankers.external.base import imported
from heedful.rankers.external.transformer import TransformerConfig, TransformerRanker

__all__ = ["HSTU", "ESASRec", "ESASRecConfig", "GSASRec", "GSASRecConfig", "HSTUConfig", "SASRec", "SASRecConfig"]

_TRANSFORMERS = "rectools.models.nn.transformers"


@dataclass(frozen=True, kw_only=True)
class SASRecConfig(TransformerConfig):
    """SASRec with a softmax over the target and the negatives."""


@dataclass(frozen=True, kw_only=True)
class GSASRecConfig(TransformerConfig):
    """SASRec with the generalised binary cross-entropy."""

    calibration: float = option(0.75, "t of gBCE: 0 is plain binary cross-entropy, 1 gives calibrated probabilities")

    def __post_init__(self) -> None:
        """Check every option."""
        super().__post_init__()
        require(0 <= self.calibration <= 1, "calibration", got=self.calibration, expected="0 to 1")


@dataclass(frozen=True, kw_only=True)
class ESASRecConfig(TransformerConfig):
    """SASRec with gated blocks."""


@dataclass(frozen=True, kw_only=True)
class HSTUConfig(TransformerConfig):
    """HSTU with relative times and places."""


class SASRec(TransformerRanker):
    """SASRec with a sampled softmax, which learns better than the pairs of the paper (Klenitskiy and Vasilev 2023)."""

    name: ClassVar[str] = "sasrec"
    config_class: ClassVar[type[Config]] = SASRecConfig

    def _layers(self) -> nn.Module:
        config, blocks = self.config, imported(f"{_TRANSFORMERS}.sasrec")
        return cast(
            nn.Module,
            blocks.SASRecTransformerLayers(config.blocks, config.factors, config.heads, config.dropout),
        )

    def _loss(self, positive_N: torch.Tensor, negative_NK: torch.Tensor, *, sampled: float) -> torch.Tensor:
        return _sampled_softmax(positive_N, negative_NK)


class GSASRec(SASRec):
    """SASRec with gBCE, a binary cross-entropy that makes up for the sampling of the negatives."""

    name: ClassVar[str] = "gsasrec"
    config_class: ClassVar[type[Config]] = GSASRecConfig
    config: GSASRecConfig

    def _loss(self, positive_N: torch.Tensor, negative_NK: torch.Tensor, *, sampled: float) -> torch.Tensor:
        beta = _positive_weight(sampled, self.config.calibration)
        # A constant below all logits, which ranks nothing: training begins where positives and negatives pull alike, not
        # with many passes in which the vectors learn nothing but to have low products.
        level = math.log(negative_NK.shape[1] / beta)
        return _gbce(positive_N - level, negative_NK - level, beta)


class ESASRec(SASRec):
    """SASRec with the gated blocks of LiGR (Tikhonovich et al. 2025, "eSASRec")."""

    name: ClassVar[str] = "esasrec"
    config_class: ClassVar[type[Config]] = ESASRecConfig

    def _layers(self) -> nn.Module:
        config, blocks = self.config, imported(f"{_TRANSFORMERS}.ligr")
        return cast(nn.Module, blocks.LiGRLayers(config.blocks, config.factors, config.heads, config.dropout))


class HSTU(SASRec):
    """HSTU (Zhai et al. 2024): attention without softmax that sees how long ago each action was."""

    name: ClassVar[str] = "hstu"
    config_class: ClassVar[type[Config]] = HSTUConfig
    full_sessions: ClassVar[bool] = True
    masks_padding: ClassVar[bool] = False

    def _layers(self) -> nn.Module:
        config, blocks = self.config, imported(f"{_TRANSFORMERS}.hstu")
        return cast(
            nn.Module,
            blocks.STULayers(
                n_blocks=config.blocks,
                n_factors=config.factors,
                n_heads=config.heads,
                linear_hidden_dim=config.factors // config.heads,
                attention_dim=config.factors // config.heads,
                session_max_len=config.session_length,
                relative_time_attention=True,
                relative_pos_attention=True,
                dropout_rate=config.dropout,
            ),
        )


def _sampled_softmax(positive_N: torch.Tensor, negative_NK: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy of the target among target and negatives."""
    together_N = torch.logsumexp(torch.cat([positive_N[:, None], negative_NK], dim=1), dim=1)
    return (together_N - positive_N).mean()


def _positive_weight(sampled: float, calibration: float) -> float:
    """The weight beta of gBCE: a (t (1 - 1 / a) + 1 / a), a the share of the negatives that is drawn, t the calibration."""
    return sampled * (calibration * (1 - 1 / sampled) + 1 / sampled)


def _gbce(positive_N: torch.Tensor, negative_NK: torch.Tensor, beta: float) -> torch.Tensor:
    """Generalised binary cross-entropy (Petrov and Macdonald 2023).

    -beta log sigmoid(s+) - sum log(1 - sigmoid(s-)), without the paper's division by K + 1: Adam takes tiny gradients for 0.
    """
    loss_N = -beta * nn.functional.logsigmoid(positive_N) + nn.functional.softplus(negative_NK).sum(dim=1)
    return loss_N.mean()
