"""Processor seconds of the largest request of each kind that `heedful serve` takes with its usual limits.

    python benchmarks/serving_worst.py demo/attention --sequences demo/past

Each is asked three times, and the median is printed with the status, which has to be 200.
"""

from __future__ import annotations

import argparse
import http.client
import json
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import numpy as np
from serving_load import processor_seconds, start

from heedful.events.log import EventLog
from heedful.serving.options import ServeConfig

Request = tuple[str, str, Any]
SLOTS = 200


def largest(items: list[Any], limits: ServeConfig) -> Iterator[tuple[str, Request]]:
    """Requests by their limits."""
    past = [items[n % len(items)] for n in range(limits.max_history)]
    candidates = [items[n % len(items)] for n in range(min(limits.max_candidates, len(items)))]
    yield f"{len(past):,} past items, {len(candidates):,} candidates", (
        "POST", "/rank", {"history": past, "candidates": candidates}
    )  # fmt: skip
    yield f"the {limits.max_items:,} best after 100,000", (
        "POST", "/recommend", {"history": past, "k": limits.max_items, "offset": 100_000, "exclude_history": False}
    )  # fmt: skip
    for number in (1, 100):
        yield (
            f"{number} items for {len(past):,} past items",
            ("POST", "/explain", {"history": past, "items": items[:number]}),
        )
    yield "1,000 neighbours", ("GET", f"/items/{items[0]}/similar?k=1000", None)
    events = [{"event_id": f"{{}}-{n}", "user_id": f"u{n % 100}", "item_id": items[0]} for n in range(limits.max_events)]
    yield f"{len(events):,} events", ("POST", "/events", {"events": events})
    slots = [{"name": f"slot-{n}", "shown": 500, "max_candidates": 20_000} for n in range(SLOTS)]
    yield f"preview of {SLOTS} slots", ("POST", "/slots.toml/preview", {"slot": slots})
    yield f"check of {SLOTS} slots", ("PUT", "/slots?preview=true", {"slot": slots})
    yield "a slot of 500 from 20,000", ("POST", "/slots/large", {"history": past, "preview": True})


def cost(process: subprocess.Popen[bytes], port: int, request: Request, number: int) -> tuple[int, float]:
    """Status, and processor seconds of the server."""
    method, path, body = request
    text = None if body is None else json.dumps(body).replace("{}-", f"{number}-")
    began = processor_seconds(process)
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=600)) as connection:
        connection.request(method, path, text, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        answer.read()
    return answer.status, processor_seconds(process) - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("model")
    parser.add_argument("--sequences", required=True, help="the log whose items are asked for")
    chosen = parser.parse_args()
    items = EventLog.load(chosen.sequences).catalog.items.ids.to_pylist()
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        (folder / "slots.toml").write_text('[[slot]]\nname = "large"\nshown = 500\nmax_candidates = 20000\n')
        options = ["--slots", str(folder / "slots.toml"), "--request-seconds", "600"]
        process, port = start(chosen.model, folder, chosen.sequences, options)
        stack.callback(process.wait)
        stack.callback(process.terminate)
        print(f"{len(items):,} items\nprocessor s   status   request")
        for what, request in largest(items, ServeConfig()):
            found = [cost(process, port, request, number) for number in range(3)]
            seconds = np.median([one for _, one in found])
            print(f"{seconds:11.2f} {found[0][0]:8d}   {request[0]} {request[1].partition('?')[0]}: {what}", flush=True)


if __name__ == "__main__":
    main()
