"""A trained ranker with the new items of an extended table, without training: see `heedful.embeddings.onboarding`.

Shapes: N new items, F popularity features.
"""

from __future__ import annotations

import copy
from typing import TypeVar

import numpy as np
import pyarrow as pa

from heedful.embeddings.onboarding import newcomers
from heedful.embeddings.table import ItemEmbeddings
from heedful.errors import ConfigError, MismatchError
from heedful.model.popularity import new_item_features
from heedful.rankers.base import Ranker
from heedful.rankers.mixed import MixedRanker
from heedful.rankers.neural import NeuralRanker
from heedful.rankers.popularity import Popularity
from heedful.rankers.prior import LogShares

__all__ = ["extended"]

R = TypeVar("R", bound=Ranker)

_DAY = 86400


def extended(ranker: R, table: ItemEmbeddings) -> R:
    """A ranker like this one that also knows the items which an extension of its table adds.

    The scores of the items that it knew do not change. A new item has as many users as the extension
    counted, and where the ranker knows popularity over time, that of an item so young with so many.

    Args:
        ranker: a fitted ranker.
        table: an extension of its embeddings; for popularity, which has none, a table that begins with its items.

    Raises:
        MismatchError: the first rows of the table are not those that the ranker was trained on.
        ConfigError: the ranker knows items by its training log alone, so that it has to be trained again.
    """
    if isinstance(ranker, MixedRanker):
        return ranker.with_ranker(extended(ranker.ranker, table))
    _check(ranker, table)
    longer = copy.copy(ranker)
    users_N, days_N = newcomers(table, len(ranker.items))
    longer.items, longer.attributes = table.items, _attributes(ranker, table)
    longer.embeddings = table if ranker.embeddings is not None else None
    if ranker.newcomers_from is None:
        longer.newcomers_from = len(ranker.items)
    # Shares of the training log: those of the items that it has do not move.
    users = np.concatenate([ranker.users_of_item, users_N])
    longer.log_shares = LogShares(users, total=ranker.log_shares.total)
    if isinstance(longer, NeuralRanker) and isinstance(ranker, NeuralRanker):
        new = _values_of_new(ranker, longer, users_N, days_N) if ranker.at_time else {}
        longer.with_items(table, {name: np.concatenate([ranker.at_time[name], new[name]]) for name in ranker.at_time})
    return longer


def _values_of_new(
    ranker: NeuralRanker, longer: NeuralRanker, users_N: np.ndarray, days_N: np.ndarray
) -> dict[str, np.ndarray]:
    """What the terms that do not depend on the user say of items so young with so many users.

    Never of none: in training an item without past actions is always one that somebody is about to
    use, which the model learns, and which would put every item that nobody wants at the top.
    """
    ages_N = np.maximum(days_N, 0) * _DAY
    features_NF = new_item_features(np.maximum(users_N, 1), ages_N, ranker.inputs.span)
    # The log share is that of the users as they are counted, also where there are none.
    shares_N = longer.log_shares[np.arange(len(ranker.items), len(longer.items))]
    return ranker.values_at(features_NF, shares_N, shares_N)


def _check(ranker: Ranker, table: ItemEmbeddings) -> None:
    known = len(ranker.items)
    if ranker.embeddings is not None:
        fits = table.extends(ranker.embeddings.content_hash, known)
    elif isinstance(ranker, Popularity):
        fits = len(table) >= known and table.items.ids.slice(0, known).equals(ranker.items.ids)
    else:
        raise ConfigError(
            f"{ranker.name} cannot take new items", got="a ranker that knows items by its training log alone",
            expected="one with embeddings, or popularity", fix="train it again on a log that has the items",
        )  # fmt: skip
    if not fits:
        raise MismatchError(
            "the table is not an extension of the one that the ranker was trained on",
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
