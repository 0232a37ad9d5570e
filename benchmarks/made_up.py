"""Logs of any size for the benchmarks, made in memory: popular and rare items, histories of skewed length."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from heedful.embeddings.table import ItemEmbeddings
from heedful.events.catalog import Catalog
from heedful.events.histories import Histories
from heedful.events.log import EventLog, count_items
from heedful.events.vocabulary import Vocabulary


def skewed_log(
    users: int, items: int, *, mean: float = 30.0, longest: int = 600, every: bool = False, text: bool = False, seed: int = 0
) -> EventLog:
    """Users with log-normal history lengths (about `mean` on average) who pick items by a power of rank.

    With `every`, each item is picked once at least, if there are as many events. Ids are numbers, or "item-N" with `text`.
    """
    rng = np.random.default_rng(seed)
    lengths = np.minimum(np.exp(rng.normal(np.log(mean) - 0.5, 1.0, users)).astype(np.int64) + 2, longest)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    rows = (items * rng.random(offsets[-1], np.float32) ** 3).astype(np.int32)
    if every:
        rows[rng.permutation(len(rows))[:items]] = np.arange(items)[: len(rows)]
    times = np.sort(rng.integers(1_700_000_000, 1_710_000_000, offsets[-1]))
    ids = pc.binary_join_element_wise("item-", pa.array(range(items)).cast(pa.string()), "") if text else range(items)
    histories = Histories(offsets, np.minimum(rows, items - 1), times, np.zeros(len(rows), np.uint8))
    return EventLog(
        Catalog(Vocabulary(ids), *count_items(histories, items), pa.table({})),
        Vocabulary(range(users)),
        histories,
        ("view",),
    )


def random_table(log: EventLog, width: int = 64, seed: int = 0) -> ItemEmbeddings:
    """Random vectors for the items of a log."""
    vectors = np.random.default_rng(seed).standard_normal((len(log.catalog), width), dtype=np.float32)
    return ItemEmbeddings.from_arrays(log.catalog.items, vectors)


def news_table(
    users: int, days: int, *, items_a_day: int = 60, topics: int = 8, life_hours: float = 10.0, seed: int = 0
) -> tuple[pa.Table, pa.Table]:
    """Events and items of a site whose articles live for about a day.

    Articles appear all day long, each with a topic. Readers come several times a day, mostly for their two topics, and
    choose among the articles out so far by how good and how fresh they are: attention falls by half every `life_hours` / 2.
    """
    rng, day = np.random.default_rng(seed), 86_400
    n_items = items_a_day * days
    born = np.sort(rng.integers(0, days * day, n_items))
    topic, appeal = rng.integers(topics, size=n_items), np.exp(rng.normal(0, 1.0, n_items))
    tastes = np.full((users, topics), 0.3 / topics)
    tastes[np.arange(users), rng.integers(topics, size=users)] += 0.5
    tastes[np.arange(users), rng.integers(topics, size=users)] += 0.2
    visits = rng.poisson(4.0 * days, users)
    who = np.repeat(np.arange(users), visits)
    when = np.sort(rng.integers(day // 2, days * day, len(who)))
    who = rng.permutation(who)
    items = np.empty(len(who), np.int64)
    for n, (user, time) in enumerate(zip(who, when, strict=True)):
        low, high = np.searchsorted(born, [time - 3 * day, time])
        age = (time - born[low:high]) / 3600
        weights = appeal[low:high] * np.exp2(-age / (life_hours / 2)) * tastes[user, topic[low:high]]
        items[n] = low + np.searchsorted(np.cumsum(weights), rng.random() * weights.sum())
    start = 1_700_006_400
    events = pa.table({"user_id": who, "item_id": np.minimum(items, n_items - 1), "timestamp": start + when})
    described = pa.table({"item_id": np.arange(n_items), "topic": [f"topic {one}" for one in topic]})
    return events, described
