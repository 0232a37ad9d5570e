"""Training and scoring on a GPU beside the same machine's CPU, and beside a plain PyTorch module on the same GPU.

    python benchmarks/accelerator.py --rounds 3

Without a GPU it says so and ends. Training: the paper's and the default preset on one made-up log with skewed history
lengths, users a second, at the preset's batch and at larger ones; the plain module is section 4.1 as it is written, padded
to its batch (see ranker_training.py). Scoring: 1,000 candidates for a user with 200 past items at K = 10, a request at a
time and 64 at once. First the gradients of a batch and the scores of a ranker are compared between the two devices.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import time

import numpy as np
import torch
from made_up import random_table, skewed_log
from ranker_training import like, loss_of, mixed, plain_updates, sampler, updates
from side_by_side import in_turn, parser, ratio, report

from heedful.events.candidates import Candidates
from heedful.events.log import EventLog
from heedful.model.popularity import PopularityIndex
from heedful.rankers.attention import AttentionRanker
from heedful.training.forward import TrainingForward
from heedful.training.loop import TrainingRun
from heedful.training.sampler import Position

PAST, CANDIDATES, TOGETHER = 200, 1000, 64


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--users", type=int, default=20_000)
    options.add_argument("--items", type=int, default=100_000)
    options.add_argument("--steps", type=int, default=40, help="updates of a round on the GPU; a tenth of it on the CPU")
    options.add_argument("--batches", type=int, nargs="+", default=[64, 512, 4096], help="users a batch, on the GPU")
    chosen = options.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("torch sees no GPU here")
    torch.set_num_threads(chosen.threads)
    log = skewed_log(chosen.users, chosen.items)
    result = {"gpu": torch.cuda.get_device_name(), "agreement": agreement(log)}
    for preset in ("paper", "default"):
        result[f"training, {preset}"] = training(log, preset, chosen)
    result["scoring"] = scoring(log, chosen)
    result["gpu_peak_mb"] = round(torch.cuda.max_memory_allocated() / 2**20)
    report(chosen, result)


def ranker_on(device: str, log: EventLog, preset: str, batch_users: int = 64, precision: str = "float32") -> AttentionRanker:
    """A ranker after one update."""
    ranker = AttentionRanker(
        preset=preset, steps=1, assess_every=1, holdout_users=1, cuts="fresh", batch_users=batch_users, device=device,
        precision=precision,
    )  # fmt: skip
    return ranker.fit(log, random_table(log))


def training_run(ranker: AttentionRanker, log: EventLog) -> TrainingRun:
    histories = ranker._learn_catalogue(log, ranker.embeddings)
    trend = PopularityIndex(histories, len(ranker.items)) if ranker.config.trend else None
    batches = ranker._sampler(log, histories, trend, None)
    return TrainingRun(ranker._net, TrainingForward(ranker), batches, ranker.config, "", None)


def agreement(log: EventLog) -> dict[str, float]:
    """Largest differences between the devices with the same weights: gradients over the largest one, and scores."""
    cpu = ranker_on("cpu", log, "paper")
    gpu = copy.copy(cpu)
    gpu._device = torch.device("cuda")
    gpu._net = copy.deepcopy(cpu._net).to(gpu._device)
    gpu._take_table(gpu.embeddings)
    batch, _ = next(sampler(cpu, log).batches(Position()))
    gradients = []
    for ranker in (cpu, gpu):
        ranker._net.zero_grad()
        logits = ranker._forward(ranker._past(batch.memory), ranker._inputs(batch.candidates)).cpu()
        loss_of(logits, batch).backward()
        gradients.append([p.grad.cpu() for p in ranker._net.parameters() if p.grad is not None])
    largest = max(float(g.abs().max()) for g in gradients[0])
    histories, candidates = requests(cpu, 8)
    scores = [np.concatenate([r.score_rows(h, c) for h, c in zip(histories, candidates, strict=True)]) for r in (cpu, gpu)]
    return {
        "gradient": max(float((a - b).abs().max()) for a, b in zip(*gradients, strict=True)) / largest,
        "score": float(np.abs(scores[0] - scores[1]).max()),
    }


def training(log: EventLog, preset: str, options: argparse.Namespace) -> dict[str, object]:
    sides, waits = {}, {}
    for size in options.batches:
        sides[f"gpu, {size}"] = own(ranker_on("cuda", log, preset, size), log, options.steps, waits, f"gpu, {size}")
    largest = options.batches[-1]
    half = f"gpu, {largest}, bfloat16"
    sides[half] = own(ranker_on("cuda", log, preset, largest, "bfloat16"), log, options.steps, waits, half)
    sides["cpu, 64"] = own(ranker_on("cpu", log, preset), log, max(options.steps // 10, 1), waits, "cpu, 64")
    if preset == "paper":
        for size in options.batches:
            sides[f"plain on the gpu, {size}"] = plain(log, size, options.steps)
    rates = in_turn(sides, options.rounds)
    pairs = [(name, "cpu, 64") for name in rates if name != "cpu, 64"]
    if preset == "paper":
        pairs += [(f"gpu, {size}", f"plain on the gpu, {size}") for size in options.batches]
    return {
        "users_per_second": {name: float(np.median(found)) for name, found in rates.items()},
        "ratios": {f"{a} / {b}": ratio(rates, a, b) for a, b in pairs},
        "share_of_time_waiting_for_batches": {name: waited / worked for name, (waited, worked) in waits.items()},
    }


def own(ranker: AttentionRanker, log: EventLog, steps: int, waits: dict[str, tuple[float, float]], name: str):
    """A round of heedful's own training: users a second."""
    run = training_run(ranker, log)
    batches = run.batches()

    def measure() -> float:
        users, waited, took = updates(run, batches, steps)
        before = waits.get(name, (0.0, 0.0))
        waits[name] = before[0] + waited, before[1] + took
        return users / took

    return measure


