"""A trained ranker with the counts of a newer log and the items that came since; its weights stay as they are."""

from __future__ import annotations

from typing import TypeVar

from heedful.embeddings.onboarding import extend_table
from heedful.events.log import EventLog
from heedful.rankers.base import Ranker
from heedful.rankers.cold_items import extended
from heedful.rankers.refreshing import refreshed

__all__ = ["caught_up"]

R = TypeVar("R", bound=Ranker)


def caught_up(ranker: R, log: EventLog) -> R:
    """The ranker with the items of a log that it lacks, and all counts as of the end of that log.

    Args:
        ranker: a fitted ranker.
        log: all events, those that it was trained on too.

    Raises:
        ConfigError: the ranker learns all that it knows from one log.
    """
    table = ranker.embeddings
    if table is not None and (table.items.rows(log.catalog.items.ids) < 0).any():
        ranker = extended(ranker, extend_table(table, log).table)
        # They are counted like the others from here on.
        ranker.newcomers_from = None
    return refreshed(ranker, log)[0]
