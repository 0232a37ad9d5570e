"""Boosted trees that estimate log P(item | user) from many columns, with contributions of each column.

Shapes: C rows, F columns.
"""

from __future__ import annotations

import importlib
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, Self

import numba
import numpy as np

from heedful.errors import FolderError
from heedful.rankers.mixing.examples import check_rows

__all__ = ["Trees"]

_FILE = "trees.txt"
_ROUNDS = 100
_NEWTON_STEPS = 30
# Rows that pass one tree after the other, so that both stay in the cache.
_BLOCK_ROWS = 64
_OPTIONS: dict[str, Any] = {
    "objective": "binary",
    "learning_rate": 0.1,
    "num_leaves": 31,
    "min_data_in_leaf": 100,
    "max_bin": 63,
    "lambda_l2": 5.0,
    "feature_fraction": 0.4,
    "bagging_fraction": 0.6,
    "bagging_freq": 1,
    "num_threads": 1,
    "deterministic": True,
    "force_col_wise": True,
    "verbose": -1,
}


class Nodes(NamedTuple):
    """N nodes of all trees. The right child of a node is behind the left one.

    Attributes:
        columns: column that a node compares, int32 [N].
        thresholds: a value up to it goes left; the value of a leaf; float32 [N].
        left: place of the left child, -1 at a leaf, int32 [N].
        roots: places of the trees' roots, int32.
    """

    columns: np.ndarray
    thresholds: np.ndarray
    left: np.ndarray
    roots: np.ndarray

    @classmethod
    def of(cls, trees: Sequence[dict[str, Any]]) -> Self:
        """The nodes of trees as `Booster.dump_model` gives them, whose columns have no missing values."""
        columns: list[int] = []
        thresholds: list[float] = []
        left: list[int] = []
        roots = []
        for tree in trees:
            roots.append(len(left))
            waiting = deque([tree])
            free = len(left) + 1
            while waiting:
                node = waiting.popleft()
                is_leaf = "leaf_value" in node
                columns.append(0 if is_leaf else int(node["split_feature"]))
                thresholds.append(float(node["leaf_value"]) if is_leaf else _rounded_down(node["threshold"]))
                left.append(-1 if is_leaf else free)
                if not is_leaf:
                    waiting += [node["left_child"], node["right_child"]]
                    free += 2
        return cls(
            np.array(columns, np.int32),
            np.array(thresholds, np.float32),
            np.array(left, np.int32),
            np.array(roots, np.int32),
        )

    def check(self, n_columns: int) -> None:
        """Refuse arrays in which the loop below would run astray.

        Raises:
            ValueError: they are not trees over so many columns.
        """
        places, splits = len(self.left), np.flatnonzero(self.left >= 0)
        fits = (
            {array.dtype for array in (self.columns, self.left, self.roots)} == {np.dtype(np.int32)}
            and self.thresholds.dtype == np.float32
            and len(self.columns) == len(self.thresholds) == places
            and bool((self.left[splits] > splits).all() and (self.left + 1 < places).all())
            and bool(((self.columns >= 0) & (self.columns < n_columns)).all())
            and bool(((self.roots >= 0) & (self.roots < places)).all())
        )
        if not fits:
            raise ValueError("the arrays are not trees over these columns")


