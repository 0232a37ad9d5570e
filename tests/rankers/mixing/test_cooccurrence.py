"""Partners against dense formulas."""

from __future__ import annotations

import numpy as np

from heedful.events.candidates import Candidates
from heedful.events.histories import Histories
from heedful.rankers.mixing.cooccurrence import Partners, bm25_partners, cosine_partners, ease_partners
from ranking_worlds import histories_of, random_log

N_ITEMS = 40


def past() -> Histories:
    return random_log(users=70, items=N_ITEMS).histories.distinct(N_ITEMS)


def matrix(histories: Histories, weights: np.ndarray) -> np.ndarray:
    dense = np.zeros((len(histories), N_ITEMS))
    dense[np.repeat(np.arange(len(histories)), histories.lengths), histories.items] = weights
    return dense


def dense(partners: Partners) -> np.ndarray:
    weights = np.zeros((N_ITEMS, N_ITEMS))
    for item, others in enumerate(partners.items):
        weights[item, others[others >= 0]] = partners.weights[item][others >= 0]
    return weights


def test_cosines_are_their_formula() -> None:
    histories = past()
    weights = np.random.default_rng(0).uniform(0.1, 1, len(histories.items)).astype(np.float32)
    x = matrix(histories, weights)
    expected = x.T @ x / np.outer(np.linalg.norm(x, axis=0), np.linalg.norm(x, axis=0))
    np.fill_diagonal(expected, 0)
    np.testing.assert_allclose(dense(cosine_partners(histories, weights, N_ITEMS, N_ITEMS)), expected, atol=1e-5)


def test_bm25_is_its_formula() -> None:
    histories = past()
    x = matrix(histories, np.ones(len(histories.items)))
    length = 0.25 + 0.75 * x.sum(0) / x.sum(0).mean()
    weighted = x * 2.2 / (1.2 * length + 1) * (np.log(N_ITEMS + 1) - np.log1p(x.sum(1)))[:, None]
    expected = weighted.T @ weighted
    np.fill_diagonal(expected, 0)
    np.testing.assert_allclose(dense(bm25_partners(histories, N_ITEMS, N_ITEMS)), expected, rtol=1e-4)


def test_only_the_strongest_partners_are_kept() -> None:
    histories = past()
    weights = np.ones(len(histories.items), np.float32)
    everything = cosine_partners(histories, weights, N_ITEMS, N_ITEMS).weights
    np.testing.assert_allclose(cosine_partners(histories, weights, N_ITEMS, 5).weights, everything[:, :5])


def test_weights_of_zero_are_no_partners_strength() -> None:
    histories = histories_of([[0, 1, 2], [0, 1], [2, 1]])
    partners = cosine_partners(histories, np.zeros(7, np.float32), 3, 2)
    assert (partners.weights == 0).all()


def test_ease_is_its_formula_between_the_top_items() -> None:
    histories = past()
    x = matrix(histories, np.ones(len(histories.items)))
    top = np.sort(np.argsort(-x.sum(0), kind="stable")[:25])
    inverse = np.linalg.inv(x[:, top].T @ x[:, top] + 5 * np.eye(25))
    weights = -inverse / np.diag(inverse)
    np.fill_diagonal(weights, 0)
    expected = np.zeros((N_ITEMS, N_ITEMS))
    expected[np.ix_(top, top)] = weights
    got = ease_partners(histories, N_ITEMS, top=25, penalty=5.0, keep=N_ITEMS)
    np.testing.assert_allclose(dense(got), expected, atol=1e-5)


def test_ease_keeps_the_weights_of_largest_size() -> None:
    histories = past()
    everything = dense(ease_partners(histories, N_ITEMS, top=N_ITEMS, penalty=5.0, keep=N_ITEMS))
    few = dense(ease_partners(histories, N_ITEMS, top=N_ITEMS, penalty=5.0, keep=6))
    for item in range(N_ITEMS):
        largest = np.sort(np.abs(everything[item]))[-6:]
        np.testing.assert_allclose(np.sort(np.abs(few[item][few[item] != 0])), largest, rtol=1e-4)


def test_scores_are_sums_over_the_past() -> None:
    histories = past()
    partners = cosine_partners(histories, np.ones(len(histories.items), np.float32), N_ITEMS, 8)
    randoms = np.random.default_rng(1)
    weights = randoms.uniform(0, 1, len(histories.items)).astype(np.float32)
    candidates = Candidates.of([randoms.integers(0, N_ITEMS, n % 7) for n in range(len(histories))])
    expected = (matrix(histories, weights) @ dense(partners))[candidates.owners, candidates.rows]
    both = np.stack([weights, 2 * weights], axis=1)
    np.testing.assert_allclose(
        partners.scores(histories, both, candidates), np.stack([expected, 2 * expected], 1), atol=1e-5
    )


def test_of_equal_cosines_the_first_are_kept() -> None:
    partners = cosine_partners(histories_of([[0, 1, 2, 3, 4]]), np.ones(5, np.float32), 5, 2)
    assert partners.items.tolist() == [[1, 2], [0, 2], [0, 1], [0, 1], [0, 1]]


def test_the_best_partners_of_the_past() -> None:
    histories = past()
    partners = ease_partners(histories, N_ITEMS, top=N_ITEMS, penalty=5.0, keep=8)
    randoms = np.random.default_rng(2)
    weights = randoms.uniform(0, 1, len(histories.items)).astype(np.float32)
    factors = [np.ones(N_ITEMS, np.float32), randoms.uniform(0, 2, N_ITEMS).astype(np.float32)]
    sums = matrix(histories, weights) @ dense(partners)
    for user, rows in enumerate(partners.best(histories, weights, factors, 5)):
        expected = []
        for factor in factors:
            best = np.argsort(-sums[user] * factor)[:5]
            expected += best[sums[user][best] > 1e-6].tolist()
        assert sorted(rows.tolist()) == sorted(expected)
