"""How cost grows with the size of the work: a figure of four panels and its numbers.

    python benchmarks/growth.py --figure growth.svg

Skip-gram against items and users (window 5), scoring with the paper's ranker against the length of the past and candidates.
"""

from __future__ import annotations

import time
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
from made_up import random_table, skewed_log
from side_by_side import parser, report

from heedful.embeddings.skipgram import SkipGram
from heedful.events.candidates import Candidates
from heedful.progress import show_progress
from heedful.rankers.attention import AttentionRanker

mpl.use("Agg")
import matplotlib.pyplot as plt


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--figure", type=Path, default=Path("growth.svg"))
    options.add_argument("--large", action="store_true", help="up to 10 million items, 1 million users")
    chosen = options.parse_args()
    torch.set_num_threads(chosen.threads)
    show_progress(False)
    items = [10_000, 100_000, 1_000_000, *([10_000_000] if chosen.large else [])]
    users = [1_000, 10_000, 100_000, *([1_000_000] if chosen.large else [])]
    ranker = paper(skewed_log(300, 50_000))
    panels = {
        ("items", "skip-gram, words/s"): {n: words(skewed_log(20_000, n), chosen.threads) for n in items},
        ("users", "skip-gram, words/s"): {n: words(skewed_log(n, 50_000), chosen.threads) for n in users},
        ("past items", "scoring 1,000 candidates, ms"): {n: score_ms(ranker, n, 1000) for n in (10, 30, 100, 300, 1000)},
        ("candidates", "scoring, 200 past items, ms"): {n: score_ms(ranker, 200, n) for n in (100, 300, 1000, 3000, 10_000)},
    }
    draw(panels, chosen.figure)
    report(chosen, {f"{y} by {x}": values for (x, y), values in panels.items()})


def words(log, threads: int) -> float:
    training = SkipGram(window=5, epochs=1, threads=threads).fit(log).provenance["training"]
    return training["words_per_second"]


def paper(log) -> AttentionRanker:
    options = {"steps": 1, "assess_every": 1, "holdout_users": 1, "cuts": "fresh"}
    return AttentionRanker(preset="paper", **options).fit(log, random_table(log))


def score_ms(ranker: AttentionRanker, past: int, candidates: int, repeats: int = 20) -> float:
    rng, taken = np.random.default_rng(0), []
    for _ in range(repeats + 2):
        histories = ranker.histories_of([rng.choice(50_000, past, replace=False).tolist()])
        asked = Candidates.of([rng.choice(50_000, candidates, replace=False)])
        started = time.perf_counter()
        ranker.score_rows(histories, asked)
        taken.append(time.perf_counter() - started)
    return float(np.median(taken[2:])) * 1e3


def draw(panels: dict[tuple[str, str], dict[int, float]], path: Path) -> None:
    figure, axes = plt.subplots(2, 2, figsize=(9, 6.5), layout="constrained")
    for axis, ((x, y), values) in zip(axes.ravel(), panels.items(), strict=True):
        axis.plot(list(values), list(values.values()), marker="o", color="#1f5f8b")
        axis.set(xlabel=x, ylabel=y, xscale="log")
        axis.set_ylim(0, None)
        if y.endswith("ms"):
            axis.set_ylim(auto=True)
            axis.set_yscale("log")
        axis.grid(alpha=0.3)
    figure.savefig(path)


if __name__ == "__main__":
    main()
