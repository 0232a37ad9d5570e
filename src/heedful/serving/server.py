"""uvicorn around the application: one process, or several that share a port and are started again when they die."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import resource
import signal
import socket
import sys
from collections.abc import Awaitable, Callable

import click
import uvicorn
from fastapi import FastAPI

from heedful.errors import ConfigError, HeedfulError
from heedful.progress import show_progress
from heedful.serving import telemetry
from heedful.serving.app import create_app
from heedful.serving.models import Serving
from heedful.serving.options import ServeConfig
from heedful.serving.preparing import prepare
from heedful.serving.protocol import PunctualProtocol, sweep
from heedful.serving.state import Choice, run_folder, state_folder
from heedful.serving.workers import Workers

__all__ = ["serve"]

_BACKLOG = 2048
_FILES = 1024  # that a worker has open besides its connections


def serve(choice: Choice, config: ServeConfig, *, histories: str | None = None) -> None:
    """Check everything, then serve until told to stop by SIGINT or SIGTERM; requests under way are answered first.

    With several workers SIGHUP starts one new worker after the other, each before its forerunner ends. A single one sees
    changes without being told.

    Args:
        choice: the model.
        config: options of the server.
        histories: sequences whose histories are loaded into the database first.

    Raises:
        ConfigError: the address cannot be listened on.
        HeedfulError: model, slots, keys or database cannot be used.
    """
    # Whoever asks for new workers before there are any must not end the server.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    state = state_folder(config, choice)
    _allow_files(config.connections + _FILES)
    if config.workers == 1:
        prepare(choice, config, state, histories=histories)
    else:
        _in_a_process(lambda: prepare(choice, config, state, histories=histories))
    telemetry.log_as_json(config.log_level)
    show_progress(False)  # standard error is the log now, a JSON object a line
    with _listen(config) as listening, run_folder(state) as run:
        host, port = listening.getsockname()[:2]
        telemetry.LOG.warning("listening", extra={"facts": {"address": f"http://{_in_address(host)}:{port}"}})
        if config.workers == 1:
            # uvicorn sends itself the signal again when it has ended: what is open here is closed then.
            signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))
            _answer(create_app(Serving(choice, config, state)), config, listening)
            return
        app = create_app(Serving(choice, config, state, run))
        app.openapi()  # once for all workers

        def work(place: int, reports: int) -> None:
            telemetry.share(run, place)
            _answer(app, config, listening, lambda: _report(reports))

        limits = {"start_seconds": config.start_seconds, "drain_seconds": float(config.drain_seconds)}
        Workers(config.workers, work, lambda place: telemetry.left(run, place), **limits).run(listening.close)


def _in_a_process(work: Callable[[], object]) -> None:
    """Work in a process of its own: this one, from which workers are forked, must not have threads."""

    def run() -> None:
        try:
            work()
        except HeedfulError as error:
            click.echo(f"heedful: {error}", err=True)
            sys.exit(1)

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    process.join()
    if process.exitcode != 0:
        sys.exit(1)


def _answer(app: FastAPI, config: ServeConfig, listening: socket.socket, report: Callable[[], None] = lambda: None) -> None:
    """Answer requests in this process, and report each second that it does."""

    async def each_second() -> None:
        sweep(server.server_state.connections, config.idle_seconds, config.request_seconds)
        report()

    server = uvicorn.Server(_settings(config, app, each_second))
    server.run([listening])


def _settings(config: ServeConfig, app: FastAPI, each_second: Callable[[], Awaitable[None]]) -> uvicorn.Config:
    settings = uvicorn.Config(
        app, http=PunctualProtocol, ws="none", lifespan="on", log_config=None, access_log=False, server_header=False,
        proxy_headers=False, limit_concurrency=config.connections, timeout_keep_alive=config.idle_seconds,
        timeout_graceful_shutdown=config.drain_seconds, callback_notify=each_second, timeout_notify=0,
    )  # fmt: skip
    logging.getLogger("uvicorn.error").setLevel(config.log_level.upper())
    return settings


def _report(reports: int) -> None:
    with contextlib.suppress(OSError):  # the server is gone, or has not read the last reports yet
        os.write(reports, b".")


def _allow_files(number: int) -> None:
    """Have room for a file descriptor for each connection, as far as the system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < number:
        most = number if hard == resource.RLIM_INFINITY else min(number, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def _listen(config: ServeConfig) -> socket.socket:
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    try:
        return socket.create_server((config.host.strip("[]"), config.port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise ConfigError(
            f"{config.host}:{config.port} cannot be listened on",
            got=error,
            fix="choose another --port, or stop what is there",
        ) from error


def _in_address(host: str) -> str:
    return f"[{host}]" if ":" in host else host
