"""Exact co-occurrence of items: weights of each item for its strongest partners, and their sums over histories.

Shapes: E events, I items, N items of the dense part, K partners kept of each item, B users, C candidates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
import torch

from heedful.events.candidates import Candidates
from heedful.events.histories import Histories

__all__ = ["Partners", "bm25_partners", "cosine_partners", "ease_partners", "strongest"]

# The usual constants of BM25.
_BM25_K1 = 1.2
_BM25_B = 0.75


@dataclass(frozen=True)
class Partners:
    """What a past item adds to the score of others.

    Attributes:
        items: the K partners of each item, int32 [I, K]; -1 where it has fewer.
        weights: what it adds to each of them, float32 [I, K].
    """

    items: np.ndarray
    weights: np.ndarray

    def extended(self, n_items: int) -> Partners:
        """With further items, which have no partners."""
        more = ((0, n_items - len(self.items)), (0, 0))
        return Partners(np.pad(self.items, more, constant_values=-1), np.pad(self.weights, more))

    def best(
        self, past: Histories, weights: np.ndarray, factors: Sequence[np.ndarray | None], count: int
    ) -> list[np.ndarray]:
        """The partners of each user's past items with the highest positive sums, for each of some factors; in no order.

        Args:
            past: distinct past items of B users, E in all.
            weights: of each past item, float32 [E].
            factors: by which the sums of the items are multiplied, float32 [I] each; None: 1.
            count: most items for each factor.

        Returns:
            Item rows of each user, int64 arrays, in which a row may be twice.
        """
        found = []
        sums, touched = np.zeros(len(self.items), np.float32), np.empty(len(self.items), np.int64)
        for user in range(len(past)):
            part = slice(past.offsets[user], past.offsets[user + 1])
            n = _touch(past.items[part], weights[part], self.items, self.weights, sums, touched)
            rows = touched[:n]
            strength = sums[rows]
            sums[rows] = 0
            times = [strength if factor is None else strength * factor[rows] for factor in factors]
            found.append(np.concatenate([strongest(rows, one, count) for one in times]))
        return found

    def scores(self, past: Histories, weights: np.ndarray, candidates: Candidates) -> np.ndarray:
        """Sums over the past items of each user, for each of W ways to weigh these; float32 [C, W].

        Args:
            past: distinct past items of B users, E in all.
            weights: of each past item, float32 [E, W].
            candidates: rows of items for the same users.
        """
        scores = np.zeros((len(candidates.rows), weights.shape[1]), np.float32)
        everything = np.zeros((len(self.items), weights.shape[1]), np.float32)
        _add_up(
            past.offsets, past.items, weights, self.items, self.weights,
            candidates.offsets, candidates.rows, everything, scores,
        )  # fmt: skip
        return scores


def cosine_partners(past: Histories, weights: np.ndarray, n_items: int, keep: int) -> Partners:
    """Cosine of the items' columns in the matrix of users and items, without the item itself.

    Args:
        past: distinct items of each user, E in all.
        weights: entries of the matrix, float32 [E].
        n_items: I.
        keep: K.
    """
    lengths = np.sqrt(np.bincount(past.items, weights.astype(np.float64) ** 2, minlength=n_items))
    return _closest_columns(past, weights, np.maximum(lengths, 1e-9), keep)


def bm25_partners(past: Histories, n_items: int, keep: int) -> Partners:
    """Products of the items' columns weighted as words of documents are (Robertson and Zaragoza 2009), without itself.

    Users with many items, and items with many users, count less.

    Args:
        past: distinct items of each user, E in all.
        n_items: I.
        keep: K.
    """
    users = np.bincount(past.items, minlength=n_items)
    rare = np.log(n_items + 1) - np.log1p(np.repeat(past.lengths, past.lengths))
    length = 1 - _BM25_B + _BM25_B * users / max(users.mean(), 1e-9)
    weights = rare * (_BM25_K1 + 1) / (_BM25_K1 * length[past.items] + 1)
    return _closest_columns(past, weights.astype(np.float32), np.ones(n_items), keep)


def _closest_columns(past: Histories, weights: np.ndarray, lengths: np.ndarray, keep: int) -> Partners:
    """The K other columns with which the product of each column, over both lengths, is highest."""
    owner = np.repeat(np.arange(len(past)), past.lengths)
    order = np.argsort(past.items, kind="stable")
    offsets = np.searchsorted(past.items[order], np.arange(len(lengths) + 1))
    items = np.full((len(lengths), keep), -1, np.int32)
    products = np.zeros((len(lengths), keep), np.float32)
    _best_products(offsets, owner[order], weights[order], past.offsets, past.items, weights, lengths, items, products)
    return Partners(items, products)


def ease_partners(past: Histories, n_items: int, *, top: int, penalty: float, keep: int) -> Partners:
    """Weights of EASE (Steck 2019) between the `top` items with most users, for each past item the K of largest size.

    With X the binary matrix of users and items and P = (X^T X + penalty)^-1, the weight of i for j is -P_ij / P_jj.
    """
    users = np.bincount(past.items, minlength=n_items)
    rows = np.sort(np.argsort(-users, kind="stable")[: min(top, int((users > 0).sum()))])
    place = np.full(n_items, -1, np.int64)
    place[rows] = np.arange(len(rows))
    gram = np.zeros((len(rows), len(rows)), np.float32)
    _add_pairs(past.offsets, place[past.items], gram)
    gram[np.diag_indices(len(rows))] += np.float32(penalty)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(torch.from_numpy(gram)))
    weights = inverse / -inverse.diagonal()
    weights.fill_diagonal_(0)
    best = weights.abs().topk(min(keep, len(rows))).indices
    items = np.full((n_items, keep), -1, np.int32)
    kept = np.zeros((n_items, keep), np.float32)
    items[rows, : best.shape[1]] = rows[best.numpy()]
    kept[rows, : best.shape[1]] = weights.gather(1, best).numpy()
    return Partners(items, kept)


def strongest(rows: np.ndarray, strength: np.ndarray, count: int) -> np.ndarray:
    """The rows of highest strength above 0, in no order."""
    best = np.argpartition(-strength, count - 1)[:count] if len(rows) > count else np.arange(len(rows))
    return rows[best[strength[best] > 0]]


@numba.njit(nogil=True, cache=True)
def _touch(past_items: Any, past_weights: Any, partners: Any, partner_weights: Any, sums: Any, touched: Any) -> Any:
    """Add up for one user, and list the partners once each, whose sums are 0 at first; how many there are."""
    n = 0
    for past in range(len(past_items)):
        item = past_items[past]
        for k in range(partners.shape[1]):
            partner = partners[item, k]
            if partner >= 0:
                if sums[partner] == 0:
                    touched[n] = partner
                    n += 1
                sums[partner] += past_weights[past] * partner_weights[item, k]
                if sums[partner] == 0:  # negative weights may cancel: it would be listed again
                    sums[partner] = np.float32(1e-30)
    return n


@numba.njit(nogil=True, cache=True)
def _add_up(
    past_offsets: Any,
    past_items: Any,
    past_weights: Any,
    partners: Any,
    partner_weights: Any,
    offsets: Any,
    rows: Any,
    everything: Any,
    scores: Any,
) -> None:
    ways = past_weights.shape[1]
    for user in range(len(offsets) - 1):
        for n in range(past_offsets[user], past_offsets[user + 1]):
            item = past_items[n]
            for k in range(partners.shape[1]):
                partner = partners[item, k]
                if partner >= 0:
                    for way in range(ways):
                        everything[partner, way] += past_weights[n, way] * partner_weights[item, k]
        for n in range(offsets[user], offsets[user + 1]):
            for way in range(ways):
                scores[n, way] = everything[rows[n], way]
        for n in range(past_offsets[user], past_offsets[user + 1]):
            item = past_items[n]
            for k in range(partners.shape[1]):
                partner = partners[item, k]
                if partner >= 0:
                    for way in range(ways):
                        everything[partner, way] = 0


@numba.njit(nogil=True, cache=True)
def _best_products(
    item_offsets: Any,
    users: Any,
    user_weights: Any,
    offsets: Any,
    items: Any,
    weights: Any,
    lengths: Any,
    best: Any,
    products: Any,
) -> None:
    n_items, keep = best.shape
    sums = np.zeros(n_items, np.float32)
    met = np.empty(n_items, np.int64)
    met_by = np.full(n_items, -1, np.int64)
    for item in range(n_items):
        count = 0
        for n in range(item_offsets[item], item_offsets[item + 1]):
            user = users[n]
            for m in range(offsets[user], offsets[user + 1]):
                other = items[m]
                if other != item:
                    if met_by[other] != item:
                        met_by[other] = item
                        met[count] = other
                        count += 1
                    sums[other] += user_weights[n] * weights[m]
        others = met[:count]
        strength = sums[others] / (lengths[item] * lengths[others])
        order = _highest(strength, keep)
        _sort(order, strength)
        for k in range(len(order)):
            best[item, k] = others[order[k]]
            products[item, k] = strength[order[k]]
        sums[others] = 0


@numba.njit(nogil=True, cache=True)
def _highest(values: Any, count: int) -> Any:
    """Places of the `count` highest values in ascending order; of equal ones the first. In linear time."""
    n = len(values)
    if n <= count:
        return np.arange(n)
    least = _nth_highest(values.copy(), count - 1)
    equal = count - np.sum(values > least)
    places = np.empty(count, np.int64)
    found = 0
    for place in range(n):
        if values[place] > least or (values[place] == least and equal > 0):
            if values[place] == least:
                equal -= 1
            places[found] = place
            found += 1
    return places


# NumPy's own selection and sorting take numba ten seconds to compile.


@numba.njit(nogil=True, cache=True)
def _nth_highest(values: Any, n: int) -> Any:
    """The value that n others are in front of; Hoare's selection, which moves the values."""
    low, high = 0, len(values) - 1
    while low < high:
        pivot, left, right = values[(low + high) // 2], low, high
        while left <= right:
            while values[left] > pivot:
                left += 1
            while values[right] < pivot:
                right -= 1
            if left <= right:
                values[left], values[right] = values[right], values[left]
                left += 1
                right -= 1
        if right < n < left:
            break
        low, high = (low, right) if n <= right else (left, high)
    return values[n]


@numba.njit(nogil=True, cache=True)
def _sort(places: Any, values: Any) -> None:
    """Put a few places into descending order of their values, equal ones as they are."""
    for n in range(1, len(places)):
        place, m = places[n], n
        while m > 0 and values[places[m - 1]] < values[place]:
            places[m] = places[m - 1]
            m -= 1
        places[m] = place


@numba.njit(nogil=True, cache=True)
def _add_pairs(offsets: Any, places: Any, gram: Any) -> None:
    for user in range(len(offsets) - 1):
        for n in range(offsets[user], offsets[user + 1]):
            if places[n] >= 0:
                for m in range(offsets[user], offsets[user + 1]):
                    if places[m] >= 0:
                        gram[places[n], places[m]] += 1
