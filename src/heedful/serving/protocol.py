"""uvicorn's HTTP protocol with limits for clients that are slow, silent, or too many."""

from __future__ import annotations

from time import monotonic
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from heedful.serving.answers import error_answer

__all__ = ["PunctualProtocol", "sweep"]

_MAX_HEADERS = 2**16
_HEALTH = "/health/"
# A connection without a request stays open for so long when a server ends: a request may be on its way.
_FAREWELL_SECONDS = 2.0


class PunctualProtocol(HttpToolsProtocol):
    """A connection whose client has to send its headers, and to read its answers, within limits; see `sweep`.

    What it refuses on its own, before the application sees it, has the form of all other errors.
    """

    _waits_since: float | None = None  # for a request, or for the end of its headers
    _unsent_since: float | None = None
    _headers_read = 0
    _in_body = False
    _leaving = False

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._waits_since = monotonic()
        if self.limit_concurrency is not None and len(self.connections) >= self.limit_concurrency:
            self._make_room()

    def _make_room(self) -> None:
        """Let go of the connection that has waited longest for its client, so that idle ones never lock others out."""
        waiting = [c for c in self.connections if c is not self and c._waits_since is not None]  # type: ignore[union-attr]
        if waiting:
            oldest = min(waiting, key=lambda one: one._waits_since)  # type: ignore[union-attr]
            oldest.transport.abort()
            self.connections.discard(oldest)

    def data_received(self, data: bytes) -> None:
        in_body = self._in_body
        super().data_received(data)
        if in_body or self._in_body:  # maybe of a request that was refused already: the rest of it is thrown away
            return
        self._headers_read += len(data)
        if self._waits_since is not None and self._headers_read > _MAX_HEADERS and not self.transport.is_closing():
            self.send_400_response("The headers are too long.")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._waits_since, self._headers_read = monotonic(), 0

    def on_headers_complete(self) -> None:
        self._waits_since, self._in_body = None, True
        super().on_headers_complete()
        self.cycle.keep_alive = self.cycle.keep_alive and not self._leaving

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._in_body = False

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.cycle is None or self.cycle.response_complete:
            self._waits_since, self._headers_read = monotonic(), 0

    def send_400_response(self, msg: str) -> None:
        refusal = error_answer(400, "bad_request", f"invalid HTTP request: {msg}", "see RFC 9112")
        lines = [b"HTTP/1.1 400 Bad Request", *(b": ".join(pair) for pair in refusal.raw_headers), b"connection: close"]
        self.transport.write(b"\r\n".join([*lines, b"", bytes(refusal.body)]))
        self.transport.close()

    def shutdown(self) -> None:
        """The server ends: an answer under way is the last one, and so is the next, if a request is on its way."""
        self._leaving = True
        if self.cycle is None or self.cycle.response_complete:
            self.loop.call_later(_FAREWELL_SECONDS, self._leave)
        else:
            self.cycle.keep_alive = False

    def _leave(self) -> None:
        if self._waits_since is not None:
            self.transport.close()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        if cycle.scope["path"].startswith(_HEALTH):
            app = self.app
        elif app is not self.app:  # uvicorn's own answer in plain text: there are too many connections
            headers = {"connection": "close", "retry-after": "1"}
            app = error_answer(503, "too_many_connections", "the server is busy", "try again in a second", headers)
        super()._start_asgi_task(cycle, app)

    def check(self, now: float, idle_seconds: float, send_seconds: float) -> None:
        """Abort the connection if its client keeps it waiting: to close it would wait for the client again."""
        if self.transport.get_write_buffer_size() == 0:
            self._unsent_since = None
        elif self._unsent_since is None:
            self._unsent_since = now
        unread = self._unsent_since is not None and now - self._unsent_since > send_seconds
        if unread or (self._waits_since is not None and now - self._waits_since > idle_seconds):
            self.transport.abort()


def sweep(connections: set[Any], idle_seconds: float, send_seconds: float) -> None:
    """Let go of clients that are too slow; to be called each second.

    Args:
        connections: those of a uvicorn server.
        idle_seconds: the longest time until a request has begun, and until its headers are complete.
        send_seconds: the longest time for a client to read an answer.
    """
    now = monotonic()
    for connection in list(connections):
        connection.check(now, idle_seconds, send_seconds)
