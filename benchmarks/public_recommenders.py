"""Public recommenders on a case of an examiner that knows only files: train, score, recommend.

    python benchmarks/public_recommenders.py CASE --out ANSWERS [--models ease,gsasrec]

CASE is a folder with `train.parquet` (user_id, item_id, timestamp, maybe event), `requests-GAMMA.parquet` for some gammas
(request_id, history, history_times, candidates: negatives drawn in proportion to popularity ** GAMMA) and
`requests-full.parquet` (the same without candidates). For each model ANSWERS/MODEL gets `scores-GAMMA.parquet` and
`recommendations.parquet`, ready to be graded, and ANSWERS/MODEL/model the model folder. Any model of `heedful train` that
needs no embeddings can be named; all have their default options. Prints JSON: options, versions and seconds.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import time
from pathlib import Path

from heedful.events.log import EventLog
from heedful.events.preparing import read_events
from heedful.progress import show_progress
from heedful.rankers.base import Ranker
from heedful.rankers.registry import ALL_MODELS
from heedful.recommending.requests import recommend_requests, score_requests

MODELS = [name for name, model in ALL_MODELS.items() if not model.needs_embeddings]
PACKAGES = ("heedful", "implicit", "rectools", "torch", "numpy", "scipy")


def main() -> None:
    options = parse()
    show_progress()
    log = read_events(options.case / "train.parquet")
    found = {}
    for name in options.models.split(","):
        folder = options.out / name
        folder.mkdir(parents=True, exist_ok=True)
        ranker, training = trained(name, log)
        ranker.save(folder / "model", overwrite=True)
        found[name] = {"training_seconds": training, "answering_seconds": answered(ranker, options.case, folder)}
        (folder / "seconds.json").write_text(json.dumps(found[name], indent=1) + "\n")
    facts = {"events": log.n_events, "users": len(log.users), "items": len(log.catalog), "cpus": os.cpu_count()}
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    print(json.dumps({**facts, "versions": versions, "models": found}, indent=1))


def trained(name: str, log: EventLog) -> tuple[Ranker, float]:
    """The ranker with its default options, and the seconds that it took."""
    started = time.perf_counter()
    ranker = ALL_MODELS[name]()
    ranker.fit(log, None)  # type: ignore[arg-type]
    return ranker, round(time.perf_counter() - started, 1)


def answered(ranker: Ranker, case: Path, folder: Path) -> float:
    """Answer all requests of the case; the seconds that it took."""
    started = time.perf_counter()
    for requests in sorted(case.glob("requests-*.parquet")):
        gamma = requests.stem.removeprefix("requests-")
        if gamma == "full":
            recommend_requests(ranker, requests, folder / "recommendations.parquet", k=100)
        else:
            score_requests(ranker, requests, folder / f"scores-{gamma}.parquet", pool_gamma=float(gamma))
    return round(time.perf_counter() - started, 1)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--models", default=",".join(MODELS))
    options = parser.parse_args()
    unknown = sorted(set(options.models.split(",")) - set(MODELS))
    if unknown:
        parser.error(f"unknown models: {', '.join(unknown)}; there are {', '.join(MODELS)}")
    return options


if __name__ == "__main__":
    main()
