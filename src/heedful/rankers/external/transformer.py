"""Transformers over the sequence of a user's items, with the networks of RecTools.

They are trained by a loop of heedful's own, because that of RecTools gathers positions x negatives x width numbers in each
step, takes the last window of each user only, and keeps the order of a log inside baskets: here the targets of a session
share their negatives (a matrix product), every action is a target, and actions of one time are in random order. How long to
train is found on users of the training log whose last items are held out.

Shapes: B users or windows, L places of a session, N targets of a step, K negatives of a session, I items, D width.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, cast

import numpy as np
import safetensors.torch
import torch
from torch import nn

from heedful.config import Config, option, require
from heedful.events.histories import Histories
from heedful.folders import Folder
from heedful.metrics import batch_ndcg
from heedful.progress import progress
from heedful.rankers.external.base import FactorRanker, imported
from heedful.rankers.external.sessions import (
    Sessions,
    ValidationSplit,
    sessions,
    shuffled_ties,
    split_validation,
    windows,
)

__all__ = ["TransformerConfig", "TransformerRanker"]

_WEIGHTS = "weights.safetensors"
_HOLDOUT_ITEMS = 10
_ENCODED_TOGETHER = 64
_VECTOR_SCALE = 0.02


@dataclass(frozen=True, kw_only=True)
class TransformerConfig(Config):
    """What all of them have."""

    seed: int = option(1, "seed of the start, the order, the negatives and the held-out users")
    factors: int = option(64, "width of the item vectors")
    blocks: int = option(2, "transformer blocks")
    heads: int = option(1, "heads of attention")
    dropout: float = option(0.2, "share of units that are dropped while training")
    session_length: int = option(100, "most recent actions that a session has")
    batch_sessions: int = option(16, "sessions of one step")
    learning_rate: float = option(0.001, "of Adam")
    epochs: int = option(40, "most passes over the log")
    patience: int = option(3, "passes without a better ranking of the held-out users before training ends")
    holdout_users: int = option(500, "users whose last items are held out, at most half of all")
    negatives: int = option(256, "items drawn evenly for the targets of a session; all, if there are no more")

    def __post_init__(self) -> None:
        """Check every option."""
        least_one = ("factors", "blocks", "heads", "session_length", "batch_sessions", "epochs", "patience", "negatives")
        for name in (*least_one, "holdout_users"):
            require(getattr(self, name) >= 1, name, got=getattr(self, name), expected="1 or more")
        require(self.factors % self.heads == 0, "heads", got=self.heads, expected=f"a divisor of {self.factors} factors")
        require(0 <= self.dropout < 1, "dropout", got=self.dropout, expected="0 or more, below 1")
        require(self.learning_rate > 0, "learning_rate", got=self.learning_rate, expected="more than 0")


class _Backbone(Protocol):
    """What is used of RecTools' `TransformerTorchBackbone`."""

    item_model: nn.Module

    def encode_sessions(self, batch: dict[str, torch.Tensor], item_embs: torch.Tensor) -> torch.Tensor: ...


