"""Windows of a log: their length, their place, and what is new in them."""

from __future__ import annotations

import numpy as np
import pytest

from heedful.errors import TrainingError
from heedful.events.targets import Targets
from heedful.rankers.mixing.windows import Window, last_windows, window_length, windowed
from ranking_worlds import DAY, START, histories_of


def test_a_window_is_a_part_of_the_time_of_the_last_half_of_the_events() -> None:
    times = START + DAY * np.arange(1001)
    assert window_length(times) == (500 * DAY + 1) // 25
    with_old_events = np.concatenate([times, START - 9000 * DAY + np.arange(10)])
    assert window_length(with_old_events) == pytest.approx(window_length(times), rel=0.02)


def test_a_window_is_a_day_at_least() -> None:
    assert window_length(START + np.arange(1000)) == DAY


def test_no_events_no_window() -> None:
    with pytest.raises(TrainingError, match="nothing to learn from; got: a log without events"):
        window_length(np.empty(0, np.int64))
    assert last_windows(np.empty(0, np.int64), DAY, 3) == []


def test_windows_end_where_the_log_ends_and_do_not_overlap() -> None:
    times = START + DAY * np.arange(101)
    end = START + 100 * DAY + 1
    assert last_windows(times, 10 * DAY, 2) == [Window(end - 10 * DAY, end), Window(end - 20 * DAY, end - 10 * DAY)]


def test_windows_leave_half_of_the_period_as_history() -> None:
    times = START + DAY * np.arange(101)
    assert len(last_windows(times, 10 * DAY, 50)) == 5
    assert last_windows(times, 60 * DAY, 3) == []


def test_positives_are_known_items_that_are_new_to_the_user() -> None:
    window = Window(START + 10, START + 20)
    histories = histories_of(
        [[0, 1, 1, 2, 2], [1, 3, 0], [0, 1], [2, 0, 1]],
        [
            [START, START + 5, START + 12, START + 13, START + 14],  # 1 is not new, 2 is, once
            [START + 1, START + 15, START + 25],  # 3 was not known before, 0 comes after the window
            [START + 12, START + 13],  # no history
            [START + 9, START + 10, START + 20],  # the start belongs to the window, its end does not
        ],
    )
    split = windowed(histories, 4, window)
    assert split.users.tolist() == [0, 3]
    assert [split.positives.part(slice(b, b + 1)).rows.tolist() for b in range(2)] == [[2], [0]]
    assert [part.items.tolist() for _, part in split.histories.chunks(1)] == [[0, 1], [2]]
    assert (split.histories.times < window.start).all()


def test_nobody_with_something_new() -> None:
    split = windowed(histories_of([[0, 1]]), 2, Window(START + 50 * DAY, START + 60 * DAY))
    assert len(split.users) == len(split.histories) == len(split.positives) == 0


def test_repeats_and_all_that_counts_as_seen() -> None:
    window = Window(START + 10, START + 20)
    histories = histories_of([[0, 1, 2, 1, 0, 2]], [START + np.array([0, 1, 2, 12, 13, 14])], [[0, 1, 1, 1, 1, 0]])

    def positives(targets: Targets) -> list[int]:
        return windowed(histories, 3, window, targets).positives.rows.tolist()

    assert positives(Targets()) == []
    assert positives(Targets("repeat")) == positives(Targets("all")) == [0, 1, 2]
    assert positives(Targets("repeat", wanted=(1,), seen=(1,))) == [1]
    assert positives(Targets("new", wanted=(1,), seen=(1,))) == [0]
    assert positives(Targets("all", wanted=(1,), seen=(1,))) == [0, 1]
    assert windowed(histories, 3, window, Targets(seen=(1,), wanted=(1,))).seen.rows.tolist() == [1, 2]
