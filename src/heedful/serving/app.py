"""The HTTP application: its routes behind the gate, how errors look, and what goes on beside requests."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import signal
from collections.abc import AsyncIterator, Callable
from importlib import resources

import anyio.to_thread
import torch
from fastapi import Depends, FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse
from starlette.staticfiles import StaticFiles

from heedful import __version__
from heedful.errors import HeedfulError
from heedful.serving import telemetry
from heedful.serving.answers import of_http_error, of_invalid_request, of_refusal
from heedful.serving.gate import Gate
from heedful.serving.models import Serving
from heedful.serving.requests import FAILURES, needs
from heedful.serving.routes import clicks, events, items, operations, rankings, slots, users

__all__ = ["create_app"]

_WATCH_SECONDS = 1.0
_ROUTERS = [
    (rankings.router, "rank", "rankings"),
    (slots.router, "rank", "slots"),
    (slots.admin, "admin", "slots"),
    (clicks.figures, "rank", "clicks"),
    (clicks.router, "events", "clicks"),
    (items.router, "rank", "items"),
    (items.admin, "admin", "items"),
    (users.router, "rank", "users"),
    (events.router, "events", "events"),
    (users.admin, "admin", "users"),
    (operations.admin, "admin", "operations"),
    (operations.router, "rank", "operations"),
]


def create_app(serving: Serving) -> FastAPI:
    """The application around what is served.

    Args:
        serving: started when the application starts.
    """

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        # A request is computed by one thread and others beside it: threads of torch that wait for each other are slower.
        torch.set_num_threads(1)
        await anyio.to_thread.run_sync(serving.start)
        works = (serving.refresh, serving.count_when_due, serving.probe, _end_with_server)
        tasks = [asyncio.create_task(_each_second(work)) for work in works]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            serving.close()

    app = FastAPI(
        title="heedful",
        version=__version__,
        summary="Personalised rankings and content slots from live histories, with measured click-through.",
        docs_url=None,  # they load scripts from elsewhere
        redoc_url=None,
        lifespan=lifespan,
    )
    app.state.serving = serving
    app.add_middleware(Gate, serving=serving)
    app.add_exception_handler(HeedfulError, of_refusal)
    app.add_exception_handler(RequestValidationError, of_invalid_request)
    app.add_exception_handler(HTTPException, of_http_error)
    for router, scope, tag in _ROUTERS:
        app.include_router(router, dependencies=[Depends(needs(scope))], tags=[tag], responses=FAILURES)
    app.include_router(operations.health, tags=["operations"], responses={503: FAILURES[503]})
    _add_page(app)
    return app


def _add_page(app: FastAPI) -> None:
    web = resources.files("heedful.serving") / "web"
    with resources.as_file(web) as folder:

        async def page() -> FileResponse:
            return FileResponse(folder / "index.html")

        app.add_api_route("/", page, include_in_schema=False)
        app.mount("/static", StaticFiles(directory=folder), name="static")


async def _each_second(work: Callable[[], None]) -> None:
    while True:
        await asyncio.sleep(_WATCH_SECONDS)
        try:
            await anyio.to_thread.run_sync(work, abandon_on_cancel=True)
        except Exception:
            telemetry.LOG.exception("looking for changes failed")


def _end_with_server() -> None:
    """End when the server that started this worker is gone, so that none is left behind."""
    server = multiprocessing.parent_process()
    if server is not None and os.getppid() != server.pid:
        os.kill(os.getpid(), signal.SIGTERM)
