"""Next baskets: what users take on the first day on which they come back, new items and repeats apart.

    python benchmarks/next_basket.py SEQUENCES --cut 2017-12-01 --out models/

SEQUENCES is a folder of `heedful prepare`. Models learn what was before the cut: mixed with --target all, and rivals of the
literature, each with the best of a grid of settings on the 28 days before the cut. Printed are NDCG@10 and Recall@10
over the whole catalogue, of all items, of new items and of repeats (Li et al. 2023), with standard errors, and the
paired differences. Models are kept in --out, and used again.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from heedful.embeddings.skipgram import SkipGram
from heedful.embeddings.table import ItemEmbeddings
from heedful.evaluation.comparison import EvaluationConfig, compare
from heedful.evaluation.measures import CATALOGUE, Measure
from heedful.events.log import EventLog, parse_time
from heedful.events.vocabulary import Vocabulary
from heedful.rankers.base import Ranker
from heedful.rankers.mixed import MixedRanker
from heedful.rankers.registry import load_ranker, new_ranker

DAY = 86_400
GRIDS: dict[str, dict[str, tuple[Any, ...]]] = {
    "own-frequent": {},
    "up-cf": {"recent_baskets": (10, 25, 50, 0), "locality": (1.0, 5.0, 20.0), "asymmetry": (0.25, 0.5)},
    "tifu-knn": {"group_decay": (0.7, 0.9), "group": (3, 7), "own_weight": (0.5, 0.7, 0.9), "neighbours": (100, 300)},
}


def main() -> None:
    options = parse()
    log = sample(EventLog.load(options.sequences), options.users, options.min_item_users)
    past, future = log.split(options.cut, days=options.days)
    before, validation = past.split(parse_time(options.cut) - 28 * DAY, days=28)
    models: dict[str, Ranker] = {}
    for name in options.models.split(","):
        folder = options.out / name
        if not folder.exists():
            if name.startswith("mixed"):
                ranker = mixed(past, options.out, name.partition("-")[2] or "all")
            else:
                ranker = new_ranker(name, options=best(name, before, first_baskets(validation), options.max_users)).fit(
                    past, None
                )
            ranker.save(folder)
        models[name] = load_ranker(folder)
    show(models, past, first_baskets(future), options.max_users)


def sample(log: EventLog, users: int, min_item_users: int) -> EventLog:
    """The log of some users, with the items that have enough users among them."""
    if 0 < users < len(log.users):
        chosen = np.sort(np.random.default_rng(0).permutation(len(log.users))[:users])
        log = EventLog(log.catalog, Vocabulary(log.users.take(chosen)), log.histories.take(chosen), log.kinds).compact()
    common = log.catalog.users >= min_item_users
    return log._only(common[log.histories.items]).compact()


def first_baskets(future: EventLog) -> EventLog:
    """The events of each user on the first of their days."""
    histories = future.histories
    owner, day = np.repeat(np.arange(len(histories)), histories.lengths), histories.times // DAY
    first = np.full(len(histories), np.iinfo(np.int64).max)
    np.minimum.at(first, owner, day)
    return future._only(day == first[owner])


def mixed(past: EventLog, out: Path, target: str) -> Ranker:
    table = out / "embeddings"
    if not table.exists():
        SkipGram(threads=1).fit(past).save(table)
    steps = out / f"steps-{target}"
    return MixedRanker(target=target).fit(past, ItemEmbeddings.load(table), checkpoints=steps, resume=steps.exists())


def best(name: str, before: EventLog, validation: EventLog, max_users: int) -> dict[str, Any]:
    """The options with the highest NDCG@10 of all items in the days before the cut."""
    found = []
    for options in settings(name):
        ranker = new_ranker(name, options=options).fit(before, None)
        (values,) = measured({name: ranker}, before, validation, max_users, ("NDCG@10",))[name]
        found.append((float(np.nanmean(values)), options))
    ndcg, options = max(found, key=lambda one: one[0])
    print(f"{name}: best of {len(found)} on the days before the cut: NDCG@10 {ndcg:.4f} with {options}", flush=True)
    return options


def settings(name: str) -> Iterator[dict[str, Any]]:
    grid = GRIDS[name]
    for values in itertools.product(*grid.values()):
        yield dict(zip(grid, values, strict=True))


def measured(
    models: dict[str, Ranker], past: EventLog, future: EventLog, max_users: int, metrics: tuple[str, ...]
) -> dict[str, list[np.ndarray]]:
    """A value for each test user in each metric over the catalogue."""
    config = EvaluationConfig(
        target="all",
        ks=(10,),
        gammas=(0.0,),
        pool=20,
        pool_sizes=(20,),
        max_users=max_users,
        catalogue_users=0,
        resamples=100,
    )
    comparison = compare(models, future, past=past, config=config)
    return {
        name: [result.best.by_user[Measure(CATALOGUE, 0, metric)] for metric in metrics]
        for name, result in comparison.results.items()
    }


def show(models: dict[str, Ranker], past: EventLog, future: EventLog, max_users: int) -> None:
    parts = ("", " of new items", " of repeats")
    metrics = tuple(f"{metric}@10{part}" for part in parts for metric in ("NDCG", "Recall"))
    found = measured(models, past, future, max_users, metrics)
    print(f"{past.n_events:,} events, {len(past.users):,} users, {len(past.catalog):,} items before the cut")
    print(" | ".join(["model", *metrics, "users"]))
    for name, values in found.items():
        print(" | ".join([name, *map(mean, values), str(np.isfinite(values[0]).sum())]))
    first, *others = found
    for other in others:
        differences = [mean(a - b) for a, b in zip(found[first], found[other], strict=True)]
        print(" | ".join([f"{first} - {other}", *differences]))


def mean(values: np.ndarray) -> str:
    kept = values[np.isfinite(values)]
    return f"{kept.mean():.4f} +- {kept.std() / max(len(kept), 1) ** 0.5:.4f}"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sequences", type=Path)
    parser.add_argument("--cut", required=True)
    parser.add_argument("--days", type=float, default=14, help="days after the cut in which a user has to come back")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--models", default="mixed,up-cf,tifu-knn,own-frequent", help="also mixed-new and mixed-repeat")
    parser.add_argument("--users", type=int, default=0, help="a sample of so many users; 0: all")
    parser.add_argument("--min-item-users", type=int, default=5)
    parser.add_argument("--max-users", type=int, default=1000, help="test users")
    return parser.parse_args()


if __name__ == "__main__":
    main()
