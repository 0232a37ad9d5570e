"""A trained ranker with the counts of a newer log: all that was learnt stays, all that was counted is counted again."""

from __future__ import annotations

import copy
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from heedful.embeddings.table import ItemEmbeddings
from heedful.errors import InputError
from heedful.events.histories import Histories
from heedful.events.log import EventLog, count_items
from heedful.rankers.base import Ranker
from heedful.rankers.prior import LogShares
from heedful.rankers.registry import load_ranker

__all__ = ["Refreshed", "refresh", "refreshed"]

R = TypeVar("R", bound=Ranker)


@dataclass(frozen=True)
class Refreshed:
    """What became of a log that a ranker's counts were made from.

    Attributes:
        events: those that were counted.
        unknown_items: items of the log that the ranker does not know; their events do not count.
        unknown_kinds: kinds of events that it does not know; they do not count.
        last_time: time of the last event that was counted, unix seconds.
        older_by: seconds by which the counts before were older; negative where those were newer.
    """

    events: int
    unknown_items: int
    unknown_kinds: tuple[str, ...]
    last_time: int
    older_by: int


def refreshed(ranker: R, log: EventLog) -> tuple[R, Refreshed]:
    """A ranker like this one that knows what is popular, and bought together, as of the end of a log.

    Learnt weights, embeddings and the order of the items stay. Refreshed with the log that it was trained on, a ranker
    scores as before.

    Args:
        ranker: a fitted ranker without later items (see `heedful.embeddings.onboarding`).
        log: all events that are to count, also those of training.

    Raises:
        InputError: the log has no event of an item and a kind that the ranker knows, or the ranker has later items.
        ConfigError: the ranker learns all that it knows from one log.
    """
    if ranker.newcomers_from is not None:
        raise InputError("the ranker has later items", fix="load it without the extension of its embeddings")
    rows = ranker.items.rows(log.catalog.items.ids)
    histories, unknown_kinds = _in_kinds(log.histories, log.kinds, ranker.kinds)
    histories = histories.with_rows(rows)
    if not len(histories.times):
        raise InputError(
            "the log has nothing to count", got="no event of an item and a kind that the model knows",
            expected=f"items such as {ranker.items.ids[0].as_py()!r}, and events such as {ranker.kinds[0]!r}",
            fix="give the log of the same shop",
        )  # fmt: skip
    newer = copy.copy(ranker)
    newer.last_time = int(histories.times.max())
    newer.log_shares = LogShares(count_items(ranker.targets.speaking_for(histories), len(ranker.items))[1])
    newer.refreshed_from = {
        "model": ranker.content_hash,
        "log": log.provenance(),
    }
    newer.content_hash = None
    newer._recount(ranker.read(histories))
    unknown_items = int(np.count_nonzero((rows < 0) & (np.asarray(log.catalog.events) > 0)))
    older_by = newer.last_time - ranker.last_time
    return newer, Refreshed(len(histories.items), unknown_items, unknown_kinds, newer.last_time, older_by)


def refresh(
    model: str | os.PathLike[str],
    log: EventLog,
    out: str | os.PathLike[str] | None = None,
    *,
    embeddings: ItemEmbeddings | None = None,
    overwrite: bool = False,
) -> Refreshed:
    """Refresh a model folder, see `refreshed`; its manifest then has the hashes of the model and of the log.

    Args:
        model: the folder.
        log: all events that are to count.
        out: the folder to write; None: put it in the place of `model`, in one step.
        embeddings: the table, where it is no longer where the model folder says.
        overwrite: replace a finished model folder at `out`.

    Raises:
        FolderError: the model folder is damaged, or the place is taken or cannot be written.
        InputError: the log has nothing to count.
        ConfigError: the model learns all that it knows from one log.
    """
    source = Path(model).resolve()
    newer, facts = refreshed(load_ranker(source, embeddings=embeddings), log)
    table = newer.embeddings.folder if newer.embeddings is not None else None
    packed = table is not None and table.path.resolve().is_relative_to(source)
    newer.save(source if out is None else out, overwrite=overwrite or out is None, pack=packed)
    return facts


def _in_kinds(histories: Histories, names: tuple[str, ...], known: tuple[str, ...]) -> tuple[Histories, tuple[str, ...]]:
    """Histories with the codes of a ranker's kinds, without the others, whose names are returned."""
    if names == known:
        return histories, ()
    codes = np.array([known.index(name) if name in known else -1 for name in names], np.int64)[histories.kinds]
    found = set(np.unique(histories.kinds).tolist())
    unknown = tuple(name for code, name in enumerate(names) if name not in known and code in found)
    recoded = Histories(histories.offsets, histories.items, histories.times, np.maximum(codes, 0).astype(np.uint8))
    return recoded.where(codes >= 0), unknown
