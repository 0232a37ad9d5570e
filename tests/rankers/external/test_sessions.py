"""Windows, sessions and held-out ends of histories."""

from __future__ import annotations

import numpy as np

from heedful.rankers.external.base import bag
from heedful.rankers.external.sessions import sessions, shuffled_ties, split_validation, windows
from ranking_worlds import histories_of, random_log


def test_each_item_once_where_it_was_last_touched() -> None:
    got = histories_of([[3, 1, 3, 2, 1], [], [0, 0], [1, 2]]).distinct(4)
    assert got.items.tolist() == [3, 2, 1, 0, 1, 2]
    assert got.offsets.tolist() == [0, 3, 3, 4, 6]


def test_the_bag_counts_an_item_once() -> None:
    got = bag(histories_of([[3, 1, 3], [], [0, 0]]), 4).toarray()
    assert got.tolist() == [[0, 1, 0, 1], [0, 0, 0, 0], [1, 0, 0, 0]]


def test_windows_make_every_action_a_target_once() -> None:
    histories = histories_of([[0, 1, 2, 3, 4], [7, 8], [5], [], [9, 8, 7]])
    got = windows(histories, 2).tokens
    assert got.tolist() == [[3, 4, 5], [1, 2, 3], [0, 8, 9], [10, 9, 8]]
    past, following = got[:, :-1], got[:, 1:]
    targets = following[past != 0] - 1
    assert sorted(targets.tolist()) == sorted([1, 2, 3, 4, 8, 8, 7])


def test_sessions_are_the_last_actions_at_the_right() -> None:
    histories = histories_of([[0, 1, 2, 3], [7], []], [[10, 20, 30, 40], [5], []])
    found = sessions(histories, 3)
    assert found.tokens.tolist() == [[2, 3, 4], [0, 0, 8], [0, 0, 0]]
    assert found.times.tolist() == [[20, 30, 40], [5, 5, 5], [0, 0, 0]]
    assert found.shortened(2).tokens.tolist() == [[3, 4], [0, 8], [0, 0]]
    assert found.shortened(2).times.tolist() == [[30, 40], [5, 5], [0, 0]]
    assert sessions(histories, 10).tokens.shape == (3, 10)
    assert sessions(histories_of([]), 3).tokens.shape == (0, 3)
    assert sessions(histories_of([[], []]), 2).tokens.tolist() == [[0, 0], [0, 0]]


def test_windows_have_the_time_of_each_action() -> None:
    found = windows(histories_of([[0, 1, 2, 3], [4, 5]], [[1, 2, 3, 4], [8, 9]]), 2)
    assert found.tokens.tolist() == [[2, 3, 4], [0, 1, 2], [0, 5, 6]]
    assert found.times.tolist() == [[2, 3, 4], [1, 1, 2], [8, 8, 9]]


def test_only_ties_are_shuffled() -> None:
    log = histories_of([[0, 1, 2, 3, 4, 5], [6, 7]], [[1, 1, 1, 2, 3, 3], [5, 5]])
    orders = {tuple(shuffled_ties(log, np.random.default_rng(seed)).items.tolist()) for seed in range(40)}
    assert len(orders) > 10
    for order in orders:
        assert set(order[:3]) == {0, 1, 2} and order[3] == 3 and set(order[4:6]) == {4, 5} and set(order[6:]) == {6, 7}


def test_held_out_ends_are_not_trained_on() -> None:
    histories = random_log(users=30, items=40).histories.distinct(40)
    held = split_validation(histories, users=8, targets=3, randoms=np.random.default_rng(1))
    assert len(held.past) == len(held.targets) == 8
    assert len(held.training) == 30 and len(held.training.items) == len(histories.items) - len(held.targets.items)
    whole = [part.items.tolist() for _, part in histories.chunks(1)]
    for (_, past), (_, targets) in zip(held.past.chunks(1), held.targets.chunks(1), strict=True):
        assert [*past.items.tolist(), *targets.items.tolist()] in whole
        assert len(targets.items) == min(3, (len(past.items) + len(targets.items)) // 2)


def test_at_most_half_of_the_users_are_held_out() -> None:
    histories = histories_of([[0, 1], [1], [2, 3], [], [4, 5]])
    held = split_validation(histories, users=99, targets=5, randoms=np.random.default_rng(0))
    assert len(held.past) == 2 and held.past.lengths.tolist() == [1, 1] and held.targets.lengths.tolist() == [1, 1]
