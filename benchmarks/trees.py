"""Boosted trees of a last stage: the loop of our own against LightGBM's, by turns on one thread.

    python benchmarks/trees.py [--rounds 9]

Prints milliseconds of processor time for 600 rows (what a request has) and 20,000, and their ratio.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import lightgbm
import numpy as np

from heedful.rankers.mixing.trees import Trees


def milliseconds(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return 1e3 * (time.process_time() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    randoms = np.random.default_rng(0)
    columns = randoms.normal(size=(60_000, 53)).astype(np.float32)
    logits = columns[:, 0] + columns[:, 5] * columns[:, 7] + randoms.logistic(size=len(columns))
    trees = Trees.fit(columns, (logits > 2).astype(np.float32), np.full(len(columns), 0.5), [f"a.{n}" for n in range(53)])
    booster = lightgbm.Booster(model_str=trees.text)
    trees.scores(columns[:1])  # compiles
    for rows in (600, 20_000):
        asked = columns[:rows]
        ours, theirs = [], []
        for _ in range(rounds):
            ours.append(milliseconds(lambda asked=asked: trees.scores(asked)))  # type: ignore[misc]
            theirs.append(
                milliseconds(lambda asked=asked: booster.predict(asked, raw_score=True, num_threads=1))  # type: ignore[misc]
            )
        one, other = float(np.median(ours)), float(np.median(theirs))
        print(f"{rows:6,} rows: ours {one:.2f} ms, LightGBM {other:.2f} ms, ratio {other / one:.2f}")


if __name__ == "__main__":
    main()
