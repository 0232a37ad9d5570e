"""Items that arrived after training, as a server takes them up: what the shop says of them, and what its visitors did.

Each time the table that the model was trained on is extended again by all new items there are, so that those which came
before are fitted again, to the actions that have come since.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from heedful.embeddings.onboarding import Extension, extend_table
from heedful.embeddings.table import ItemEmbeddings
from heedful.events.catalog import Catalog
from heedful.events.histories import Histories
from heedful.events.log import EventLog, count_items
from heedful.events.vocabulary import Vocabulary
from heedful.rankers.base import Ranker
from heedful.serving.storable import is_storable
from heedful.serving.store import Store

__all__ = ["Told", "trained_items", "with_new_items"]

# Visitors of new items that are looked at, and the latest actions of each: first co-occurrences, not all there ever are.
_MOST_USERS, _MOST_ACTIONS = 5000, 1000


def trained_items(table: ItemEmbeddings, trained_hash: str) -> int:
    """How many rows of a table are the one of that hash, which it is or extends."""
    records = table.provenance.get("extensions", [])
    return next((int(record["n_items"]) for record in records if record["extends"] == trained_hash), len(table))


@dataclass(frozen=True)
class Told:
    """What a shop says of N items.

    Attributes:
        ids: of the items, as the catalogue's type, [N].
        values: the attributes in the columns of the served ones, [N] rows.
        given: by column, where something was said, bool [N]; elsewhere what was known of an item stays.
    """

    ids: pa.Array
    values: pa.Table
    given: dict[str, np.ndarray]

    def where(self, mask: np.ndarray) -> Told:
        """What is said of some of the items, bool [N]."""
        kept, given = pa.array(mask), {name: there[mask] for name, there in self.given.items()}
        values = self.values.filter(kept) if self.values.num_columns else self.values
        return Told(self.ids.filter(kept), values, given)


def with_new_items(ranker: Ranker, n_trained: int, new: Told, store: Store) -> Extension:
    """The trained table with the new items of before and those given.

    Args:
        ranker: the served one, which has embeddings.
        n_trained: items that it was trained on; those after them came later.
        new: items that the ranker does not know, and what is said of them.
        store: where visitors' actions are, with those on the new items.

    Raises:
        InputError: there are no new items.
        StoreUnavailable: the database cannot be used.
    """
    assert ranker.embeddings is not None
    attributes = pa.concat_tables([ranker.attributes, new.values])
    ids = pa.concat_arrays([ranker.items.ids, new.ids])
    table = _without_extensions(ranker.embeddings, n_trained, attributes)
    described = attributes.slice(n_trained)
    described = pa.table([ids.slice(n_trained), *described.columns], ["item_id", *described.column_names])
    log = _log_around(store, table.items, Vocabulary(described["item_id"]), ranker.kinds)
    return extend_table(table, log, attributes=described, counts=ranker.users_of_item[:n_trained])


def _without_extensions(table: ItemEmbeddings, n_trained: int, attributes: pa.Table) -> ItemEmbeddings:
    head = table.head(n_trained)
    records = [record for record in table.provenance.get("extensions", []) if record["n_items"] < n_trained]
    return ItemEmbeddings(
        head.items, head.vectors, head.contexts, attributes=attributes.slice(0, n_trained),
        provenance={**table.provenance, "extensions": records},
    )  # fmt: skip


def _log_around(store: Store, known: Vocabulary, new: Vocabulary, kinds: tuple[str, ...]) -> EventLog | None:
    """What those visitors did who acted on a new item, on items that are known or new; None where nobody did."""
    names_N = list(filter(is_storable, map(str, new.ids.to_pylist())))
    users = store.users_of_items(names_N, _MOST_USERS)
    pasts = store.histories(users, _MOST_ACTIONS)
    names = [name for past in pasts for name in past.item_ids]
    if not names:
        return None
    items = Vocabulary(pa.concat_arrays([known.ids, new.ids]))
    rows = items.rows(names)
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
