"""Small event logs with a known structure, for the tests of embeddings."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from heedful.events.catalog import Catalog
from heedful.events.histories import Histories
from heedful.events.log import EventLog, count_items
from heedful.events.vocabulary import Vocabulary


def log_of(sequences, times=None, kinds=None, kind_names=("view",), titles=None) -> EventLog:
    """An event log from lists of item numbers, one list a user; item number n has the id "item n" and row n."""
    lengths = [len(s) for s in sequences]
    items = np.concatenate([np.asarray(s, np.int32) for s in sequences])
    moments = times if times is not None else [np.arange(n) for n in lengths]
    codes = kinds if kinds is not None else [np.zeros(n) for n in lengths]
    histories = Histories(
        np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        items,
        np.concatenate(moments).astype(np.int64),
        np.concatenate(codes).astype(np.uint8),
    )
    n_items = int(items.max()) + 1
    ids = Vocabulary([f"item{row}" for row in range(n_items)])
    attributes = pa.table({"title": titles}) if titles else pa.table({})
    catalog = Catalog(ids, *count_items(histories, n_items), attributes)
    return EventLog(catalog, Vocabulary([f"u{u}" for u in range(len(sequences))]), histories, kind_names)


def communities(blocks=6, per_block=20, users=600, length=30, seed=0) -> EventLog:
    """Each user acts on items of one block only; item row n belongs to block n % blocks."""
    rng = np.random.default_rng(seed)
    return log_of([rng.integers(per_block, size=length) * blocks + u % blocks for u in range(users)])


def noise(items=120, users=600, length=30, seed=0) -> EventLog:
    """Items at random."""
    rng = np.random.default_rng(seed)
    return log_of([rng.integers(items, size=length) for _ in range(users)])
