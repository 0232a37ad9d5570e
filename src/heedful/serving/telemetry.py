"""What operators see: Prometheus metrics, also from several workers, and JSON logs in which nobody is named."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
import time
import traceback
from pathlib import Path
from types import TracebackType
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, multiprocess, values

__all__ = ["LOG", "figures", "left", "log_as_json", "metrics", "model_served", "observe", "share"]

LOG = logging.getLogger("heedful.serving")

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_FILE_BYTES = 2**18


class _Figures:
    """The figures of this process."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder, self.registry = folder, CollectorRegistry()
        self.requests = Histogram(
            "heedful_request_seconds", "Time to answer, by route.", ["method", "route"], buckets=_SECONDS,
            registry=self.registry,
        )  # fmt: skip
        labels = ["method", "route", "status"]
        self.answers = Counter("heedful_answers", "Answers, by route and status.", labels, registry=self.registry)
        errors = "Answers that tell of an error, by its code."
        self.errors = Counter("heedful_errors", errors, ["code"], registry=self.registry)
        self.events = Counter("heedful_events", "Events by what became of them.", ["outcome"], registry=self.registry)
        self.model = Gauge(
            "heedful_model_workers", "Workers that serve a model, by its version.", ["model", "version"],
            multiprocess_mode="livesum", registry=self.registry,
        )  # fmt: skip


figures = _Figures()


def share(folder: Path, place: int) -> None:
    """Add up figures with the other workers of this server from now on.

    Args:
        folder: where each worker keeps its figures.
        place: number of this worker, which no other one has at this time.
    """
    global figures
    try:
        for kind in ("counter", "histogram", "gauge_livesum"):
            _reserve(folder / f"{kind}_{place}.db")
    except OSError as error:
        LOG.error("the figures of this worker are not counted", extra={"facts": {"problem": error.strerror}})
        return
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(folder)
    values.ValueClass = values.MultiProcessValue(lambda: place)  # type: ignore[no-untyped-call]
    figures = _Figures(folder)


def _reserve(file: Path) -> None:
    """Take the space for a file of figures now: to write into a mapped file on a full disk ends a process."""
    with file.open("ab") as stream:
        os.posix_fallocate(stream.fileno(), 0, _FILE_BYTES)


def left(folder: Path, place: int) -> None:
    """Note that a worker has ended."""
    multiprocess.mark_process_dead(place, str(folder))  # type: ignore[no-untyped-call]


def observe(method: str, route: str, status: int, seconds: float) -> None:
    """Count an answer."""
    figures.requests.labels(method, route).observe(seconds)
    figures.answers.labels(method, route, str(status)).inc()


def model_served(model: str, version: str, *, instead_of: tuple[str, str] | None = None) -> None:
    """Say which model this worker serves from now on."""
    if instead_of is not None:
        figures.model.labels(*instead_of).set(0)
    figures.model.labels(model, version).set(1)


def metrics() -> bytes:
    """The figures of all workers, in the Prometheus text format; of this one alone if the others' cannot be read."""
    if figures.folder is None or not figures.folder.is_dir():
        return generate_latest(figures.registry)
    together = CollectorRegistry()
    multiprocess.MultiProcessCollector(together, str(figures.folder))  # type: ignore[no-untyped-call]
    return generate_latest(together)


class _AsJson(logging.Formatter):
    """One JSON object a line. Of an exception, its type and where it came from: its text may quote the request."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            **getattr(record, "facts", {}),
        }
        if record.exc_info and record.exc_info[0] is not None:
            line["exception"] = record.exc_info[0].__name__
            line["where"] = _frames(record.exc_info[2])
        return json.dumps(line, ensure_ascii=True)


def _frames(trace: TracebackType | None) -> list[str]:
    return [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(trace)[-12:]]


def log_as_json(level: str) -> None:
    """Log to standard error, one JSON object a line: those of heedful and uvicorn; not the access log, it has ids."""
    with contextlib.suppress(AttributeError):
        sys.stderr.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_AsJson())
    for name in ("heedful.serving", "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(level.upper())
    access = logging.getLogger("uvicorn.access")
    access.handlers, access.propagate = [], False
