"""Answers: JSON, and errors that all look alike: what is wrong, and what to do about it."""

from __future__ import annotations

from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic_core import to_json
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import compile_path

from heedful.errors import ConfigError, FolderError, HeedfulError
from heedful.serving import telemetry
from heedful.serving.engine import NotFoundError
from heedful.serving.models import ChangedError
from heedful.serving.store import StoreUnavailable

__all__ = ["Answer", "RefusedError", "error_answer", "of_http_error", "of_invalid_request", "of_refusal"]

# How long a client should wait for a database that is gone.
_RETRY_SECONDS = 5
_SHOWN_ERRORS = 5
_CODES = {400: "bad_request", 404: "not_found", 405: "method_not_allowed", 415: "unsupported_media_type"}
# The status of an error, the most special class first.
_STATUS: list[tuple[type[HeedfulError], int, str]] = [
    (StoreUnavailable, 503, "database_unavailable"),
    (NotFoundError, 404, "not_found"),
    (ChangedError, 412, "changed_meanwhile"),
    (FolderError, 409, "model_refused"),
    (ConfigError, 422, "invalid_input"),
    (HeedfulError, 422, "invalid_input"),
]


class Answer(Response):
    """JSON, written by pydantic's serialiser."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return to_json(content, inf_nan_mode="null", bytes_mode="base64")


class RefusedError(HeedfulError):
    """A request that is refused with a status of its own.

    Args:
        status: HTTP status.
        code: short name of the error for programs.
        what: what is wrong.
        headers: headers of the answer.
        more: as for every `HeedfulError`.
    """

    def __init__(self, status: int, code: str, what: str, *, headers: dict[str, str] | None = None, **more: Any) -> None:
        super().__init__(what, **more)
        self.status, self.code, self.headers = status, code, headers


def error_answer(
    status: int, code: str, message: str, fix: str | None = None, headers: dict[str, str] | None = None
) -> Answer:
    """An error as JSON."""
    telemetry.figures.errors.labels(code).inc()
    return Answer({"error": {"code": code, "message": message, "fix": fix}}, status, headers)


def of_refusal(request: Request, error: Exception) -> Answer:
    """The answer to a `HeedfulError`."""
    assert isinstance(error, HeedfulError)
    if isinstance(error, RefusedError):
        return error_answer(error.status, error.code, error.problem, error.fix, error.headers)
    status, code = next((status, code) for kind, status, code in _STATUS if isinstance(error, kind))
    headers = {"retry-after": str(_RETRY_SECONDS)} if status == 503 else None
    return error_answer(status, code, _text(error.problem), error.fix and _text(error.fix), headers)


def of_http_error(request: Request, error: Exception) -> Answer:
    """The answer where no route fits, or the body is not JSON."""
    assert isinstance(error, HTTPException)
    code = _CODES.get(error.status_code, "refused")
    headers = dict(error.headers) if error.headers else None
    if error.status_code == 405 and (methods := _methods(request)):
        headers = {"allow": ", ".join(methods)}
    return error_answer(error.status_code, code, error.detail, "GET /openapi.json describes all requests", headers)


def _methods(request: Request) -> list[str]:
    """What the address can be asked for: several routes share it, of which the framework names one alone."""
    described = request.app.openapi()["paths"]
    return sorted({
        method.upper()
        for path, methods in described.items() if compile_path(path)[0].match(request.url.path)
        for method in methods
    })  # fmt: skip


def of_invalid_request(request: Request, error: Exception) -> Answer:
    """The answer to a request of the wrong form."""
    assert isinstance(error, RequestValidationError)
    errors = error.errors()
    lines = [f"{'.'.join(map(str, found['loc']))}: {found['msg']}" for found in errors[:_SHOWN_ERRORS]]
    if len(errors) > _SHOWN_ERRORS:
        lines.append(f"and {len(errors) - _SHOWN_ERRORS} more")
    fix = "GET /openapi.json describes the request"
    kind = request.headers.get("content-type", "")
    if request.method == "POST" and "json" not in kind:
        fix = "send JSON with the header Content-Type: application/json"
    return error_answer(422, "invalid_request", _text("; ".join(lines)), fix)


def _text(words: str) -> str:
    """Text that can be written as UTF-8."""
    return words.encode("utf-8", "replace").decode("utf-8")
