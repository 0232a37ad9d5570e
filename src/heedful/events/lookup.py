"""Where an id is: sorted 64-bit keys with the rows of the ids beside them, so that a saved index needs only to be mapped.

The key of an integer is itself, that of a text a hash, which is part of the folder format: it must not change. What a key
leads to is compared with the id, so ids of equal hash do no harm.

Shapes: I ids, Q ids looked for.
"""

from __future__ import annotations

from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

__all__ = ["IdIndex"]

_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_BLOCK_IDS = 2**18


class IdIndex:
    """An index of ids, made by `of` or from the arrays of one.

    Args:
        keys: uint64 [I], ascending.
        rows: row of each key, int32 or int64 [I].

    """

    def __init__(self, keys: np.ndarray, rows: np.ndarray) -> None:
        self.keys = keys
        self.rows = rows

    @classmethod
    def of(cls, ids: pa.Array) -> Self:
        """The index of ids, texts or 64-bit integers without nulls."""
        keys_I = np.empty(len(ids), np.uint64)
        for low in range(0, len(ids), _BLOCK_IDS):
            keys_I[low : low + _BLOCK_IDS] = _keys(ids.slice(low, _BLOCK_IDS))
        rows_I = np.argsort(keys_I, kind="stable")
        return cls(keys_I[rows_I], rows_I.astype(np.int32) if len(ids) < 2**31 else rows_I)

    def __len__(self) -> int:
        return len(self.keys)

    def find(self, wanted: pa.Array, ids: pa.Array) -> np.ndarray:
        """Rows of some ids among the ids of the index, of the same type, int64 [Q]; -1 where there is none."""
        keys_Q = _keys(wanted)
        rows_Q = np.full(len(wanted), -1, np.int64)
        places_Q = np.searchsorted(self.keys, keys_Q)
        left = np.flatnonzero(wanted.is_valid().to_numpy(zero_copy_only=False))
        while True:
            places = places_Q[left]
            here = places < len(self)
            here[here] = self.keys[places[here]] == keys_Q[left[here]]
            left = left[here]
            if not len(left):
                return rows_Q
            rows = np.asarray(self.rows[places_Q[left]], np.int64)
            found = pc.equal(ids.take(pa.array(rows)), wanted.take(pa.array(left))).to_numpy(zero_copy_only=False)
            rows_Q[left[found]] = rows[found]
            left = left[~found]
            places_Q[left] += 1


def _keys(ids: pa.Array) -> np.ndarray:
    """The key of each id, uint64 [Q]; anything where an id is null."""
    if pa.types.is_integer(ids.type):
        return np.asarray(pc.fill_null(ids, 0)).view(np.uint64)
    width = np.int64 if pa.types.is_large_string(ids.type) else np.int32
    _, offsets, text = ids.buffers()
    if not len(ids):
        return np.empty(0, np.uint64)
    ends_Q = np.frombuffer(offsets, width)[ids.offset : ids.offset + len(ids) + 1].astype(np.int64)
    return _hashes(np.frombuffer(text or b"", np.uint8), ends_Q[:-1], np.diff(ends_Q))


def _hashes(text: np.ndarray, starts_Q: np.ndarray, lengths_Q: np.ndarray) -> np.ndarray:
    """Hashes of stretches of bytes, uint64 [Q]: eight bytes at a time, as little-endian numbers, are mixed in."""
    if len(text) < 8:
        text = np.concatenate([text, np.zeros(8, np.uint8)])
    # Every eight bytes of the text, also those that begin between the words of the machine.
    words = np.lib.stride_tricks.as_strided(text[:8].view("<u8"), (len(text) - 7,), (1,), writeable=False)
    hashes_Q = lengths_Q.astype(np.uint64) * _MULTIPLIER
    left, done = np.flatnonzero(lengths_Q > 0), 0
    while len(left):
        starts = starts_Q[left] + done
        beyond = np.maximum(starts - len(words) + 1, 0)  # the last ones are read a little earlier and shifted
        unused = 8 - np.minimum(lengths_Q[left] - done, 8)
        word = words[starts - beyond] >> (8 * beyond).astype(np.uint64)
        word &= np.uint64(2**64 - 1) >> (8 * unused).astype(np.uint64)
        mixed = (hashes_Q[left] ^ word) * _MULTIPLIER
        hashes_Q[left] = mixed ^ (mixed >> np.uint64(29))
        done += 8
        left = left[lengths_Q[left] > done]
    return hashes_Q
