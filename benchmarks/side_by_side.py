"""Two ways of doing the same work, measured in turn in one process: what every benchmark here is made of."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import resource
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PACKAGES = ("heedful", "numpy", "numba", "torch", "duckdb", "pandas", "gensim", "faiss-cpu")


def parser(description: str | None) -> argparse.ArgumentParser:
    """Options that all benchmarks share."""
    options = argparse.ArgumentParser(description=(description or "").splitlines()[0])
    options.add_argument("--rounds", type=int, default=5, help="times that both sides are measured, in turn")
    options.add_argument("--threads", type=int, default=2, help="threads of either side")
    options.add_argument("--out", type=Path, default=None, help="JSON file to write beside what is printed")
    return options


def in_turn(sides: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Rates of each side, measured in turn so that a busy machine slows all of them; one round to warm up is not counted."""
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        for name, measure in sides.items():
            rate = measure()
            if number:
                rates[name].append(rate)
    return rates


def seconds(work: Callable[[], Any]) -> float:
    """Wall time of one call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def ratio(rates: dict[str, list[float]], one: str, other: str) -> dict[str, float]:
    """Median and range of the ratio of two rates over the rounds."""
    ratios = [a / b for a, b in zip(rates[one], rates[other], strict=True)]
    return {"median": statistics.median(ratios), "lowest": min(ratios), "highest": max(ratios)}


def peak_mb() -> float:
    """Largest resident memory of this process so far, in megabytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def report(options: argparse.Namespace, result: dict[str, Any]) -> None:
    """Print the result as JSON, with what it was measured on, and write it where asked."""
    found = {d.metadata["Name"]: d.version for d in importlib.metadata.distributions() if d.metadata["Name"] in PACKAGES}
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    facts = {"commit": commit.stdout.strip(), "python": platform.python_version(), "cpus": os.cpu_count(), "versions": found}
    chosen = {name: str(value) if isinstance(value, Path) else value for name, value in vars(options).items()}
    text = json.dumps({"options": chosen, **result, "peak_mb": round(peak_mb()), "measured_on": facts}, indent=1)
    print(text)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(text + "\n")
