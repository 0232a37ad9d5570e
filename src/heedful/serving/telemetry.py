"""What operators see: Prometheus metrics, also from several workers, and JSON logs in which nobody is named."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import sys
import time
import traceback
from pathlib import Path
from types import TracebackType
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, multiprocess

__all__ = ["ERRORS", "EVENTS", "LOG", "METRICS_FOLDER", "log_as_json", "metrics", "model_served", "observe"]

METRICS_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""Environment variable by which prometheus-client knows where the workers of one server keep their figures."""

LOG = logging.getLogger("heedful.serving")

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_REGISTRY = CollectorRegistry()
_REQUESTS = Histogram(
    "heedful_request_seconds", "Time to answer, by route.", ["method", "route"], buckets=_SECONDS, registry=_REGISTRY
)
_ANSWERS = Counter("heedful_answers", "Answers, by route and status.", ["method", "route", "status"], registry=_REGISTRY)
ERRORS = Counter("heedful_errors", "Answers that tell of an error, by its code.", ["code"], registry=_REGISTRY)
EVENTS = Counter("heedful_events", "Events by what became of them.", ["outcome"], registry=_REGISTRY)
_MODEL = Gauge(
    "heedful_model_workers",
    "Workers that serve a model, by its version.",
    ["model", "version"],
    multiprocess_mode="livesum",
    registry=_REGISTRY,
)


def observe(method: str, route: str, status: int, seconds: float) -> None:
    """Count an answer."""
    _REQUESTS.labels(method, route).observe(seconds)
    _ANSWERS.labels(method, route, str(status)).inc()


def model_served(model: str, version: str, *, instead_of: tuple[str, str] | None = None) -> None:
    """Say which model this worker serves from now on."""
    if instead_of is not None:
        _MODEL.labels(*instead_of).set(0)
    _MODEL.labels(model, version).set(1)


def metrics() -> bytes:
    """The figures of all workers, in the Prometheus text format."""
    folder = os.environ.get(METRICS_FOLDER)
    if not folder:
        return generate_latest(_REGISTRY)
    for process in _dead(Path(folder)):
        multiprocess.mark_process_dead(process, folder)  # type: ignore[no-untyped-call]
    together = CollectorRegistry()
    multiprocess.MultiProcessCollector(together, folder)  # type: ignore[no-untyped-call]
    return generate_latest(together)


def _dead(folder: Path) -> set[int]:
    """Processes that left gauges of living ones behind."""
    owners = {int(found[1]) for file in folder.glob("gauge_live*") if (found := re.search(r"_(\d+)\.db$", file.name))}
    return {owner for owner in owners if not _alive(owner)}


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


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
