"""Scoring with the paper's attention at K = 10: latency of a request, throughput of many; a plain module beside.

    python benchmarks/scoring.py
    python benchmarks/scoring.py --catalogue --threads 1 --rounds 3

Requests of 1,000 candidates for a user with 200 past items, K = 10, width 64, hidden 128, random weights (the arithmetic is
the same). The plain side is section 4.1 in PyTorch as it is written (see ranker_training.py), given its inputs ready made.

With --catalogue: every item of a catalogue for a batch of users, both presets, histories of some lengths; beside the kernels
the terms over the items, in the parts in which they were fastest. Processor time, and the largest difference of scores.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from unittest import mock

import numpy as np
import torch
from made_up import random_table, skewed_log
from side_by_side import in_turn, parser, ratio, report

from heedful.events.candidates import Candidates
from heedful.events.histories import Histories
from heedful.events.log import EventLog
from heedful.kernels import attention_scoring, interactions_scoring
from heedful.kernels.reference import PlainAttention
from heedful.rankers import scoring
from heedful.rankers.attention import AttentionRanker
from heedful.rankers.base import Ranker
from heedful.rankers.registry import load_ranker


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--candidates", type=int, default=1000)
    options.add_argument("--past", type=int, default=200)
    options.add_argument("--requests", type=int, default=200, help="requests of a round")
    options.add_argument("--catalogue", action="store_true", help="every item of a catalogue instead")
    options.add_argument("--items", type=int, default=20_000, help="items of the catalogue")
    options.add_argument("--users", type=int, default=32, help="users of a batch")
    options.add_argument("--model", default=None, help="a trained model, for the first users of --sequences")
    options.add_argument("--sequences", default=None, help="their log")
    chosen = options.parse_args()
    torch.set_num_threads(chosen.threads)
    if chosen.catalogue:
        if chosen.model:
            report(chosen, of_model(chosen))
        else:
            report(chosen, {preset: catalogue(preset, chosen) for preset in ("default", "paper")})
        return
    ranker = paper_ranker(50_000)
    rng = np.random.default_rng(0)
    asked = [
        (
            ranker.histories_of([rng.choice(50_000, chosen.past, replace=False).tolist()]),
            Candidates.of([rng.choice(50_000, chosen.candidates, replace=False)]),
        )
        for _ in range(chosen.requests)
    ]
    plain = PlainAttention.of(ranker.model.terms["attention"]).eval()
    inputs = [
        (ranker.inputs(h.items[None]), torch.ones(1, chosen.past, dtype=torch.bool), ranker.inputs(c.rows[None]))
        for h, c in asked[:20]
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


def catalogue(preset: str, chosen: argparse.Namespace) -> dict[str, Any]:
    """Microseconds of a (user, item) by kernels and over the items, by past items of the users."""
    log = skewed_log(300, chosen.items)
    ranker = AttentionRanker(preset=preset, steps=1, validate_every=1, validation_users=1).fit(log, random_table(log))
    with torch.no_grad():
        for parameter in ranker.model.parameters():  # some terms are zero before training
            parameter.add_(0.05 * torch.randn_like(parameter))
    found = {}
    for past in (8, 30, 100, 200):
        rng = np.random.default_rng(past)
        items = [rng.choice(chosen.items, past, replace=False).tolist() for _ in range(chosen.users)]
        histories = ranker.histories_of(items)
        found[f"{past} past items"] = beside_items(ranker, histories, chosen.rounds)
        print(preset, past, found[f"{past} past items"], file=sys.stderr, flush=True)
    return found


def of_model(chosen: argparse.Namespace) -> dict[str, Any]:
    """The same for a trained model."""
    ranker, log = load_ranker(chosen.model), EventLog.load(chosen.sequences)
    histories = log.histories.with_rows(ranker.items.rows(log.catalog.items.ids)).part(slice(0, chosen.users))
    return beside_items(ranker, histories, chosen.rounds)


def beside_items(ranker: Ranker, histories: Histories, rounds: int) -> dict[str, Any]:
    kernels, plain = ranker.score_catalogue(histories), over_items(lambda: ranker.score_catalogue(histories))
    sides = {
        "kernels": lambda: rate(lambda: ranker.score_catalogue(histories)),
        "over the items": lambda: rate(lambda: over_items(lambda: ranker.score_catalogue(histories))),
    }
    rates = in_turn(sides, rounds)
    return {
        "microseconds": {side: 1e6 / float(np.median(values)) for side, values in rates.items()},
        "ratio": ratio(rates, "kernels", "over the items"),
        "largest_difference": float(np.abs(kernels - plain).max()),
        "largest_score": float(np.abs(plain).max()),
    }


def over_items(score: Callable[[], np.ndarray]) -> np.ndarray:
    """Scores without the kernels, in parts whose intermediate results are not returned to the system."""
    never: Callable[..., bool] = lambda *_: False  # noqa: E731
    with (
        mock.patch.object(attention_scoring, "is_faster", never),
        mock.patch.object(interactions_scoring, "is_possible", never),
        mock.patch.multiple(scoring, _BLOCK_ITEMS=512, _ELEMENTS_CATALOGUE=2**19),
    ):
        return score()


def rate(score: Callable[[], np.ndarray]) -> float:
    """Scores per second of processor time."""
    started = time.process_time()
    return score().size / (time.process_time() - started)


def paper_ranker(items: int, *, text: bool = False) -> AttentionRanker:
    log = skewed_log(300, items, text=text)
    ranker = AttentionRanker(preset="paper", steps=1, validate_every=1, validation_users=1)
    return ranker.fit(log, random_table(log))


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
