"""What every request passes: its key, the rate, the size of the body, time-outs; and what is counted and logged of it."""

from __future__ import annotations

import asyncio
import re
import uuid
from time import perf_counter
from typing import Any
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from heedful.serving import telemetry
from heedful.serving.answers import Answer, error_answer
from heedful.serving.models import Serving
from heedful.serving.options import is_loopback
from heedful.serving.requests import KEY
from heedful.serving.security import EVERYTHING, SECURITY_HEADERS, TokenBuckets, bearer, header

__all__ = ["Gate"]

# Open without a key: the page asks for one itself, and what watches a server should need none.
_OPEN = ("/", "/openapi.json")
_OPEN_FOLDERS = ("/static/", "/health/")
_OFTEN = ("/health/live", "/health/ready", "/metrics")
_PORT = re.compile(r":\d*$")
_DIGITS = 19  # far more bytes than anybody sends


class _TooLargeError(Exception):
    """The body is larger than allowed."""


class _TooSlowError(Exception):
    """The client takes too long to send its request."""


class _GoneError(Exception):
    """The client went away before its request was complete."""


class Gate:
    """ASGI middleware around the whole application.

    Args:
        app: the application.
        serving: what is served, with the keys and the limits.
    """

    def __init__(self, app: ASGIApp, serving: Serving) -> None:
        self._app, self._serving, self._config = app, serving, serving.config
        self._buckets = TokenBuckets(self._config.rate, self._config.burst)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        started, request_id = perf_counter(), uuid.uuid4().hex
        # A client that waits to be told to send its body is not told so when it is refused: no request can follow.
        last = [(b"connection", b"close")] if header(scope["headers"], b"expect") else []
        status: int | None = None

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                given = {name for name, _ in message["headers"]}
                extra = [pair for pair in SECURITY_HEADERS if pair[0] not in given] + (last if status >= 400 else [])
                message["headers"] = [*message["headers"], *extra, (b"x-request-id", request_id.encode())]
            await send(message)

        failure: Exception | None = None
        try:
            async with asyncio.timeout(self._config.request_seconds):
                refusal = self._refusal(scope)
                if refusal is not None:
                    await refusal(scope, receive, answer)
                else:
                    await self._app(scope, await self._received(receive), answer)
        except _GoneError:
            return
        except Exception as error:
            failure = error
        if failure is not None and status is None:
            await self._failed(failure, request_id)(scope, receive, answer)
        expected = (_TooSlowError, TimeoutError, _TooLargeError)
        unexpected = failure if not isinstance(failure, expected) else None
        self._record(scope, status or 500, perf_counter() - started, request_id, unexpected)

    def _failed(self, error: Exception, request_id: str) -> Answer:
        """The answer to a request that was not answered."""
        if isinstance(error, _TooSlowError):
            late = {"connection": "close"}
            return error_answer(408, "too_slow", "the request took too long to arrive", "send it faster", late)
        if isinstance(error, TimeoutError):
            fix = "try again in a few seconds, or ask for less"
            return error_answer(503, "overdue", "the answer took too long", fix, {"retry-after": "5"})
        if isinstance(error, _TooLargeError):
            # The connection stays open: what the client still sends is thrown away, so that it reads this answer.
            most = f"at most {self._config.max_body:,} bytes"
            return error_answer(413, "too_large", f"the body is too large; expected: {most}", "send several requests")
        fix = f"look for request {request_id} in the server's log"
        return error_answer(500, "internal", "the server failed on this request", fix)

    def _refusal(self, scope: Scope) -> Answer | None:
        """Why the request is not even read, if so; leaves its key in the scope."""
        path, headers = scope["path"], scope["headers"]
        keys = self._serving.keys
        scope[KEY] = EVERYTHING
        client = scope["client"][0] if scope.get("client") else ""
        if keys is None:
            # A page on the internet may have its name point at this machine; the browser then names that page here.
            host = header(headers, b"host")
            if is_loopback(self._config.host) and not is_loopback(_PORT.sub("", host) or "localhost"):
                fix = "use localhost, or serve with --keys"
                return error_answer(403, "wrong_host", "without keys the server answers to the name localhost alone", fix)
            if not _is_open(path) and _of_another_page(headers, host):
                fix = "call the server from your own server, or from its own page"
                return error_answer(403, "wrong_origin", "without keys the server answers no page of another origin", fix)
        elif not _is_open(path):
            found = keys.find(bearer(headers) or "")
            if found is None:
                wait = self._buckets.wait(client)
                if wait:
                    return _later(wait)
                fix = "send the header Authorization: Bearer KEY"
                answer = error_answer(401, "unauthorized", "an API key is needed, and this is none", fix)
                answer.headers["www-authenticate"] = "Bearer"
                return answer
            scope[KEY] = found
            client = f"key {found.name}"
        if path.startswith("/health/"):
            return None
        wait = self._buckets.wait(client)
        if wait:
            return _later(wait)
        if _length(header(headers, b"content-length")) > self._config.max_body:
            raise _TooLargeError
        return None

    async def _received(self, receive: Receive) -> Receive:
        """The whole body, so that a route never waits for a client; a body without end is cut off as well."""
        parts, size, more = [], 0, True
        try:
            async with asyncio.timeout(self._config.body_seconds):
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise _GoneError
                    part = message.get("body", b"")
                    size += len(part)
                    if size > self._config.max_body:
                        raise _TooLargeError
                    parts.append(part)
                    more = message.get("more_body", False)
        except TimeoutError:
            raise _TooSlowError from None
        whole: Message | None = {"type": "http.request", "body": b"".join(parts), "more_body": False}

        async def again() -> Message:
            nonlocal whole
            if whole is not None:
                message, whole = whole, None
                return message
            return await receive()

        return again

    def _record(self, scope: Scope, status: int, seconds: float, request_id: str, failure: Exception | None) -> None:
        """Figures and a line in the log: the route, never the path, which may name a user."""
        route = getattr(scope.get("route"), "path", None) or "none"
        telemetry.observe(scope["method"] if route != "none" else "any", route, status, seconds)
        key = scope.get(KEY, EVERYTHING)
        facts: dict[str, Any] = {
            "request_id": request_id,
            "method": scope["method"],
            "route": route,
            "status": status,
            "ms": round(1000 * seconds, 2),
        }
        if key is not EVERYTHING:
            facts["key"] = key.name
        if failure is not None:
            trace = (type(failure), failure, failure.__traceback__)
            telemetry.LOG.error("request failed", exc_info=trace, extra={"facts": facts})
        elif scope["path"] in _OFTEN:
            telemetry.LOG.debug("request", extra={"facts": facts})
        else:
            telemetry.LOG.info("request", extra={"facts": facts})


def _is_open(path: str) -> bool:
    return path in _OPEN or path.startswith(_OPEN_FOLDERS)


def _of_another_page(headers: list[tuple[bytes, bytes]], host: str) -> bool:
    """Whether a browser sends the request for a page of another origin: by a form or script, or to show it as an image."""
    site = header(headers, b"sec-fetch-site")
    if site:
        return site not in ("same-origin", "none")
    source = header(headers, b"origin") or header(headers, b"referer")
    return bool(source) and urlsplit(source).netloc != host


def _length(text: str) -> int:
    """What `Content-Length` says; 0 where it says nothing that counts, so that the body itself is measured."""
    digits = text.strip().lstrip("0")
    if not digits.isascii() or not digits.isdigit():
        return 0
    return int(digits[:_DIGITS])


def _later(seconds: float) -> Answer:
    answer = error_answer(429, "too_often", "too many requests", "wait, and ask less often")
    answer.headers["retry-after"] = str(int(seconds) + 1)
    return answer
