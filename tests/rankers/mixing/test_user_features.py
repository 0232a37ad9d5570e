"""Features of a user's history against counting by hand."""

from __future__ import annotations

import numpy as np

from heedful.rankers.mixing.item_features import item_features
from heedful.rankers.mixing.user_features import USER_FEATURES, user_features
from ranking_worlds import DAY, START, histories_of

NOW, WINDOW = START + 100 * DAY, 5 * DAY


def test_counts_and_ages_of_a_history() -> None:
    histories = histories_of([[0, 1, 0], [1], []], [[NOW - 60 * DAY, NOW - 50 * DAY, NOW - 3 * DAY], [NOW - 70 * DAY], []])
    items = item_features(histories, 2, NOW, WINDOW)
    values = dict(zip(USER_FEATURES, user_features(histories, items, NOW, WINDOW).T, strict=True))
    np.testing.assert_allclose(np.expm1(values["items"]), [2, 1, 0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(np.expm1(values["recent_items"]), [1, 0, 0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(np.expm1(values["since_last"]), [3, 70, 0], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(np.expm1(values["since_first"]), [60, 70, 0], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(values["mean_users"], [np.log([1.5, 2.5]).mean(), np.log(2.5), 0], rtol=1e-5)
    # Item 0 was 57 days old when it was touched last, item 1 was 20 days old.
    np.testing.assert_allclose(values["mean_age"], [np.log1p([57, 20]).mean(), 0, 0], rtol=1e-5, atol=1e-6)


def test_distinct_items_are_where_they_were_touched_last() -> None:
    past = histories_of([[2, 1, 2], [1, 1], []]).distinct(3)
    assert past.items.tolist() == [1, 2, 1] and past.lengths.tolist() == [2, 1, 0]
    assert (np.diff(past.times[:2]) > 0).all()
