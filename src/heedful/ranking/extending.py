"""A trained ranker with the new items of an extended table, without training: see `heedful.embeddings.onboarding`.

Shapes: N new items, F trend features.
"""

from __future__ import annotations

import copy
from typing import TypeVar

import numpy as np
import pyarrow as pa
import torch

from heedful.embeddings.onboarding import newcomers
from heedful.embeddings.table import ItemEmbeddings
from heedful.errors import ConfigError, MismatchError
from heedful.ranking.features import FeatureCodes
from heedful.ranking.heuristics import Popularity
from heedful.ranking.neural import NeuralRanker
from heedful.ranking.ranker import Ranker
from heedful.ranking.trend import newborn_features

__all__ = ["extended"]

R = TypeVar("R", bound=Ranker)

# Popularity of an item without users, as `Ranker.prior` has it.
_UNSEEN_USERS = 0.5
_DAY = 86400


def extended(ranker: R, table: ItemEmbeddings) -> R:
    """A ranker like this one that also knows the items which an extension of its table adds.

    The scores of the items that it knew stay as they are. A new item has as many users as the extension counted, and where
    the ranker knows trends, the trend of an item so young with so many.

    Args:
        ranker: a fitted ranker.
        table: an extension of its embeddings; for popularity, which has none, a table that begins with its items.

    Raises:
        MismatchError: the first rows of the table are not those that the ranker was trained on.
        ConfigError: the ranker knows items by its training log alone, so that it has to be trained again.
    """
    _check(ranker, table)
    n_known, longer = len(ranker.items), copy.copy(ranker)
    users_N, days_N = newcomers(table, n_known)
    total = max(int(ranker.users_of_item.sum()), 1)
    log_share_N = np.log(np.maximum(users_N, _UNSEEN_USERS) / total).astype(np.float32)
    longer.items, longer.attributes = table.items, _attributes(ranker, table)
    longer.embeddings = table if ranker.embeddings is not None else None
    longer.users_of_item = np.concatenate([ranker.users_of_item, users_N])
    # Shares of the training log: those of the items that it has do not move.
    longer.__dict__["_log_popularity_cache"] = np.concatenate([ranker.log_popularity, log_share_N])
    if isinstance(longer, NeuralRanker):
        longer._take_table(table)
        if longer._features is not None:
            longer._features = FeatureCodes.of(longer.items.ids, longer.attributes, longer._features.values)
        if longer._item_term is not None:
            learnt_N = _newborn_trend(longer, np.maximum(users_N, 1), days_N)
            counted_N = np.log((users_N + 0.5) / (total + 1))
            term_N = (learnt_N + counted_N - longer.gamma * log_share_N).astype(np.float32)
            longer._item_term = np.concatenate([longer._item_term, term_N])
    return longer


def _newborn_trend(ranker: NeuralRanker, users_N: np.ndarray, days_N: np.ndarray) -> np.ndarray:
    """What the ranker has learnt of items so young with so many users.

    Never of none: in training an item without past actions is always one that somebody is about to touch, which the model
    learns, and which would put every item that nobody wants at the top.
    """
    features_NF = newborn_features(users_N, np.maximum(days_N, 0) * _DAY, ranker._span)
    with torch.inference_mode():
        return np.asarray(ranker._net.item_term(torch.from_numpy(features_NF).to(ranker._device)).cpu().numpy())


def _check(ranker: Ranker, table: ItemEmbeddings) -> None:
    known = len(ranker.items)
    if ranker.embeddings is not None:
        fits = table.extends(ranker.embeddings.content_hash, known)
    elif isinstance(ranker, Popularity):
        fits = len(table) >= known and table.items.ids.slice(0, known).equals(ranker.items.ids)
    else:
        raise ConfigError(
            f"{ranker.name} cannot take up new items", got="a ranker that knows items by its training log alone",
            expected="one with embeddings, or popularity", fix="train it again on a log that has the items",
        )  # fmt: skip
    if not fits:
        raise MismatchError(
            "the table is no extension of the one that the ranker was trained on",
            got=f"a table of {len(table)} items that begins with others",
            expected=f"the ranker's {known} items first, their vectors unchanged",
            fix="make it with `heedful extend` from the ranker's own table",
        )


def _attributes(ranker: Ranker, table: ItemEmbeddings) -> pa.Table:
    """The ranker's attributes, followed by those of the table's further rows, in the ranker's columns."""
    names = ranker.attributes.column_names
    if not names:
        return ranker.attributes
    n_known, n_new = len(ranker.items), len(table) - len(ranker.items)
    columns = [
        table.attributes[name].slice(n_known) if name in table.attributes.column_names else pa.nulls(n_new) for name in names
    ]
    return pa.concat_tables([ranker.attributes, pa.table(columns, names=names).cast(ranker.attributes.schema)])
