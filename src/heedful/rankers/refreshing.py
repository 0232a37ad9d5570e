"""A trained ranker with the counts of a newer log and the items that came since; its weights stay as they are."""

from __future__ import annotations

import copy
from typing import TypeVar

from heedful.embeddings.onboarding import extend_table
from heedful.errors import ConfigError
from heedful.events.log import EventLog
from heedful.rankers.base import Ranker
from heedful.rankers.cold_items import extended
from heedful.rankers.mixed import MixedRanker
from heedful.rankers.neural import NeuralRanker
from heedful.rankers.popularity import Popularity

__all__ = ["caught_up", "refreshed"]

R = TypeVar("R", bound=Ranker)


def caught_up(ranker: R, log: EventLog) -> R:
    """`refreshed`, with the items of the log that the ranker lacks.

    Raises:
        ConfigError: the ranker cannot take new items.
    """
    table = ranker.embeddings
    if table is not None and (table.items.rows(log.catalog.items.ids) < 0).any():
        ranker = extended(ranker, extend_table(table, log).table)
    return refreshed(ranker, log)


def refreshed(ranker: R, log: EventLog) -> R:
    """A ranker like this one whose counts are those of a newer log; items that it lacks are left out.

    Args:
        ranker: a fitted ranker.
        log: all events, those that it was trained on too.
    """
    fresh = copy.copy(ranker)
    fresh.newcomers_from = None
    if isinstance(fresh, NeuralRanker):
        fresh.recount(log)
    elif isinstance(fresh, MixedRanker):
        fresh.recount(log, refreshed(fresh.ranker, log))
    elif isinstance(fresh, Popularity):
        fresh.fit(log)
    else:
        raise ConfigError(
            f"{ranker.name} cannot be refreshed", got="a ranker that is its counts and nothing else",
            expected="mixed, attention, averaging, or popularity", fix="train it again",
        )  # fmt: skip
    return fresh
