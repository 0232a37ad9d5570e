from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

# A slow machine is not a fault of the code.
hypothesis.settings.register_profile("any machine", deadline=None)
hypothesis.settings.load_profile("any machine")

TESTS = Path(__file__).parent
# `-m fast` has the tests of these folders and files, but for those that take long (`pytest --durations=0` shows which do).
FAST = [
    "embeddings", "evaluation", "events", "kernels", "model", "rankers/test_prior.py", "rankers/test_topk.py",
    "serving/test_rates.py", "serving/test_treatments.py", "test_architecture.py", "test_config.py", "test_docs.py",
    "test_errors.py", "test_folders.py", "test_progress.py", "test_public_face.py", "test_words.py",
    "training/test_forward.py", "training/test_losses.py", "tuning/test_settings.py", "tuning/test_space.py",
]  # fmt: skip
SLOW = [
    "embeddings/test_skipgram.py", "events/test_ids.py", "events/test_preparing.py", "events/test_times.py",
    "events/test_values.py", "kernels/test_attention_cpu.py", "model/test_side_features.py",
]  # fmt: skip
# Begun first, so that no worker is left alone with one of them at the end: with `--no-loadscope-reorder` files go to the
# workers in this order, then in that of their names. The very first has the kernels compiled, which all others find in
# the cache (in a new clone that takes half a minute), beside files that need none.
LONGEST = [
    "rankers/test_contract.py", "events/test_appending.py", "events/test_times.py", "events/test_ids.py",
    "cluster/test_stages.py", "serving/test_serve_faults.py", "serving/test_serve_command.py", "test_end_to_end.py",
    "updating/test_nightly.py", "serving/test_page_access.py", "test_quickstart.py", "serving/test_page.py",
    "cli/test_cli.py", "serving/test_openapi.py", "test_notebooks.py", "serving/test_live.py",
]  # fmt: skip


def pytest_configure() -> None:
    missing = [name for name in (*FAST, *SLOW, *LONGEST) if not (TESTS / name).exists()]
    assert missing == [], f"tests/conftest.py names what is not there: {missing}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    slow = {TESTS / name for name in SLOW}
    for item in items:
        if item.path not in slow and any(item.path.is_relative_to(TESTS / name) for name in FAST):
            item.add_marker(pytest.mark.fast)
    place = {TESTS / name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path, len(LONGEST)))


@pytest.fixture(autouse=True, scope="session")
def no_fsync() -> Iterator[None]:
    """Folders are not forced to the disk: no test pulls the plug, and many folders are written."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield
