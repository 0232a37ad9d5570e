"""Popularity of the last days against counting by hand."""

from __future__ import annotations

import numpy as np
import pytest

from heedful.errors import ConfigError
from heedful.rankers.recent_popularity import RecentPopularity, recent_users
from ranking_worlds import DAY, START, histories_of, log_of

NOW = START + 100 * DAY
SEQUENCES = [[0, 0, 1], [0, 2], [0, 2], [3]]
TIMES = [
    [NOW - 90 * DAY, NOW - 80 * DAY, NOW - 5 * DAY],
    [NOW - 70 * DAY, NOW - 10 * DAY],
    [NOW - 60 * DAY, NOW - 20 * DAY],
    [NOW - 50 * DAY],
]


def test_users_of_the_last_days_count_once() -> None:
    users = recent_users(histories_of(SEQUENCES, TIMES), 5, NOW, 28, 0)
    assert users.tolist() == [0, 1, 2, 0, 0]
    assert recent_users(histories_of(SEQUENCES, TIMES), 5, NOW, 0, 0).tolist() == [3, 1, 2, 1, 0]


def test_a_touch_counts_half_after_a_half_life() -> None:
    users = recent_users(histories_of(SEQUENCES, TIMES), 4, NOW, 0, 10)
    np.testing.assert_allclose(users, [2.0**-8 + 2.0**-7 + 2.0**-6, 2.0**-0.5, 0.5 + 0.25, 2.0**-5])


def test_a_window_and_a_half_life_together() -> None:
    users = recent_users(histories_of(SEQUENCES, TIMES), 4, NOW, 15, 10)
    np.testing.assert_allclose(users, [0, 2.0**-0.5, 0.5, 0])


def test_all_time_users_decide_between_items_that_nobody_touched_lately() -> None:
    ranker = RecentPopularity(days=28).fit(log_of(SEQUENCES, TIMES))
    scores = ranker.score(["item3"], [f"item{row}" for row in range(4)])
    assert np.argsort(-scores).tolist() == [2, 1, 0, 3]


@pytest.mark.parametrize("options", [{"days": -1.0}, {"half_life": -1.0}])
def test_options_out_of_range(options: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="is out of range"):
        RecentPopularity(**options)
