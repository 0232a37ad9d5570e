"""Cold start: a fresh process opens a saved model with many items and answers two requests.

    python benchmarks/cold_start.py [--items 10000000] [--model FOLDER]

The paper's attention at K = 10, width 64, random weights and vectors, text ids. A request has 1,000 candidates and 200 past
items. Seconds from the start of the process: `import` to Python and the packages, `open` the model, `first` and `second`
request, and all of it to the first answer (`to_first_answer`). The files are in the memory of the operating system, as after
a restart of a server. `megabytes` is the largest resident memory, with what was touched of the mapped files. With --model
the folder is kept, or used when it is there.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from scoring import paper_ranker
from side_by_side import parser, report

_FRESH = """
import sys, time, json
import heedful, torch
load_ranker = heedful.load_ranker
torch.set_num_threads(int(sys.argv[3]))
marks = [time.time()]
ranker = load_ranker(sys.argv[1])
marks.append(time.time())
names = [f"item-{n}" for n in range(0, 12_000 * (int(sys.argv[2]) // 12_000 or 1), int(sys.argv[2]) // 12_000 or 1)]
for low in (0, 1200):
    started = time.time()
    ranker.score(names[low : low + 200], names[low + 200 : low + 1200])
    marks.append(time.time() - started)
peak = int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) / 1024
print(json.dumps({"marks": marks, "megabytes": peak}))
"""


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--items", type=int, default=10_000_000)
    options.add_argument("--model", type=Path, default=None, help="where the model is, or will stay")
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory() as place:
        model = chosen.model or Path(place) / "model"
        if not model.exists():
            make(model, chosen.items)
        runs = [fresh(model, chosen.items, chosen.threads) for _ in range(chosen.rounds + 1)][1:]
    names = list(runs[0])
    report(chosen, {"median": {n: statistics.median(run[n] for run in runs) for n in names}, "runs": runs})


def make(model: Path, items: int) -> None:
    paper_ranker(items, text=True).save(model, pack=True)


def fresh(model: Path, items: int, threads: int) -> dict[str, float]:
    started = time.time()
    command = [sys.executable, "-c", _FRESH, str(model), str(items), str(threads)]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    imported, opened, first, second = found["marks"]
    return {
        "import": imported - started,
        "open": opened - imported,
        "first": first,
        "second": second,
        "to_first_answer": opened - started + first,
        "megabytes": found["megabytes"],
    }


if __name__ == "__main__":
    main()
