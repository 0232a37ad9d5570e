"""Scoring with the paper's attention at K = 10: latency of a request, throughput of many; a plain module beside.

    python benchmarks/scoring.py

Requests of 1,000 candidates for a user with 200 past items, K = 10, width 64, hidden 128, random weights (the arithmetic is
the same). The plain side is section 4.1 in PyTorch as it is written (see ranker_training.py), given its inputs ready made.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from made_up import random_table, skewed_log
from ranker_training import like
from side_by_side import in_turn, parser, ratio, report

from heedful.events.candidates import Candidates
from heedful.rankers.attention import AttentionRanker


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--candidates", type=int, default=1000)
    options.add_argument("--past", type=int, default=200)
    options.add_argument("--requests", type=int, default=200, help="requests of a round")
    chosen = options.parse_args()
    torch.set_num_threads(chosen.threads)
    ranker = paper_ranker(50_000)
    rng = np.random.default_rng(0)
    asked = [
        (
            ranker.histories_of([rng.choice(50_000, chosen.past, replace=False).tolist()]),
            Candidates.of([rng.choice(50_000, chosen.candidates, replace=False)]),
        )
        for _ in range(chosen.requests)
    ]
    plain = like(ranker).eval()
    inputs = [
        (ranker._inputs(h.items[None]), torch.ones(1, chosen.past), ranker._inputs(c.rows[None])) for h, c in asked[:20]
    ]
    latencies: list[float] = []

    def heedful() -> float:
        for histories, candidates in asked:
            started = time.perf_counter()
            ranker.score_rows(histories, candidates)
            latencies.append(time.perf_counter() - started)
        return len(asked) / sum(latencies[-len(asked) :])

    def written() -> float:
        started = time.perf_counter()
        with torch.inference_mode():
            for _ in range(len(asked) // len(inputs)):
                for one in inputs:
                    plain(*one)
        return len(asked) // len(inputs) * len(inputs) / (time.perf_counter() - started)

    rates = in_turn({"heedful": heedful, "plain": written}, chosen.rounds)
    counted = np.sort(latencies[len(asked) :]) * 1e3
    floor = chosen.candidates * (327_680 + 2_560 * chosen.past)
    one_each = many_at_once(ranker, asked, chosen.threads)
    report(
        chosen,
        {
            "milliseconds": {"p50": float(np.quantile(counted, 0.5)), "p99": float(np.quantile(counted, 0.99))},
            "requests_per_second": rates,
            "ratio": ratio(rates, "heedful", "plain"),
            "gigaflops_per_second": floor * float(np.median(rates["heedful"])) / 1e9,
            "requests_per_second_one_thread_each": one_each,
        },
    )


def paper_ranker(items: int, *, text: bool = False) -> AttentionRanker:
    log = skewed_log(300, items, text=text)
    return AttentionRanker(preset="paper", steps=1, assess_every=1, holdout_users=1, cuts="fresh").fit(
        log, random_table(log)
    )


def many_at_once(ranker: AttentionRanker, asked: list, threads: int) -> float:
    """Requests per second when each thread answers its own request with one thread of torch, as a server does."""
    torch.set_num_threads(1)
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda one: ranker.score_rows(*one), asked[:10]))
        started = time.perf_counter()
        list(pool.map(lambda one: ranker.score_rows(*one), asked))
        rate = len(asked) / (time.perf_counter() - started)
    torch.set_num_threads(threads)
    return rate


if __name__ == "__main__":
    main()
