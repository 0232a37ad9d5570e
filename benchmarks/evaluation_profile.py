"""Where the time of an evaluation goes: five models, 10,000 users, pools of 10,000 for three gammas, unless asked otherwise.

The log is synthetic with planted tastes: each item has a taste, each user has three, and four in five events are of these.
The models are trained for a few steps only; their scoring takes as long as that of finished ones.

    python benchmarks/evaluation_profile.py                                          # full size; hours on two cores
    python benchmarks/evaluation_profile.py --users 1200 --test-users 1000 --pool 2000 --items 8000
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

import heedful
from heedful.evaluation.comparison import compare
from heedful.events.log import count_items

DAY = 86_400
START = 1_500_000_000
TASTES = 40


def planted_log(users: int, items: int, events: int, seed: int) -> heedful.EventLog:
    """About `events` actions a user over 100 days and about 10 more in the week after them."""
    randoms = np.random.default_rng(seed)
    before, after = randoms.poisson(events, users) + 2, randoms.poisson(10, users)
    owners = np.repeat(np.arange(users), before + after)
    weights = np.cumsum(np.arange(1, items // TASTES + 1) ** -0.7)
    places = np.searchsorted(weights / weights[-1], randoms.random(len(owners)))
    liked = randoms.integers(0, TASTES, (users, 3))
    tastes = liked[owners, randoms.integers(0, 3, len(owners))]
    tastes = np.where(randoms.random(len(owners)) < 0.8, tastes, randoms.integers(0, TASTES, len(owners)))
    rows = (places * TASTES + tastes).astype(np.int32)
    offsets = np.concatenate([[0], np.cumsum(before + after)]).astype(np.int64)
    late = np.arange(len(owners)) - offsets[owners] >= before[owners]
    moments = np.where(
        late, 100 * DAY + randoms.integers(0, 7 * DAY, len(owners)), randoms.integers(0, 100 * DAY, len(owners))
    )
    order = np.lexsort((moments, owners))
    histories = heedful.Histories(
        offsets, rows[order], (START + moments[order]).astype(np.int64), np.zeros(len(rows), np.uint8)
    )
    names = heedful.Vocabulary([f"item{row}" for row in range(items)])
    catalog = heedful.Catalog(names, *count_items(histories, items), pa.table({"taste": np.arange(items) % TASTES}))
    return heedful.EventLog(catalog, heedful.Vocabulary([f"user{u}" for u in range(users)]), histories, ("view",))


def trained(past: heedful.EventLog, steps: int) -> dict[str, Any]:
    """The five models of the paper, trained briefly."""
    items = heedful.SkipGram(epochs=1).fit(past)
    neural = {"steps": steps, "validate_every": steps}
    models = {
        "attention": heedful.AttentionRanker(**neural),
        "averaging": heedful.AveragingRanker(**neural),
        "weighted-sum": heedful.WeightedSum(evaluations=20),
        "last-item": heedful.LastItem(),
        "popularity": heedful.Popularity(),
    }
    for model in models.values():
        model.fit(past, items)
    return models


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=12_000)
    parser.add_argument("--items", type=int, default=50_000)
    parser.add_argument("--events", type=int, default=40, help="events of a user before the cut, on average")
    parser.add_argument("--test-users", type=int, default=10_000)
    parser.add_argument("--catalogue-users", type=int, default=500)
    parser.add_argument("--pool", type=int, default=10_000)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--models", default="", help="only these, with commas between them")
    parser.add_argument("--cpu", action="store_true", help="processor seconds, for a machine that others use too")
    parser.add_argument("--json", type=Path, help="file for the numbers")
    options = parser.parse_args()
    if options.cpu:
        time.perf_counter = time.process_time

    past, future = planted_log(options.users, options.items, options.events, 0).split(START + 100 * DAY, days=7)
    models = trained(past, options.steps)
    if options.models:
        models = {name: models[name] for name in options.models.split(",")}
    config = heedful.EvaluationConfig(
        pool=options.pool, max_users=options.test_users, catalogue_users=options.catalogue_users
    )
    # Code is compiled once, which is no part of the profile.
    small = replace(config, pool=20, pool_sizes=(20,), max_users=10, catalogue_users=2)
    compare(models, future, past=past, config=small)

    heedful.show_progress()
    started = time.perf_counter()
    found = compare(models, future, past=past, config=config)
    compared = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        heedful.write_report(found, Path(folder) / "report")
    ended = time.perf_counter()
    rows = {name: {"scoring": r.scoring_seconds, "ranking": r.ranking_seconds} for name, r in found.results.items()}
    total = ended - started
    parts = {
        "scoring": sum(row["scoring"] for row in rows.values()),
        "ranking": sum(row["ranking"] for row in rows.values()),
        **found.seconds,
        "report": ended - compared,
    }
    parts["other"] = total - sum(parts.values())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    gammas, users = len(found.pools.gammas), len(found.pools)
    print("processor seconds" if options.cpu else "seconds by the clock")
    print(f"{users:,} users x {gammas} gammas x {options.pool:,} negatives, {len(found.pools.items):,} items")
    print(f"{'model':14s} {'scoring s':>10s} {'ranking s':>10s} {'ms a user':>10s}")
    for name, row in rows.items():
        print(f"{name:14s} {row['scoring']:10.2f} {row['ranking']:10.2f} {1000 * sum(row.values()) / users:10.2f}")
    print(f"{'part':14s} {'seconds':>10s} {'share':>10s}")
    for name, seconds in parts.items():
        print(f"{name:14s} {seconds:10.2f} {seconds / total:10.1%}")
    print(f"{'total':14s} {total:10.2f}; peak memory {peak:.2f} GiB")
    if options.json:
        facts = {
            "options": {k: str(v) for k, v in vars(options).items()},
            "machine": platform.processor() or platform.machine(),
        }
        options.json.write_text(json.dumps(facts | {"models": rows, "parts": parts, "peak_gib": peak}, indent=1) + "\n")


if __name__ == "__main__":
    main()
