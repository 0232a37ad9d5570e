"""Calls of a database that may not answer: callers wait for a limited time, and not at all once that is known."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from heedful.errors import HeedfulError

__all__ = ["Guard", "NoAnswer", "StoreUnavailable", "Threads"]

T = TypeVar("T")
_SLOW_SECONDS = 0.4  # a failure that took longer is one of waiting
_PAUSE_SECONDS = 1.0
_FIX = "try again in a few seconds"


class StoreUnavailable(HeedfulError):  # noqa: N818  (says what is so, as HTTP's 503 does)
    """The database cannot be used now: gone, locked, out of space.

    Nothing was stored, unless the database did not answer in time: then it may have been. Send it again later.
    """


class NoAnswer(StoreUnavailable):
    """The database has neither answered nor failed."""


class Threads:
    """Threads in which calls run that may hang; the process can end while they do.

    Args:
        number: how many calls may hang at once; further ones wait for their turn, each as long as it is willing to.
    """

    def __init__(self, number: int) -> None:
        self._waiting: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = queue.SimpleQueue()
        self._idle = threading.Semaphore(0)
        self._missing = number

    def call(self, work: Callable[[], T], seconds: float) -> T:
        """What `work` returns or raises.

        Raises:
            NoAnswer: it takes longer; it goes on if it has begun.
        """
        future: Future[T] = Future()
        self._waiting.put((future, work))
        if not self._idle.acquire(blocking=False) and self._missing:
            self._missing -= 1
            threading.Thread(target=self._run, daemon=True, name="heedful-database").start()
        try:
            return future.result(seconds)
        except TimeoutError as error:
            future.cancel()
            raise NoAnswer("the database does not answer in time", fix=_FIX) from error

    def _run(self) -> None:
        while True:
            future, work = self._waiting.get()
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(work())
                except BaseException as error:
                    future.set_exception(error)
            del future, work
            self._idle.release()


class Guard:
    """Refuses calls at once after one that waited in vain, but for one each second that tries again.

    Args:
        closes_on: the failure that tells that others would fail too.
    """

    def __init__(self, closes_on: type[StoreUnavailable] = StoreUnavailable) -> None:
        self._closes_on = closes_on
        self._lock = threading.Lock()
        self._closed_until: float | None = None

    def call(self, work: Callable[[], T], *, patient: bool = True) -> T:
        """What `work` returns or raises.

        Args:
            work: the call.
            patient: whether its failure tells that others would fail too; not so if it waits for a shorter time.

        Raises:
            StoreUnavailable: the database did not answer just before.
        """
        begun = time.monotonic()
        with self._lock:
            if self._closed_until is not None:
                if begun < self._closed_until:
                    raise StoreUnavailable("the database does not answer", fix=_FIX)
                self._closed_until = begun + _PAUSE_SECONDS  # this call is the one that tries
        try:
            found = work()
        except StoreUnavailable as error:
            if patient and isinstance(error, self._closes_on) and time.monotonic() - begun > _SLOW_SECONDS:
                self._closed_until = time.monotonic() + _PAUSE_SECONDS
            raise
        self._closed_until = None
        return found
