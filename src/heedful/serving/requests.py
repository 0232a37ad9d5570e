"""What routes take from a request: strict JSON, the engine in service, the right to ask, the visitor's past."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from functools import partial, wraps
from inspect import iscoroutinefunction
from typing import Annotated, Any, TypeVar

from anyio import CapacityLimiter, to_thread
from anyio.lowlevel import RunVar
from fastapi import Depends, Request, Response
from fastapi.routing import APIRoute
from pydantic_core import from_json
from starlette.convertors import PathConvertor, register_url_convertor

from heedful.serving.answers import RefusedError
from heedful.serving.engine import Engine, Past
from heedful.serving.models import Serving
from heedful.serving.replies import Failure
from heedful.serving.security import Key
from heedful.serving.wire import Visitor

__all__ = ["FAILURES", "KEY", "CurrentEngine", "CurrentServing", "JsonRoute", "at_most", "needs", "past_of", "takes"]

KEY = "heedful.key"
"""Where the gate leaves the API key of a request, in its scope."""

# What any request may be answered with, for the OpenAPI document.
FAILURES: dict[int | str, dict[str, Any]] = {
    400: {"model": Failure, "description": "The body is not JSON, or not text."},
    401: {"model": Failure, "description": "No API key, or an unknown one."},
    403: {"model": Failure, "description": "The key lacks the scope."},
    404: {"model": Failure, "description": "No such item, user, slot, treatment or address."},
    408: {"model": Failure, "description": "The request took too long to arrive."},
    409: {"model": Failure, "description": "The model cannot be served; the old one goes on."},
    412: {"model": Failure, "description": "What was to be changed has changed meanwhile."},
    413: {"model": Failure, "description": "More than the server takes in one request."},
    422: {"model": Failure, "description": "The request is of the wrong form, or asks what cannot be answered."},
    429: {"model": Failure, "description": "Too many requests; Retry-After says how long to wait."},
    503: {
        "model": Failure,
        "description": "The database is gone, or the server is too busy; Retry-After says when to ask again.",
    },
}


# Requests of each kind that are in threads at once. Those that wait for a database never hold up those that need none, nor a
# load of a model a ranking.
_THREADS = {"memory": 8, "database": 8, "work": 2, "health": 2}
_LIMITERS: RunVar[dict[str, CapacityLimiter]] = RunVar("heedful.limiters")
_KIND = "heedful_kind"
Handler = TypeVar("Handler", bound=Callable[..., Any])


def takes(kind: str) -> Callable[[Handler], Handler]:
    """Say what a handler needs: "memory" alone, the "database" (as all that say nothing), much "work", or "health"."""

    def mark(handler: Handler) -> Handler:
        setattr(handler, _KIND, kind)
        return handler

    return mark


def _in_threads(handler: Callable[..., Any]) -> Callable[..., Any]:
    """A handler that runs in a thread for its kind; a visitor whose history is in the request needs memory alone."""
    if iscoroutinefunction(handler):
        return handler
    kind = getattr(handler, _KIND, None)

    @wraps(handler)
    async def run(**given: Any) -> Any:
        visitor = given.get("body")
        needs_none = isinstance(visitor, Visitor) and visitor.user_id is None
        limiter = _limiters()[kind or ("memory" if needs_none else "database")]
        return await to_thread.run_sync(partial(handler, **given), limiter=limiter)

    return run


def _limiters() -> dict[str, CapacityLimiter]:
    try:
        return _LIMITERS.get()
    except LookupError:
        limiters = {kind: CapacityLimiter(number) for kind, number in _THREADS.items()}
        _LIMITERS.set(limiters)
        return limiters


class _StrictRequest(Request):
    async def json(self) -> Any:
        """The body, without NaN, halves of surrogate pairs, or more than 200 lists and objects inside each other."""
        try:
            return from_json(await self.body(), allow_inf_nan=False)
        except ValueError as error:
            raise RefusedError(400, "invalid_json", "the body is not JSON", got=error, expected="JSON in UTF-8") from error


class _Path(PathConvertor):
    """The rest of an address, as Starlette has it, line breaks included: ids hold them, too."""

    regex = r"[\s\S]*"


register_url_convertor("path", _Path())


class JsonRoute(APIRoute):
    """A route that reads JSON strictly, and runs its handler in a thread for what it needs."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        super().__init__(path, _in_threads(endpoint), **options)

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def strict(request: Request) -> Response:
            try:
                return await handle(_StrictRequest(request.scope, request.receive))
            except Exception as error:
                # FastAPI hides what went wrong with a body behind an error of its own.
                if isinstance(error.__cause__, RefusedError):
                    raise error.__cause__ from None
                raise

        return strict


async def _serving(request: Request) -> Serving:
    serving: Serving = request.app.state.serving
    return serving


CurrentServing = Annotated[Serving, Depends(_serving)]


async def _engine(serving: CurrentServing) -> Engine:
    return serving.engine


CurrentEngine = Annotated[Engine, Depends(_engine)]


def needs(scope: str) -> Callable[[Request], Awaitable[None]]:
    """A dependency that refuses keys without a scope."""

    async def check(request: Request) -> None:
        key: Key = request.scope[KEY]
        if not key.allows(scope):
            raise RefusedError(
                403, "forbidden", f"this key may not do that; it takes the scope {scope!r}",
                got=", ".join(sorted(key.scopes)), fix=f"make one with `heedful key NAME --scopes {scope}`",
            )  # fmt: skip

    return check


def at_most(most: int, what: str, number: int) -> None:
    """Refuse a request with more than `most` of something."""
    if number > most:
        raise RefusedError(
            413, "too_many", f"too many {what} in one request", got=f"{number:,}", expected=f"at most {most:,}",
            fix="send several requests, or start the server with a higher limit",
        )  # fmt: skip


def past_of(engine: Engine, serving: Serving, visitor: Visitor) -> Past:
    """The past of a visitor: what is stored of a user, or the history in the request."""
    if visitor.history is not None:
        at_most(serving.config.max_history, "past items", len(visitor.history))
        return engine.past_of(visitor.history, visitor.history_times, visitor.history_kinds)
    return engine.past(visitor.user_id) if visitor.user_id is not None else engine.past_of([])
