"""What a score is made of: the attention of each layer over the past items, and the terms that add up to the score.

Shapes: Q candidates of one user, P distinct past items that the ranker attends over, D width, K layers, M null rows.
"""

from __future__ import annotations

import numpy as np
import torch

from heedful.events.candidates import Candidates
from heedful.events.histories import Histories
from heedful.ranking.attention import Attention
from heedful.ranking.neural import NeuralRanker
from heedful.ranking.ranker import Ranker
from heedful.ranking.rankers import AttentionRanker

__all__ = ["attention_weights", "learnt_trend", "score_parts"]


def attention_weights(ranker: Ranker, history: Histories, rows: np.ndarray) -> tuple[np.ndarray, int] | None:
    """The attention p^k of each candidate over one user's past (section 4.1).

    Args:
        ranker: any ranker.
        history: the past actions of one user, at least one.
        rows: candidates, int64 [Q].

    Returns:
        (weights float32 [Q, K, P + M], M): columns are the latest P distinct past items, the newest first, and then the
        null rows; each layer's weights sum to 1. None for a ranker without attention.
    """
    if not isinstance(ranker, AttentionRanker):
        return None
    with torch.inference_mode():
        x_LD, xq_QD = ranker._past(ranker._memory(history)).x_BLD[0], ranker._inputs(rows)
        weights_QKN, _ = _attend(ranker._net.model.attention, x_LD, xq_QD)  # type: ignore[arg-type]
    return weights_QKN.cpu().numpy(), weights_QKN.shape[2] - len(x_LD)


def _attend(attention: Attention, x_LD: torch.Tensor, xq_QD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(weights [Q, K, L + M], z^K [Q, H]): what `Attention.forward` does, for one user and with its weights kept."""
    z_QH = attention.h(xq_QD)
    weights = [z_QH.new_empty(len(z_QH), 0, len(x_LD))] if not len(attention.f) else []
    for k, (f, g) in enumerate(zip(attention.f, attention.g, strict=True)):
        memory_ND = torch.cat([x_LD, attention.null[k]]) if attention.null else x_LD
        p_QN = (z_QH @ f @ memory_ND.T).softmax(-1)
        z_QH = z_QH + g(p_QN @ memory_ND)
        weights.append(p_QN[:, None])
    return torch.cat(weights, dim=1), z_QH


def score_parts(
    ranker: Ranker, history: Histories, rows: np.ndarray, *, pool_gamma: float | None = 0.0
) -> dict[str, np.ndarray]:
    """The terms that add up to the score of each candidate, by name, float32 [Q] each.

    Of every ranker:
        popularity: the score for an empty history; then there is nothing else.
        prior: what the candidates' origin adds (`Ranker.prior`).
        trend: popularity and its movement, the same for everyone.
    Of the attention ranker:
        item: phi h(x_q), the same for everyone.
        attention: what the layers add to that.
        relevance, user: the direct term and the tower (`heedful.ranking.relevance`).
    Of the others:
        match: all that history and candidate say.

    Args:
        ranker: any ranker.
        history: the past actions of one user.
        rows: candidates, int64 [Q].
        pool_gamma: as in `Ranker.score`.
    """
    if history.lengths[0] == 0:
        return {"popularity": ranker.score_rows(history, Candidates.of([rows]), pool_gamma=pool_gamma)}
    parts = {}
    if ranker.uses_prior:
        parts["prior"] = np.broadcast_to(ranker.prior(pool_gamma), ranker.users_of_item.shape)[rows]
    if isinstance(ranker, NeuralRanker) and ranker._item_term is not None:
        parts["trend"] = np.asarray(ranker._item_term[rows])
    if isinstance(ranker, AttentionRanker):
        return parts | _attention_parts(ranker, history, rows)
    score = ranker.score_rows(history, Candidates.of([rows]), pool_gamma=pool_gamma)
    return {**parts, "match": np.asarray(score - sum(parts.values()), np.float32)}


def _attention_parts(ranker: AttentionRanker, history: Histories, rows: np.ndarray) -> dict[str, np.ndarray]:
    net = ranker._net.model
    attention, relevance, tower = net.attention, net.relevance, net.tower
    assert isinstance(attention, Attention)
    with torch.inference_mode():
        past, xq_QD = ranker._past(ranker._memory(history)), ranker._inputs(rows)
        _, z_QH = _attend(attention, past.x_BLD[0], xq_QD)
        item_Q = attention.h(xq_QD) @ attention.phi[0]
        terms = {"item": item_Q, "attention": z_QH @ attention.phi[0] - item_Q}
        if relevance is not None:
            terms["relevance"] = relevance(past.x_BLD, past.used_BL, xq_QD[None])[0]  # type: ignore[operator]
        if tower is not None:
            terms["user"] = tower(past.x_BLD, past.used_BL, past.recency_BL, xq_QD[None])[0]  # type: ignore[operator]
    return {name: term.float().cpu().numpy() for name, term in terms.items()}


def learnt_trend(ranker: Ranker) -> np.ndarray | None:
    """What the rise and age of each item add to its logit beyond its share of the log, float32 [I]; None where unknown."""
    if not isinstance(ranker, NeuralRanker) or ranker._item_term is None:
        return None
    users = ranker.users_of_item
    log_share = np.log((users + 0.5) / (users.sum() + 1))
    return np.asarray(ranker._item_term + ranker.gamma * ranker.log_popularity - log_share, np.float32)
