"""`heedful prepare` beside a pandas pipeline of the same work: rows per second and peak memory, each in its own process.

    python benchmarks/prepare_vs_pandas.py --rows 5000000

The work: read Parquet with text ids, drop rows without an id or time, number users and items (items by frequency), sort by
user and time, write the arrays. Offsets and times must come out the same on both sides, and as many events of each item.
heedful does more: it tells the unit of the times, looks for absurd times and empty ids, counts duplicates and each item's
users, puts the actions of one moment in order, and hashes and syncs what it wrote.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from side_by_side import in_turn, parser, ratio, report

_PANDAS = """
import sys, numpy as np, pandas as pd
frame = pd.read_parquet(sys.argv[1])
frame = frame.dropna(subset=["user_id", "item_id", "timestamp"])
counts = frame["item_id"].value_counts()
frame["item"] = frame["item_id"].map(pd.Series(np.arange(len(counts)), index=counts.index)).astype("int32")
frame["user"], users = pd.factorize(frame["user_id"], sort=True)
frame = frame.sort_values(["user", "timestamp"], kind="stable")
offsets = np.concatenate([[0], np.cumsum(np.bincount(frame["user"], minlength=len(users)))])
out = sys.argv[2]
np.save(out + "/offsets.npy", offsets), np.save(out + "/items.npy", frame["item"].to_numpy())
np.save(out + "/times.npy", frame["timestamp"].to_numpy())
np.save(out + "/kinds.npy", pd.factorize(frame["event"])[0].astype("uint8"))
counts.reset_index().to_parquet(out + "/items.parquet"), pd.DataFrame({"user_id": users}).to_parquet(out + "/users.parquet")
"""
_HEEDFUL = """
import sys
from heedful.cli import cli
cli.main(["--quiet", "prepare", sys.argv[1], "--out", sys.argv[2] + "/sequences"], standalone_mode=False)
"""
_MEASURED = "\nimport resource\nprint('PEAK', resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)\n"


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--rows", type=int, default=5_000_000)
    options.add_argument("--memory-limit", default="", help="of heedful, e.g. 2GB; empty: its default")
    options.add_argument("--skip-pandas", action="store_true", help="only heedful, for sizes that pandas cannot hold")
    chosen = options.parse_args()
    peaks: dict[str, list[float]] = {"heedful": [], "pandas": []}
    results: set[str] = set()
    with tempfile.TemporaryDirectory() as place:
        log = Path(place) / "events.parquet"
        write_log(log, chosen.rows)

        def run(name: str, program: str) -> float:
            with tempfile.TemporaryDirectory(dir=place) as out:
                started = time.perf_counter()
                command = [sys.executable, "-c", program + _MEASURED, str(log), out]
                found = subprocess.run(command, capture_output=True, text=True, check=True).stdout
                took = time.perf_counter() - started
                peaks[name].append(float(found.split("PEAK")[1]))
                results.add(content(Path(out) / "sequences" if name == "heedful" else Path(out)))
            return chosen.rows / took

        limit = f', "--memory-limit", "{chosen.memory_limit}"' if chosen.memory_limit else ""
        heedful = _HEEDFUL.replace('/sequences"', f'/sequences"{limit}')
        sides = {"heedful": lambda: run("heedful", heedful), "pandas": lambda: run("pandas", _PANDAS)}
        rates = in_turn({n: s for n, s in sides.items() if not (chosen.skip_pandas and n == "pandas")}, chosen.rounds)
    if len(results) > 1:
        sys.exit("the two sides wrote different sequences")
    result = {"rows_per_second": rates, "peak_megabytes": {name: max(found) for name, found in peaks.items() if found}}
    if not chosen.skip_pandas:
        result["ratio"] = ratio(rates, "heedful", "pandas")
        result["memory_ratio"] = max(peaks["heedful"]) / max(peaks["pandas"])
    report(chosen, result)


def content(folder: Path) -> str:
    """A hash of what must be the same on both sides."""
    digest = hashlib.sha256()
    for name in ("offsets", "times"):
        digest.update(np.load(folder / f"{name}.npy").astype(np.int64))
    digest.update(np.bincount(np.load(folder / "items.npy")))
    return digest.hexdigest()


def write_log(path: Path, rows: int) -> None:
    """A log in random order: users with 50 events on average, items by a power of rank, text ids."""
    schema = pa.schema(
        [("user_id", pa.string()), ("item_id", pa.string()), ("timestamp", pa.int64()), ("event", pa.string())]
    )
    rng = np.random.default_rng(0)
    with pq.ParquetWriter(path, schema) as writer:
        for low in range(0, rows, 1_000_000):
            n = min(1_000_000, rows - low)
            users = pa.array(rng.integers(0, max(rows // 50, 1), n)).cast(pa.string())
            items = pa.array((max(rows // 100, 1) * rng.random(n) ** 3).astype(np.int64)).cast(pa.string())
            kinds = pa.DictionaryArray.from_arrays(pa.array(rng.integers(0, 3, n)), pa.array(["view", "cart", "buy"]))
            times = pa.array(rng.integers(1_600_000_000, 1_700_000_000, n))
            writer.write_table(pa.table([users, items, times, kinds.cast(pa.string())], schema=schema))


if __name__ == "__main__":
    main()
