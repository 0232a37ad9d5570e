"""Every stage on a real Ray cluster on this machine, compared with one process, while a node is lost in the middle of it.

    python benchmarks/cluster_faults.py --users 20000 --work /tmp/faults
    python benchmarks/cluster_faults.py --how none --users 1000000 --items 1000000 --quick --work /tmp/large

The head has no processors, the other nodes have one each, in network namespaces with addresses of their own where that can
be done (see ray_nodes). Each stage runs embedded first and then with --cluster; some seconds after it began, the node that
joined last is killed (SIGKILL to its raylet) or unplugged (off the network, its processes alive), and a new one joins for
the next stage. Printed for each stage: whether the result is that of one machine, how long both took, the most memory that
both had at one moment (PSS of all processes, Ray's own included), and what the nodes sent. Commands compute in one thread,
as a worker does, so that scores are the same to the byte. No time is to be compared with those of a machine that is idle.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import shutil
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from ray_nodes import Nodes, can_make_namespaces, memory_mb

from heedful.events.log import EventLog

QUICK = {"embed": ["--epochs", "1"], "train": ["--steps", "100", "--validate-every", "50"]}


def main() -> None:
    options = parse()
    work: Path = options.work
    work.mkdir(parents=True, exist_ok=True)
    found = {}
    with Nodes(options.ray, namespaces=can_make_namespaces()) as nodes:
        try:
            if not (work / "log").exists():
                nodes.heedful("synth", "--out", work / "log", "--users", options.users, "--items", options.items,
                              "--part-users", max(options.users // 8, 1))  # fmt: skip
            for _ in range(options.nodes):
                nodes.add()
            for name, command in stages(work, options).items():
                if not options.stages or name in options.stages:
                    found[name] = one_stage(name, command, nodes, options)
                    print(name, found[name], file=sys.stderr, flush=True)
        finally:
            facts = {"options": vars(options), "namespaces": nodes.namespaces, "stages": found}
            print(json.dumps(facts, indent=1, default=str))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--users", type=int, default=20_000)
    parser.add_argument("--items", type=int, default=3000)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--nodes", type=int, default=3, help="beside the head")
    parser.add_argument("--how", choices=["kill", "unplug", "none"], default="kill", help="how a node is lost")
    parser.add_argument("--after", type=float, default=12.0, help="seconds after which it is")
    parser.add_argument("--quick", action="store_true", help="one epoch of embed and few steps of train")
    parser.add_argument("--work", type=Path, default=Path("/tmp/heedful-faults"))
    parser.add_argument("--ray", default="/tmp/heedful-ray", help="folder of Ray's session; a short path")
    parser.add_argument("--stages", nargs="*", help="only these")
    return parser.parse_args()


def one_stage(name: str, command: list[str], nodes: Nodes, options: argparse.Namespace) -> dict:
    """Run a stage on both sides, and lose a node in the second."""
    here, there = options.work / "here" / name, options.work / "there" / name
    if name in ("score", "recommend"):
        write_requests(options.work, options.requests)
    for place in (here, there):
        place.parent.mkdir(exist_ok=True)
        shutil.rmtree(place, ignore_errors=True)
    told: dict = {}
    with most_memory(nodes, told, "mb_here"):
        told["seconds_here"] = nodes.heedful(*command, "--out", here)
    sent, lost = sum(nodes.sent_bytes()), threading.Event()
    lose = {"kill": nodes.kill_last, "unplug": nodes.unplug_last}.get(options.how)

    def watch() -> None:
        if lose and not lost.wait(options.after):
            lose()
            told["lost_after"] = options.after

    watcher = threading.Thread(target=watch)
    watcher.start()
    with most_memory(nodes, told, "mb_there"):
        told["seconds_there"] = nodes.heedful(*command, "--out", there, "--cluster", nodes.address)
    lost.set()
    watcher.join()
    told["sent_mb"] = round((sum(nodes.sent_bytes()) - sent) / 1e6, 1)
    told["same"], told["compared"] = compare(name, here, there)
    if "lost_after" in told:
        nodes.add()
    return told


@contextlib.contextmanager
def most_memory(nodes: Nodes, told: dict, name: str) -> Iterator[None]:
    """The most memory that all processes of the cluster and its commands have together, looked at every two seconds."""
    done, most = threading.Event(), 0.0

    def look() -> None:
        nonlocal most
        while not done.wait(2.0):
            total = 0.0
            for pid in nodes.processes():
                with contextlib.suppress(OSError, KeyError):
                    total += memory_mb(pid)["pss"]
            most = max(most, total)

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()
        told[name] = round(most)


def stages(work: Path, options: argparse.Namespace) -> dict[str, list[str]]:
    here = work / "here"
    embed = QUICK["embed"] if options.quick else ["--epochs", "6"]
    train = QUICK["train"] if options.quick else ["--steps", "600", "--validate-every", "20"]
    return {
        "prepare": ["prepare", f"{work}/log/events", "--items", f"{work}/log/items.parquet"],
        "embed": ["embed", f"{here}/prepare", *embed],
        "train": ["train", f"{here}/prepare", "--embeddings", f"{here}/embed", *train],
        "score": ["score", f"{here}/train", f"{work}/requests.parquet"],
        "recommend": ["recommend", f"{here}/train", f"{work}/requests.parquet"],
        "evaluate": ["evaluate", f"{here}/prepare", "--cut", "2024-12-01", "--days", "30", "--models",
                     "attention,popularity", "--workspace", f"{work}/workspace"],
    }  # fmt: skip


def write_requests(work: Path, n: int) -> None:
    log = EventLog.load(work / "here" / "prepare")
    n, ids = min(n, len(log.users)), log.catalog.items.ids
    offsets = np.asarray(log.histories.offsets[: n + 1])
    past, ends = slice(0, int(offsets[-1])), pa.array(offsets, pa.int32())
    drawn = np.random.default_rng(1).integers(0, len(ids), 50 * n)
    table = {
        "request_id": log.users.ids[:n],
        "history": pa.ListArray.from_arrays(ends, ids.take(pa.array(log.histories.items[past]))),
        "history_times": pa.ListArray.from_arrays(ends, pa.array(np.asarray(log.histories.times[past]))),
        "candidates": pa.ListArray.from_arrays(pa.array(np.arange(n + 1) * 50, pa.int32()), ids.take(pa.array(drawn))),
    }
    pq.write_table(pa.table(table), work / "requests.parquet")


def compare(name: str, here: Path, there: Path) -> tuple[bool, str]:
    if name == "prepare":
        same = [digest(here / file.name) == digest(file) for file in sorted(there.iterdir()) if file.name != "manifest.json"]
        return all(same), f"bytes of {len(same)} files"
    if name in ("score", "recommend"):
        asked = pq.read_table(here.parents[1] / "requests.parquet", columns=["request_id"])
        once = pq.read_table(there, columns=["request_id"]).equals(asked)
        return once and digest(here) == digest(there), "bytes of the file; one row for each request"
    if name == "evaluate":
        one, other = (json.loads((place / "results.json").read_text()) for place in (here, there))
        return one["models"] == other["models"] and one["verdicts"] == other["verdicts"], "every number of results.json"
    if name == "train":
        curves = [np.array(json.loads((p / "config.json").read_text())["report"]["losses"]) for p in (here, there)]
        gap = float(np.abs(curves[0] - curves[1]).max())
        return gap < 1e-3, f"largest gap of the loss curves {gap:.2g}"
    losses = [
        json.loads((p / "manifest.json").read_text())["provenance"]["training"]["loss_per_pair"] for p in (here, there)
    ]
    return abs(
        losses[0][-1] / losses[1][-1] - 1
    ) < 0.02, f"losses of the last epoch {losses[0][-1]:.4f}, {losses[1][-1]:.4f}"


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


if __name__ == "__main__":
    main()
