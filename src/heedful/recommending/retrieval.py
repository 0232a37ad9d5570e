"""Retrieval before ranking: the few hundred items of a large catalogue that a ranker then scores.

For one user the logit of the trained rankers is a function of the candidate's vector x_q, plus a
term of the item alone. The inner form of section 5.2 is an inner product of x_q and needs only an
index. The attention is not, but its closest inner product comes close enough to find what it would
rank highest; it is fitted by least squares to the logits of some anchor items. To this are added
the items whose own term is highest. The ranker then has the last word.

Shapes: B users, I items, D embedding width, A anchors, N candidates of a user.
"""

from __future__ import annotations

import contextlib
import copy
import fcntl
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import numpy as np

from heedful.config import require
from heedful.embeddings.table import ItemEmbeddings
from heedful.errors import FolderError, HeedfulError, MismatchError
from heedful.events.candidates import Candidates
from heedful.events.histories import Histories
from heedful.folders import new_folder, open_folder
from heedful.rankers.base import Ranker
from heedful.rankers.mixed import MixedRanker
from heedful.rankers.mixing.retrieval import put_forward
from heedful.rankers.neural import NeuralRanker
from heedful.rankers.topk import top_places
from heedful.recommending.index import (
    EXACT_ITEMS,
    ExactIndex,
    Index,
    InvertedLists,
    faiss_is_installed,
)
from heedful.recommending.linear_fit import LinearFit

__all__ = [
    "KIND",
    "RETRIEVED",
    "SCANNED",
    "MixedRetriever",
    "Retriever",
    "default_retriever",
    "kept_retriever",
    "new_retriever",
]

KIND = "index"
RETRIEVED = 300
"""Candidates of a user unless said otherwise."""
SCANNED = 4
"""Items are scored whole, not retrieved, where they are at most so many times the candidates."""

# A quarter of the anchors are drawn at random, so that the fit knows ordinary items, too.
_ANCHORS, _RANDOM_PART = 128, 1 / 4
# This part of the N candidates is found by the fitted inner product; the rest are items of high term.
_LINEAR_PART = 0.8


