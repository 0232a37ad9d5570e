"""A model in memory, ready to be served."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from heedful.embeddings.table import ItemEmbeddings
from heedful.errors import FolderError, HeedfulError
from heedful.events.candidates import Candidates
from heedful.folders import open_folder
from heedful.rankers.base import Ranker
from heedful.rankers.registry import load_ranker
from heedful.rankers.saving import KIND
from heedful.recommending.eligibility import Eligibility
from heedful.recommending.recommend import Recommender
from heedful.recommending.retrieval import RETRIEVED, kept_retriever
from heedful.serving.arrivals import trained_items
from heedful.serving.corrections import Corrections
from heedful.serving.selection import SlotBook
from heedful.serving.slots import parse_slots
from heedful.serving.state import Choice
from heedful.serving.storable import storable_rows

__all__ = ["Loaded", "Position", "book_of"]


class Position(NamedTuple):
    """A place in the file of item changes: its first line, which names the file, and a number of bytes."""

    head: bytes
    offset: int


@dataclass(frozen=True)
class Loaded:
    """A model in memory.

    Attributes:
        ranker: the model.
        recommender: finds the best of its items, with the index that lies in its folder.
        n_trained: items that it was trained on; those after them came later.
        version: short hash of its content and its table; the same model has the same version wherever it lies.
        trained: when it was written, ISO 8601.
        storable: which of its items can be stored, bool [I].
        position: up to where the attributes of its items have what was said while it was served; see `item_changes`.
    """

    ranker: Ranker
    recommender: Recommender
    n_trained: int
    version: str
    trained: str
    storable: np.ndarray
    position: Position | None = None

    @classmethod
    def from_choice(cls, choice: Choice) -> Loaded:
        """Load a model.

        Raises:
            FolderError: the folder cannot be used.
        """
        try:
            folder = open_folder(choice.path, kind=KIND)
            table = ItemEmbeddings.load(choice.embeddings) if choice.embeddings else None
            ranker = load_ranker(choice.path, embeddings=table)
        except (OSError, ValueError, KeyError) as error:
            if isinstance(error, HeedfulError):
                raise
            raise FolderError(f"{choice.path} cannot be read", got=type(error).__name__, fix="check the path") from error
        version, n_trained = folder.content_hash[:12], len(ranker.items)
        if ranker.embeddings is not None:
            version += "-" + ranker.embeddings.content_hash[:8]
            n_trained = trained_items(ranker.embeddings, folder.manifest["embeddings"]["content_hash"])
        _warm_up(ranker)
        recommender = Recommender(ranker, retriever=kept_retriever(ranker, folder.path))
        trained, storable = str(folder.manifest.get("created", "")), storable_rows(ranker.items.ids)
        return cls(ranker, recommender, n_trained, version, trained, storable)

    def corrected(self, said: Corrections, position: Position | None) -> Loaded:
        """The same model with what is said of its items up to a position; scores stay, and all else is shared."""
        attributes = said.attributes()
        if attributes is self.ranker.attributes:
            return replace(self, position=position)
        ranker = copy.copy(self.ranker)
        ranker.attributes = attributes
        return replace(self, ranker=ranker, recommender=self.recommender.over(ranker), position=position)

    @property
    def n_fitted(self) -> int:
        """Items that came after training, and were fitted to what their first visitors had besides."""
        table = self.ranker.embeddings
        records = [] if table is None else table.provenance.get("extensions", [])
        return sum(record.get("fitted", 0) for record in records if record["n_items"] >= self.n_trained)

    @property
    def eligibility(self) -> Eligibility:
        """Conditions over the model's items."""
        return self.recommender.eligibility


def _warm_up(ranker: Ranker) -> None:
    """Make the index of ids and load compiled code now, not in the first request."""
    ranker.items.rows([""])
    if len(ranker.items):
        first = ranker.histories_of([ranker.items.take(np.array([0])).to_pylist()])
        # One candidate alone would not need all of the code.
        ranker.score_rows(first, Candidates.of([np.arange(min(RETRIEVED, len(ranker.items)))]))


def book_of(loaded: Loaded, slots_text: str) -> SlotBook:
    """The slots that a text declares, over a model.

    Raises:
        HeedfulError: the text cannot be used, or does not fit the model.
    """
    return SlotBook(parse_slots(slots_text), loaded.ranker, loaded.eligibility, loaded.storable)
