"""The quickstart of the README and the example of the package run as written, here on a small log."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import Any

import duckdb
import pytest

import heedful
from heedful.embeddings import skipgram
from heedful.rankers import continuing

README = Path(__file__).parents[1] / "README.md"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a log of 60 users over 90 days until the end of 2017, and attributes of its 50 items."""
    duckdb.execute(
        f"""
        copy (select 'u' || (n % 60) as user_id, 'i' || (hash(n, 1) % 50) as item_id, 'purchase' as event,
                     epoch(timestamp '2017-10-02') + (hash(n, 2) % (90 * 86400)) as timestamp
              from range(3000) t(n))
        to '{tmp_path}/events.parquet' (format parquet)
        """
    )
    duckdb.execute(
        f"""
        copy (select 'i' || n as item_id, 'Item ' || n as title, 'even or odd' as category from range(50) t(n))
        to '{tmp_path}/items.parquet' (format parquet)
        """
    )
    monkeypatch.chdir(tmp_path)
    # The defaults train no longer than this.
    monkeypatch.setattr(continuing, "_FEWEST_STEPS", 20)
    monkeypatch.setattr(skipgram, "_AUTO_EPOCHS", (1, 1))
    return tmp_path


def test_the_quickstart_runs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = re.search(r"<!-- quickstart.*?```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert code is not None
    exec(compile(code.group(1), "README.md", "exec"), {})

    printed = capsys.readouterr().out
    assert "attention" in printed and "NDCG" in printed  # the comparison
    assert "Reason(item=" in printed  # the explanation
    assert (folder / "model" / "manifest.json").exists()


def test_the_example_of_the_package_runs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = re.search(r"^    import heedful\n.*?(?=^\S)", heedful.__doc__ or "", re.DOTALL | re.MULTILINE)
    assert found is not None
    names: dict[str, Any] = {}
    exec(compile(textwrap.dedent(found.group()), "heedful", "exec"), names)

    assert "attention" in capsys.readouterr().out  # the comparison
    assert len(names["top"].items) == 10


def test_the_files_that_the_readme_names_exist() -> None:
    names = re.findall(r"\]\(((?!http)[^)#]+)\)", README.read_text())
    assert names
    assert [name for name in names if not (README.parent / name).exists()] == []