@dataclass(frozen=True)
class Trees:
    """Fitted trees.

    With negatives that were expected `e` times each, a score estimates log P(item | user), whatever `e` was: the trees
    start from -log e (noise-contrastive estimation, Gutmann and Hyvarinen 2012).

    LightGBM fits them and says what each column contributes; scores come from a loop of our own, so that a server
    neither imports it nor waits for it (docs/kernels.md).

    Attributes:
        text: the trees in LightGBM's own format.
        nodes: the same as arrays.
    """

    text: str
    nodes: Nodes

    @classmethod
    def fit(
        cls,
        columns: np.ndarray,
        labels: np.ndarray,
        expected: np.ndarray,
        names: Sequence[str],
        *,
        seed: int = 1,
    ) -> Self:
        """Learn from rows with known labels.

        Args:
            columns: float32 [C, F].
            labels: 1 for what the user went on to do, 0 for a negative, [C].
            expected: how often each item was expected among the negatives of its user, [C].
            names: of the columns, "group.column".
            seed: of the drawing of rows and columns for each tree.

        Raises:
            InputError: the arrays do not fit together, or there is no positive or no negative.
        """
        check_rows(columns, labels, expected, names)
        lightgbm = _lightgbm()
        start = _start(labels, -np.log(expected))
        data = lightgbm.Dataset(
            columns, labels, init_score=start, feature_name=list(names), params={"verbose": -1, "max_bin": 63}
        )
        options = {**_OPTIONS, "seed": seed}
        return cls.of(lightgbm.train(options, data, _ROUNDS))

    @classmethod
    def of(cls, booster: Any) -> Self:
        """The trees of a LightGBM `Booster`, whose columns are numbers without missing values."""
        trees = [tree["tree_structure"] for tree in booster.dump_model()["tree_info"]]
        return cls(booster.model_to_string(), Nodes.of(trees))

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the columns, F."""
        line = next(line for line in self.text.splitlines() if line.startswith("feature_names="))
        return tuple(line.partition("=")[2].split())

    def scores(self, columns: np.ndarray) -> np.ndarray:
        """Scores of rows, float32 [C]."""
        scores = np.zeros(len(columns))
        _add_leaves(np.ascontiguousarray(columns, np.float32), *self.nodes, scores)
        return scores.astype(np.float32)

    def contributions(self, columns: np.ndarray) -> tuple[np.ndarray, float]:
        """What each column adds to the scores, float64 [C, F], and the mean score that is the same for all.

        Shapley values of the trees (Lundberg et al. 2020); with the mean they add up to the score.
        """
        booster = _lightgbm().Booster(model_str=self.text)
        values = np.asarray(booster.predict(columns, pred_contrib=True, num_threads=1)).reshape(len(columns), -1)
        return values[:, :-1], float(values[0, -1]) if len(values) else 0.0

    def save(self, folder: Path) -> None:
        """Write the trees into an existing folder: as text, and as arrays."""
        (folder / _FILE).write_text(self.text)
        for name, array in self.nodes._asdict().items():
            np.save(folder / f"{name}.npy", array)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote.

        Raises:
            FolderError: a file is missing or damaged.
        """
        path = folder / _FILE
        try:
            trees = cls(path.read_text(), Nodes(*(np.load(folder / f"{name}.npy") for name in Nodes._fields)))
            trees.nodes.check(len(trees.names))
        except (OSError, EOFError, ValueError, StopIteration) as error:
            raise FolderError(f"{path} cannot be read", got=error, fix="train the model again") from error
        return trees


def _rounded_down(threshold: float) -> float:
    """The highest float32 that is not above a threshold: float32 values compare with both alike."""
    rounded = np.float32(threshold)
    return float(np.nextafter(rounded, np.float32(-np.inf)) if float(rounded) > threshold else rounded)


@numba.njit(nogil=True, cache=True)
def _add_leaves(values: Any, columns: Any, thresholds: Any, left: Any, roots: Any, scores: Any) -> None:
    for start in range(0, len(values), _BLOCK_ROWS):
        stop = min(start + _BLOCK_ROWS, len(values))
        for root in roots:
            for row in range(start, stop):
                place = root
                child = left[place]
                while child >= 0:
                    place = child + np.int32(values[row, columns[place]] > thresholds[place])
                    child = left[place]
                scores[row] += thresholds[place]


def _start(labels: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """The offset plus the constant with which as many positives are expected as there are, float64 [C]."""
    constant = 0.0
    for _ in range(_NEWTON_STEPS):
        p = 1 / (1 + np.exp(-(offset + constant)))
        constant += float(np.clip((labels.sum() - p.sum()) / max((p * (1 - p)).sum(), 1e-9), -1, 1))
    return np.asarray(offset + constant)


def _lightgbm() -> ModuleType:
    """The library, imported when it is needed: it takes a third of a second."""
    return importlib.import_module("lightgbm")