class Retriever:
    """Retrieves candidates for a trained ranker; safe to share between threads.

    Args:
        ranker: a fitted attention or averaging ranker.
        candidates: N, how many items are retrieved for a user; more where more are asked for.
        index: what searches the vectors of `item_vectors`: "exact", "lists", or "auto": exact up to
            `EXACT_ITEMS` items and wherever faiss is missing. Or one made beforehand.

    Raises:
        ConfigError: the ranker has no item vectors, `candidates` is not positive, or there is no
            such index.
        MissingExtraError: "lists" without faiss.
    """

    def __init__(self, ranker: Ranker, *, candidates: int = RETRIEVED, index: Index | str = "auto") -> None:
        expected = "a trained ranker such as attention, or exact scoring"
        require(isinstance(ranker, NeuralRanker), "retrieve", got=ranker.name, expected=expected)
        require(candidates >= 1, "retrieve", got=candidates, expected="1 or more")
        assert isinstance(ranker, NeuralRanker)
        self.ranker, self.candidates, self._bias_I = ranker, candidates, ranker.item_bias
        self._orders: dict[tuple[float, float], np.ndarray] = {}
        self._fits: dict[tuple[float, float], LinearFit] = {}
        if isinstance(index, str):
            expected = "auto, exact or lists"
            require(index in ("auto", "exact", "lists"), "index", got=index, expected=expected)
            large = len(ranker.items) > EXACT_ITEMS and faiss_is_installed()
            by_lists = index == "lists" or (index == "auto" and large)
            make = InvertedLists.build if by_lists else ExactIndex
            index = make(self.item_vectors, len(ranker.items))
        self.index: Index = index

    @classmethod
    def open(cls, path: str | os.PathLike[str], ranker: Ranker, *, candidates: int = RETRIEVED) -> Retriever:
        """A retriever with the index that `save` wrote.

        Items that the ranker's table has got since (see `heedful extend`) are added to it in
        memory.

        Raises:
            FolderError: there is no index, or it is damaged.
            MismatchError: it was made for another ranker.
            MissingExtraError: faiss is not installed.
        """
        folder = open_folder(path, kind=KIND)
        index = InvertedLists.read(folder.file("index.faiss"))
        retriever = cls(ranker, candidates=candidates, index=index)
        expected = retriever.content_hash(len(index))
        if folder.manifest.get("item_vectors") != expected:
            raise MismatchError(
                f"{folder.path} was made for another model",
                got=f"hash {str(folder.manifest.get('item_vectors'))[:12]}",
                expected=f"hash {expected[:12]}",
                fix="remove the folder; it will be made again",
            )
        index.add(retriever.item_vectors, len(ranker.items))
        return retriever

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write the index as a folder. Exact search has nothing to save.

        Raises:
            ConfigError: the index is an exact search.
            FolderError: the place is taken or cannot be written.
        """
        index, expected = self.index, "inverted lists, of a large catalogue"
        is_lists = isinstance(index, InvertedLists)
        require(is_lists, "index", got="exact search", expected=expected)
        assert isinstance(index, InvertedLists)
        with new_folder(path, kind=KIND, overwrite=overwrite) as folder:
            index.write(Path(folder.path) / "index.faiss")
            folder.manifest["item_vectors"] = self.content_hash(len(index))

    def content_hash(self, n_items: int) -> str:
        """Hash of what an index of the first n items was made from: table, scale, own terms."""
        ranker = self.ranker
        assert ranker.embeddings is not None
        table_hash = _hash_of_first(ranker.embeddings, n_items)
        digest = hashlib.sha256(f"{table_hash} {ranker.config.scale}".encode())
        for term in (self._bias_I, ranker.log_shares[:]):
            digest.update(np.ascontiguousarray(term[:n_items], "<f4").tobytes())
        return digest.hexdigest()

    def item_vectors(self, rows: np.ndarray) -> np.ndarray:
        """What the index holds, float32 [n, D + 2]: x_q, own term, log popularity (for the prior)."""
        terms = [self._bias_I[rows], self.ranker.log_shares[rows]]
        x_nD = self.ranker.input_vectors(rows)
        return np.concatenate([x_nD, np.stack(terms, axis=1)], axis=1, dtype=np.float32)

    def retrieve(
        self,
        histories: Histories,
        n: int | None = None,
        *,
        eligible: np.ndarray | None = None,
        exclude_history: bool = True,
        seen: Candidates | None = None,
        pool_gamma: float | None = 0.0,
    ) -> Candidates:
        """Candidates of each user, distinct and in row order, the same in any batch.

        Args:
            histories: of B users.
            n: candidates of each user, fewer where fewer are found; None: N.
            eligible: the items that may be found, bool [I]; None: all.
            exclude_history: leave out seen items.
            seen: all seen items of each user, where the histories are only the latest actions.
            pool_gamma: as in `Ranker.score`.
        """
        n = n or self.candidates
        n_linear = round(_LINEAR_PART * n)
        past = self.ranker.seen(histories) if seen is None else seen
        pasts = [np.unique(rows) for rows in _split(past)]
        longest = max(map(len, pasts), default=0)
        w_BD = self.logit_vectors(histories, pool_gamma=pool_gamma)
        weights_B2 = np.broadcast_to(self._weights(pool_gamma), (len(w_BD), 2))
        queries = np.concatenate([w_BD, weights_B2], axis=1, dtype=np.float32)
        spare = longest if exclude_history else 0
        linear_Bn = self.index.search(queries, n_linear + spare, eligible=eligible)
        popular = self._popular(n + longest, eligible, pool_gamma)
        lists = []
        for rows, linear, length in zip(pasts, linear_Bn, histories.lengths, strict=True):
            left_out = rows if exclude_history else rows[:0]
            if not length:  # ranked by what is popular now
                now = self._weights(0.0) if self.ranker.at_time else (0.0, 1.0)
                lists.append(np.sort(self._highest(now, n, eligible)))
                continue
            best = _without(linear, left_out)[:n_linear]
            own = _without(popular, np.concatenate([left_out, best]))
            lists.append(np.sort(np.concatenate([best, own[: n - len(best)]])))
        return Candidates.of(lists)

    def counted_on(self, ranker: Ranker) -> Self:
        """The same for a ranker with newer counts: the index keeps the item terms that it was made with.

        Those tell where the fitted inner product looks; the items of the highest own term are the newer ranker's.
        """
        under = _under(ranker)
        assert isinstance(under, NeuralRanker)
        newer = copy.copy(self)
        newer.ranker, newer._bias_I, newer._orders, newer._fits = under, under.item_bias, {}, {}
        return newer

    def near(self, row: int, n: int, *, eligible: np.ndarray | None = None) -> np.ndarray:
        """The n items whose x_q have the highest products with that of an item, int64 [n or fewer].

        Best first; it is among them. Where vectors are scaled, these are cosines after centring.
        """
        query_D = self.ranker.input_vectors(np.array([row]))
        found = self.index.search(np.pad(query_D, ((0, 0), (0, 2))), n, eligible=eligible)[0]
        return np.asarray(found[found >= 0])

    def logit_vectors(self, histories: Histories, *, pool_gamma: float | None = 0.0) -> np.ndarray:
        """The w of each user whose product with x_q is closest to the logit, float [B, D]."""
        return self._fit(pool_gamma).vectors(self.ranker, histories)

    def _weights(self, pool_gamma: float | None) -> tuple[float, float]:
        """What an item's own term and its log popularity weigh in the score."""
        return 1.0, 0.0 if pool_gamma is None else float(self.ranker.gamma - pool_gamma)

    def _popular(self, n: int, eligible: np.ndarray | None, pool_gamma: float | None) -> np.ndarray:
        """The n eligible items whose own term is highest, the same for every user, best first."""
        return self._highest(self._weights(pool_gamma), n, eligible)

    def _highest(self, weights: tuple[float, float], n: int, eligible: np.ndarray | None) -> np.ndarray:
        """The n eligible items with the highest weighted sum of own term and log popularity."""
        n_items = len(self.ranker.items)
        looked_at = n
        while True:
            looked_at = min(looked_at, n_items)
            order = self._order(weights, looked_at)
            found = order if eligible is None else order[eligible[order]]
            if len(found) >= n or looked_at == n_items:
                return found[:n]
            looked_at *= 4

    def _order(self, weights: tuple[float, float], n: int) -> np.ndarray:
        """The n items with the highest weighted sum, best first; kept between calls."""
        kept = self._orders.get(weights)
        if kept is None or len(kept) < n:
            ranker = self.ranker
            terms = weights[0] * self._bias_I + weights[1] * ranker.log_shares[:]
            kept = top_places(terms, max(n, 2 * self.candidates + ranker.config.max_history))
            self._orders[weights] = kept
        return kept[:n]

    def _fit(self, pool_gamma: float | None) -> LinearFit:
        """The fit to the logit, which all users share; kept between calls."""
        weights = self._weights(pool_gamma)
        if weights not in self._fits:
            random = int(_ANCHORS * _RANDOM_PART)
            drawn = np.random.default_rng(0).integers(len(self.ranker.items), size=random)
            popular = self._popular(_ANCHORS - random, None, pool_gamma)
            anchors = np.unique(np.concatenate([popular, drawn]))
            self._fits[weights] = LinearFit.of(self.ranker, anchors, self._bias_I[anchors])
        return self._fits[weights]


