"""The pools of several gammas share many items: each user's distinct ones, so that none is scored twice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numba
import numpy as np

from heedful.events.candidates import Candidates

__all__ = ["Union", "union"]

_SPARSE = 16


@dataclass(frozen=True)
class Union:
    """Every item that is in any of some lists, once for each user.

    Attributes:
        candidates: the distinct items, in row order, which tells nothing of where they came from; int64 rows.
        places: for each list, where each of its candidates is among `candidates.rows`, int64 [N].
    """

    candidates: Candidates
    places: tuple[np.ndarray, ...]


def union(lists: Sequence[Candidates], n_items: int) -> Union:
    """The distinct items of each user in some lists of known items, all for the same users.

    Args:
        lists: candidates of B users each.
        n_items: rows are below this.
    """
    owned = sum(part.lengths for part in lists)
    starts = Candidates.from_lengths(np.asarray(owned), np.empty(0, np.int64)).offsets
    rows = np.empty(starts[-1], np.int64)
    offsets = np.zeros(len(starts), np.int64)
    stamps, number = np.full(n_items, -1, np.int64), np.zeros(n_items, np.int64)
    for part in lists:
        _collect(part.offsets, np.asarray(part.rows), starts, offsets, stamps, rows)
    _close(starts, offsets, np.zeros(n_items, np.bool_), rows)
    places = []
    for part in lists:
        where = np.empty(len(part.rows), np.int64)
        _locate(part.offsets, np.asarray(part.rows), offsets, rows, number, where)
        places.append(where)
    return Union(Candidates(offsets, rows[: offsets[-1]]), tuple(places))


@numba.njit(cache=True, nogil=True)
def _collect(
    offsets: np.ndarray, listed: np.ndarray, starts: np.ndarray, found: np.ndarray, stamps: np.ndarray, rows: np.ndarray
) -> None:
    """Add each user's new items behind those that rows[starts[b]:] has; found[b + 1] counts them."""
    for user in range(len(offsets) - 1):
        begin = starts[user]
        for j in range(begin, begin + found[user + 1]):
            stamps[rows[j]] = user
        for j in range(offsets[user], offsets[user + 1]):
            row = listed[j]
            if stamps[row] != user:
                stamps[row] = user
                rows[begin + found[user + 1]] = row
                found[user + 1] += 1
    stamps[:] = -1


@numba.njit(cache=True, nogil=True)
def _close(starts: np.ndarray, found: np.ndarray, listed: np.ndarray, rows: np.ndarray) -> None:
    """Sort each user's items and close the gaps between users; counts become offsets.

    Going through all items is quicker than sorting where the user's are not a small part of them.
    """
    for user in range(len(starts) - 1):
        n, at = found[user + 1], found[user]
        own = rows[starts[user] : starts[user] + n].copy()
        if n * _SPARSE > len(listed):
            listed[own] = True
            for row in range(len(listed)):
                if listed[row]:
                    listed[row] = False
                    rows[at] = row
                    at += 1
        else:
            rows[at : at + n] = np.sort(own)
        found[user + 1] = found[user] + n


@numba.njit(cache=True, nogil=True)
def _locate(
    offsets: np.ndarray, listed: np.ndarray, found: np.ndarray, rows: np.ndarray, number: np.ndarray, out: np.ndarray
) -> None:
    for user in range(len(offsets) - 1):
        for j in range(found[user], found[user + 1]):
            number[rows[j]] = j
        for j in range(offsets[user], offsets[user + 1]):
            out[j] = number[listed[j]]
