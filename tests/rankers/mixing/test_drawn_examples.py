"""Examples: never an item of the history, and probabilities that agree with what is drawn."""

from __future__ import annotations

import numpy as np

from heedful.events.candidates import Candidates
from heedful.rankers.mixing.examples import draw_examples
from ranking_worlds import histories_of

USERS = np.array([50, 20, 10, 5, 5, 4, 3, 2, 1, 0])


def test_negatives_are_neither_past_nor_positive() -> None:
    histories = histories_of([[0, 1], [2]])
    drawn = draw_examples(histories, Candidates.of([np.array([3]), np.array([0, 4])]), USERS, np.random.default_rng(0))
    for user, (past, wanted) in enumerate([({0, 1}, {3}), ({2}, {0, 4})]):
        part = slice(drawn.candidates.offsets[user], drawn.candidates.offsets[user + 1])
        rows, labels = drawn.candidates.rows[part], drawn.labels[part]
        assert set(rows[labels == 1]) == wanted
        assert not set(rows[labels == 0]) & (past | wanted)
        assert len(set(rows)) == len(rows)


def test_an_item_without_users_is_never_drawn() -> None:
    histories = histories_of([[0]])
    drawn = draw_examples(histories, Candidates.of([np.array([1])]), USERS, np.random.default_rng(0))
    assert 9 not in drawn.candidates.rows


def test_the_probability_of_a_negative_is_how_often_it_is_drawn() -> None:
    many = np.geomspace(4000, 1, 3000).astype(int)
    n = 400
    histories = histories_of([[0]] * n)
    drawn = draw_examples(histories, Candidates.of([np.array([1])] * n), many, np.random.default_rng(3))
    negatives = drawn.labels == 0
    often = np.bincount(drawn.candidates.rows[negatives], minlength=len(many)) / n
    expected = np.zeros(len(many))
    expected[drawn.candidates.rows] = drawn.expected
    for part in (slice(2, 30), slice(30, 300), slice(300, 3000)):
        asked = expected[part] > 0
        np.testing.assert_allclose(often[part][asked].mean(), expected[part][asked].mean(), rtol=0.1)
