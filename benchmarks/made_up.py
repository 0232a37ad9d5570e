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
