"""Every example runs, from an empty folder, and says what it found."""

from __future__ import annotations

from pathlib import Path

import pytest

import forked

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_the_example_runs(path: Path, tmp_path: Path) -> None:
    done = forked.script(path, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "NDCG" in done.stdout