class MixedRetriever(Retriever):
    """Retrieves by the ranker under a last stage, and adds what co-occurrence and recent popularity put forward.

    Args:
        ranker: a fitted mixed ranker.
        retriever: of the ranker under its last stage.
    """

    def __init__(self, ranker: MixedRanker, retriever: Retriever) -> None:
        super().__init__(retriever.ranker, candidates=retriever.candidates, index=retriever.index)
        self._mixed, self._stage = ranker, ranker.stage

    def counted_on(self, ranker: Ranker) -> Self:
        """See `Retriever.counted_on`."""
        newer = super().counted_on(ranker)
        assert isinstance(ranker, MixedRanker)
        newer._mixed, newer._stage = ranker, ranker.stage
        return newer

    def retrieve(
        self,
        histories: Histories,
        n: int | None = None,
        *,
        eligible: np.ndarray | None = None,
        exclude_history: bool = True,
        seen: Candidates | None = None,
        pool_gamma: float | None = 0.0,
    ) -> Candidates:
        """Candidates of each user, distinct and in row order; see `Retriever.retrieve`."""
        found = super().retrieve(
            histories, n, eligible=eligible, exclude_history=exclude_history, seen=seen, pool_gamma=pool_gamma
        )
        if self._stage is None:
            return found
        past = self.ranker.seen(histories) if seen is None else seen
        more = put_forward(self._stage.snapshot, histories)
        if not exclude_history and self.ranker.targets.target != "new":
            more = [np.union1d(others, own) for others, own in zip(more, _split(past), strict=True)]
        lists = []
        for rows, others, left_out, length in zip(_split(found), more, _split(past), histories.lengths, strict=True):
            if not length:
                others = self._cold_start(len(rows), eligible)
            elif eligible is not None:
                others = others[eligible[others]]
            lists.append(np.union1d(rows, _without(others, left_out if exclude_history else left_out[:0])))
        return Candidates.of(lists)

    def _cold_start(self, n: int, eligible: np.ndarray | None) -> np.ndarray:
        """The n eligible items that a visitor without a history is shown first, int64."""
        scores = self._mixed.cold_start_scores()
        rows = np.arange(len(scores)) if eligible is None else np.flatnonzero(eligible)
        return np.asarray(rows[top_places(scores[rows], n)])


