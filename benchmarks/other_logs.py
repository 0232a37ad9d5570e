"""Logs of other kinds than a shop's, to see whether what was tuned on shops holds there.

    python benchmarks/other_logs.py reviews EVENTS.parquet --out reviews.parquet
    python benchmarks/other_logs.py news --out news.parquet

`reviews` deals each user's distinct items of a log to 24 users of their own at random: users of about a dozen items, each
touched once, among as many items as there were. `news` is made up: articles live for about half a day, readers have three
topics and a taste, and click on what is fresh and popular at that hour. Both write user_id, item_id, timestamp.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

DEALT = 24
TOPICS, DAYS = 60, 21
START, DAY = 1_700_000_000, 86_400
HOURS = 2  # what is on offer changes after so many
OLDEST_DAYS = 6
CHUNK = 2000


def main() -> None:
    options = parse()
    if options.kind == "reviews":
        reviews(options.events, options.out)
    else:
        news(options.out, options.users, options.articles, options.seed)


def reviews(events: Path, out: Path) -> None:
    query = f"""
        SELECT user_id || '-' || (hash(user_id || '/' || item_id) % {DEALT})::VARCHAR AS user_id, item_id,
               min(timestamp) AS timestamp
        FROM read_parquet(?) GROUP BY user_id, item_id
    """
    with duckdb.connect() as connection:
        pq.write_table(connection.sql(query, params=[str(events)]).to_arrow_table(), out)


def news(out: Path, users: int, articles: int, seed: int) -> None:
    randoms = np.random.default_rng(seed)
    shares = np.arange(1, TOPICS + 1) ** -0.8
    shares /= shares.sum()
    topic_I, born_I = randoms.choice(TOPICS, articles, p=shares), randoms.uniform(0, DAYS, articles)
    appeal_I, life_I = randoms.lognormal(0, 1.3, articles), randoms.lognormal(np.log(0.6), 0.6, articles)
    style_IS = randoms.normal(size=(articles, 6))
    clicks_U = np.maximum(randoms.lognormal(np.log(8), 1.0, users).astype(int), 1)
    topics_U3, taste_US = randoms.choice(TOPICS, (users, 3), p=shares), randoms.normal(size=(users, 6))
    users_E = np.repeat(np.arange(users), clicks_U)
    days_E = np.sort(randoms.uniform(1, DAYS, len(users_E)))
    randoms.shuffle(users_E)
    items_E, slots_E = np.empty(len(users_E), int), (days_E * 24 / HOURS).astype(int)
    for slot in np.unique(slots_E):
        now = (slot + 0.5) * HOURS / 24
        live = np.flatnonzero((born_I < now) & (born_I > now - OLDEST_DAYS))
        heat = appeal_I[live] * np.exp(-(now - born_I[live]) / life_I[live])
        here = np.flatnonzero(slots_E == slot)
        for low in range(0, len(here), CHUNK):
            events = here[low : low + CHUNK]
            readers = users_E[events]
            liked = ((topic_I[live] == topics_U3[readers][:, :, None]) * np.array([6.0, 4.0, 3.0])[:, None]).sum(1)
            weights = heat * (0.3 + liked) * np.exp(0.4 * taste_US[readers] @ style_IS[live].T)
            sums = weights.cumsum(1)
            items_E[events] = live[(sums > randoms.random((len(events), 1)) * sums[:, -1:]).argmax(1)]
    columns = {
        "user_id": [f"u{user}" for user in users_E],
        "item_id": [f"n{item}" for item in items_E],
        "timestamp": (START + days_E * DAY).astype(np.int64),
    }
    pq.write_table(pa.table(columns), out)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_subparsers(dest="kind", required=True)
    for name in ("reviews", "news"):
        kind = kinds.add_parser(name)
        kind.add_argument("--out", type=Path, required=True)
        if name == "reviews":
            kind.add_argument("events", type=Path)
        else:
            kind.add_argument("--users", type=int, default=60_000)
            kind.add_argument("--articles", type=int, default=12_000)
            kind.add_argument("--seed", type=int, default=5)
    return parser.parse_args()


if __name__ == "__main__":
    main()
