"""The notebooks of examples/ run from top to bottom, from an empty folder, and show what they are about."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import forked

EXAMPLES = Path(__file__).parents[1] / "examples"
# A notebook, and what it prints.
SHOWS = {
    "comparing_models": ["NDCG", "attention", "random"],
    "first_look_at_a_log": ["1,000 users", "repeat an earlier item"],
    "reading_an_experiment": ["design effect", "ahead", "not decided yet"],
}


def cells_of(notebook: Path) -> list[dict[str, Any]]:
    document = json.loads(notebook.read_text())
    assert document["nbformat"] == 4
    return [cell for cell in document["cells"] if cell["cell_type"] == "code"]


def test_every_notebook_is_run() -> None:
    assert sorted(path.stem for path in EXAMPLES.glob("*.ipynb")) == sorted(SHOWS)


@pytest.mark.parametrize("name", SHOWS)
def test_the_notebook_runs(name: str, tmp_path: Path) -> None:
    """Cell by cell in one process; plain Python, so it needs no kernel."""
    cells = cells_of(EXAMPLES / f"{name}.ipynb")
    (tmp_path / "cells.py").write_text("\n\n".join("".join(cell["source"]) for cell in cells))
    done = forked.script(tmp_path / "cells.py", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [words for words in SHOWS[name] if words not in done.stdout] == []


@pytest.mark.parametrize("name", SHOWS)
def test_the_notebook_is_kept_without_outputs(name: str) -> None:
    for cell in cells_of(EXAMPLES / f"{name}.ipynb"):
        assert cell["outputs"] == [] and cell["execution_count"] is None