def new_retriever(ranker: Ranker, *, candidates: int = RETRIEVED) -> Retriever:
    """A retriever for a ranker, whichever it is; errors as in `Retriever`."""
    return _mixed(ranker, Retriever(_under(ranker), candidates=candidates))


def default_retriever(ranker: Ranker) -> Retriever | None:
    """What finds candidates; None where every item is scored, for few items or another ranker."""
    if not _retrieves(ranker):
        return None
    return new_retriever(ranker)


def kept_retriever(ranker: Ranker, model: Path) -> Retriever | None:
    """`default_retriever` with the inverted lists of a large catalogue kept in the model's folder.

    They are made where they are missing or belong to another model, by one process at a time. In a
    folder that cannot be written they are made and not kept.
    """
    if len(ranker.items) <= EXACT_ITEMS or not faiss_is_installed() or not _retrieves(ranker):
        return default_retriever(ranker)
    place = model / KIND
    with _one_process(model):
        try:
            return _mixed(ranker, Retriever.open(place, _under(ranker)))
        except HeedfulError:
            retriever = Retriever(_under(ranker), index="lists")
        with contextlib.suppress(FolderError):
            retriever.save(place, overwrite=True)
        return _mixed(ranker, retriever)


@contextlib.contextmanager
def _one_process(folder: Path) -> Iterator[None]:
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _retrieves(ranker: Ranker) -> bool:
    return isinstance(_under(ranker), NeuralRanker) and len(ranker.items) > SCANNED * RETRIEVED


def _under(ranker: Ranker) -> Ranker:
    """The ranker whose vectors an index holds: that under a last stage."""
    return ranker.ranker if isinstance(ranker, MixedRanker) else ranker


def _mixed(ranker: Ranker, retriever: Retriever) -> Retriever:
    return MixedRetriever(ranker, retriever) if isinstance(ranker, MixedRanker) else retriever


def _hash_of_first(table: ItemEmbeddings, n_items: int) -> str | None:
    """Content hash of the table whose n items are the first of this one, which may extend it."""
    if n_items == len(table):
        return table.content_hash
    records = table.provenance.get("extensions", [])
    return next((str(one["extends"]) for one in records if one["n_items"] == n_items), None)


def _split(candidates: Candidates) -> list[np.ndarray]:
    """The item rows of each user."""
    return np.split(candidates.rows.astype(np.int64), candidates.offsets[1:-1])


def _without(rows: np.ndarray, left_out: np.ndarray) -> np.ndarray:
    """The found rows that are not left out, in their order."""
    return np.asarray(rows[(rows >= 0) & ~np.isin(rows, left_out)])