class TransformerRanker(FactorRanker):
    """A transformer encodes the session, each item once, where it was last touched; its last output is the user's vector.

    Attributes:
        network: RecTools' backbone.
        full_sessions: the layers take sessions of `session_length` places alone, however many are padding.
        masks_padding: the layers need to be told of padding in the mask of attention.
    """

    config: TransformerConfig
    network: nn.Module
    full_sessions: ClassVar[bool] = False
    masks_padding: ClassVar[bool] = True

    @abstractmethod
    def _layers(self) -> nn.Module:
        """The transformer's blocks."""

    @abstractmethod
    def _loss(self, positive_N: torch.Tensor, negative_NK: torch.Tensor, *, sampled: float) -> torch.Tensor:
        """Mean loss of N targets among their negatives (minus infinity: the target itself), a share `sampled` of all."""

    def _learn(self, histories: Histories) -> None:
        config = self.config
        randoms = np.random.default_rng(config.seed)
        distinct = histories.distinct(len(self.items))
        held = split_validation(distinct, users=config.holdout_users, targets=_HOLDOUT_ITEMS, randoms=randoms)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.network = self._new_network()
            _initialise(self.network)
            self._train(held, randoms)
        self._take_item_factors()

    def _new_network(self) -> nn.Module:
        """The backbone of RecTools with these layers; token 0 is padding."""
        nets, parts = imported("rectools.models.nn.item_net"), imported("rectools.models.nn.transformers.net_blocks")
        backbone = imported("rectools.models.nn.transformers.torch_backbone")
        config, tokens = self.config, len(self.items) + 1
        return cast(
            nn.Module,
            backbone.TransformerTorchBackbone(
                n_heads=config.heads,
                dropout_rate=config.dropout,
                item_model=nets.SumOfEmbeddingsConstructor(
                    tokens, [nets.IdEmbeddingsItemNet(config.factors, tokens, config.dropout)]
                ),
                pos_encoding_layer=parts.LearnableInversePositionalEncoding(
                    use_pos_emb=True, session_max_len=config.session_length, n_factors=config.factors, use_scale_factor=True
                ),
                transformer_layers=self._layers(),
                similarity_module=imported("rectools.models.nn.transformers.similarity").DistanceSimilarityModule(),
                use_causal_attn=True,
                use_key_padding_mask=self.masks_padding,
            ),
        )

    # Training

    def _train(self, held: ValidationSplit, randoms: np.random.Generator) -> None:
        """Passes over the log until the ranking of the held-out users gets no better; the best weights are kept."""
        optimizer = torch.optim.Adam(self.network.parameters(), lr=self.config.learning_rate, betas=(0.9, 0.98))
        best, kept, waited = -np.inf, _copied(self.network), 0
        with progress(f"training {self.name}", self.config.epochs, "passes") as meter:
            for _ in range(self.config.epochs):
                self._pass(held.training, optimizer, randoms)
                found = self._quality(held)
                waited = 0 if found > best else waited + 1
                if found > best:
                    best, kept = found, _copied(self.network)
                meter.advance(note=f"validation NDCG {found:.4f}, best {best:.4f}")
                if waited >= self.config.patience:
                    break
        self.network.load_state_dict(kept)

    def _pass(self, histories: Histories, optimizer: torch.optim.Optimizer, randoms: np.random.Generator) -> None:
        self.network.train()
        for batch in self._batches(histories, randoms):
            optimizer.zero_grad(set_to_none=True)
            self._step_loss(batch, randoms).backward()  # type: ignore[no-untyped-call]
            optimizer.step()

    def _batches(self, histories: Histories, randoms: np.random.Generator) -> Iterator[Sessions]:
        """Windows of about the same length together, so that little is padding; the batches come in random order."""
        cut = windows(shuffled_ties(histories, randoms), self.config.session_length)
        lengths = (cut.tokens != 0).sum(axis=1)
        size = self.config.batch_sessions
        order = np.lexsort((randoms.random(len(lengths)), lengths))
        for start in randoms.permutation(np.arange(0, len(order), size)):
            part = order[start : start + size]
            batch = Sessions(cut.tokens[part], cut.times[part])
            yield batch if self.full_sessions else batch.shortened(int(lengths[part].max()))

    def _step_loss(self, batch: Sessions, randoms: np.random.Generator) -> torch.Tensor:
        """Mean loss of the targets of some windows: at each place, the item that comes next."""
        n_items = len(self.items)
        tokens_BL = torch.from_numpy(batch.tokens)
        negative_BK = _drawn(randoms, len(tokens_BL), self.config.negatives, n_items)
        # Only the tokens of this step go through the network of items; 0 is the first of them, so that padding stays 0.
        padding_B1 = torch.zeros_like(tokens_BL[:, :1])
        known, places = torch.unique(torch.cat([padding_B1, tokens_BL, negative_BK], dim=1), return_inverse=True)
        _, tokens_BL, negative_BK = places.split([1, tokens_BL.shape[1], negative_BK.shape[1]], dim=1)
        past_BL, next_BL = tokens_BL[:, :-1], tokens_BL[:, 1:]
        items_ID = _item_vectors(self.network, known)
        states_BLD = _encoded(self.network, past_BL, torch.from_numpy(batch.times), items_ID)
        logits_BLK = states_BLD @ items_ID[negative_BK].transpose(1, 2)
        logits_BLK = logits_BLK.masked_fill(next_BL[:, :, None] == negative_BK[:, None, :], -torch.inf)
        used_BL = past_BL != 0
        positive_N = (states_BLD[used_BL] * items_ID[next_BL[used_BL]]).sum(dim=1)
        share = negative_BK.shape[1] / max(n_items - 1, 1)
        return self._loss(positive_N, logits_BLK[used_BL], sampled=min(share, 1.0))

    def _quality(self, held: ValidationSplit) -> float:
        """NDCG of the held-out items in the catalogue without each user's past, mean over the users."""
        self._take_item_factors()
        gains = []
        for users, part in held.past.chunks(_ENCODED_TOGETHER):
            targets = held.targets.part(users)
            scores_BI = self._states(part, targets.times[targets.offsets[:-1]]) @ self.item_factors.T
            owner = np.repeat(np.arange(len(part)), part.lengths)
            scores_BI[owner, part.items] = -np.inf
            positive_BI = np.zeros(scores_BI.shape, bool)
            positive_BI[np.repeat(np.arange(len(part)), targets.lengths), targets.items] = True
            gains.append(batch_ndcg(scores_BI, positive_BI, np.ones_like(positive_BI)))
        return float(np.mean(np.concatenate(gains)))

    # Scoring

    def _take_item_factors(self) -> None:
        self.network.eval()
        with torch.no_grad():
            self.item_factors = _item_vectors(self.network)[1:].numpy().copy()

    def _user_factors(self, histories: Histories) -> np.ndarray:
        distinct = histories.distinct(len(self.items))
        return self._states(distinct, np.full(len(distinct), self.last_time + 1))

    def _states(self, distinct: Histories, asked_B: np.ndarray) -> np.ndarray:
        """Vectors of users at the time when they are asked for, in unix seconds, float32 [B, D]."""
        users_BD = np.zeros((len(distinct), self.config.factors), np.float32)
        self.network.eval()
        with torch.no_grad():
            items_ID = _item_vectors(self.network)
            for users, part in distinct.chunks(_ENCODED_TOGETHER):
                found = sessions(part, self.config.session_length)
                if not self.full_sessions:
                    found = found.shortened(max(int(part.lengths.max(initial=0)), 1))
                asked_B1 = np.maximum(asked_B[users][:, None], found.times[:, -1:])
                times = torch.from_numpy(np.concatenate([found.times, asked_B1], axis=1))
                users_BD[users] = _encoded(self.network, torch.from_numpy(found.tokens), times, items_ID)[:, -1].numpy()
        return users_BD

    # Folders

    def _write(self, folder: Path) -> None:
        safetensors.torch.save_file(_copied(self.network), folder / _WEIGHTS)

    def _read(self, folder: Folder, settings: dict[str, Any]) -> None:
        self.network = self._new_network()
        self.network.load_state_dict(safetensors.torch.load_file(folder.file(_WEIGHTS)))
        self._take_item_factors()


