"""uvicorn around the application: one process, or several that share a port and are started again when they die."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import tempfile
from pathlib import Path
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.supervisors import Multiprocess

from heedful.errors import ConfigError
from heedful.progress import show_progress
from heedful.serving import telemetry
from heedful.serving.answers import error_answer
from heedful.serving.app import RUN_FOLDER, create_app, worker, write_run_folder
from heedful.serving.models import Choice, Serving
from heedful.serving.options import ServeConfig

__all__ = ["PunctualProtocol", "serve"]

_BACKLOG = 2048
_MAX_HEADERS = 2**16


class PunctualProtocol(HttpToolsProtocol):
    """uvicorn's protocol, which also refuses headers that have no end: in good time, or in their first 64 KB.

    What it refuses on its own, before the application sees it, has the form of all other errors.
    """

    _late: asyncio.TimerHandle | None = None
    _unread = 0

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._expect()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._unread += len(data)
        if self._late is not None and self._unread > _MAX_HEADERS and not self.transport.is_closing():
            self.send_400_response("The headers are too long.")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._expect()

    def on_headers_complete(self) -> None:
        self._arrived()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._arrived()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        refusal = error_answer(400, "bad_request", f"this is no proper HTTP request: {msg}", "see RFC 9112")
        lines = [b"HTTP/1.1 400 Bad Request", *(b": ".join(pair) for pair in refusal.raw_headers), b"connection: close"]
        self.transport.write(b"\r\n".join([*lines, b"", bytes(refusal.body)]))
        self.transport.close()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        if app is not self.app:  # uvicorn's own answer in plain text: there are too many connections
            headers = {"connection": "close", "retry-after": "1"}
            app = error_answer(503, "too_many_connections", "the server is busy", "try again in a second", headers)
        super()._start_asgi_task(cycle, app)

    def _expect(self) -> None:
        self._arrived()
        self._late = self.loop.call_later(self.config.timeout_keep_alive, self.transport.close)

    def _arrived(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None
        self._unread = 0


def serve(choice: Choice, config: ServeConfig) -> None:
    """Serve until told to stop by SIGINT or SIGTERM; requests under way are answered first.

    With several workers SIGHUP starts one new worker after the other, each before its forerunner ends.

    Raises:
        ConfigError: the address cannot be listened on.
        HeedfulError: model, slots or keys cannot be used.
    """
    telemetry.log_as_json(config.log_level)
    show_progress(False)  # standard error is the log now, a JSON object a line
    with _listen(config) as listening, tempfile.TemporaryDirectory(prefix="heedful-serve-") as shared:
        write_run_folder(Path(shared), choice, config)
        os.environ[RUN_FOLDER] = shared
        host, port = listening.getsockname()[:2]
        telemetry.LOG.warning("listening", extra={"facts": {"address": f"http://{_in_address(host)}:{port}"}})
        if config.workers == 1:
            app = create_app(Serving(choice, config, Path(shared)))
            signal.signal(signal.SIGHUP, lambda number, frame: None)  # changes are seen without being told
            uvicorn.Server(_settings(config, app)).run([listening])
        else:
            os.environ[telemetry.METRICS_FOLDER] = shared
            several = _settings(config, f"{worker.__module__}:{worker.__name__}", factory=True)
            Multiprocess(several, sockets=[listening]).run()


def _settings(config: ServeConfig, app: Any, **more: Any) -> uvicorn.Config:
    settings = uvicorn.Config(
        app, http=PunctualProtocol, ws="none", lifespan="on", log_config=None, access_log=False, server_header=False,
        proxy_headers=False, workers=config.workers, limit_concurrency=config.connections,
        timeout_keep_alive=config.idle_seconds, timeout_graceful_shutdown=config.drain_seconds, **more,
    )  # fmt: skip
    logging.getLogger("uvicorn.error").setLevel(config.log_level.upper())
    return settings


def _listen(config: ServeConfig) -> socket.socket:
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    try:
        listening = socket.create_server((config.host.strip("[]"), config.port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise ConfigError(
            f"{config.host}:{config.port} cannot be listened on",
            got=error,
            fix="choose another --port, or stop what is there",
        ) from error
    listening.set_inheritable(True)
    return listening


def _in_address(host: str) -> str:
    return f"[{host}]" if ":" in host else host
