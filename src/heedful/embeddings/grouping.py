"""What the categories of an item say about its vector: ridge regression on groups.

Shapes: I items, N new items, D width, G groups of one attribute.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

__all__ = ["group_means"]

# The columns are fitted in turn until no new item moves by this part of the vectors' standard deviation.
_MOST_SWEEPS, _CONVERGED = 50, 1e-2


def group_means(
    vectors: np.ndarray, weights: np.ndarray, attributes: pa.Table, described: pa.Table, n_new: int, *, shrinkage: float
) -> np.ndarray:
    """The vectors to be expected of items with certain attributes.

    A vector is the mean of all and an effect of each of its categories (text and boolean columns; numbers say nothing here),
    by ridge regression: with the others given, the effect of a group is the weighted sum of what is left of its items,
    over their weight + shrinkage. So a group of few moves little, and one that is unknown nothing.

    Args:
        vectors: float [I, D].
        weights: of each item, not negative, some above 0, [I]; scaled to a mean of 1.
        attributes: of these items, [I] rows (or no columns).
        described: attributes of the new items, [N] rows (or no columns).
        n_new: N.
        shrinkage: the ridge, in items of mean weight.

    Returns:
        float64 [N, D].
    """
    weights_I = weights * (len(weights) / weights.sum())
    mean_D = (weights_I @ vectors / len(weights_I)).astype(np.float32)
    left_ID = np.asarray(vectors, np.float32) - mean_D
    columns = [
        _Effects(attributes[name], described[name], weights_I, vectors.shape[1], shrinkage)
        for name in described.column_names
        if name in attributes.column_names and _is_category(described.schema.field(name).type)
    ]
    enough = _CONVERGED * float(left_ID.std())
    expected_ND = np.tile(mean_D.astype(np.float64), (n_new, 1))
    for _ in range(_MOST_SWEEPS if columns else 0):
        before_ND = expected_ND
        for column in columns:
            column.update(left_ID)
        expected_ND = mean_D + sum(column.of_new for column in columns)
        if np.abs(expected_ND - before_ND).max(initial=0.0) <= enough:
            break
    return expected_ND


class _Effects:
    """The effect of each group of one attribute; what is null has the effect 0."""

    def __init__(
        self, known: pa.ChunkedArray, new: pa.ChunkedArray, weights_I: np.ndarray, width: int, ridge: float
    ) -> None:
        text = pa.concat_arrays([part.cast(pa.string()) for column in (known, new) for part in column.chunks])
        encoded = text.dictionary_encode()
        codes = pc.fill_null(encoded.indices, len(encoded.dictionary)).to_numpy(zero_copy_only=False)
        self._old_I, self._new_N = codes[: len(known)], codes[len(known) :]
        self._weights_I, self._ridge = weights_I, ridge
        self._effects_GD = np.zeros((len(encoded.dictionary) + 1, width))
        self._weights_G1 = np.bincount(self._old_I, weights_I, len(self._effects_GD))[:, None]

    def update(self, left_ID: np.ndarray) -> None:
        """Fit the effects to what the other columns leave; `left_ID` follows in place."""
        sum_GD = self._weights_G1 * self._effects_GD  # what is left is without the present effects
        for d in range(sum_GD.shape[1]):
            sum_GD[:, d] += np.bincount(self._old_I, self._weights_I * left_ID[:, d], len(sum_GD))
        fitted_GD = sum_GD / (self._weights_G1 + self._ridge)
        fitted_GD[-1] = 0
        left_ID -= (fitted_GD - self._effects_GD).astype(left_ID.dtype)[self._old_I]
        self._effects_GD = fitted_GD

    @property
    def of_new(self) -> np.ndarray:
        """The effect on each new item, [N, D]."""
        return np.asarray(self._effects_GD[self._new_N])


def _is_category(kind: pa.DataType) -> bool:
    return bool(pa.types.is_boolean(kind) or pa.types.is_dictionary(kind) or _is_text(kind))


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))
