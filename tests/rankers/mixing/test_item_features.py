"""Counts of items against counting by hand, and nothing of the future in them."""

from __future__ import annotations

import numpy as np
import pytest

from heedful.events.histories import Histories
from heedful.rankers.mixing.item_features import ItemFeatures, item_features
from ranking_worlds import DAY, START, histories_of, random_log

NOW, WINDOW = START + 100 * DAY, 8 * DAY


def column(features: ItemFeatures, name: str) -> np.ndarray:
    return features.values[:, features.names.index(name)]


def log() -> Histories:
    return histories_of(
        [[0, 0, 1], [0, 2], [0, 1]],
        [[NOW - 50 * DAY, NOW - 3 * DAY, NOW - 2 * DAY], [NOW - 40 * DAY, NOW], [NOW - 4 * DAY, NOW - 1 * DAY]],
    )


def test_users_are_counted_once() -> None:
    features = item_features(log(), 4, NOW, WINDOW)
    assert features.users.tolist() == [3, 2, 0, 0]
    assert features.recent_users.tolist() == [2, 2, 0, 0]
    np.testing.assert_allclose(column(features, "users"), np.log(np.array([3, 2, 0, 0]) + 0.5), rtol=1e-6)
    np.testing.assert_allclose(column(features, "users_0.25"), np.log(np.array([0, 2, 0, 0]) + 0.5), rtol=1e-6)
    np.testing.assert_allclose(column(features, "share_0.5"), np.log([2.5 / 3.5, 2.5 / 2.5, 1, 1]), rtol=1e-5, atol=1e-6)


def test_ages_in_days() -> None:
    features = item_features(log(), 4, NOW, WINDOW)
    assert column(features, "age")[:2] == pytest.approx(np.log1p([50, 2]))
    assert column(features, "since_last")[:2] == pytest.approx(np.log1p([3, 1]))
    assert column(features, "age")[2] == 0


def test_growth_is_new_users_against_the_share_of_all_new_users() -> None:
    features = item_features(log(), 4, NOW, WINDOW)
    # In the last window one of three first users of item 0 and both of item 1 came: 3 of 5 in all.
    expected = np.log([2 / (3 * 3 / 5 + 1), 3 / (2 * 3 / 5 + 1), 1, 1])
    np.testing.assert_allclose(column(features, "growth_1"), expected, rtol=1e-5, atol=1e-6)


def test_the_future_changes_nothing() -> None:
    histories = random_log(users=60, items=20).histories
    now = int(np.median(histories.times))
    earlier = histories.where(histories.times < now)
    np.testing.assert_array_equal(
        item_features(histories, 20, now, WINDOW).values, item_features(earlier, 20, now, WINDOW).values
    )


def test_the_season_is_known_after_a_year() -> None:
    year = 365 * DAY
    histories = histories_of([[0], [1], [1]], [[NOW - year + DAY], [NOW - year - DAY], [NOW - 2 * year]])
    features = item_features(histories, 2, NOW, WINDOW)
    np.testing.assert_allclose(column(features, "season"), np.log([1.5, 0.5]), rtol=1e-6)
    assert "season" not in item_features(log(), 4, NOW, WINDOW).names


def test_no_events_at_all() -> None:
    features = item_features(histories_of([[]]), 3, NOW, WINDOW)
    assert features.values.shape == (3, len(features.names)) and np.isfinite(features.values).all()