def _drawn(randoms: np.random.Generator, sessions: int, count: int, n_items: int) -> torch.Tensor:
    """Tokens of items drawn evenly for each session, or of all items if that is not more, int64 [B, K]."""
    if count < n_items:
        return torch.from_numpy(randoms.integers(1, n_items + 1, (sessions, count)))
    return torch.arange(1, n_items + 1).expand(sessions, -1)


def _initialise(network: nn.Module) -> None:
    """Xavier for matrices as in RecTools, but small vectors of items and places whatever the size of the catalogue."""
    for module in network.modules():
        if isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=_VECTOR_SCALE)
        else:
            for parameter in module.parameters(recurse=False):
                if parameter.dim() > 1:
                    nn.init.xavier_normal_(parameter)


def _item_vectors(network: nn.Module, tokens: torch.Tensor | None = None) -> torch.Tensor:
    """Vectors of some tokens, or of all, [I + 1, D]."""
    items = cast(Any, network).item_model
    return cast(torch.Tensor, items.get_all_embeddings() if tokens is None else items(tokens))


def _encoded(network: nn.Module, tokens_BL: torch.Tensor, times_BL: torch.Tensor, items_ID: torch.Tensor) -> torch.Tensor:
    """The state after each place of the sessions, [B, L, D]; the times are one longer, that of what comes next."""
    return cast(_Backbone, network).encode_sessions({"x": tokens_BL, "unix_ts": times_BL}, items_ID)


def _copied(network: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
