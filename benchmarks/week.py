"""A week of days: how good is a model that stays as it is, one with today's counts, one updated each night, a new one?

    python benchmarks/week.py --log complete-journey --out week-groceries
    python benchmarks/week.py --log news --out week-news

At each midnight of the week four models are tested on the day that follows, by NDCG@10 over the whole catalogue:

- frozen: trained before the week;
- refreshed: the same weights, with the counts and the items up to the midnight;
- updated: trained on from the model of the night before, vectors and weights;
- scratch: vectors and weights from nothing on everything before the midnight.

All see the histories up to the midnight. Times are of training alone (vectors and weights), both sides in one run. A
finished day is kept in the folder, and a run that was stopped goes on. Writes week.json, week.png and week.svg.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from heedful.demo import complete_journey
from heedful.embeddings.continuing import continue_embeddings
from heedful.embeddings.skipgram import SkipGram
from heedful.evaluation.comparison import compare
from heedful.evaluation.measures import CATALOGUE, Measure
from heedful.evaluation.options import EvaluationConfig
from heedful.events.log import EventLog
from heedful.events.preparing import prepare
from heedful.rankers.base import Ranker
from heedful.rankers.catching_up import caught_up
from heedful.rankers.periods import copy_periods, periods_beside
from heedful.rankers.registry import MODELS, load_ranker

DAY = 86_400
MODES = ("frozen", "refreshed", "updated", "scratch")
START = {"complete-journey": 1_513_468_800, "news": 1_700_006_400 + 14 * DAY}  # 17 December 2017; the 15th day
NDCG = Measure(CATALOGUE, 0, "NDCG@10")


def make_log(chosen: argparse.Namespace, folder: Path) -> EventLog:
    if not (folder / "sequences").exists():
        if chosen.log == "news":
            from made_up import news_table

            events, items = news_table(chosen.users, 22)
        else:
            paths = complete_journey(folder / "data")
            events, items = (pq.read_table(path) for path in paths)
            users = np.random.default_rng(0).permutation(pc.unique(events["user_id"]).to_numpy(zero_copy_only=False))
            events = events.filter(pc.is_in(events["user_id"], pc.cast(list(users[: chosen.users]), events["user_id"].type)))
        prepare(events, folder / "sequences", items=items)
    return EventLog.load(folder / "sequences")


def trained(
    chosen: argparse.Namespace, log: EventLog, place: Path, start: Path | None = None
) -> tuple[Ranker, dict[str, float]]:
    """Vectors and weights, from nothing or from an earlier model; with the seconds that each took."""
    begun = time.perf_counter()
    old = load_ranker(start) if start is not None else None
    if old is not None and old.embeddings is not None:
        table = continue_embeddings(old.embeddings, log, threads=chosen.threads)
    else:
        table = SkipGram(threads=chosen.threads).fit(log)
    between = time.perf_counter()
    model = MODELS[chosen.model]
    options = old.config.to_dict() if old is not None else {"steps": chosen.steps} if chosen.steps else {}
    ranker: Any = model(**options)
    more: dict[str, Any] = {}
    if chosen.model == "mixed":
        if start is not None:
            copy_periods(start, place)
        more["periods"] = periods_beside(place)
    ranker.fit(log, table, start=old, **more)
    seconds = {"vectors": between - begun, "weights": time.perf_counter() - between}
    ranker.save(place, overwrite=True, pack=True)
    return ranker, seconds


def one_day(chosen: argparse.Namespace, log: EventLog, folder: Path, number: int) -> dict[str, Any]:
    past, future = log.split(START[chosen.log] + number * DAY, days=1)
    updated, seconds = trained(chosen, past, folder / f"updated-{number}", folder / f"updated-{number - 1}")
    scratch, scratch_seconds = trained(chosen, past, folder / "scratch")
    frozen = load_ranker(folder / "updated-0")
    begun = time.perf_counter()
    refreshed = caught_up(frozen, past)
    refresh_seconds = time.perf_counter() - begun
    models = {"frozen": frozen, "refreshed": refreshed, "updated": updated, "scratch": scratch}
    config = EvaluationConfig(
        gammas=(0.0,), pool=100, pool_sizes=(100,), max_users=chosen.test_users, catalogue_users=chosen.test_users,
        resamples=2000,
    )  # fmt: skip
    found = compare(models, future, past=past, config=config)
    values = {name: found.results[name].best.by_user[NDCG] for name in MODES}
    drift = _cosine(load_ranker(folder / f"updated-{number - 1}"), updated)
    shutil.rmtree(folder / "scratch")
    return {
        "day": number, "users": len(values["frozen"]), "values": {name: one.tolist() for name, one in values.items()},
        "seconds": {"updated": seconds, "scratch": scratch_seconds, "refreshed": refresh_seconds}, "cosine": drift,
    }  # fmt: skip


def _cosine(old: Ranker, new: Ranker) -> float:
    """Mean cosine of the vectors of one night and the next."""
    assert old.embeddings is not None and new.embeddings is not None
    one, other = np.asarray(old.embeddings.vectors), np.asarray(new.embeddings.vectors[: len(old.embeddings)])
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    return float(np.mean((one * other).sum(axis=1)[lengths > 0] / lengths[lengths > 0]))


def summary(days: list[dict[str, Any]]) -> dict[str, Any]:
    means = {name: [float(np.nanmean(day["values"][name])) for day in days] for name in MODES}
    pooled = {name: np.concatenate([np.array(day["values"][name], float) for day in days]) for name in MODES}
    seconds = {name: [sum(day["seconds"][name].values()) for day in days] for name in ("updated", "scratch")}
    difference = pooled["updated"] - pooled["scratch"]
    error = float(np.nanstd(difference) / np.sqrt(np.isfinite(difference).sum()))
    return {
        "ndcg_by_day": means,
        "ndcg": {name: round(float(np.nanmean(one)), 4) for name, one in pooled.items()},
        "updated_to_scratch": round(float(np.nanmean(pooled["updated"]) / np.nanmean(pooled["scratch"])), 4),
        "updated_less_scratch": [round(float(np.nanmean(difference)), 5), "standard error", round(error, 5)],
        "seconds_by_day": seconds,
        "time_updated_to_scratch": round(sum(seconds["updated"]) / sum(seconds["scratch"]), 3),
        "refresh_seconds": [round(day["seconds"]["refreshed"], 1) for day in days],
        "cosine": [round(day["cosine"], 4) for day in days],
        "users": [day["users"] for day in days],
    }


def draw(found: dict[str, Any], folder: Path, title: str) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for name, style in zip(MODES, (":", "-.", "-", "--"), strict=True):
        values = found["ndcg_by_day"][name]
        axes.plot(range(1, len(values) + 1), values, style, marker="o", label=name)
    axes.set_xlabel("day after the training of the frozen model")
    axes.set_ylabel("NDCG@10, whole catalogue")
    axes.set_ylim(bottom=0)
    axes.set_title(title)
    axes.legend()
    for suffix in ("png", "svg"):
        figure.savefig(folder / f"week.{suffix}", dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--log", choices=list(START), default="complete-journey")
    parser.add_argument("--model", choices=["attention", "mixed"], default="attention")
    parser.add_argument("--users", type=int, default=1500, help="households or readers, a random sample")
    parser.add_argument("--steps", type=int, default=0, help="of a training from nothing; 0: by the size of the log")
    parser.add_argument("--days", type=int, default=7)
    parser.add_argument("--test-users", type=int, default=500)
    parser.add_argument("--threads", type=int, default=0, help="of the training of vectors")
    parser.add_argument("--out", required=True)
    chosen = parser.parse_args()
    folder = Path(chosen.out)
    folder.mkdir(parents=True, exist_ok=True)
    log = make_log(chosen, folder)
    if not (folder / "updated-0" / "manifest.json").exists():
        trained(chosen, log.split(START[chosen.log], days=1)[0], folder / "updated-0")
    days = []
    for number in range(1, chosen.days + 1):
        place = folder / f"day-{number}.json"
        if not place.exists():
            place.write_text(json.dumps(one_day(chosen, log, folder, number)))
        days.append(json.loads(place.read_text()))
        found = summary(days)
        print(json.dumps({"day": number, **{name: round(found["ndcg_by_day"][name][-1], 4) for name in MODES}}), flush=True)
    facts = {"log": chosen.log, "model": chosen.model, "sample": chosen.users, "steps": chosen.steps, **found}
    (folder / "week.json").write_text(json.dumps(facts, indent=1) + "\n")
    draw(found, folder, f"{chosen.log}, {chosen.model}")
    print(json.dumps({name: facts[name] for name in ("ndcg", "updated_to_scratch", "time_updated_to_scratch")}))


if __name__ == "__main__":
    main()
