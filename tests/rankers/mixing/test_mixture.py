"""The linear estimate and the mean of estimates: what they estimate, their exact parts, their folder."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest

from heedful.errors import FolderError, InputError
from heedful.rankers.mixing.linear import Linear
from heedful.rankers.mixing.mixture import RANKER_SCORE, Mixture

NAMES = ("popularity_over_time.users", "user.items", "cooccurrence.ease", RANKER_SCORE)


@cache
def example() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    randoms = np.random.default_rng(0)
    columns = randoms.normal(size=(4000, 4)).astype(np.float32)
    labels = (columns[:, 0] + 2 * columns[:, 2] + randoms.logistic(size=4000) > 1).astype(np.float32)
    return columns, labels, np.full(4000, 0.5)


@cache
def linear() -> Linear:
    return Linear.fit(*example(), NAMES)


@cache
def mixture() -> Mixture:
    return Mixture.fit(*example(), NAMES)


def test_a_logistic_model_is_recovered() -> None:
    columns = example()[0]
    slopes = linear().weights / linear().deviation
    assert slopes[0] == pytest.approx(1, abs=0.15) and slopes[2] == pytest.approx(2, abs=0.2)
    assert np.corrcoef(linear().scores(columns), columns[:, 0] + 2 * columns[:, 2])[0, 1] > 0.99


def test_columns_of_the_user_alone_get_no_weight() -> None:
    columns, _labels, expected = example()
    wanted = (columns[:, 1] > 0).astype(np.float32)
    assert Linear.fit(columns, wanted, expected, NAMES).weights[1] == 0
    assert abs(Linear.fit(columns, wanted, expected, ("a.a", "b.b", "c.c", "d.d")).weights[1]) > 1


def test_it_estimates_how_likely_an_item_is_however_negatives_were_drawn() -> None:
    # Items of kind 1 are wanted three times as often as those of kind 0; negatives are nine times as many of kind 1.
    kind = np.repeat([0.0, 1.0, 0.0, 1.0], [1000, 3000, 2000, 18_000]).astype(np.float32)
    labels = np.repeat([1.0, 0.0], [4000, 20_000])
    fitted = Linear.fit(kind[:, None], labels, np.where(kind == 1, 9.0, 1.0), ["popularity_over_time.kind"])
    scores = fitted.scores(np.array([[0], [1]], np.float32))
    assert scores[1] - scores[0] == pytest.approx(np.log(3), abs=0.05)


def test_a_column_without_variation_and_extreme_values_do_no_harm() -> None:
    columns, labels, expected = example()
    columns = columns.copy()
    columns[:, 0] = 3
    columns[5, 2] = 1e9
    scores = Linear.fit(columns, labels, expected, NAMES).scores(columns)
    assert np.isfinite(scores).all()


def test_the_score_is_the_mean_of_the_estimates() -> None:
    columns = example()[0]
    own = columns[:, 3]
    expected = (mixture().trees.scores(columns) + linear().scores(columns) + own) / 3
    np.testing.assert_allclose(mixture().scores(columns), expected, rtol=1e-5, atol=1e-6)


def test_without_a_column_of_the_ranker_it_is_no_estimate() -> None:
    columns, labels, expected = example()
    names = (*NAMES[:3], "ranker.personal")
    fitted = Mixture.fit(columns, labels, expected, names)
    mean = (fitted.trees.scores(columns) + linear().scores(columns)) / 2
    np.testing.assert_allclose(fitted.scores(columns), mean, rtol=1e-5, atol=1e-6)


def test_contributions_of_columns_add_up_to_the_score() -> None:
    columns = example()[0][:50]
    parts, constant = mixture().contributions(columns)
    assert tuple(parts) == NAMES
    np.testing.assert_allclose(sum(parts.values()) + constant, mixture().scores(columns), atol=1e-5)


def test_a_folder_gives_back_the_same_scores(tmp_path: Path) -> None:
    mixture().save(tmp_path)
    columns = example()[0]
    np.testing.assert_array_equal(Mixture.load(tmp_path).scores(columns), mixture().scores(columns))


@pytest.mark.parametrize("content", [None, b"", b"no numbers", b"[]", b"{}"])
def test_a_damaged_folder(tmp_path: Path, content: bytes | None) -> None:
    mixture().save(tmp_path)
    (tmp_path / "linear.json").unlink()
    if content is not None:
        (tmp_path / "linear.json").write_bytes(content)
    with pytest.raises(FolderError, match=r"linear.json cannot be read.*train the model again"):
        Mixture.load(tmp_path)


def test_rows_that_do_not_fit_together() -> None:
    columns, labels, expected = example()
    with pytest.raises(InputError, match="do not fit together"):
        Linear.fit(columns, labels[1:], expected, NAMES)
    with pytest.raises(InputError, match="nothing to tell apart"):
        Linear.fit(columns, np.zeros(4000), expected, NAMES)
