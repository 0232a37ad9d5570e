"""A week of nights on two logs: `heedful backtest` with all four models, that from nothing each night among them.

    python benchmarks/week.py --log news --users 800 --out week-news
    python benchmarks/week.py --log complete-journey --users 800 --out week-groceries

The first of the days is the one after the training of the frozen model, so that eight days have seven nights. A finished
day is kept, and a run that was stopped goes on. Times are of training alone, both sides in one run. Prints the tables, and
whether the models trained on are within 1 % of those from nothing at a third of their time.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from heedful.demo import complete_journey
from heedful.events.log import EventLog
from heedful.events.preparing import prepare
from heedful.progress import show_progress
from heedful.updating.backtest import backtest
from heedful.updating.days import NDCG, POOLED, Backtest
from heedful.updating.options import MODES, SCRATCH, UPDATED, BacktestConfig

CUTS = {"complete-journey": "2017-12-17", "news": "2023-11-29"}


def make_log(name: str, users: int, folder: Path) -> EventLog:
    """The sequences of the households or readers of a random sample."""
    if not (folder / "sequences").exists():
        if name == "news":
            from made_up import news_table

            events, items = news_table(users, 22)
        else:
            events, items = (pq.read_table(path) for path in complete_journey(folder / "data"))
            everybody = np.random.default_rng(0).permutation(pc.unique(events["user_id"]).to_numpy(zero_copy_only=False))
            chosen = pc.cast(list(everybody[:users]), events["user_id"].type)
            events = events.filter(pc.is_in(events["user_id"], chosen))
        prepare(events, folder / "sequences", items=items)
    return EventLog.load(folder / "sequences")


def facts(found: Backtest) -> dict[str, object]:
    """What the goal asks: quality and time of going on against training from nothing."""
    ratio = {measure: found.mean(UPDATED, measure) / found.mean(SCRATCH, measure) for measure in (NDCG, POOLED)}
    share = found.share_of_time()
    return {
        "updated_to_scratch": {measure: round(value, 4) for measure, value in ratio.items()},
        "time_updated_to_scratch": None if share is None else round(share, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--log", choices=list(CUTS), default="news")
    parser.add_argument("--cut", help="another one than that of the week, such as an earlier week to choose settings on")
    parser.add_argument("--model", choices=["attention", "mixed"], default="attention")
    parser.add_argument("--users", type=int, default=800, help="households or readers, a random sample")
    parser.add_argument("--days", type=int, default=8)
    parser.add_argument("--test-users", type=int, default=500)
    parser.add_argument("--threads", type=int, default=1, help="of the training of vectors")
    parser.add_argument("--out", required=True)
    chosen = parser.parse_args()
    show_progress()
    folder = Path(chosen.out)
    folder.mkdir(parents=True, exist_ok=True)
    log = make_log(chosen.log, chosen.users, folder)
    settings = folder / "settings.toml"
    settings.write_text(f"[embed]\nthreads = {chosen.threads}\n")
    config = BacktestConfig(
        cut=chosen.cut or CUTS[chosen.log], days=chosen.days, model=chosen.model, models=MODES, users=chosen.test_users
    )
    found = backtest(log, folder / "report", config=config, settings=str(settings), overwrite=True)
    print(f"{found}\n\n{json.dumps(facts(found))}")


if __name__ == "__main__":
    main()
