"""What can be stored alike on SQLite and PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from heedful.errors import InputError
from heedful.events.ids import is_unicode

__all__ = ["ID_CHARACTERS", "check_events", "check_names", "check_time", "is_storable", "storable_rows"]

ID_CHARACTERS = 256
"""The most characters of an id, of a kind, and of every other name in the store."""
_LATEST = 2**62


def check_events(rows: Sequence[tuple[str, str, str, int, str]]) -> None:
    """Refuse events (event_id, user_id, item_id, time, kind) that cannot be stored.

    Raises:
        InputError: names the first such value.
    """
    event_ids, user_ids, item_ids, times, kinds = zip(*rows, strict=True)
    for what, names in (("event id", event_ids), ("user id", user_ids), ("item id", item_ids), ("event kind", kinds)):
        check_names(what, names)
    for time in (min(times), max(times)):
        check_time(time)


def check_names(what: str, names: Iterable[str], *, empty: bool = False) -> None:
    """Refuse names that are empty (unless they may be), too long, or not Unicode text without NUL."""
    for name in set(names):
        if not is_storable(name, empty=empty):
            raise InputError(
                f"the {what} cannot be stored",
                got=f"{len(name)} characters, {name[:40]!r}{'...' if len(name) > 40 else ''}",
                expected=f"1 to {ID_CHARACTERS} characters of Unicode text, without NUL",
            )


def is_storable(name: str, *, empty: bool = False) -> bool:
    """Whether a name can be stored: not too long, Unicode text without NUL, not empty unless it may be."""
    return bool(name or empty) and len(name) <= ID_CHARACTERS and "\0" not in name and is_unicode(name)


def storable_rows(ids: pa.Array) -> np.ndarray:
    """Which ids of a catalogue can be stored, bool [I]."""
    if pa.types.is_integer(ids.type):
        return np.ones(len(ids), bool)
    fits = pc.and_not(pc.less_equal(pc.utf8_length(ids), ID_CHARACTERS), pc.match_substring(ids, "\0"))
    return np.asarray(fits.to_numpy(zero_copy_only=False), bool)


def check_time(time: int) -> None:
    """Refuse a time that is not a 64-bit integer."""
    if not -_LATEST < time < _LATEST:
        raise InputError("the time cannot be stored", got=time, expected="unix seconds")
