"""Compare a model of your own with heedful's, on a small made-up log.

Users like one of two kinds of item; the own model counts how often a candidate's kind was chosen before.
"""

import numpy as np
import pyarrow as pa

import heedful

random = np.random.default_rng(0)
taste = np.repeat(np.arange(300) % 2, 40)
items = 2 * random.integers(0, 100, taste.size) + np.where(random.random(taste.size) < 0.8, taste, 1 - taste)
rows = pa.table(
    {
        "user_id": np.repeat(np.arange(300), 40),
        "item_id": items,
        "timestamp": 1_700_000_000 + random.integers(0, 60 * 86400, taste.size),
    }
)

log = heedful.read_events(rows)
past, future = log.split(1_700_000_000 + 50 * 86400, days=10)
kind_of_row = np.array([item % 2 for item in past.catalog.items.ids.to_pylist()])


def same_kind(histories: heedful.Histories, candidates: heedful.Candidates) -> np.ndarray:
    """Share of the user's past items that are of the candidate's kind."""
    owner = np.repeat(np.arange(len(histories)), histories.lengths)
    odd = np.bincount(owner, kind_of_row[histories.items], len(histories)) / np.maximum(histories.lengths, 1)
    odd_of_candidate = np.repeat(odd, candidates.lengths)
    return np.where(kind_of_row[candidates.rows] == 1, odd_of_candidate, 1 - odd_of_candidate)


table = heedful.SkipGram(width=16, epochs=5, threads=1).fit(past)
ranker = heedful.AttentionRanker(steps=150).fit(past, table)
popularity = heedful.Popularity().fit(past)
config = heedful.EvaluationConfig(pool=50, resamples=1000)
comparison = heedful.compare(
    {"own": same_kind, "attention": ranker, "popularity": popularity}, future, past=past, config=config
)
print(comparison)
