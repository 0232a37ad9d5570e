"""What a shop says of items while they are served, in the order in which it was said.

    {"changes": "5f3...", "bytes": 4711}                            names this file; the size of its first changes
    {"item_id": "7", "attributes": {"stock": 0, "brand": null}}     one change a line; null removes an attribute

The file belongs to no model. It is applied over whichever model is loaded, so that a hidden item stays hidden when a
new model is put into service. Lines are added at the end by whoever holds the lock of the state, and are on disk before
the request is answered. A line that is damaged or half written is left out. Each worker reads the lines that are new.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow as pa
from pydantic_core import from_json

from heedful.errors import FolderError
from heedful.events.values import json_rows
from heedful.folders import write_atomically
from heedful.serving import telemetry
from heedful.serving.arrivals import Told
from heedful.serving.corrections import Corrections
from heedful.serving.loaded import Loaded, Position
from heedful.serving.store import StoreUnavailable

__all__ = ["ItemChanges"]

Change: TypeAlias = tuple[str, dict[str, Any]]  # item_id, attributes

_FILE = "item-changes.jsonl"
_BLOCK_BYTES = 2**23
# The file is compacted when it has twice the size that it began with, and so much more.
_SLACK_BYTES = 2**24


class ItemChanges:
    """The changes of one state folder. Whoever calls `append` or `compact` holds the lock of the state.

    Args:
        folder: the state folder.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / _FILE

    def beyond(self, position: Position | None) -> bool:
        """Whether the file has more than up to a position, or is another one."""
        return self._end() != position

    def onto(self, loaded: Loaded, told: Told | None = None) -> Loaded:
        """A model with what was said since the position up to which it has the changes.

        Args:
            loaded: the model.
            told: what is said beside, in its columns, which is not in the file yet.

        Raises:
            StoreUnavailable: the file cannot be read.
        """
        said, damaged, position = Corrections(loaded.ranker), 0, loaded.position
        for lines, end in self._blocks(loaded.position):
            changes = [change for line in lines if (change := _parsed(line)) is not None]
            damaged, position = damaged + len(lines) - len(changes), end
            said.add([item for item, _ in changes], [attributes for _, attributes in changes])
        _report(damaged, said.left_out)
        if told is not None:
            said.tell(told)
        return loaded.corrected(said, position)

    def append(self, told: Told) -> Position | None:
        """Put on disk what is said of items; returns the position behind it.

        Raises:
            StoreUnavailable: it cannot be written; some of the lines may have been.
        """
        said = b"".join(_lines(told))
        try:
            if said and self._end() is None:
                self._write([])
            if said:
                self._add(said)
        except (OSError, FolderError) as error:
            fix = "free some space for the state folder, and send it again"
            raise StoreUnavailable("what is said of items cannot be written", got=_reason(error), fix=fix) from error
        return self._end()

    def _add(self, said: bytes) -> None:
        with self._path.open("ab+", buffering=0) as file:
            if not _ends_a_line(file.fileno()):  # what a writer that was killed has left is a damaged line from now on
                said = b"\n" + said
            rest = memoryview(said)
            while rest:
                rest = rest[file.write(rest) :]
            os.fsync(file.fileno())

    @property
    def is_large(self) -> bool:
        """Whether most of the file may be changes that later ones have replaced."""
        end = self._end()
        return end is not None and end.offset > 2 * _bytes_at_first(end.head) + _SLACK_BYTES

    def compact(self) -> Position | None:
        """Write the file again with only the last value of each attribute of each item; returns the position at its end.

        Raises:
            StoreUnavailable: it cannot be read; nothing has changed.
            FolderError: it cannot be written; nothing has changed.
        """
        held: dict[str, bytes] = {}
        damaged = 0
        for lines, _ in self._blocks(None):
            for line in lines:
                if (change := _parsed(line)) is None:
                    damaged += 1
                    continue
                before = _parsed(held.get(change[0], b""))
                held[change[0]] = line if before is None else _line(change[0], before[1] | change[1])
        _report(damaged, {})
        if self._end() is not None:
            self._write(held.values())
        return self._end()

    def _write(self, lines: Collection[bytes]) -> None:
        head = {"changes": uuid.uuid4().hex, "bytes": sum(map(len, lines))}
        with write_atomically(self._path) as partial, partial.open("wb") as file:
            file.write(json.dumps(head).encode() + b"\n")
            file.writelines(lines)

    def _end(self) -> Position | None:
        """Where the file ends now; None where there is none."""
        try:
            with self._path.open("rb") as file:
                return Position(file.readline(), os.fstat(file.fileno()).st_size)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _unreadable(error) from error

    def _blocks(self, position: Position | None) -> Iterator[tuple[list[bytes], Position]]:
        """Whole lines beyond a position, or of another file from its first one on, and the position behind them."""
        try:
            with self._path.open("rb") as file:
                head = file.readline()
                offset = position.offset if position is not None and position.head == head else len(head)
                file.seek(offset)
                while lines := file.readlines(_BLOCK_BYTES):
                    whole = lines if lines[-1].endswith(b"\n") else lines[:-1]
                    offset += sum(map(len, whole))
                    yield whole, Position(head, offset)
                    if whole is not lines:
                        return
        except FileNotFoundError:
            return
        except OSError as error:
            raise _unreadable(error) from error


def _ends_a_line(file: int) -> bool:
    return os.pread(file, 1, os.fstat(file).st_size - 1) == b"\n"


def _bytes_at_first(head: bytes) -> int:
    try:
        return int(json.loads(head)["bytes"])
    except (ValueError, KeyError, TypeError):
        return 0


def _lines(told: Told) -> Iterator[bytes]:
    """A line for each item of which something is said."""
    given = {name: there.tolist() for name, there in told.given.items()}
    items = told.ids.cast(pa.string()).to_pylist()
    for row, (item, values) in enumerate(zip(items, json_rows(told.values), strict=True)):
        if said := {name: value for name, value in values.items() if given[name][row]}:
            yield _line(item, said)


def _line(item: str, attributes: dict[str, Any]) -> bytes:
    return json.dumps({"item_id": item, "attributes": attributes}, separators=(",", ":")).encode() + b"\n"


def _parsed(line: bytes) -> Change | None:
    """The change that a line tells; None of a damaged one."""
    try:
        found = from_json(line)
        item, attributes = found["item_id"], found["attributes"]
    except (ValueError, KeyError, TypeError):
        return None
    return (item, attributes) if isinstance(item, str) and isinstance(attributes, dict) else None


def _report(damaged: int, left_out: dict[str, int]) -> None:
    if damaged or left_out:
        facts = {"damaged_lines": damaged, "by_column": dict(left_out)}
        telemetry.LOG.warning("some changes of items were left out", extra={"facts": facts})


def _unreadable(error: OSError) -> StoreUnavailable:
    fix = f"check {_FILE} in the state folder, and its disk"
    return StoreUnavailable("what was said of items cannot be read", got=error.strerror, fix=fix)


def _reason(error: Exception) -> object:
    return error.strerror if isinstance(error, OSError) else error
