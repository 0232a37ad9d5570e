"""The word2vec file formats: a header `<items> <width>`, then each id with its numbers, as text or as float32 bytes.

Both readers stream: the file is mapped, and the table is allocated once, after the header proved plausible.
"""

from __future__ import annotations

import contextlib
import mmap
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from heedful.embeddings.table import ItemEmbeddings
from heedful.errors import InputError
from heedful.folders import write_atomically

__all__ = ["read_binary", "read_text", "write_word2vec"]

_LONGEST_LINE = 2**20
_SHOWN = 60


def write_word2vec(table: ItemEmbeddings, path: str | os.PathLike[str]) -> None:
    """Write the vectors as word2vec text, which gensim and most other tools read.

    Raises:
        InputError: an id holds white space, which the format cannot express.
        FolderError: the file cannot be written.

    """
    with write_atomically(path) as partial, partial.open("w", encoding="utf-8", newline="\n") as out:
        out.write(f"{len(table)} {table.width}\n")
        for name, vector in zip(table.items.ids.to_pylist(), table.vectors, strict=True):
            text = str(name)
            if any(character in text for character in " \n\r\t"):
                raise InputError(f"item id {text!r} cannot be written as word2vec text", expected="ids without white space")
            out.write(f"{text} {' '.join(map(str, vector))}\n")


def read_text(path: Path) -> tuple[list[str], np.ndarray]:
    """(ids [I], vectors float32 [I, D]) of a word2vec text file; an id may hold spaces.

    Raises:
        InputError: the file is not of this format, or is cut short.

    """
    with _mapped(path) as data:
        n, width = _header(path, data, bytes_per_number=2)
        vectors_ID, ids = np.empty((n, width), np.float32), []
        for row in range(n):
            line = data.readline()
            if not line:
                raise _damaged(path, f"{row} items", f"{n} items, as its first line says")
            # Split from the right: only the id may hold spaces.
            name, *numbers = line.rstrip(b" \r\n").rsplit(b" ", width)
            try:
                vectors_ID[row] = np.array([float(number) for number in numbers]).reshape(width)
                ids.append(name.decode())
            except ValueError as error:
                raise _damaged(path, f"line {row + 2}: {line[:_SHOWN]!r}", f"an id and {width} numbers") from error
        _expect_end(path, data, n)
    return ids, vectors_ID


def read_binary(path: Path) -> tuple[list[str], np.ndarray]:
    """(ids [I], vectors float32 [I, D]) of a word2vec binary file.

    Raises:
        InputError: the file is not of this format, or is cut short.

    """
    with _mapped(path) as data:
        n, width = _header(path, data, bytes_per_number=4)
        vectors_ID, ids = np.empty((n, width), np.float32), []
        for row in range(n):
            low = data.tell()
            space = data.find(b" ", low, low + _LONGEST_LINE)
            data.seek(max(space + 1, low))
            numbers = data.read(4 * width) if space >= 0 else b""
            if len(numbers) < 4 * width:
                raise _damaged(path, f"{row} whole items", f"{n} items, as its first line says")
            vectors_ID[row] = np.frombuffer(numbers, "<f4")
            try:
                # Some writers end each item with a line feed, which then precedes the next id.
                ids.append(data[low:space].lstrip(b"\n").decode())
            except UnicodeDecodeError as error:
                raise _damaged(path, f"{data[low:space][:_SHOWN]!r}", f"the id of item {row + 1} without spaces") from error
        _expect_end(path, data, n)
    return ids, vectors_ID


@contextlib.contextmanager
def _mapped(path: Path) -> Iterator[mmap.mmap]:
    if path.stat().st_size == 0:
        raise _damaged(path, "an empty file", "a first line with the number of items and the width")
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
        yield data


def _header(path: Path, data: mmap.mmap, *, bytes_per_number: int) -> tuple[int, int]:
    """Items and width from the first line, after a check that the file is long enough to hold them."""
    line = data.readline()
    words = line.split()
    if len(line) > _SHOWN or len(words) != 2 or not all(word.isdigit() for word in words):
        raise _damaged(path, f"{line[:_SHOWN]!r}", "a first line with the number of items and the width")
    n, width = int(words[0]), int(words[1])
    if n < 1 or width < 1:
        raise _damaged(path, f"{n} items of width {width}", "at least one item and width 1")
    if len(data) < len(line) + n * (1 + bytes_per_number * width):
        raise _damaged(path, f"{len(data)} bytes", f"{n} items of width {width}, as its first line says")
    return n, width


def _expect_end(path: Path, data: mmap.mmap, n: int) -> None:
    rest = data[data.tell() :][:_LONGEST_LINE].strip()
    if rest:
        raise _damaged(path, f"more after the last item: {rest[:_SHOWN]!r}", f"{n} items, as its first line says")


def _damaged(path: Path, got: str, expected: str) -> InputError:
    return InputError(
        f"{path} is not a sound word2vec file of its kind",
        got=got,
        expected=expected,
        fix="export it again; .txt and .vec are read as text, .bin as binary, and ids in .bin may not hold spaces",
    )
