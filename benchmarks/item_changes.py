"""How fast a server takes changes of items, and how soon its other worker answers with them.

    python benchmarks/item_changes.py --items 70000
    python benchmarks/item_changes.py --items 1000000 --keep folder --out changes.json

Two workers serve a made-up model with a slot that has a condition on the stock. Stock, price and `hidden` of known items
are sent by `POST /items` in batches of about 1,000 and 5,000 over one connection, each when the one before is answered;
then by `PATCH /items/ID`. At last one item is patched again and again, and connections that were opened before, which both
workers share, ask for it until all of them answer with the new value.
"""

from __future__ import annotations

import argparse
import http.client
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from made_up import random_table, skewed_log
from serving_faults import serving
from serving_load import start

from heedful.embeddings.table import ItemEmbeddings
from heedful.rankers.attention import AttentionRanker

SLOTS = """
[[slot]]
name = "stocked"
where = "stock > 0 AND category = 'category 7'"
shown = 10
"""
WATCHERS, ROUNDS = 16, 8


def model_in(folder: Path, items: int) -> Path:
    """A small attention model over a catalogue with attributes; the one that lies there already."""
    model, rng = folder / f"model-{items}", np.random.default_rng(0)
    if not model.exists():
        log = skewed_log(max(items // 10, 1000), items, every=True, text=True)
        attributes = pa.table(
            {
                "title": [f"Title of item {n}" for n in range(items)],
                "category": [f"category {n % 50}" for n in range(items)],
                "price": rng.random(items),
                "stock": rng.integers(0, 10, items),
                "hidden": rng.random(items) < 0.01,
            }
        )
        vectors = random_table(log, width=16).vectors
        table = ItemEmbeddings.from_arrays(log.catalog.items, vectors, attributes=attributes)
        AttentionRanker(steps=20, hidden=16).fit(log, table).save(model, pack=True)
    return model


class Client:
    """One connection that is kept open."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        text = None if body is None else json.dumps(body)
        self._connection.request(method, path, text, {"Content-Type": "application/json"})
        answer = self._connection.getresponse()
        found = answer.read()
        if answer.status != 200:
            raise SystemExit(f"{method} {path}: {answer.status} {found[:300]!r}")
        return json.loads(found)


def changes(rng: np.random.Generator, items: int, number: int) -> list[dict[str, Any]]:
    rows = np.unique(rng.integers(items, size=number))
    return [
        {
            "item_id": f"item-{row}",
            "attributes": {
                "stock": int(rng.integers(0, 10)),
                "price": float(rng.random()),
                "hidden": bool(rng.random() < 0.01),
            },
        }
        for row in rows
    ]


def in_a_row(send: Callable[[], int], seconds: float) -> dict[str, float]:
    """Requests one after the other for so long, one at least: items a second, and the median time of a request."""
    taken, sent = [], 0
    while sum(taken) < seconds:
        begun = time.perf_counter()
        sent += send()
        taken.append(time.perf_counter() - begun)
    return {
        "items_per_second": round(sent / sum(taken), 1),
        "requests": len(taken),
        "median_ms": round(1000 * statistics.median(taken), 1),
    }


def seen_after(port: int, client: Client, stock: int) -> float:
    """Seconds from the answer to a change until every connection answers with it."""
    watchers = [Client(port) for _ in range(WATCHERS)]
    for watcher in watchers:
        watcher.ask("GET", "/items/item-5")
    client.ask("PATCH", "/items/item-5", {"attributes": {"stock": stock}})
    begun = time.perf_counter()
    while {one.ask("GET", "/items/item-5")["attributes"]["stock"] for one in watchers} != {stock}:
        if time.perf_counter() - begun > 120:
            raise SystemExit("the other worker does not know of it")
        time.sleep(0.01)
    return time.perf_counter() - begun


def measured(folder: Path, model: Path, items: int, seconds: float) -> dict[str, Any]:
    (folder / "slots.toml").write_text(SLOTS)
    options = ["--workers", "2", "--threads", "1", "--slots", str(folder / "slots.toml")]
    process, port = start(str(model), folder, None, options)
    rng, results = np.random.default_rng(1), dict[str, Any](items=items)
    try:
        while serving(port) < 2:
            time.sleep(0.2)
        client = Client(port)
        client.ask("PATCH", "/items/item-1", {"attributes": {"stock": 1}})
        for number in (1000, 5000):
            prepared = cycle([changes(rng, items, number) for _ in range(20)])
            send = lambda: client.ask("POST", "/items", {"items": next(prepared)})["corrected"]  # noqa: B023, E731
            results[f"post_{number}"] = in_a_row(send, seconds)
            print(json.dumps({f"post_{number}": results[f"post_{number}"]}), flush=True)

        def patch() -> int:
            (one,) = changes(rng, items, 1)
            client.ask("PATCH", f"/items/{one['item_id']}", {"attributes": one["attributes"]})
            return 1

        results["patch"] = in_a_row(patch, seconds)
        print(json.dumps({"patch": results["patch"]}), flush=True)
        delays = [seen_after(port, client, 100 + number) for number in range(ROUNDS)]
        results["seen_after_seconds"] = {"median": round(statistics.median(delays), 2), "longest": round(max(delays), 2)}
    finally:
        process.terminate()
        process.wait()
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--items", type=int, default=70_000, help="items of the catalogue")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each kind of request")
    parser.add_argument("--keep", default=None, help="folder that keeps the made-up model for the next run")
    parser.add_argument("--build", action="store_true", help="only make the model")
    parser.add_argument("--out", default=None, help="JSON of the results")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        model = model_in(Path(chosen.keep or name), chosen.items)
        if chosen.build:
            return
        results = measured(Path(name), model, chosen.items, chosen.seconds)
    print(json.dumps(results, indent=1))
    if chosen.out:
        Path(chosen.out).write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
