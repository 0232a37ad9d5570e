"""Requests made up from the OpenAPI document: no answer is a failure of the server, and each is as the document says."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from serving_worlds import PATIENCE, SLOTS, served, train

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


@schemathesis.serializer("application/toml")
def toml(context: schemathesis.SerializationContext, value: object) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogatepass")


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> Iterator[schemathesis.BaseSchema]:
    folder = tmp_path_factory.mktemp("shop")
    train().save(folder / "model", pack=True)
    (folder / "slots.toml").write_text(SLOTS)
    with served(folder / "model", folder, "--slots", folder / "slots.toml") as server:
        yield schemathesis.openapi.from_url(f"http://127.0.0.1:{server.port}/openapi.json", wait_for_schema=PATIENCE)
        assert "Traceback" not in server.log.read_text() and '"request failed"' not in server.log.read_text()


@pytest.mark.parametrize("mode", list(schemathesis.GenerationMode))
def test_no_request_makes_it_fail(document: schemathesis.BaseSchema, mode: schemathesis.GenerationMode) -> None:
    """Requests that fit the document, and requests that do not."""
    asked = []
    for found in document.get_all_operations():
        operation = found.ok()

        @settings(
            max_examples=8, deadline=None, derandomize=True, database=None, phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        @given(case=operation.as_strategy(generation_mode=mode))
        def ask(case: schemathesis.Case) -> None:
            case.call_and_validate(checks=CHECKS, timeout=PATIENCE)

        try:
            ask()
        except Unsatisfiable:
            continue  # nothing about this request can be wrong
        asked.append(operation.label)
    assert len(asked) > 12, asked
