"""Boosted trees: what they estimate, their exact parts, their folder."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import lightgbm
import numpy as np
import pytest

from heedful.errors import FolderError, InputError
from heedful.rankers.mixing.trees import Trees

NAMES = ("popularity_over_time.users", "user.items", "cooccurrence.ease", "popularity_over_time.age")


@cache
def example() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    randoms = np.random.default_rng(0)
    columns = randoms.normal(size=(4000, 4)).astype(np.float32)
    labels = (columns[:, 0] + 2 * columns[:, 2] + randoms.logistic(size=4000) > 1).astype(np.float32)
    return columns, labels, np.full(4000, 0.5)


@cache
def fitted() -> Trees:
    return Trees.fit(*example(), NAMES)


def test_it_learns_what_is_there() -> None:
    columns = example()[0]
    scores = fitted().scores(columns)
    assert scores.dtype == np.float32
    assert np.corrcoef(scores, columns[:, 0] + 2 * columns[:, 2])[0, 1] > 0.95
    assert len(fitted().scores(columns[:0])) == 0


def test_it_estimates_how_likely_an_item_is_however_negatives_were_drawn() -> None:
    # Items of kind 1 are wanted three times as often as those of kind 0; negatives are nine times as many of kind 1.
    kind = np.repeat([0.0, 1.0, 0.0, 1.0], [1000, 3000, 2000, 18_000]).astype(np.float32)
    labels = np.repeat([1.0, 0.0], [4000, 20_000])
    expected = np.where(kind == 1, 9.0, 1.0)
    scores = Trees.fit(kind[:, None], labels, expected, ["popularity_over_time.kind"]).scores(
        np.array([[0], [1]], np.float32)
    )
    assert scores[1] - scores[0] == pytest.approx(np.log(3), abs=0.05)


def test_contributions_of_columns_add_up_to_the_score() -> None:
    columns = example()[0][:50]
    values, mean = fitted().contributions(columns)
    assert values.shape == columns.shape
    np.testing.assert_allclose(values.sum(1) + mean, fitted().scores(columns), atol=1e-5)
    assert np.abs(values[:, 1]).mean() < 0.3 * np.abs(values[:, 2]).mean()


def test_scores_are_those_of_lightgbm() -> None:
    columns = example()[0]
    expected = lightgbm.Booster(model_str=fitted().text).predict(columns, raw_score=True)
    np.testing.assert_allclose(fitted().scores(columns), expected, rtol=1e-6, atol=1e-6)


def test_arrays_that_are_not_trees_are_refused(tmp_path: Path) -> None:
    fitted().save(tmp_path)
    nodes = fitted().nodes
    wrong = [
        ("left", nodes.left - (np.arange(len(nodes.left)) == 0)),  # a child that is its own parent
        ("left", np.where(nodes.left >= 0, len(nodes.left), nodes.left)),  # a child that is not there
        ("columns", nodes.columns + 4),  # an unknown column
        ("roots", nodes.roots + len(nodes.left)),
        ("left", nodes.left.astype(np.float64)),
        ("thresholds", nodes.thresholds[1:]),
    ]
    for name, array in wrong:
        np.save(tmp_path / f"{name}.npy", array.astype(getattr(array, "dtype", None)))
        with pytest.raises(FolderError, match=r"trees.txt cannot be read; got: the arrays are not trees"):
            Trees.load(tmp_path)
        np.save(tmp_path / f"{name}.npy", getattr(nodes, name))
    assert Trees.load(tmp_path).names == NAMES


def test_the_same_seed_gives_the_same_trees() -> None:
    again = Trees.fit(*example(), NAMES)
    np.testing.assert_array_equal(again.scores(example()[0]), fitted().scores(example()[0]))


def test_a_folder_gives_back_the_same_scores(tmp_path: Path) -> None:
    fitted().save(tmp_path)
    loaded = Trees.load(tmp_path)
    assert loaded.names == NAMES
    np.testing.assert_array_equal(loaded.scores(example()[0]), fitted().scores(example()[0]))


@pytest.mark.parametrize("text", [None, "", "no trees"])
def test_a_damaged_folder(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "trees.txt").write_text(text)
    with pytest.raises(FolderError, match=r"trees.txt cannot be read.*train the model again"):
        Trees.load(tmp_path)


def test_rows_that_do_not_fit_together() -> None:
    columns, labels, expected = example()
    with pytest.raises(InputError, match="do not fit together"):
        Trees.fit(columns, labels[1:], expected, NAMES)
    with pytest.raises(InputError, match="nothing to tell apart"):
        Trees.fit(columns, np.zeros(4000), expected, NAMES)
    with pytest.raises(InputError, match="an expected count is out of range"):
        Trees.fit(columns, labels, np.zeros(4000), NAMES)
