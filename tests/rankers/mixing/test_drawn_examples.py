"""Examples: never an item of the history, and probabilities that agree with what is drawn."""

from __future__ import annotations

import numpy as np
import pytest

from heedful.events.candidates import Candidates
from heedful.events.histories import Histories
from heedful.rankers.mixing.examples import draw_examples
from ranking_worlds import histories_of


def seen_of(histories: Histories) -> Candidates:
    return Candidates(histories.offsets, histories.items)


USERS = np.array([50, 20, 10, 5, 5, 4, 3, 2, 1, 0])


def test_negatives_are_neither_past_nor_positive() -> None:
    histories = histories_of([[0, 1], [2]])
    drawn = draw_examples(
        seen_of(histories), Candidates.of([np.array([3]), np.array([0, 4])]), USERS, np.random.default_rng(0)
    )
    for user, (past, wanted) in enumerate([({0, 1}, {3}), ({2}, {0, 4})]):
        part = slice(drawn.candidates.offsets[user], drawn.candidates.offsets[user + 1])
        rows, labels = drawn.candidates.rows[part], drawn.labels[part]
        assert set(rows[labels == 1]) == wanted
        assert not set(rows[labels == 0]) & (past | wanted)
        assert len(set(rows)) == len(rows)


def test_an_item_without_users_is_never_drawn() -> None:
    histories = histories_of([[0]])
    drawn = draw_examples(seen_of(histories), Candidates.of([np.array([1])]), USERS, np.random.default_rng(0))
    assert 9 not in drawn.candidates.rows


def test_the_probability_of_a_negative_is_how_often_it_is_drawn() -> None:
    many = np.geomspace(4000, 1, 3000).astype(int)
    n = 400
    histories = histories_of([[0]] * n)
    drawn = draw_examples(seen_of(histories), Candidates.of([np.array([1])] * n), many, np.random.default_rng(3))
    negatives = drawn.labels == 0
    often = np.bincount(drawn.candidates.rows[negatives], minlength=len(many)) / n
    expected = np.zeros(len(many))
    expected[drawn.candidates.rows] = drawn.expected
    for part in (slice(2, 30), slice(30, 300), slice(300, 3000)):
        asked = expected[part] > 0
        np.testing.assert_allclose(often[part][asked].mean(), expected[part][asked].mean(), rtol=0.1)


def test_seen_items_are_negatives_where_they_can_be_positives() -> None:
    seen = Candidates.of([np.arange(1000)] * 300)
    positives = Candidates.of([np.array([3, 2000])] * 300)
    many = np.full(3000, 5)
    drawn = draw_examples(seen, positives, many, np.random.default_rng(1), "all")
    negatives = drawn.candidates.rows[drawn.labels == 0]
    often = np.bincount(negatives, minlength=3000) / 300
    expected = np.zeros(3000)
    expected[drawn.candidates.rows] = drawn.expected
    assert often[3] == often[2000] == 0 and (expected[:1000] > 1.8 * expected[2500]).all()
    for part in (slice(4, 1000), slice(1000, 2000)):
        np.testing.assert_allclose(often[part].mean(), expected[part].mean(), rtol=0.02)
    again = draw_examples(seen, positives, many, np.random.default_rng(1), "repeat")
    assert again.candidates.rows[again.labels == 0].max() < 1000
    own = again.candidates.rows < 1000
    assert again.expected[own] == pytest.approx(0.1)
    assert (again.expected[~own] < 1e-9).all()  # 2000 was never seen, so that it is never drawn
