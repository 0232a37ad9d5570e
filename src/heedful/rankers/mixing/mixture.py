"""The mean of several estimates of log P(item | user): one score for candidates of any origin.

Shapes: C rows, F columns, G groups of columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

import numpy as np

from heedful.rankers.mixing.linear import Linear
from heedful.rankers.mixing.trees import Trees

__all__ = ["RANKER_SCORE", "REPEAT", "Mixture"]

RANKER_SCORE = "ranker.score"
"""The column that holds a ranker's own estimate of log P(item | user)."""
REPEAT = "repeat."
"""What the names of columns of repeats begin with."""


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
    """A mean of estimates that make different errors: better, on all logs that were tried, than each of them alone.

    Attributes:
        names: of the columns, "group.column", F.
        trees: boosted trees.
        linear: a weighted sum; None: left out.

    Where there is a column `RANKER_SCORE`, it is an estimate, too, unless there are columns of repeats.
    """

    names: tuple[str, ...]
    trees: Trees
    linear: Linear | None

    @classmethod
    def fit(
        cls,
        columns: np.ndarray,
        labels: np.ndarray,
        expected: np.ndarray,
        names: Sequence[str],
        *,
        linear: bool = True,
        seed: int = 1,
    ) -> Self:
        """Learn from rows with known labels, as `Linear.fit` and `Trees.fit` do.

        Raises:
            InputError: the arrays do not fit together, or there is no positive or no negative.
        """
        trees = Trees.fit(columns, labels, expected, names, seed=seed)
        return cls(tuple(names), trees, Linear.fit(columns, labels, expected, names) if linear else None)

    def scores(self, columns: np.ndarray) -> np.ndarray:
        """Scores of rows, float32 [C]."""
        estimates = self._estimates()
        total = sum((estimate.scores(columns) for estimate in estimates), np.zeros(len(columns), np.float32))
        return np.asarray(total / len(estimates), np.float32)

    def contributions(self, columns: np.ndarray) -> tuple[dict[str, np.ndarray], float]:
        """What each column adds to the scores, float64 [C] each, and what is the same for all; they add up."""
        estimates = self._estimates()
        values, constant = np.zeros(columns.shape), 0.0
        for estimate in estimates:
            more, same = estimate.contributions(columns)
            values, constant = values + more / len(estimates), constant + same / len(estimates)
        return dict(zip(self.names, values.T, strict=True)), constant

    def _estimates(self) -> list[Estimate]:
        estimates: list[Estimate] = [self.trees]
        if self.linear is not None:
            estimates.append(self.linear)
        # The ranker knows no rhythm of repeats: what it says is a column like others there.
        if RANKER_SCORE in self.names and not any(name.startswith(REPEAT) for name in self.names):
            estimates.append(Own(self.names.index(RANKER_SCORE)))
        return estimates

    def save(self, folder: Path) -> None:
        """Write what was learnt into an existing folder."""
        self.trees.save(folder)
        if self.linear is not None:
            self.linear.save(folder)

    @classmethod
    def load(cls, folder: Path, *, linear: bool = True) -> Self:
        """Read what `save` wrote.

        Raises:
            FolderError: a file is missing or damaged.
        """
        trees = Trees.load(folder)
        return cls(trees.names, trees, Linear.load(folder) if linear else None)
