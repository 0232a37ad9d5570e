"""A score in words: what raises it, and by how much.

Shapes: Q items, I items of the ranker.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from heedful.rankers.base import Ranker

__all__ = ["in_words", "popularity_lead"]

# A past item is named if the score falls by so much without it, and by this part of the greatest fall.
_LEAST, _NAMED_PART = 0.1, 0.25
_NAMED_ITEMS = 3
# Popular, or popular now, is an item above this part of the catalogue.
_OUTSTANDING = 0.9
# Items of which the median is taken, evenly spaced in order of popularity.
_SAMPLED_ITEMS = 4096


class _Reason(Protocol):
    @property
    def item(self) -> Any: ...
    @property
    def fall(self) -> float: ...
    @property
    def title(self) -> str: ...


def popularity_lead(ranker: Ranker, rows_Q: np.ndarray, pool_gamma: float | None) -> np.ndarray:
    """How much more each item's popularity adds to its score than that of the median item, float32 [Q]."""
    sample = np.linspace(0, len(ranker.items) - 1, min(len(ranker.items), _SAMPLED_ITEMS)).astype(np.int64)
    everyone = ranker.score_for_everyone(np.concatenate([rows_Q, sample]), pool_gamma=pool_gamma)
    return np.asarray(everyone[: len(rows_Q)] - np.median(everyone[len(rows_Q) :]), np.float32)


def in_words(ranker: Ranker, row: int, item: Any, reasons: Sequence[_Reason], lead: float) -> str:
    """What raises the score of an item, the most important first.

    Args:
        ranker: the ranker.
        row: row of the item.
        item: its id.
        reasons: the past items, the greatest fall first.
        lead: `popularity_lead` of the item.
    """
    if not reasons:
        return "popular with everyone; the user has no history"
    causes = [(lead, _popularity(ranker, row))] if lead >= _LEAST else []
    least = max(_LEAST, _NAMED_PART * reasons[0].fall)
    named: dict[str, float] = {}  # items with the same title are named once
    for reason in reasons:
        if reason.fall >= least:
            named.setdefault(_past_item(reason, item), reason.fall)
    causes += [(fall, words) for words, fall in list(named.items())[:_NAMED_ITEMS]]
    if not causes:
        return "nothing raises its score by much"
    causes.sort(key=lambda cause: -cause[0])
    return "; ".join(f"{what}, {value:+.1f}" for value, what in causes)


def _past_item(reason: _Reason, item: Any) -> str:
    if reason.item == item:
        return "used before"
    return f"goes with {reason.title.split(' · ')[0]}"


def _popularity(ranker: Ranker, row: int) -> str:
    shares, now = ranker.log_shares[:], ranker.popularity_now
    if np.mean(now - shares < now[row] - shares[row]) >= _OUTSTANDING:
        return "popular now"
    return "popular with everyone" if np.mean(shares < shares[row]) >= _OUTSTANDING else "more popular than most"
