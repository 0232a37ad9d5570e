"""`append`: a folder of sequences with further events, at a cost that follows what is new.

What the old folder holds is copied in order, a block of users at a time; only the histories of users with new events
are put together again. Shapes: N events of a block, B users of a block, I items of the longer catalogue.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from heedful.errors import InputError
from heedful.events.candidates import parts_of
from heedful.events.encoding import ArrayFile
from heedful.events.histories import Histories, ragged_positions
from heedful.events.log import KIND, EventLog, count_items
from heedful.events.vocabulary import Vocabulary
from heedful.folders import new_folder
from heedful.progress import progress

__all__ = ["append", "unknown_events"]

_BLOCK_EVENTS = 2**20
_MOST_KINDS = 255
_ARRAYS = {"items": np.int32, "times": np.int64, "kinds": np.uint8}


def append(log: EventLog, new: EventLog, out: str | os.PathLike[str], *, overwrite: bool = False) -> EventLog:
    """Write a folder with the events of a log and further ones: histories and counts are those of all events together.

    Items, users and kinds of `log` keep their rows and codes; new ones come after them, new items by their number of new
    events. Actions of one second are in item-row order in the histories that grow. An event of `new` that the log has
    already (same user, item, time and kind) is left out: of equal events there are in the end as many as in the one of
    the two that has more. Rejected rows are those of `new` alone.

    Args:
        log: what there was, best memory-mapped.
        new: what is added; held in memory.
        out: the finished folder of sequences.
        overwrite: replace a finished folder of sequences.

    Returns:
        The longer log; its manifest tells what was `appended`.

    Raises:
        InputError: ids that do not fit the type of the log's ids, or more than 255 kinds.
        FolderError: the place is taken or cannot be written.
    """
    addition = _Addition.of(log, new)
    with new_folder(out, kind=KIND, overwrite=overwrite) as folder:
        counts, added = _write_arrays(folder.path, log, addition)
        grown = _described(log, new, addition, *counts)
        grown.save_catalogue(folder.path)
        times = [log.histories.times, addition.histories.times]
        period = [(int(found.min()), int(found.max())) for found in times if len(found)]
        folder.manifest.update(
            n_events=log.n_events + added,
            n_users=len(grown.users),
            n_items=len(grown.catalog),
            kinds=list(grown.kinds),
            first_time=min(first for first, _ in period) if period else None,
            last_time=max(last for _, last in period) if period else None,
            appended={
                "to": log.folder.content_hash if log.folder is not None else None,
                "events": added,
                "known_events": new.n_events - added,
                "users": len(grown.users) - len(log.users),
                "items": len(grown.catalog) - len(log.catalog),
            },
        )
    return EventLog.load(out)


def unknown_events(log: EventLog, new: EventLog) -> EventLog:
    """The events of `new` that `append` would add to the log; items, users and kinds keep the rows of `new`."""
    addition = _Addition.of(log, new)
    keep = np.zeros(new.n_events, bool)
    for block in _blocks(log.histories, addition):
        keep[addition.places[block.added]] = ~block.known
    return replace(new, histories=new.histories.where(keep), folder=None)


@dataclass(frozen=True)
class _Addition:
    """New events in the rows and codes of the longer log.

    Attributes:
        items, users: the longer vocabularies.
        kinds: the longer list of kinds.
        newcomers: rows in the new log of the items that were not there.
        histories: the new events by user, one history for each user of the longer log.
        places: where each of these events is in the new log, int64 [E].
    """

    items: Vocabulary
    users: Vocabulary
    kinds: tuple[str, ...]
    newcomers: np.ndarray
    histories: Histories
    places: np.ndarray

    @classmethod
    def of(cls, log: EventLog, new: EventLog) -> _Addition:
        items, item_rows, newcomers = _joined(log.catalog.items, new.catalog.items, "item")
        users, user_rows, _ = _joined(log.users, new.users, "user")
        kinds = (*log.kinds, *(kind for kind in new.kinds if kind not in log.kinds))
        if len(kinds) > _MOST_KINDS:
            raise InputError("too many kinds of events", got=len(kinds), expected=f"at most {_MOST_KINDS}")
        codes = np.array([kinds.index(kind) for kind in new.kinds], np.uint8)
        h = new.histories
        order = np.argsort(user_rows, kind="stable")
        places = ragged_positions(h.offsets[:-1][order], h.lengths[order])
        lengths = np.zeros(len(users), np.int64)
        lengths[user_rows] = h.lengths
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        rows = item_rows[h.items[places]].astype(np.int32)
        histories = Histories(offsets, rows, np.asarray(h.times[places]), codes[h.kinds[places]])
        return cls(items, users, kinds, newcomers, histories, places)


def _joined(old: Vocabulary, new: Vocabulary, what: str) -> tuple[Vocabulary, np.ndarray, np.ndarray]:
    """The old ids with the new ones after them, the row of each id of `new`, and the places in `new` of those added."""
    rows = old.rows(new.ids)
    added = np.flatnonzero(rows < 0)
    try:
        ids = pa.concat_arrays([old.ids, new.take(added).cast(old.ids.type)])
    except pa.ArrowInvalid as error:
        raise InputError(
            f"the new events have {what} ids of another type", got=error, expected=str(old.ids.type),
            fix="write ids as they were in the first log, or prepare all events together",
        ) from error  # fmt: skip
    rows[added] = len(old) + np.arange(len(added))
    return Vocabulary.known(ids), rows, added


@dataclass(frozen=True)
class _Block:
    """Consecutive users of the longer log.

    Attributes:
        old: what they did before.
        new: what is new of them, with known events.
        added: the places of the events of `new` in the addition.
        known: which of them the log has already, bool.
    """

    old: Histories
    new: Histories
    added: slice
    known: np.ndarray


def _blocks(old: Histories, addition: _Addition) -> Iterator[_Block]:
    n_users = len(addition.users)
    ends = np.concatenate([old.offsets, np.full(n_users - len(old), old.offsets[-1])]) + addition.histories.offsets
    for users in parts_of(ends, _BLOCK_EVENTS):
        before, new = _old_part(old, users.start, users.stop), addition.histories.part(users)
        added = slice(int(addition.histories.offsets[users.start]), int(addition.histories.offsets[users.stop]))
        yield _Block(before, new, added, _known(before, new))


def _old_part(old: Histories, start: int, stop: int) -> Histories:
    """The old histories of users of the longer log; those who came later have none."""
    low, high = min(start, len(old)), min(stop, len(old))
    part = old.part(slice(low, high))
    offsets = np.concatenate([part.offsets, np.full((stop - start) - (high - low), part.offsets[-1], np.int64)])
    return Histories(offsets, part.items, part.times, part.kinds)


def _known(old: Histories, new: Histories) -> np.ndarray:
    """Which events of `new` have their equal in `old`, each of which accounts for one; bool [N]."""
    if not len(new.items):
        return np.zeros(0, bool)
    touched = np.flatnonzero(new.lengths)
    before = old.take(touched)
    owner = np.concatenate([np.repeat(np.arange(len(touched)), h.lengths) for h in (before, new.take(touched))])
    items, times, kinds = (np.concatenate([getattr(before, n), getattr(new, n)]) for n in ("items", "times", "kinds"))
    is_new = np.arange(len(items)) >= len(before.items)
    order = np.lexsort((is_new, kinds, items, times, owner))
    same = np.ones(len(order), bool)
    same[0] = False
    for column in (owner, times, items, kinds):
        sorted_column = column[order]
        same[1:] &= sorted_column[1:] == sorted_column[:-1]
    group = np.cumsum(~same) - 1
    n_old = np.bincount(group, ~is_new[order]).astype(np.int64)
    starts = np.flatnonzero(~same)
    # Within a group the old events come first: the first n_old new ones are copies of them.
    place_of_new = np.arange(len(order)) - starts[group] - n_old[group]
    known = np.zeros(len(order), bool)
    known[order] = is_new[order] & (place_of_new < n_old[group])
    return known[len(before.items) :]


def _write_arrays(folder: Path, log: EventLog, addition: _Addition) -> tuple[tuple[np.ndarray, np.ndarray], int]:
    """Write the histories; ((events, distinct users) of each item, number of events added)."""
    n_items = len(addition.items)
    events, users = (np.concatenate([known, np.zeros(n_items - len(known), np.int64)])
                     for known in (log.catalog.events, log.catalog.users))  # fmt: skip
    written, added = 0, 0
    with (
        ArrayFile(folder / "offsets.npy", np.int64) as offsets,
        ArrayFile(folder / "items.npy", np.int32) as items,
        ArrayFile(folder / "times.npy", np.int64) as times,
        ArrayFile(folder / "kinds.npy", np.uint8) as kinds,
        progress("appending", log.n_events, "events") as meter,
    ):
        for block in _blocks(log.histories, addition):
            merged, more_events, more_users = _merged(block, n_items)
            events, users = events + more_events, users + more_users
            offsets.append(merged.offsets[:-1] + written)
            for file, name in ((items, "items"), (times, "times"), (kinds, "kinds")):
                file.append(getattr(merged, name))
            written += len(merged.items)
            added += len(merged.items) - len(block.old.items)
            meter.advance(len(block.old.items))
        offsets.append(np.array([written]))
    return (events, users), added


def _merged(block: _Block, n_items: int) -> tuple[Histories, np.ndarray, np.ndarray]:
    """The histories of a block, and by how much the events and users of each item grow, int64 [I] each."""
    new = block.new.where(~block.known)
    touched = np.flatnonzero(new.lengths)
    if not len(touched):
        return block.old, np.zeros(n_items, np.int64), np.zeros(n_items, np.int64)
    before, after = block.old.take(touched), _together(block.old.take(touched), new.take(touched))
    lengths = block.old.lengths + new.lengths
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    others = np.flatnonzero(new.lengths == 0)
    rest = block.old.take(others)
    columns = {name: np.empty(offsets[-1], dtype) for name, dtype in _ARRAYS.items()}
    for part, users in ((after, touched), (rest, others)):
        places = ragged_positions(offsets[:-1][users], lengths[users])
        for name, column in columns.items():
            column[places] = getattr(part, name)
    (events_then, users_then), (events_now, users_now) = (count_items(h, n_items) for h in (before, after))
    return Histories(offsets, **columns), events_now - events_then, users_now - users_then


def _together(old: Histories, new: Histories) -> Histories:
    """The histories of the same users put together, actions of one second in item-row order."""
    owner = np.concatenate([np.repeat(np.arange(len(h)), h.lengths) for h in (old, new)])
    items, times, kinds = (np.concatenate([getattr(old, n), getattr(new, n)]) for n in ("items", "times", "kinds"))
    order = np.lexsort((kinds, items, times, owner))
    return Histories(old.offsets + new.offsets, items[order], times[order], kinds[order])


def _described(log: EventLog, new: EventLog, addition: _Addition, events: np.ndarray, users: np.ndarray) -> EventLog:
    """The longer log without its arrays."""
    attributes = _below(log.catalog.attributes, new.catalog.attributes, len(log.catalog), addition.newcomers)
    catalog = replace(log.catalog, items=addition.items, events=events, users=users, attributes=attributes)
    return replace(log, catalog=catalog, users=addition.users, kinds=addition.kinds, rejected=new.rejected)


def _below(old: pa.Table, new: pa.Table, n_old: int, newcomers: np.ndarray) -> pa.Table:
    """The attributes of the old items, with those of the new ones in the same columns below."""
    if not old.num_columns and not new.num_columns:
        return old
    schema = old.schema if old.num_columns else new.schema
    above = old if old.num_columns else pa.table([pa.nulls(n_old, field.type) for field in schema], schema=schema)
    known = new.take(pa.array(newcomers)) if new.num_columns else new
    columns = []
    for field in schema:
        column = known[field.name] if field.name in known.column_names else pa.nulls(len(newcomers), field.type)
        try:
            columns.append(column.cast(field.type))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise InputError(
                f"column {field.name!r} of the new items does not fit that of the others",
                got=error, expected=str(field.type),
            ) from error  # fmt: skip
    return pa.concat_tables([above, pa.table(columns, schema=schema)])
