"""All benchmarks, one after the other, each with its result as JSON; `make bench` and `make bench-quick`.

python benchmarks/run.py --out build/bench          # all, at least five rounds each
python benchmarks/run.py --out build/bench --quick  # about two minutes
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

# name: (program, arguments in full, arguments of the quick mode)
BENCHMARKS = {
    "skipgram-speed": ("skipgram_vs_gensim", "--rounds 5 --epochs 1", "--rounds 1 --epochs 1"),
    "skipgram-speed-window-5": (
        "skipgram_vs_gensim",
        "--rounds 5 --epochs 1 --window 5",
        "--rounds 1 --epochs 1 --window 5",
    ),
    "skipgram-speed-one-thread": ("skipgram_vs_gensim", "--rounds 5 --epochs 1 --threads 1", ""),
    "skipgram-quality": ("skipgram_vs_gensim", "--rounds 1 --epochs 20 --days 28 --instead 10 8", ""),
    "skipgram-quality-planted": ("skipgram_vs_gensim", "--log planted --rounds 4 --epochs 10 --days 28 --instead 10 5", ""),
    "skipgram-ten-million": ("skipgram_ten_million", "", ""),
    "ranker-training": ("ranker_training", "--rounds 5", "--rounds 2 --steps 10 --users 1500"),
    "kernels": ("kernels", "--rounds 9 --compare-threads", "--rounds 1"),
    "training-at-scale": ("training_at_scale", "", ""),
    "scoring": ("scoring", "--rounds 5", "--rounds 2 --requests 40"),
    "cold-start": ("cold_start", "--rounds 5", "--rounds 1 --items 200000"),
    "sampling-and-metrics": ("sampling_and_metrics", "--rounds 5", "--rounds 2 --draws 5000000"),
    "prepare": ("prepare_vs_pandas", "--rounds 5", "--rounds 1 --rows 500000"),
    "growth": ("growth", "--figure {out}/growth.svg --large", "--figure {out}/growth.svg"),
}
# What is printed of a result, beside its ratios.
SHOWN = ("milliseconds", "training", "training_time_ratios", "hit_rates", "relative_differences", "hours_for_40M_users")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--out", type=Path, default=Path("build/bench"))
    options.add_argument("--quick", action="store_true")
    options.add_argument("--only", nargs="+", choices=BENCHMARKS, default=list(BENCHMARKS), metavar="NAME")
    chosen = options.parse_args()
    chosen.out.mkdir(parents=True, exist_ok=True)
    failed = []
    for name, (program, full, quick) in BENCHMARKS.items():
        if name not in chosen.only or (chosen.quick and not quick):
            continue
        arguments = (quick if chosen.quick else full).format(out=chosen.out).split()
        started = time.monotonic()
        command = [sys.executable, str(Path(__file__).with_name(f"{program}.py")), *arguments]
        found = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        print(f"{name}: {time.monotonic() - started:.0f} s", file=sys.stderr)
        if found.returncode:
            failed.append(name)
            continue
        (chosen.out / f"{name}.json").write_text(found.stdout)
        for key, value in json.loads(found.stdout).items():
            if "ratio" in key or key in SHOWN:
                print(f"{name}  {key}: {json.dumps(value)}")
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