def plain(log: EventLog, size: int, steps: int):
    """A round of the plain module on the GPU, its batches made beforehand."""
    ranker = ranker_on("cuda", log, "paper", size)
    module = like(ranker).to(ranker._device)
    adam = torch.optim.Adam(module.parameters(), lr=0.002, fused=True)
    found = sampler(ranker, log).batches(Position())
    made = itertools.cycle(mixed([next(found)[0] for _ in range(max(2048 // size, 2))], False, size))
    return lambda: plain_updates(ranker, module, adam, made, steps)


def requests(ranker: AttentionRanker, number: int):
    rng, items = np.random.default_rng(0), len(ranker.items)
    histories = [ranker.histories_of([rng.choice(items, PAST, replace=False).tolist()]) for _ in range(number)]
    return histories, [Candidates.of([rng.choice(items, CANDIDATES, replace=False)]) for _ in range(number)]


def scoring(log: EventLog, options: argparse.Namespace) -> dict[str, object]:
    found: dict[str, object] = {}
    rates: dict[str, float] = {}
    for device in ("cpu", "cuda"):
        ranker = ranker_on(device, log, "paper")
        histories, candidates = requests(ranker, TOGETHER)
        times = []
        for _ in range(options.rounds + 1):
            for past, pool in zip(histories, candidates, strict=True):
                started = time.perf_counter()
                ranker.score_rows(past, pool)
                times.append(time.perf_counter() - started)
        counted = 1e3 * np.array(times[TOGETHER:])
        found[device] = {"p50_ms": float(np.quantile(counted, 0.5)), "p99_ms": float(np.quantile(counted, 0.99))}
        asked = ranker.histories_of([h.items.tolist() for h in histories])
        pools = Candidates.of([c.rows for c in candidates])
        ranker.score_rows(asked, pools)
        started = time.perf_counter()
        for _ in range(options.rounds):
            ranker.score_rows(asked, pools)
        rates[device] = options.rounds * TOGETHER / (time.perf_counter() - started)
    return {"one at a time": found, "requests_per_second_together": rates, "ratio": rates["cuda"] / rates["cpu"]}


if __name__ == "__main__":
    main()
