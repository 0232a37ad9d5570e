"""Requests made up from the OpenAPI document, with all checks of schemathesis: document and server agree."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis.config import SchemathesisConfig
from serving_worlds import PATIENCE, SLOTS, served, train

CONFIG = Path(__file__).parents[2] / "schemathesis.toml"


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> Iterator[schemathesis.BaseSchema]:
    folder = tmp_path_factory.mktemp("shop")
    train().save(folder / "model", pack=True)
    (folder / "slots.toml").write_text(SLOTS)
    with served(folder / "model", folder, "--slots", folder / "slots.toml") as server:
        address = f"http://127.0.0.1:{server.port}/openapi.json"
        config = SchemathesisConfig.from_path(CONFIG)
        yield schemathesis.openapi.from_url(address, config=config, wait_for_schema=PATIENCE)
        assert "Traceback" not in server.log.read_text() and '"request failed"' not in server.log.read_text()


@pytest.mark.parametrize("mode", list(schemathesis.GenerationMode))
def test_document_and_server_agree(document: schemathesis.BaseSchema, mode: schemathesis.GenerationMode) -> None:
    """Requests that fit the document are taken, and requests that do not are refused."""
    asked = []
    for found in document.get_all_operations():
        operation = found.ok()

        @settings(
            max_examples=8, deadline=None, derandomize=True, database=None, phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        @given(case=operation.as_strategy(generation_mode=mode))
        def ask(case: schemathesis.Case) -> None:
            case.call_and_validate(timeout=PATIENCE)

        try:
            ask()
        except Unsatisfiable:
            continue  # nothing about this request can be wrong
        asked.append(operation.label)
    assert len(asked) > 12, asked
