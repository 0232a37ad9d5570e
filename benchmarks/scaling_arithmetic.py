"""The arithmetic of docs/scaling.md: bytes, operations, network and hours of each stage from sizes and measured rates.

    python benchmarks/scaling_arithmetic.py

The rates are arguments; their defaults are what cluster_rates.py printed on a machine with two cores (AMD EPYC, AVX2), both
of them busy. Prints a table in Markdown.
"""

from __future__ import annotations

import argparse

from heedful.cluster.embedding import _ROUND_EVENTS, _rows_due


def main() -> None:
    o = parse()
    events, table = o.users * o.history, o.items * o.width * 4
    pairs = events * o.window * (1 + o.negatives)
    rounds = events // _ROUND_EVENTS
    rows = sum(min(_rows_due(n), o.items) for n in range(1, 4**8 + 1)) / 4**8
    sent = 2 * rows * (o.width + 1) * 4 * 2  # two tables; a ring sends everything twice, nearly
    step_events = o.workers * o.embed / 2
    gradient = 2 * o.parameters * 4
    steps = o.users / o.batch
    print(f"{o.users:,} users, {o.items:,} items, {events:,.0f} actions, width {o.width}\n")
    print("| stage | data | operations | network | core-hours |")
    print("|---|---|---|---|---|")
    shuffled = f"{events * o.row_bytes * 2 / 1e9:,.0f} GB through the storage"
    row("prepare", f"{events * 13 / 1e9:,.0f} GB of sequences", f"sort of {events:,.0f} rows", shuffled, events / o.prepare)
    memory = f"tables {2 * table / 1e9:.1f} GB, {4 * table / 1e9:.1f} GB in each worker"
    each = f"{sent / 1e6:.2f} MB a round and worker, {rounds:,} rounds"
    row("embed, an epoch", memory, f"{pairs * 6 * o.width:.1e} flop", each, events / o.embed)
    mapped = f"table {table / 1e9:.1f} GB, mapped once on a node"
    each = f"{gradient / 1e6:.2f} MB a step and worker, {steps:,.0f} steps"
    row("train, an epoch", mapped, f"at most {o.users / o.train * 2 * o.flops:.1e} flop", each, o.users / o.train)
    row("score", mapped, f"{o.users * 1000:.1e} logits", "requests and scores only", o.users / o.score)
    compute, network = _ROUND_EVENTS / step_events, sent / o.network
    print(
        f"\nembed: {o.workers} workers compute a round of {_ROUND_EVENTS:,} actions in {compute * 1e3:.2f} ms and send for "
        f"{network * 1e3:.2f} ms; more than {compute * o.workers / network:.0f} workers send for longer than they compute"
    )
    compute, network = o.batch / (o.workers * o.train / 2), gradient / o.network
    print(f"train: {o.workers} workers compute a step in {compute * 1e3:.1f} ms and send for {network * 1e3:.2f} ms")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--users", type=int, default=40_000_000)
    parser.add_argument("--items", type=int, default=10_000_000)
    parser.add_argument("--history", type=int, default=50, help="actions of a user")
    parser.add_argument("--row-bytes", type=float, default=11.9, help="of an action in Parquet")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--window", type=int, default=20, help="neighbours of a word, on average")
    parser.add_argument("--negatives", type=int, default=5)
    parser.add_argument("--parameters", type=int, default=92_721, help="of the ranker")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--workers", type=int, default=16)
    parser.add_argument("--network", type=float, default=1.25e9, help="bytes a second of a node")
    parser.add_argument("--flops", type=float, default=40e9, help="operations a second of a core")
    parser.add_argument("--prepare", type=float, default=596_000, help="rows a second of two workers")
    parser.add_argument("--embed", type=float, default=499_000, help="words a second of two workers")
    parser.add_argument("--train", type=float, default=1_476, help="users a second of two threads")
    parser.add_argument("--score", type=float, default=200, help="requests a second of two threads")
    return parser.parse_args()


def row(*cells: object) -> None:
    """A row of the table; its last cell is given as seconds of two cores."""
    *texts, seconds = cells
    assert isinstance(seconds, float)
    print(f"| {' | '.join(map(str, texts))} | {2 * seconds / 3600:,.1f} |")


if __name__ == "__main__":
    main()
