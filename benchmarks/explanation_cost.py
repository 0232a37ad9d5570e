"""What an explanation costs, and how exact it is: ten items explained at once, by length of the past.

    heedful demo
    python benchmarks/explanation_cost.py --demo demo

For each model and length: the household of the demo with about so many distinct past items, its ten best items, the number
of scorings, milliseconds (the best of the rounds) and the largest difference between a fall and that of scoring the item
twice by itself.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

from heedful.events.candidates import Candidates
from heedful.events.log import EventLog
from heedful.rankers.registry import MODELS, load_ranker
from heedful.recommending.explanation import explain_items
from heedful.recommending.recommend import Query, Recommender


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--demo", type=Path, default=Path("demo"), help="folder that `heedful demo` made")
    parser.add_argument("--items", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args()
    log = EventLog.load(options.demo / "past")
    bounds = zip(log.histories.offsets, log.histories.offsets[1:], strict=False)
    distinct = np.array([len(np.unique(log.histories.items[low:high])) for low, high in bounds])
    print("| model | past items | scorings | ms | largest difference |\n|---|---|---|---|---|")
    for name in MODELS:
        ranker = load_ranker(options.demo / name)
        histories = log.histories.with_rows(ranker.items.rows(log.catalog.items.ids))
        for length in (10, 50, 200, 800):
            history = histories.take(np.array([np.argmin(np.abs(distinct - length))]))
            rows = Recommender(ranker, exact=True).top_rows(history, Query(k=options.items))[0][0]
            seconds = []
            for _ in range(options.rounds):
                started = time.perf_counter()
                explanations = explain_items(ranker, history, rows)
                seconds.append(time.perf_counter() - started)
            past = explanations[0].past
            scored = min(len(past), getattr(ranker.config, "max_history", len(past)))
            worst = 0.0
            for place in range(0, len(past), max(len(past) // 25, 1)):
                for explanation in explanations:
                    one = Candidates.of([np.array([explanation.row])])
                    shorter = history.where(history.items != past[place])
                    fall = float(ranker.score_rows(history, one)[0] - ranker.score_rows(shorter, one)[0])
                    worst = max(worst, abs(fall - float(explanation.falls[place])))
            scorings, best = (scored + 1) * len(rows), 1e3 * min(seconds)
            print(f"| {name} | {len(past)} | {scorings:,} | {best:.1f} | {worst:.1e} |", flush=True)


if __name__ == "__main__":
    main()
