"""Items from a table to a running server, in requests of a bounded size."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from heedful.errors import InputError
from heedful.events.values import json_rows
from heedful.progress import progress

__all__ = ["numbers_of", "send_items"]

# A request of `POST /items` takes so many items, and by default so many bytes.
_MOST_ITEMS = 10_000
_MOST_BYTES = 4 * 2**20
_TIMEOUT_SECONDS = 120.0


def send_items(items: pa.Table, server: str, *, key: str | None = None) -> dict[str, int]:
    """Send attributes of items to `heedful serve`, which adds the new ones and corrects the others.

    Sending the same rows again changes nothing, so that a run which was stopped can be repeated.

    Args:
        items: `item_id` and attributes by the names of the catalogue; null clears an attribute.
        server: its address, http://HOST:PORT.
        key: an API key of the role admin, where the server has keys.

    Returns:
        How many were "added" and "corrected".

    Raises:
        InputError: the address is not of HTTP, nothing answers there, or the server refuses a request.
    """
    if not server.startswith(("http://", "https://")):
        raise InputError("invalid address of a server", got=server, expected="http://HOST:PORT")
    counts = {"added": 0, "corrected": 0}
    with progress("sending items", len(items), unit="items") as meter:
        for number, body in _bodies(items):
            answer = _post(f"{server.rstrip('/')}/items", body, key)
            for name in counts:
                counts[name] += int(answer[name])
            meter.advance(number)
    return counts


def numbers_of(column: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    """The whole numbers that a column of text names, or the numbers; empty text is null.

    Raises:
        InputError: a text that is not a number.
    """
    known = pc.if_else(pc.equal(pc.utf8_trim_whitespace(column.cast(pa.string())), ""), None, column.cast(pa.string()))
    for kind in (pa.int64(), pa.float64()):
        try:
            return known.cast(kind)
        except pa.ArrowInvalid as error:
            reason = str(error)
    raise InputError(f"column {name!r} is not of numbers", got=reason, fix="leave it out of --numbers")


def _bodies(items: pa.Table) -> Iterator[tuple[int, bytes]]:
    """Bodies of requests, with the number of their items."""
    attributes = items.drop_columns(["item_id"])
    part: list[str] = []
    size = 0
    for start in range(0, len(items), _MOST_ITEMS):
        ids = json_rows(items.select(["item_id"]).slice(start, _MOST_ITEMS))
        for named, values in zip(ids, json_rows(attributes.slice(start, _MOST_ITEMS)), strict=True):
            text = json.dumps({**named, "attributes": values})
            if part and (len(part) == _MOST_ITEMS or size + len(text) > _MOST_BYTES - 1000):
                yield len(part), _body(part)
                part, size = [], 0
            part.append(text)
            size += len(text) + 1
    if part:
        yield len(part), _body(part)


def _body(items: list[str]) -> bytes:
    return f'{{"items":[{",".join(items)}]}}'.encode()


def _post(address: str, body: bytes, key: str | None) -> dict[str, Any]:
    headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}
    request = urllib.request.Request(address, body, headers, method="POST")  # noqa: S310, the caller checks the scheme
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS) as answer:  # noqa: S310
            found: dict[str, Any] = json.load(answer)
            return found
    except urllib.error.HTTPError as error:
        raise InputError(f"{address} answered {error.code}", got=_said(error)) from error
    except OSError as error:
        raise InputError(
            f"nothing answers at {address}", got=error, fix="start `heedful serve`, or give --server"
        ) from error


def _said(error: urllib.error.HTTPError) -> str:
    """The message of an answer in the form of all errors of the server, with what to do about it."""
    text = error.read(10_000).decode(errors="replace")
    try:
        said = json.loads(text)["error"]
        return f"{said['message']}; {said['fix']}"
    except (ValueError, KeyError, TypeError):
        return text[:200]
