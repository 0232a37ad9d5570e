"""Skip-gram over a catalogue of 10 million items: words per second and resident memory.

    python benchmarks/skipgram_ten_million.py --threads 2
"""

from __future__ import annotations

from made_up import skewed_log
from side_by_side import parser, peak_mb, report

from heedful.embeddings.skipgram import SkipGram
from heedful.progress import show_progress


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--items", type=int, default=10_000_000)
    options.add_argument("--users", type=int, default=200_000)
    options.add_argument("--window", type=int, default=5)
    options.add_argument("--width", type=int, default=64)
    chosen = options.parse_args()
    show_progress(False)
    log = skewed_log(chosen.users, chosen.items)
    before = peak_mb()
    config = {"width": chosen.width, "window": chosen.window, "epochs": 1, "threads": chosen.threads}
    table = SkipGram(**config).fit(log)
    result = {"training": table.provenance["training"], "events": log.n_events, "peak_mb_before_training": round(before)}
    report(chosen, result)


if __name__ == "__main__":
    main()
