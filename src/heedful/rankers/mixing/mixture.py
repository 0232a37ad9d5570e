"""A weighted sum of several estimates of log P(item | user): one score for candidates of any origin.

Shapes: C rows, F columns, G groups of columns.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, Self

import numpy as np

from heedful.errors import FolderError
from heedful.rankers.mixing.linear import Linear
from heedful.rankers.mixing.trees import Trees

__all__ = ["RANKER_SCORE", "Mixture"]

RANKER_SCORE = "ranker.score"
"""The column that holds a ranker's own estimate of log P(item | user)."""

_FILE = "mixture.json"
# How much weights are drawn towards equal ones, against the mean logistic loss of a row.
_TOWARDS_EQUAL = 1e-4


class Estimate(Protocol):
    """An estimate of log P(item | user), up to a constant of the user."""

    def scores(self, columns: np.ndarray) -> np.ndarray:
        """float32 [C]."""
        ...

    def contributions(self, columns: np.ndarray) -> tuple[np.ndarray, float]:
        """What each column adds to the scores, float64 [C, F], and what is the same for all."""
        ...


@dataclass(frozen=True)
class Own:
    """The ranker's own estimate, as it is.

    Attributes:
        place: of its column.
    """

    place: int

    def scores(self, columns: np.ndarray) -> np.ndarray:
        """The column, float32 [C]."""
        return np.asarray(columns[:, self.place], np.float32)

    def contributions(self, columns: np.ndarray) -> tuple[np.ndarray, float]:
        """All of it comes from the column."""
        values = np.zeros(columns.shape)
        values[:, self.place] = columns[:, self.place]
        return values, 0.0


@dataclass(frozen=True)
class Mixture:
    """A weighted sum of estimates that make different errors.

    Attributes:
        names: of the columns, "group.column", F.
        trees: boosted trees.
        linear: a weighted sum of columns; None: left out.
        weights: of the trees, the linear estimate and the ranker's own one, as far as there are these; float32.

    Where there is a column `RANKER_SCORE`, it is an estimate, too.
    """

    names: tuple[str, ...]
    trees: Trees
    linear: Linear | None
    weights: np.ndarray

    @classmethod
    def fit(
        cls,
        columns: np.ndarray,
        labels: np.ndarray,
        expected: np.ndarray,
        names: Sequence[str],
        *,
        newest: np.ndarray | None = None,
        linear: bool = True,
        seed: int = 1,
    ) -> Self:
        """Learn from rows with known labels, as `Linear.fit` and `Trees.fit` do.

        How much each estimate counts is found on the newest rows, with estimates that were fitted to the others; then these
        are fitted to all.

        Args:
            columns: float32 [C, F].
            labels: 1 for a positive, [C].
            expected: how often each item was expected among the negatives of its user, [C].
            names: of the columns.
            newest: which rows are of the newest period, bool [C]; None, all or none: estimates count alike.
            linear: whether there is a linear estimate.
            seed: of the trees.

        Raises:
            InputError: the arrays do not fit together, or there is no positive or no negative.
        """
        mixture = cls._alike(columns, labels, expected, names, linear, seed)
        if newest is None or newest.all() or not newest.any() or len(mixture.weights) == 1:
            return mixture
        earlier = cls._alike(columns[~newest], labels[~newest], expected[~newest], names, linear, seed)
        estimates = np.stack([one.scores(columns[newest]) for one in earlier._estimates()], axis=1)
        return replace(mixture, weights=fitted_weights(estimates, labels[newest], expected[newest]))

    @classmethod
    def _alike(
        cls,
        columns: np.ndarray,
        labels: np.ndarray,
        expected: np.ndarray,
        names: Sequence[str],
        linear: bool,
        seed: int,
    ) -> Self:
        trees = Trees.fit(columns, labels, expected, names, seed=seed)
        sum_of_columns = Linear.fit(columns, labels, expected, names) if linear else None
        count = 1 + linear + (RANKER_SCORE in names)
        return cls(tuple(names), trees, sum_of_columns, np.full(count, 1 / count, np.float32))

    def scores(self, columns: np.ndarray) -> np.ndarray:
        """Scores of rows, float32 [C]."""
        weighted = zip(self.weights, self._estimates(), strict=True)
        return sum((weight * one.scores(columns) for weight, one in weighted), np.zeros(len(columns), np.float32))

    def contributions(self, columns: np.ndarray) -> tuple[dict[str, np.ndarray], float]:
        """What each column adds to the scores, float64 [C] each, and what is the same for all; they add up."""
        values, constant = np.zeros(columns.shape), 0.0
        for weight, estimate in zip(self.weights.tolist(), self._estimates(), strict=True):
            more, same = estimate.contributions(columns)
            values, constant = values + weight * more, constant + weight * same
        return dict(zip(self.names, values.T, strict=True)), constant

    def _estimates(self) -> list[Estimate]:
        estimates: list[Estimate] = [self.trees]
        if self.linear is not None:
            estimates.append(self.linear)
        if RANKER_SCORE in self.names:
            estimates.append(Own(self.names.index(RANKER_SCORE)))
        return estimates

    def save(self, folder: Path) -> None:
        """Write what was learnt into an existing folder."""
        self.trees.save(folder)
        if self.linear is not None:
            self.linear.save(folder)
        (folder / _FILE).write_text(json.dumps({"weights": self.weights.tolist()}) + "\n")

    @classmethod
    def load(cls, folder: Path, *, linear: bool = True) -> Self:
        """Read what `save` wrote.

        Raises:
            FolderError: a file is missing or damaged.
        """
        trees = Trees.load(folder)
        count = 1 + linear + (RANKER_SCORE in trees.names)
        path = folder / _FILE
        try:
            weights = np.array(json.loads(path.read_text())["weights"], np.float32)
            if weights.shape != (count,):
                raise ValueError(f"{weights.size} weights for {count} estimates")
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise FolderError(f"{path} cannot be read", got=error, fix="train the model again") from error
        return cls(trees.names, trees, Linear.load(folder) if linear else None, weights)


def fitted_weights(estimates: np.ndarray, labels: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Weights of a sum of estimates by logistic regression (stacking, Wolpert 1992), none below 0; float32 [K].

    Args:
        estimates: of log P(item | user), [C, K].
        labels: 1 for a positive, [C].
        expected: how often each item was expected among the negatives of its user, [C].
    """
    from scipy.optimize import minimize  # here: importing it takes longer than loading a model

    count = estimates.shape[1]
    offset, alike = -np.log(expected), np.full(count, 1 / count)

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        scores = estimates @ parameters[:-1] + parameters[-1] + offset
        error = (1 + np.tanh(scores / 2)) / 2 - labels  # the logistic function, which exp would overflow
        away = parameters[:-1] - alike
        value = (np.logaddexp(0, scores) - labels * scores).mean() + _TOWARDS_EQUAL * (away**2).sum()
        return float(value), np.append(error @ estimates / len(labels) + 2 * _TOWARDS_EQUAL * away, error.mean())

    limits = [(0.0, None)] * count + [(None, None)]
    found = minimize(loss, np.append(alike, 0.0), jac=True, method="L-BFGS-B", bounds=limits).x[:-1]
    # Without a use for any of them they count alike.
    return np.asarray(found if found.sum() > 0 else alike, np.float32)
