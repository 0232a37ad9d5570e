"""The external evaluation, step 2: train models on a case, score its requests, recommend from the catalogue.

    python benchmarks/external/answer.py CASE --out ANSWERS [--models mixed,two-stage] [--config tuned.toml]

CASE is a folder with `train.parquet` (user_id, item_id, timestamp, maybe event), `requests-GAMMA.parquet` for some gammas
(request_id, history, history_times, candidates: negatives drawn in proportion to popularity ** GAMMA) and
`requests-full.parquet` (the same without candidates). For each model ANSWERS/MODEL gets `scores-GAMMA.parquet` and
`recommendations.parquet`, ready to be graded, and ANSWERS/MODEL/model the model folder. Any model of `heedful train` can be
named; all have their default options, or those of the section of their name in the file of `heedful tune`. Embeddings are
learnt once. Prints JSON: options, versions and seconds.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import time
from pathlib import Path
from typing import Any

from heedful.embeddings.skipgram import SkipGram
from heedful.embeddings.table import ItemEmbeddings
from heedful.events.log import EventLog
from heedful.events.preparing import read_events
from heedful.progress import show_progress
from heedful.rankers.base import Ranker
from heedful.rankers.registry import ALL_MODELS
from heedful.recommending.recommend import Query, Recommender
from heedful.recommending.requests import recommend_requests, score_requests
from heedful.tuning.settings import read_section

RIVALS = [name for name, model in ALL_MODELS.items() if not model.needs_embeddings]
PACKAGES = ("heedful", "implicit", "rectools", "torch", "numpy", "scipy")


def main() -> None:
    options = parse()
    show_progress()
    log = read_events(options.case / "train.parquet")
    names = options.models.split(",")
    started = time.perf_counter()
    table = SkipGram().fit(log) if any(ALL_MODELS[name].needs_embeddings for name in names) else None
    found: dict[str, object] = {"embedding_seconds": round(time.perf_counter() - started, 1)}
    for name in names:
        folder = options.out / name
        folder.mkdir(parents=True, exist_ok=True)
        settings = read_section(options.config, name, (ALL_MODELS[name].config_class,)) if options.config else {}
        ranker, training = trained(name, settings, log, table)
        ranker.save(folder / "model", overwrite=True, pack=True)
        seconds = {"training_seconds": training, "answering_seconds": answered(ranker, options.case, folder)}
        found[name] = {"settings": settings, **seconds}
        (folder / "seconds.json").write_text(json.dumps(found[name], indent=1) + "\n")
    facts = {"events": log.n_events, "users": len(log.users), "items": len(log.catalog), "cpus": os.cpu_count()}
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    print(json.dumps({**facts, "versions": versions, "models": found}, indent=1))


def trained(name: str, settings: dict[str, Any], log: EventLog, table: ItemEmbeddings | None) -> tuple[Ranker, float]:
    """The ranker with these options, and the seconds that it took."""
    started = time.perf_counter()
    ranker = ALL_MODELS[name](**settings)
    ranker.fit(log, table if ranker.needs_embeddings else None)  # type: ignore[arg-type]
    return ranker, round(time.perf_counter() - started, 1)


def answered(ranker: Ranker, case: Path, folder: Path) -> float:
    """Answer all requests of the case; the seconds that it took."""
    started = time.perf_counter()
    for requests in sorted(case.glob("requests-*.parquet")):
        gamma = requests.stem.removeprefix("requests-")
        if gamma == "full":
            recommend_requests(Recommender(ranker), requests, folder / "recommendations.parquet", query=Query(k=100))
        else:
            score_requests(ranker, requests, folder / f"scores-{gamma}.parquet", pool_gamma=float(gamma))
    return round(time.perf_counter() - started, 1)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--models", default=",".join(RIVALS))
    parser.add_argument("--config", type=Path, default=None, help="options found by `heedful tune`")
    options = parser.parse_args()
    unknown = sorted(set(options.models.split(",")) - set(ALL_MODELS))
    if unknown:
        parser.error(f"unknown models: {', '.join(unknown)}; there are {', '.join(ALL_MODELS)}")
    return options


if __name__ == "__main__":
    main()
