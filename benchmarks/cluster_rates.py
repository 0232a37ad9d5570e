"""Two single-thread workers of a Ray cluster beside one process with two threads, on the same machine, stage by stage.

    python benchmarks/cluster_rates.py --log LOG --work /tmp/rates --stages prepare embed train --rounds 3

LOG is a folder of `heedful synth`. Both sides are commands of heedful and take turns. Reported for each round: the seconds
of the whole commands, and rates without what is paid once whatever the size of the work (starting Python, joining the
cluster, starting workers):

- prepare: rows a second of the whole stage, as the manifest of its result tells (joining the cluster is left out);
- embed: words a second of the training, as the manifest of the table tells;
- train: users a second, from the difference in time between a run of many steps and one of few.

In `train` the memory of every worker is sampled meanwhile: PSS (shared pages counted by as many as map them) and what is a
worker's own. Prints JSON.
"""

from __future__ import annotations

import contextlib
import json
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ray_nodes import Nodes, memory_mb, workers
from side_by_side import parser, ratio, report

from heedful.events.log import EventLog

FEW_STEPS = 50


def main() -> None:
    options = parse()
    options.work.mkdir(parents=True, exist_ok=True)
    found = {}
    with Nodes("/tmp/heedful-rates", head_cpus=options.threads) as nodes:
        for stage in options.stages:
            found[stage] = measure(stage, options, nodes)
            print(stage, json.dumps(found[stage]), file=sys.stderr, flush=True)
    report(options, {"stages": found})


def parse() -> Any:
    options = parser(__doc__)
    options.add_argument("--log", type=Path, required=True)
    options.add_argument("--work", type=Path, default=Path("/tmp/heedful-rates-work"))
    options.add_argument("--stages", nargs="*", default=["prepare", "embed", "train"])
    options.add_argument("--epochs", type=int, default=2, help="of embed")
    options.add_argument("--steps", type=int, default=400, help="of train")
    options.add_argument("--batch-users", type=int, default=64, help="of train")
    options.add_argument("--depth", type=int, default=None, help="of train; the default of heedful when left out")
    return options.parse_args()


def measure(stage: str, options: Any, nodes: Nodes) -> dict[str, Any]:
    """Rounds of one stage on both sides."""
    run = STAGES[stage]
    rates: dict[str, list[float]] = {"here": [], "cluster": []}
    facts: dict[str, list[dict[str, Any]]] = {"here": [], "cluster": []}
    for _ in range(options.rounds):
        for side, more in (("here", ["--threads", options.threads]), ("cluster", ["--cluster", nodes.address])):
            rate, fact = run(options, nodes, side, more)
            rates[side].append(rate)
            facts[side].append(fact)
    return {"ratio": ratio(rates, "cluster", "here"), "rates": rates, "facts": facts}


def prepare(options: Any, nodes: Nodes, side: str, more: list[Any]) -> tuple[float, dict[str, Any]]:
    out = options.work / f"prepare-{side}"
    seconds = nodes.heedful("prepare", options.log / "events", "--items", options.log / "items.parquet", "--out", out,
                            "--overwrite", *more)  # fmt: skip
    manifest = json.loads((out / "manifest.json").read_text())
    return manifest["rows_read"] / manifest["seconds"], {"seconds": seconds, "seconds_of_stage": manifest["seconds"]}


def embed(options: Any, nodes: Nodes, side: str, more: list[Any]) -> tuple[float, dict[str, Any]]:
    out = options.work / f"embed-{side}"
    seconds = nodes.heedful(
        "embed", sequences(options, nodes), "--out", out, "--overwrite", "--epochs", options.epochs, *more
    )
    provenance = json.loads((out / "manifest.json").read_text())["provenance"]
    training = provenance["training"]
    told = {"seconds": seconds, "seconds_of_training": training["seconds"], "loss": training["loss_per_pair"][-1]}
    return training["words_per_second"], told | provenance.get("cluster", {})


def train(options: Any, nodes: Nodes, side: str, more: list[Any]) -> tuple[float, dict[str, Any]]:
    nodes.environment["OMP_NUM_THREADS"] = str(options.threads if side == "here" else 1)
    more = more if side == "cluster" else []
    out = options.work / f"train-{side}"
    sequences(options, nodes)
    if not (options.work / "embed-here").exists():
        embed(options, nodes, "here", ["--threads", options.threads])
    depth = ["--depth", options.depth] if options.depth else []
    seconds, memory = {}, {}
    for steps in (FEW_STEPS, options.steps):
        with sampled("TrainWorker", memory):
            seconds[steps] = nodes.heedful(
                "train", sequences(options, nodes), "--embeddings", options.work / "embed-here", "--out", out, "--overwrite",
                "--steps", steps, "--validate-every", steps, "--batch-users", options.batch_users,
                *depth, *more)  # fmt: skip
    users = (options.steps - FEW_STEPS) * options.batch_users
    losses = json.loads((out / "config.json").read_text())["report"]["losses"]
    told = {"seconds": seconds, "losses": losses, "memory_mb": list(memory.values())}
    return users / (seconds[options.steps] - seconds[FEW_STEPS]), told


STAGES: dict[str, Callable[[Any, Nodes, str, list[Any]], tuple[float, dict[str, Any]]]] = {
    "prepare": prepare,
    "embed": embed,
    "train": train,
}


def sequences(options: Any, nodes: Nodes) -> Path:
    """The prepared log."""
    out: Path = options.work / "prepare-here"
    if not out.exists():
        prepare(options, nodes, "here", [])
    EventLog.load(out)
    return out


@contextlib.contextmanager
def sampled(name: str, most: dict[int, dict[str, float]]) -> Iterator[None]:
    """Sample the memory of Ray's workers of that name; the most of each figure by process id."""
    done = threading.Event()

    def look() -> None:
        while not done.wait(1.0):
            for pid in workers(name):
                with contextlib.suppress(OSError, KeyError):
                    now = memory_mb(pid)
                    before = most.get(pid, {})
                    most[pid] = {key: round(max(value, before.get(key, 0)), 1) for key, value in now.items()}

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()


if __name__ == "__main__":
    main()
