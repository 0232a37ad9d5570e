"""Items that arrived after training, as a server takes them up: what the shop says of them, and what its visitors did.

Each time the table that the model was trained on is extended anew by all new items there are, so that those which came
before are fitted again, to the actions that have come since.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from heedful.embeddings.onboarding import Extension, extend_table
from heedful.embeddings.table import ItemEmbeddings
from heedful.errors import InputError
from heedful.events.catalog import Catalog
from heedful.events.histories import Histories
from heedful.events.log import EventLog, count_items
from heedful.events.vocabulary import Vocabulary
from heedful.rankers.base import Ranker
from heedful.serving.store import Store

__all__ = ["trained_items", "with_new_items"]

# Visitors of new items that are looked at, and the latest actions of each: first co-occurrences, not all there ever are.
_MOST_USERS, _MOST_ACTIONS = 5000, 1000


def trained_items(table: ItemEmbeddings, trained_hash: str) -> int:
    """How many rows of a table are the one of that hash, which it is or extends."""
    records = table.provenance.get("extensions", [])
    return next((int(record["n_items"]) for record in records if record["extends"] == trained_hash), len(table))


def with_new_items(ranker: Ranker, n_trained: int, items: pa.Table, store: Store) -> Extension:
    """The trained table with the new items of before and those given.

    Args:
        ranker: the served one, which has embeddings.
        n_trained: items that it was trained on; those after them came later.
        items: `item_id` and columns such as the ranker's; what is said of an item again takes the place of what was said.
        store: where visitors' actions are, with those on the new items.

    Raises:
        InputError: an item was in training, is repeated, or there are no new items at all.
        StoreUnavailable: the database cannot be used.
    """
    assert ranker.embeddings is not None
    given = Vocabulary(items["item_id"])
    before = pa.table([ranker.items.ids.slice(n_trained), *ranker.attributes.slice(n_trained).columns], items.schema)
    again = given.rows(before["item_id"]) >= 0
    if (known := ranker.items.rows(given.ids) >= 0).sum() > again.sum():
        trained = [name for name, is_known in zip(given.ids.to_pylist(), known, strict=True) if is_known]
        raise InputError("the model was trained on these items", got=", ".join(map(str, trained[:5])), expected="new ones")
    everything = pa.concat_tables([before.filter(pa.array(~again)), items])
    table = _without_extensions(ranker.embeddings, n_trained)
    log = _log_around(store, table.items, Vocabulary(everything["item_id"]), ranker.kinds)
    return extend_table(table, log, attributes=everything, counts=ranker.users_of_item[:n_trained])


def _without_extensions(table: ItemEmbeddings, n_trained: int) -> ItemEmbeddings:
    head = table.head(n_trained)
    records = [record for record in table.provenance.get("extensions", []) if record["n_items"] < n_trained]
    return ItemEmbeddings(
        head.items, head.vectors, head.contexts, attributes=head.attributes,
        provenance={**table.provenance, "extensions": records},
    )  # fmt: skip


def _log_around(store: Store, known: Vocabulary, new: Vocabulary, kinds: tuple[str, ...]) -> EventLog | None:
    """What those visitors did who acted on a new item, on items that are known or new; None where nobody did."""
    users = store.users_of_items([str(name) for name in new.ids.to_pylist()], _MOST_USERS)
    pasts = store.histories(users, _MOST_ACTIONS)
    names = [name for past in pasts for name in past.item_ids]
    if not names:
        return None
    items = Vocabulary(pa.concat_arrays([known.ids, new.ids]))
    rows = Vocabulary(items.ids.cast(pa.string())).rows(names)
    # Kinds that were not in training say nothing that the table could know.
    kind_codes = {kind: code for code, kind in enumerate(kinds)}
    codes = np.array([kind_codes.get(kind, -1) for past in pasts for kind in past.kinds])
    histories = Histories(
        np.cumsum([0, *(len(past.item_ids) for past in pasts)]),
        rows.astype(np.int32),
        np.concatenate([past.times for past in pasts]),
        codes.astype(np.uint8),
    ).where((rows >= 0) & (codes >= 0))
    catalog = Catalog(items, *count_items(histories, len(items)), pa.table({}))
    return EventLog(catalog, Vocabulary(users), histories, kinds)
