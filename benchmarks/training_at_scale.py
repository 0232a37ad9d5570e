"""Training the paper's ranker over a million users and ten million items: users per second, and what an epoch of 40M takes.

    python benchmarks/training_at_scale.py --seconds 200

The log (mean history 30, log-normal lengths) and the table of vectors are written as folders first and then opened by a
process of its own, memory-mapped, as `heedful train` opens them. The vectors are random numbers of the size that training
gives them: what is measured is speed, not ranking. The preset is `paper` (K = 10, 10 positives, 100 negatives, 64 users a
batch), its sampler the real one over all of the users. After a warm-up the steps are counted for at least `--seconds`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from made_up import skewed_log
from side_by_side import parser, report

from heedful.embeddings.table import ItemEmbeddings
from heedful.events.log import EventLog
from heedful.progress import show_progress
from heedful.rankers.attention import AttentionRanker
from heedful.training.forward import TrainingForward
from heedful.training.loop import TrainingRun

WIDTH, BLOCK_ROWS, WARM_UP_STEPS = 64, 1_000_000, 50
EPOCH_USERS, HOURS = 40_000_000, 3600


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--users", type=int, default=1_000_000)
    options.add_argument("--items", type=int, default=10_000_000)
    options.add_argument("--seconds", type=float, default=200.0, help="how long steps are counted")
    options.add_argument("--place", type=Path, default=None, help="folder for log and table, kept; a temporary one if none")
    options.add_argument("--ready", action="store_true", help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.ready:
        show_progress(False)
        torch.set_num_threads(chosen.threads)
        report(chosen, measured(chosen))
        return
    with tempfile.TemporaryDirectory() as temporary:
        place = chosen.place or Path(temporary)
        write(place, chosen)
        command = [sys.executable, __file__, *sys.argv[1:], "--place", str(place), "--ready"]
        subprocess.run(command, check=True)


def write(place: Path, chosen: argparse.Namespace) -> None:
    """The folders `sequences` and `embeddings`, unless they are there."""
    if (place / "embeddings").exists():
        return
    log = skewed_log(chosen.users, chosen.items, every=True)
    log.save(place / "sequences")
    vectors = np.lib.format.open_memmap(place / "random.npy", "w+", np.float32, (chosen.items, WIDTH))
    random = np.random.default_rng(0)
    for low in range(0, chosen.items, BLOCK_ROWS):
        vectors[low : low + BLOCK_ROWS] = random.standard_normal(vectors[low : low + BLOCK_ROWS].shape, np.float32)
    ItemEmbeddings.from_arrays(log.catalog.items, vectors).save(place / "embeddings")
    (place / "random.npy").unlink()


def measured(chosen: argparse.Namespace) -> dict[str, object]:
    """Steady rate, waiting and memory; what comes before the first step (opening, counting, planning) is told apart."""
    opened = time.perf_counter()
    log, table = EventLog.load(chosen.place / "sequences"), ItemEmbeddings.load(chosen.place / "embeddings")
    ranker = AttentionRanker(preset="paper", steps=1, assess_every=1, seed=1).fit(log, table)
    sampler = ranker._sampler(log, log.histories, None, None)
    run = TrainingRun(ranker._net, TrainingForward(ranker), sampler, ranker.config, "", None)
    torch.set_flush_denormal(True)
    ahead = run.batches()
    for _ in range(WARM_UP_STEPS):
        run._update(next(ahead)[0])
    started, users, steps, waited, past = time.perf_counter(), 0, 0, 0.0, 0
    while time.perf_counter() - started < chosen.seconds:
        before = time.perf_counter()
        batch, _ = next(ahead)
        waited += time.perf_counter() - before
        run._update(batch)
        users, steps, past = users + len(batch.now), steps + 1, past + int(batch.memory.lengths.sum())
    seconds = time.perf_counter() - started
    return {
        "users_per_second": users / seconds,
        "seconds": seconds,
        "steps": steps,
        "hours_for_40M_users": EPOCH_USERS / (users / seconds) / HOURS,
        "share_of_time_waiting_for_batches": waited / seconds,
        "past_items_mean": past / users,
        "seconds_before_the_first_step": started - opened,
        "log": {"users": len(log.users), "events": log.n_events, "items": len(log.catalog)},
        "history_mean": float(log.histories.lengths.mean()),
        "resident_mb": resident_mb(),
    }


def resident_mb() -> dict[str, int]:
    """Resident memory now: of the process's own, and mapped files, which the system can drop."""
    lines = Path("/proc/self/status").read_text().splitlines()
    found = dict(line.split(":", 1) for line in lines if line.startswith(("RssAnon", "RssFile")))
    return {name: int(value.split()[0]) // 1024 for name, value in found.items()}


if __name__ == "__main__":
    main()
