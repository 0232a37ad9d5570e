"""Processes that answer requests, forked from one that has imported everything, and replaced when they end.

uvicorn's own supervisor ends the server when one worker fails to start, and kills workers that are slow to start on a busy
processor. Here a worker that fails is started again, later each time, and a rolling restart goes on with the next worker.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from multiprocessing.context import ForkProcess

from heedful.errors import ConfigError
from heedful.serving import telemetry

__all__ = ["Workers"]

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_TICK_SECONDS = 0.2
# A worker reports each second that its event loop runs. The limit is far beyond what a starved processor makes of that.
_SILENT_SECONDS = 60.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 10.0
_MOST_FAILED_STARTS = 3


@dataclass(eq=False)
class _Worker:
    place: int
    process: ForkProcess
    reports: int
    heard: float = field(default_factory=time.monotonic)
    ready: bool = False
    replaces: _Worker | None = None
    ends_by: float | None = None


class Workers:
    """A number of worker processes.

    Args:
        number: how many.
        work: what a worker does, given its number and a file descriptor to write a byte to each second once it is ready. It
            ends in order on SIGTERM.
        ended: called with the number of a worker that has ended.
        start_seconds: the longest time for a worker to get ready.
        drain_seconds: the longest time for a worker to end.
    """

    def __init__(
        self, number: int, work: Callable[[int, int], None], ended: Callable[[int], None], *,
        start_seconds: float, drain_seconds: float,
    ) -> None:  # fmt: skip
        self._number, self._work, self._ended = number, work, ended
        self._start_seconds, self._drain_seconds = start_seconds, drain_seconds
        self._workers: list[_Worker] = []
        self._renew: list[_Worker] = []
        self._signals: list[int] = []
        self._pause, self._not_before, self._failed_starts = 0.0, 0.0, 0
        self._ever_ready = self._stopping = False

    def run(self, stop: Callable[[], None]) -> None:
        """Keep the workers going until SIGTERM or SIGINT, at which `stop` is called; SIGHUP replaces them one by one.

        Raises:
            ConfigError: no worker has ever been ready, after several attempts.
        """
        before = {number: signal.signal(number, lambda number, frame: self._signals.append(number)) for number in _SIGNALS}
        try:
            while self._workers or not self._stopping:
                self._obey(stop)
                if not self._stopping:
                    self._start_missing()
                    self._renew_next()
                self._listen()
                self._end_silent()
                if not self._ever_ready and self._failed_starts >= _MOST_FAILED_STARTS:
                    raise ConfigError("no worker starts", fix="the log says why, with --log-level info")
        finally:
            for worker in self._workers:
                worker.process.kill()
            for number, handler in before.items():
                signal.signal(number, handler)

    def _obey(self, stop: Callable[[], None]) -> None:
        while self._signals:
            if self._signals.pop(0) == signal.SIGHUP:
                self._renew = [worker for worker in self._workers if worker.ends_by is None and worker.replaces is None]
                telemetry.LOG.info("replacing the workers one by one")
            elif not self._stopping:
                self._stopping = True
                stop()
                for worker in self._workers:
                    self._tell_to_end(worker)

    def _start_missing(self) -> None:
        serving = [worker for worker in self._workers if worker.ends_by is None and worker.replaces is None]
        if len(serving) < self._number and time.monotonic() >= self._not_before:
            self._start()

    def _renew_next(self) -> None:
        """Start the next replacement, unless one is on its way or a worker is missing."""
        serving = [worker for worker in self._workers if worker.ends_by is None]
        if not self._renew or len(serving) != self._number or time.monotonic() < self._not_before:
            return
        old = self._renew.pop(0)
        if old in serving:
            self._start(replaces=old)

    def _start(self, replaces: _Worker | None = None) -> None:
        place = min(set(range(len(self._workers) + 1)) - {worker.place for worker in self._workers})
        reading, writing = os.pipe()
        os.set_blocking(reading, False)
        os.set_blocking(writing, False)
        process = multiprocessing.get_context("fork").Process(target=self._run, args=(place, reading, writing))
        # A signal between the fork and the child's own handlers must not be lost.
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
            os.close(writing)
        self._workers.append(_Worker(place, process, reading, replaces=replaces))

    def _run(self, place: int, reading: int, writing: int) -> None:
        """The life of a worker, in its own process."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        for descriptor in (reading, *(worker.reports for worker in self._workers)):
            os.close(descriptor)
        self._work(place, writing)

    def _listen(self) -> None:
        """Wait briefly for news of the workers, and take note of it."""
        wait([*(w.process.sentinel for w in self._workers), *(w.reports for w in self._workers)], _TICK_SECONDS)
        for worker in list(self._workers):
            if _reported(worker):
                worker.heard = time.monotonic()
                if not worker.ready:
                    self._is_ready(worker)
            if not worker.process.is_alive():
                self._has_ended(worker)

    def _is_ready(self, worker: _Worker) -> None:
        worker.ready = self._ever_ready = True
        self._pause = 0.0
        if worker.replaces in self._workers:
            self._tell_to_end(worker.replaces)
        worker.replaces = None

    def _has_ended(self, worker: _Worker) -> None:
        self._workers.remove(worker)
        os.close(worker.reports)
        worker.process.join()
        self._ended(worker.place)
        for other in self._workers:
            if other.replaces is worker:
                other.replaces = None  # it takes the place of the one that has ended
        if worker.ends_by is not None:
            return
        facts = {"worker": worker.process.pid, "exit": worker.process.exitcode}
        telemetry.LOG.error("a worker has ended" if worker.ready else "a worker failed to start", extra={"facts": facts})
        if not worker.ready:
            self._failed_starts += 1
            self._pause = min(2 * self._pause or _FIRST_PAUSE, _LONGEST_PAUSE)
            self._not_before = time.monotonic() + self._pause

    def _tell_to_end(self, worker: _Worker) -> None:
        worker.ends_by = time.monotonic() + self._drain_seconds + _LONGEST_PAUSE
        worker.process.terminate()

    def _end_silent(self) -> None:
        now = time.monotonic()
        for worker in self._workers:
            limit = worker.heard + (_SILENT_SECONDS if worker.ready else self._start_seconds)
            if now > (limit if worker.ends_by is None else worker.ends_by):
                telemetry.LOG.error("a worker hangs and is killed", extra={"facts": {"worker": worker.process.pid}})
                worker.process.kill()


def _reported(worker: _Worker) -> bool:
    try:
        return bool(os.read(worker.reports, 4096))
    except BlockingIOError:
        return False
