"""Every stage on a real Ray cluster of four nodes on this machine, one of which is killed in the middle of the stage.

    python benchmarks/cluster_faults.py --users 20000 --work /tmp/faults

The head has no processors; three nodes have one each. Each stage runs embedded first and then with --cluster, while the node
that joined last is killed (SIGKILL to its raylet) some seconds after the stage began, and a new one joins for the next
stage. Printed: for each stage whether the result is that of one machine, and how long both took. No time is one to compare
with a machine that is not busy otherwise.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from heedful.events.log import EventLog

PORT = 6377
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_BACKEND_LOG_LEVEL": "fatal", "RAY_AUTH_MODE": "token"}
OBJECT_STORE = ["--object-store-memory=100000000", "--disable-usage-stats"]


def main() -> None:
    options = parse()
    work = options.work
    work.mkdir(parents=True, exist_ok=True)
    # Ray listens on every interface: a token of this run's own keeps others out, and leaves the user's alone.
    token = work / "token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    ENVIRONMENT["RAY_AUTH_TOKEN_PATH"] = str(token)
    heedful("synth", "--out", work / "log", "--users", options.users, "--items", options.items, "--part-users",
            max(options.users // 8, 1), "--overwrite")  # fmt: skip
    ray("start", "--head", f"--port={PORT}", "--num-cpus=0", "--include-dashboard=false", f"--temp-dir={options.ray}")
    nodes = Nodes(options.ray)
    found = {}
    try:
        for _ in range(3):
            nodes.add()
        for name, command in stages(work).items():
            if options.stages and name not in options.stages:
                continue
            if name in ("score", "recommend"):
                write_requests(work)
            for place in ("here", "there"):
                shutil.rmtree(work / place / name, ignore_errors=True)
                (work / place).mkdir(exist_ok=True)
            seconds = [run(command, work / "here" / name, [])]
            killer = threading.Timer(options.after, nodes.kill_last)
            killer.start()
            seconds.append(run(command, work / "there" / name, ["--cluster", f"127.0.0.1:{PORT}"]))
            killer.join()
            same, how = compare(name, work / "here" / name, work / "there" / name)
            found[name] = {"same": same, "compared": how, "seconds_here": seconds[0], "seconds_there": seconds[1]}
            print(name, found[name], file=sys.stderr, flush=True)
            nodes.add()
    finally:
        nodes.kill_all()
        print(json.dumps({"options": vars(options), "stages": found}, indent=1, default=str))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--users", type=int, default=20_000)
    parser.add_argument("--items", type=int, default=3000)
    parser.add_argument("--after", type=float, default=12.0, help="seconds after which the node is killed")
    parser.add_argument("--work", type=Path, default=Path("/tmp/heedful-faults"))
    parser.add_argument("--ray", default="/tmp/heedful-ray", help="folder of Ray's session")
    parser.add_argument("--stages", nargs="*", help="only these")
    return parser.parse_args()


def stages(work: Path) -> dict[str, list[str]]:
    here = work / "here"
    return {
        "prepare": ["prepare", f"{work}/log/events", "--items", f"{work}/log/items.parquet"],
        "embed": ["embed", f"{here}/prepare", "--epochs", "6", "--threads", "1"],
        "train": ["train", f"{here}/prepare", "--embeddings", f"{here}/embed", "--steps", "600", "--assess-every", "20"],
        "score": ["score", f"{here}/train", f"{work}/requests.parquet"],
        "recommend": ["recommend", f"{here}/train", f"{work}/requests.parquet"],
        "evaluate": ["evaluate", f"{here}/prepare", "--cut", "2024-12-01", "--days", "30", "--models",
                     "attention,popularity", "--workspace", f"{work}/workspace"],
    }  # fmt: skip


class Nodes:
    """The nodes of this machine beside the head, by the process ids of their raylets."""

    def __init__(self, session: str) -> None:
        self.session = session
        self.pids: list[int] = []

    def add(self) -> None:
        known = raylets()
        ray("start", f"--address=127.0.0.1:{PORT}", "--num-cpus=1")
        self.pids += sorted(raylets() - known)

    def kill_last(self) -> None:
        os.kill(self.pids.pop(), signal.SIGKILL)

    def kill_all(self) -> None:
        """End every process of the session, and no other."""
        for pid in processes(self.session):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def raylets() -> set[int]:
    """Process ids of the raylets of this cluster."""
    return {pid for pid in processes(f":{PORT}") if b"raylet/raylet" in Path(f"/proc/{pid}/cmdline").read_bytes()}


def processes(word: str) -> set[int]:
    """Process ids of Ray's programs that have the word in their command line."""
    found = set()
    for place in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            line = (place / "cmdline").read_bytes()
            if word.encode() in line and b"site-packages/ray/" in line:
                found.add(int(place.name))
    return found


def ray(*arguments: str) -> None:
    command = [str(Path(sys.executable).with_name("ray")), *arguments, *OBJECT_STORE]
    subprocess.run(command, check=True, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def heedful(*arguments: object) -> None:
    command = [sys.executable, "-m", "heedful", "--quiet", *map(str, arguments)]
    subprocess.run(command, check=True, env=ENVIRONMENT, stdout=sys.stderr)


def run(command: list[str], out: Path, more: list[str]) -> float:
    started = time.monotonic()
    heedful(*command, "--out", out, *more)
    return round(time.monotonic() - started, 1)


def write_requests(work: Path) -> None:
    log = EventLog.load(work / "here" / "prepare")
    offsets, ids = pa.array(log.histories.offsets, pa.int32()), log.catalog.items.ids
    drawn = np.random.default_rng(1).integers(0, len(ids), 50 * len(log.users))
    table = {
        "request_id": log.users.ids,
        "history": pa.ListArray.from_arrays(offsets, ids.take(pa.array(log.histories.items))),
        "history_times": pa.ListArray.from_arrays(offsets, pa.array(np.asarray(log.histories.times))),
        "candidates": pa.ListArray.from_arrays(
            pa.array(np.arange(len(log.users) + 1) * 50, pa.int32()), ids.take(pa.array(drawn))
        ),
    }
    pq.write_table(pa.table(table), work / "requests.parquet")


def compare(name: str, here: Path, there: Path) -> tuple[bool, str]:
    if name == "prepare":
        same = [digest(here / file.name) == digest(file) for file in sorted(there.iterdir()) if file.name != "manifest.json"]
        return all(same), f"bytes of {len(same)} files"
    if name in ("score", "recommend"):
        return digest(here) == digest(there), "bytes of the file"
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
