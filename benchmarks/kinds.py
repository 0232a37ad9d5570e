"""What kinds of actions are worth: models that tell them apart beside the same models that take all actions alike.

    python benchmarks/kinds.py SEQUENCES --targets purchase --negative return --cut 2011-10-01 --days 30

SEQUENCES is a folder of `heedful prepare` of a log with several kinds. Targets are new items with an event of --targets
after the cut. Each model is trained three times on what was before it: with all kinds alike, as before heedful knew kinds;
with kinds told apart; and with those of --negative speaking against an item. Printed are NDCG in pools of 1,000 negatives
drawn by popularity and NDCG@10 over the catalogue, with standard errors, and the paired differences to the first.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from heedful.embeddings.skipgram import SkipGram
from heedful.evaluation.comparison import EvaluationConfig, compare
from heedful.evaluation.measures import CATALOGUE, Measure, pool_name
from heedful.events.log import EventLog
from heedful.events.vocabulary import Vocabulary
from heedful.rankers.registry import new_ranker


def main() -> None:
    options = parse()
    log = EventLog.load(options.sequences)
    if 0 < options.users < len(log.users):
        chosen = np.sort(np.random.default_rng(0).permutation(len(log.users))[: options.users])
        users = Vocabulary(log.users.take(chosen))
        log = EventLog(log.catalog, users, log.histories.take(chosen), log.kinds).compact()
    past, future = log.split(options.cut, days=options.days)
    kinds = past.histories.kinds
    alike = replace(past, histories=replace(past.histories, kinds=np.zeros_like(kinds)), kinds=("action",))
    shares = np.bincount(kinds, minlength=len(past.kinds)) / len(kinds)
    print(f"{past.n_events:,} events, {len(past.users):,} users;", dict(zip(past.kinds, shares.round(4), strict=True)))
    table = SkipGram(threads=1).fit(past)
    for name in options.models.split(","):
        wanted = {"target_kinds": (options.targets,)}
        ways: dict[str, tuple[EventLog, dict[str, Any]]] = {
            "alike": (alike, {}),
            "told apart": (past, wanted),
            "negative": (past, {**wanted, "negative_kinds": (options.negative,)}),
        }
        models = {way: new_ranker(name, options=given).fit(of, table) for way, (of, given) in ways.items()}
        config = EvaluationConfig(
            **wanted, gammas=(1.0,), ks=(10,), max_users=options.max_users, catalogue_users=0, resamples=100
        )
        show(name, compare(models, future, past=past, config=config).results)


def show(name: str, results: dict[str, Any]) -> None:
    measures = (Measure(pool_name(1.0), 1000, "NDCG"), Measure(CATALOGUE, 0, "NDCG@10"))
    first = None
    for way, result in results.items():
        values = [result.best.by_user[measure] for measure in measures]
        first = values if first is None else first
        gains = "" if first is values else "".join(f" | {mean(a - b)}" for a, b in zip(values, first, strict=True))
        print(f"{name}, {way}: " + " | ".join(map(mean, values)) + gains, flush=True)


def mean(values: np.ndarray) -> str:
    kept = values[np.isfinite(values)]
    return f"{kept.mean():+.4f} +- {kept.std() / max(len(kept), 1) ** 0.5:.4f}"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sequences", type=Path)
    parser.add_argument("--targets", default="purchase")
    parser.add_argument("--negative", default="return")
    parser.add_argument("--cut", required=True)
    parser.add_argument("--days", type=float, default=30)
    parser.add_argument("--models", default="attention,two-stage")
    parser.add_argument("--users", type=int, default=0, help="a sample of so many users; 0: all")
    parser.add_argument("--max-users", type=int, default=1000, help="test users")
    return parser.parse_args()


if __name__ == "__main__":
    main()
