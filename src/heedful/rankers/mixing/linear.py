"""A linear estimate of log P(item | user) from many columns.

Shapes: C rows, F columns.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from heedful.errors import FolderError
from heedful.rankers.mixing.examples import check_rows

__all__ = ["Linear"]

_FILE = "linear.json"
_ITERATIONS = 60
_PENALTY = 1e-4
# Standardised columns are cut off here: a few extreme values would set the weight otherwise.
_MOST = 5.0
_LEAST_DEVIATION = 1e-5


@dataclass(frozen=True)
class Linear:
    """A fitted weighted sum of standardised columns.

    Attributes:
        mean: of each column, float32 [F].
        deviation: of each column, float32 [F].
        weights: 0 for a column that is the same in all rows, float32 [F].
        intercept: added to every score.
    """

    mean: np.ndarray
    deviation: np.ndarray
    weights: np.ndarray
    intercept: float

    @classmethod
    def fit(cls, columns: np.ndarray, labels: np.ndarray, expected: np.ndarray, names: Sequence[str]) -> Self:
        """Logistic regression against negatives that were expected `expected` times each.

        Scores estimate log P(item | user), whatever `expected` was (noise-contrastive estimation, Gutmann and
        Hyvarinen 2012). Columns of the user alone, named "user.", get no weight: they do not change a ranking.

        Args:
            columns: float32 [C, F].
            labels: 1 for what the user went on to do, 0 for a negative, [C].
            expected: how often each item was expected among the negatives of its user, [C].
            names: of the columns, "group.column".

        Raises:
            InputError: the arrays do not fit together, or there is no positive or no negative.
        """
        check_rows(columns, labels, expected, names)
        mean, deviation = columns.mean(0, dtype=np.float64), columns.std(0, dtype=np.float64)
        used = (deviation > _LEAST_DEVIATION) & np.array([not name.startswith("user.") for name in names])
        deviation = np.where(used, deviation, 1.0)
        z_CF = _standardised(columns[:, used], mean[used], deviation[used])
        labels, offset = labels.astype(np.float32), -np.log(expected).astype(np.float32)

        def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
            w = parameters.astype(np.float32)
            scores = z_CF @ w[:-1] + w[-1] + offset
            error = (1 + np.tanh(scores / 2)) / 2 - labels  # the logistic function, which exp would overflow
            value = (np.logaddexp(0, scores) - labels * scores).mean(dtype=np.float64) + _PENALTY * (w[:-1] ** 2).sum()
            slope = error @ z_CF / len(labels) + 2 * _PENALTY * w[:-1]
            return float(value), np.append(slope, error.mean()).astype(np.float64)

        from scipy.optimize import minimize  # here: importing it takes longer than loading a model

        start = np.zeros(z_CF.shape[1] + 1)
        found = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": _ITERATIONS}).x
        weights = np.zeros(len(names), np.float32)
        weights[used] = found[:-1]
        return cls(mean.astype(np.float32), deviation.astype(np.float32), weights, float(found[-1]))

    def scores(self, columns: np.ndarray) -> np.ndarray:
        """Scores of rows, float32 [C]."""
        used = self.weights != 0
        z_CF = _standardised(columns[:, used], self.mean[used], self.deviation[used])
        # Not a matrix product: its last digits would depend on the number of rows.
        return np.asarray((z_CF * self.weights[used]).sum(axis=1) + self.intercept, np.float32)

    def contributions(self, columns: np.ndarray) -> tuple[np.ndarray, float]:
        """What each column adds to the scores, float64 [C, F], and what is the same for all."""
        z_CF = _standardised(columns, self.mean, self.deviation)
        return (z_CF * self.weights).astype(np.float64), self.intercept

    def save(self, folder: Path) -> None:
        """Write the numbers into an existing folder."""
        numbers = {name: getattr(self, name).tolist() for name in ("mean", "deviation", "weights")}
        (folder / _FILE).write_text(json.dumps({**numbers, "intercept": self.intercept}) + "\n")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote.

        Raises:
            FolderError: the file is missing or damaged.
        """
        path = folder / _FILE
        try:
            numbers = json.loads(path.read_text())
            mean, deviation, weights = (np.array(numbers[name], np.float32) for name in ("mean", "deviation", "weights"))
            return cls(mean, deviation, weights, float(numbers["intercept"]))
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise FolderError(f"{path} cannot be read", got=error, fix="train the model again") from error


def _standardised(columns: np.ndarray, mean: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    return np.asarray(((columns - mean) / deviation).clip(-_MOST, _MOST), np.float32)
