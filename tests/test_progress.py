"""Progress: share done, rate, remaining time; silent unless asked for."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from heedful import progress as module
from heedful.progress import Meter, progress, say, show_progress


class Clock:
    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


@pytest.fixture
def shown() -> Iterator[None]:
    show_progress()
    yield
    show_progress(False)


def test_share_rate_and_remaining_time(clock: Clock) -> None:
    meter = Meter("training", 2000, "steps")
    clock.now += 10
    meter.advance(500, note="loss 0.5")
    assert meter.line() == "training: 25 % of 2k steps, 50 steps/s, 0:30 left (loss 0.5)"
    meter.advance(1500)
    assert meter.line() == "training: 100 % of 2k steps, 200 steps/s, 0:10 so far (loss 0.5)"


def test_what_an_earlier_run_did_does_not_count_in_the_rate(clock: Clock) -> None:
    meter = Meter("training", 2000, "steps")
    meter.resume_at(1000)
    clock.now += 10
    meter.advance(100)
    assert meter.line() == "training: 55 % of 2k steps, 10 steps/s, 1:30 left"


def test_without_a_total(clock: Clock) -> None:
    meter = Meter("reading", None, "rows")
    clock.now += 4000
    meter.advance(12_345_678)
    assert meter.line() == "reading: 12.3M rows, 3.09k rows/s, 1:06:40 so far"


def test_nothing_done_yet(clock: Clock) -> None:
    assert Meter("x", 10, "y").line() == "x: 0 % of 10 y, 0 y/s, 0:00 so far"


def test_it_is_silent_unless_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("work", 3, "things") as meter:
        meter.advance(3)
    say("news")
    assert capsys.readouterr() == ("", "")


@pytest.mark.usefixtures("shown")
def test_plain_lines_now_and_then_where_there_is_no_terminal(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with progress("work", 100, "things") as meter:
        for _ in range(10):
            clock.now += 1
            meter.advance(10)
    say("news")
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(" things")[0] for line in lines] == [
        "work: 50 % of 100",
        "work: 100 % of 100",
        "work: 100 % of 100",
        "news",
    ]


@pytest.mark.usefixtures("shown")
def test_the_last_state_is_shown_after_a_failure_too(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="half way"), progress("work", 4, "things") as meter:
        clock.now += 1
        meter.advance(1)
        raise ValueError("half way")
    assert capsys.readouterr().err == "work: 25 % of 4 things, 1 things/s, 0:03 left\n"


@pytest.mark.usefixtures("shown")
def test_one_line_is_redrawn_on_a_terminal(
    clock: Clock, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    with progress("work", 2, "things") as meter:
        clock.now += 1
        meter.advance(1)
    err = capsys.readouterr().err
    assert err.count("\r\x1b[2Kwork: 50 %") == 2 and err.endswith("\n") and err.count("\n") == 1
