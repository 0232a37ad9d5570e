"""Retrieval before ranking: the few hundred items of a large catalogue that a ranker then scores.

For one user the logit of the trained rankers is a function of the candidate's vector x_q, plus a term of the item alone.
The inner form of section 5.2 is an inner product of x_q and so needs only an index. The attention is not, but its closest
inner product, fitted by least squares to its own logits of some anchor items, comes close enough to find what it would
rank highest; the ranker then has the last word. To this are added the neighbours of the latest past items, and the items
whose own term is highest (which are anchors, too).

Shapes: B users, I items, D embedding width, A anchors, m past items, N candidates of a user.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np

from heedful.config import require
from heedful.errors import MismatchError
from heedful.events.candidates import Candidates
from heedful.events.histories import Histories
from heedful.folders import new_folder, open_folder
from heedful.rankers.base import Ranker
from heedful.rankers.neural import NeuralRanker
from heedful.recommending.index import EXACT_ITEMS, ExactIndex, Index, InvertedLists, faiss_is_installed

__all__ = ["KIND", "Retriever", "default_retrieve"]

KIND = "index"
_DEFAULT_CANDIDATES = 1000
# A quarter of the anchors are drawn at random, so that the fit knows ordinary items, too.
_ANCHORS, _RANDOM_PART = 256, 1 / 4
_RIDGE = 0.1
_RECENT_ITEMS = 5
# Parts of the N candidates: found by the fitted inner product, neighbours of past items; the rest are items of high term.
_LINEAR_PART, _NEIGHBOUR_PART = 0.6, 0.2


class Retriever:
    """Retrieves candidates for a trained ranker and ranks them.

    Args:
        ranker: a fitted attention or averaging ranker.
        candidates: N, how many items are retrieved and scored for a user.
        index: what searches the vectors of `item_vectors`: "exact", "lists", or "auto": exact up to `EXACT_ITEMS` items
            and wherever faiss is missing. Or one made beforehand.

    Raises:
        ConfigError: the ranker has no item vectors, `candidates` is not positive, or there is no such index.
        MissingExtraError: "lists" without faiss.
    """

    def __init__(self, ranker: Ranker, *, candidates: int = _DEFAULT_CANDIDATES, index: Index | str = "auto") -> None:
        require(isinstance(ranker, NeuralRanker), "retrieve", got=ranker.name, expected="0: only a trained ranker retrieves")
        require(candidates >= 1, "retrieve", got=candidates, expected="1 or more")
        assert isinstance(ranker, NeuralRanker)
        self.ranker, self.candidates = ranker, candidates
        self._orders: dict[tuple[float, float], np.ndarray] = {}
        self._fits: dict[tuple[float, float], tuple[np.ndarray, np.ndarray]] = {}
        self._means = np.array([ranker.item_bias.mean(), ranker.log_shares[:].mean()], np.float32)
        if isinstance(index, str):
            require(index in ("auto", "exact", "lists"), "index", got=index, expected="auto, exact or lists")
            large = len(ranker.items) > EXACT_ITEMS and faiss_is_installed()
            make = InvertedLists.build if index == "lists" or (index == "auto" and large) else ExactIndex
            index = make(self.item_vectors, len(ranker.items))
        self.index: Index = index

    @classmethod
    def open(cls, path: str | os.PathLike[str], ranker: Ranker, *, candidates: int = _DEFAULT_CANDIDATES) -> Retriever:
        """A retriever with the index that `save` wrote.

        Raises:
            FolderError: there is no index, or it is damaged.
            MismatchError: it was made for another ranker.
            MissingExtraError: faiss is not installed.
        """
        folder = open_folder(path, kind=KIND)
        retriever = cls(ranker, candidates=candidates, index=InvertedLists.read(folder.file("index.faiss")))
        expected = retriever.content_hash
        if folder.manifest.get("item_vectors") != expected:
            raise MismatchError(
                f"{folder.path} was made for another model",
                got=f"hash {str(folder.manifest.get('item_vectors'))[:12]}",
                expected=f"hash {expected[:12]}",
                fix="remove the folder; it will be made again",
            )
        return retriever

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write the index as a folder. Exact search has nothing to save.

        Raises:
            ConfigError: the index is an exact search.
            FolderError: the place is taken or cannot be written.
        """
        index = self.index
        require(
            isinstance(index, InvertedLists), "index", got="exact search", expected="inverted lists, of a large catalogue"
        )
        assert isinstance(index, InvertedLists)
        with new_folder(path, kind=KIND, overwrite=overwrite) as folder:
            index.write(Path(folder.path) / "index.faiss")
            folder.manifest["item_vectors"] = self.content_hash

    @property
    def content_hash(self) -> str:
        """Hash of what the index was made from: the table, its conditioning and the terms of the items."""
        ranker = self.ranker
        assert ranker.embeddings is not None
        digest = hashlib.sha256(f"{ranker.embeddings.content_hash} {ranker.config.scale}".encode())
        for term in (ranker.item_bias, ranker.log_shares[:]):
            digest.update(np.ascontiguousarray(term, "<f4").tobytes())
        return digest.hexdigest()

    def item_vectors(self, rows: np.ndarray) -> np.ndarray:
        """What the index holds, float32 [n, D + 2]: x_q, the item's own term, and its log popularity (for the prior)."""
        terms = np.stack([self.ranker.item_bias[rows], self.ranker.log_shares[rows]], axis=1) - self._means
        return np.concatenate([self.ranker.input_vectors(rows), terms], axis=1, dtype=np.float32)

    def top_rows(
        self, histories: Histories, k: int, *, pool_gamma: float | None = 0.0, exclude_history: bool = True
    ) -> tuple[np.ndarray, np.ndarray]:
        """The best of the catalogue, as `Ranker.top_rows` but among what is retrieved."""
        found = self.retrieve(histories, pool_gamma=pool_gamma, exclude_history=exclude_history, at_least=k)
        scores = self.ranker.score_rows(histories, found, pool_gamma=pool_gamma)
        rows, best = np.full((len(histories), k), -1, np.int64), np.full((len(histories), k), -np.inf, np.float32)
        for user, (start, stop) in enumerate(zip(found.offsets[:-1], found.offsets[1:], strict=True)):
            top = start + np.argsort(-scores[start:stop], kind="stable")[:k]
            rows[user, : len(top)], best[user, : len(top)] = found.rows[top], scores[top]
        return rows, best

    def retrieve(
        self,
        histories: Histories,
        *,
        pool_gamma: float | None = 0.0,
        exclude_history: bool = True,
        at_least: int = 1,
    ) -> Candidates:
        """At most N (or `at_least`) candidates of each user, distinct and in row order, the same in any batch."""
        n = max(self.candidates, at_least)
        n_linear, n_neighbours = round(_LINEAR_PART * n), round(_NEIGHBOUR_PART * n)
        pasts = [_distinct_latest(items) for items in _split(histories)]
        spare = self.ranker.config.max_history if exclude_history else 0
        linear = self.linear(histories, n_linear + spare, pool_gamma=pool_gamma)
        neighbours = self.neighbours(histories, n_neighbours, pool_gamma=pool_gamma)
        longest = n + max((len(past) for past in pasts), default=0)
        popular = self._highest(self._weights(pool_gamma), longest)
        lists = []
        for user, past in enumerate(pasts):
            left_out = past if exclude_history else past[:0]
            if not len(past):  # ranked by popularity
                lists.append(np.sort(self._highest((0.0, 1.0), n)))
                continue
            best = _without(linear[user], left_out)[:n_linear]
            near = _without(neighbours[user], left_out)
            found = np.concatenate([best, near])
            own = _without(popular[: n + len(past)], np.concatenate([left_out, found]))
            lists.append(np.union1d(found, own[: n - len(np.unique(found))]))
        return Candidates.of(lists)

    def linear(self, histories: Histories, n: int, *, pool_gamma: float | None = 0.0) -> np.ndarray:
        """The n items with the highest inner product that stands in for each user's logit, int64 [B, n]; -1: none."""
        anchors, fit_DA = self._fit(pool_gamma)
        logits_BA = self.ranker.score_rows(histories, Candidates.same_for_all(len(histories), anchors), pool_gamma=None)
        logits_BA = logits_BA.reshape(len(histories), len(anchors)) - self.ranker.item_bias[anchors]
        w_BD = (logits_BA - logits_BA.mean(axis=1, keepdims=True)) @ fit_DA.T
        return self.index.search(self._queries(w_BD, pool_gamma), n)

    def neighbours(self, histories: Histories, n: int, *, pool_gamma: float | None = 0.0) -> np.ndarray:
        """Items that the latest past items point to, about n for each user, int64 [B, n]; -1: none."""
        each = max(n // _RECENT_ITEMS, 1)
        recent_Bm = np.full((len(histories), _RECENT_ITEMS), -1, np.int64)
        for user, items in enumerate(_split(histories)):
            latest = _distinct_latest(items)[:_RECENT_ITEMS]
            recent_Bm[user, : len(latest)] = latest
        x_QD = self.ranker.interaction_vectors(np.maximum(recent_Bm, 0).ravel())
        found = self.index.search(self._queries(x_QD, pool_gamma), each).reshape(*recent_Bm.shape, each)
        return np.where(recent_Bm[:, :, None] >= 0, found, -1).reshape(len(histories), -1)

    def popular(self, n: int, *, pool_gamma: float | None = 0.0) -> np.ndarray:
        """The n items whose own term is highest, the same for every user, best first, int64 [n]."""
        return self._highest(self._weights(pool_gamma), n)

    def _weights(self, pool_gamma: float | None) -> tuple[float, float]:
        """What an item's own term and its log popularity weigh in the score."""
        return 1.0, 0.0 if pool_gamma is None else float(self.ranker.gamma - pool_gamma)

    def _highest(self, weights: tuple[float, float], n: int) -> np.ndarray:
        """The n items with the highest weighted sum of own term and log popularity, best first; kept between calls."""
        n = min(n, len(self.ranker.items))
        kept = self._orders.get(weights)
        if kept is None or len(kept) < n:
            terms = weights[0] * self.ranker.item_bias + weights[1] * self.ranker.log_shares[:]
            wanted = min(max(n, self.candidates + self.ranker.config.max_history), len(terms))
            top = np.sort(np.argpartition(-terms, wanted - 1)[:wanted])
            kept = self._orders[weights] = top[np.argsort(-terms[top], kind="stable")]
        return kept[:n]

    def _queries(self, x_QD: np.ndarray, pool_gamma: float | None) -> np.ndarray:
        weights_Q2 = np.broadcast_to(np.array(self._weights(pool_gamma), np.float32), (len(x_QD), 2))
        return np.concatenate([x_QD, weights_Q2], axis=1, dtype=np.float32)

    def _fit(self, pool_gamma: float | None) -> tuple[np.ndarray, np.ndarray]:
        """Anchors, int64 [A], and what makes of their centred logits l the w for which x_A w + c is closest to l, [D, A].

        By least squares; the same for every user, and so kept between calls.
        """
        weights = self._weights(pool_gamma)
        if weights not in self._fits:
            random = int(_ANCHORS * _RANDOM_PART)
            drawn = np.random.default_rng(0).integers(len(self.ranker.items), size=random)
            anchors = np.unique(np.concatenate([self.popular(_ANCHORS - random, pool_gamma=pool_gamma), drawn]))
            x_AD = self.ranker.input_vectors(anchors).astype(np.float64)
            x_AD -= x_AD.mean(axis=0)
            gram_DD = x_AD.T @ x_AD + _RIDGE * np.eye(x_AD.shape[1])
            self._fits[weights] = anchors, np.linalg.solve(gram_DD, x_AD.T)
        return self._fits[weights]


def default_retrieve(ranker: Ranker) -> int:
    """Candidates to retrieve when nothing is said: 0, every item, unless the catalogue of a trained ranker is large."""
    return _DEFAULT_CANDIDATES if isinstance(ranker, NeuralRanker) and len(ranker.items) > EXACT_ITEMS else 0


def _split(histories: Histories) -> list[np.ndarray]:
    """The item rows of each user."""
    return np.split(histories.items.astype(np.int64), histories.offsets[1:-1])


def _distinct_latest(items: np.ndarray) -> np.ndarray:
    """The distinct past items of one user, newest first, int64."""
    return np.array(list(dict.fromkeys(items[::-1].tolist())), np.int64)


def _without(rows: np.ndarray, left_out: np.ndarray) -> np.ndarray:
    """The found rows that are not left out, in their order."""
    return np.asarray(rows[(rows >= 0) & ~np.isin(rows, left_out)])
