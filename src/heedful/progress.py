"""Progress of long work on standard error: share done, rate and remaining time.

On a terminal one line is redrawn; elsewhere (a log file, CI) a plain line is written every few seconds. Silent unless
`show_progress()` was called, which the command line does.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator

__all__ = ["Meter", "progress", "say", "show_progress"]

_state = {"shown": False}
_TERMINAL_SECONDS = 0.2
_PLAIN_SECONDS = 5.0


def show_progress(shown: bool = True) -> None:
    """Turn progress on or off for this process (off at first)."""
    _state["shown"] = shown


def say(line: str) -> None:
    """One line of news on standard error, when progress is shown."""
    if _state["shown"]:
        print(line, file=sys.stderr, flush=True)


class Meter:
    """Counts finished units of a piece of work; made by `progress`."""

    def __init__(self, title: str, total: float | None, unit: str) -> None:
        self.title, self.total, self.unit = title, total, unit
        self.done = 0.0
        self._resumed = 0.0
        self._started = self._drawn = time.monotonic()
        self._note = ""
        self._terminal = sys.stderr.isatty()

    def resume_at(self, done: float) -> None:
        """Say that `done` units were finished by an earlier run, so that they do not count in the rate."""
        self.done = self._resumed = done

    def advance(self, units: float = 1, note: str | None = None) -> None:
        """Add finished units; `note` is shown behind the figures until the next note."""
        self.done += units
        if note is not None:
            self._note = note
        now = time.monotonic()
        if now - self._drawn >= (_TERMINAL_SECONDS if self._terminal else _PLAIN_SECONDS):
            self._drawn = now
            self._draw(self.line())

    def line(self) -> str:
        """The line as shown: title, share, rate, remaining time, note."""
        elapsed = max(time.monotonic() - self._started, 1e-9)
        rate = (self.done - self._resumed) / elapsed
        parts = [f"{self.title}:"]
        if self.total:
            parts.append(f"{100 * min(self.done / self.total, 1):.0f} % of {_short(self.total)} {self.unit},")
        else:
            parts.append(f"{_short(self.done)} {self.unit},")
        parts.append(f"{_short(rate)} {self.unit}/s,")
        if self.total and rate > 0 and self.done < self.total:
            parts.append(f"{_clock((self.total - self.done) / rate)} left")
        else:
            parts.append(f"{_clock(elapsed)} so far")
        if self._note:
            parts.append(f"({self._note})")
        return " ".join(parts)

    def finish(self) -> None:
        """Draw the last state and end the line."""
        self._draw(self.line())
        if _state["shown"] and self._terminal:
            print(file=sys.stderr, flush=True)

    def _draw(self, line: str) -> None:
        if not _state["shown"]:
            return
        if self._terminal:
            print(f"\r\x1b[2K{line}", end="", file=sys.stderr, flush=True)
        else:
            print(line, file=sys.stderr, flush=True)


@contextlib.contextmanager
def progress(title: str, total: float | None, unit: str) -> Iterator[Meter]:
    """Show how the work inside a `with` block gets on.

    Args:
        title: what is being done.
        total: units in all, if known.
        unit: what is counted, in the plural.
    """
    meter = Meter(title, total, unit)
    try:
        yield meter
    finally:
        meter.finish()


def _short(number: float) -> str:
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g}{letter}"
    return f"{number:.3g}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
