"""Skip-gram over a catalogue of 10 million items: words per second and resident memory.

python benchmarks/skipgram_ten_million.py --threads 2
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from made_up import skewed_log
from side_by_side import parser, report

from heedful.embeddings.skipgram import SkipGram
from heedful.events.log import EventLog
from heedful.progress import show_progress


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--items", type=int, default=10_000_000)
    options.add_argument("--users", type=int, default=500_000)
    options.add_argument("--window", type=int, default=5)
    options.add_argument("--width", type=int, default=64)
    options.add_argument("--sequences", type=Path, default=None, help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.sequences is None:
        prepared(chosen)
        return
    show_progress(False)
    config = {"width": chosen.width, "window": chosen.window, "epochs": 1, "threads": chosen.threads}
    log = EventLog.load(chosen.sequences)
    report(chosen, {"training": SkipGram(**config).fit(log).provenance["training"], "events": log.n_events})


def prepared(chosen: argparse.Namespace) -> None:
    """Make the log and train on it in a process of its own, so that making it does not count."""
    with tempfile.TemporaryDirectory() as place:
        skewed_log(chosen.users, chosen.items, every=True).save(Path(place) / "sequences")
        command = [sys.executable, __file__, "--sequences", f"{place}/sequences", *sys.argv[1:]]
        subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
