"""What keeps the code as it was meant: light modules, no pickle, nothing that runs text as code."""

from __future__ import annotations

import ast
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest

import heedful
from ranking_worlds import python

SOURCES = sorted(Path(heedful.__file__).parent.rglob("*.py"))
ROOT = Path(heedful.__file__).parent


def modules_of(folder: str) -> list[str]:
    files = sorted((ROOT / folder).rglob("*.py"))
    names = [".".join(file.relative_to(ROOT.parent).with_suffix("").parts) for file in files]
    return [name.removesuffix(".__init__") for name in names]


def loaded_by(modules: list[str], packages: list[str]) -> set[str]:
    """Which of the packages are in memory after the modules were imported."""
    code = f"import sys, {', '.join(modules)}; print(*(set({packages}) & set(sys.modules)))"
    outcome = python(code)
    assert outcome.returncode == 0, outcome.stderr
    return set(outcome.stdout.split())


def test_reading_tables_metrics_and_folders_do_without_torch() -> None:
    light = [*modules_of("events"), "heedful.embeddings.table", "heedful.metrics", "heedful.folders"]
    assert len(light) > 10
    assert loaded_by(light, ["torch", "cma", "matplotlib", "safetensors"]) == set()
    assert loaded_by(["heedful.model.attention"], ["torch"]) == {"torch"}  # the test can fail


def test_imports_that_must_be_quick_are_light() -> None:
    heavy = ["torch", "numba", "duckdb", "pyarrow", "numpy", "matplotlib"]
    assert loaded_by(["heedful", "heedful.cli", "heedful.errors", "heedful.config", "heedful.progress"], heavy) == set()


def test_opening_a_model_waits_for_nothing_that_only_training_needs() -> None:
    heavy = ["cma", "matplotlib", "scipy.stats", "pandas"]
    assert loaded_by(["heedful.rankers.registry", "heedful.recommending.requests"], heavy) == set()


def test_preparing_a_log_does_without_pandas(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("user,item,time\na,b,1700000000\na,c,1700000001\n")
    pq.write_table(pacsv.read_csv(tmp_path / "log.csv"), tmp_path / "log.parquet")
    code = (
        "import sys, heedful; heedful.prepare(sys.argv[1], sys.argv[2], overwrite=True);"
        "print({'pandas', 'pyarrow.dataset'} & set(sys.modules))"
    )
    for name in ("log.csv", "log.parquet"):
        assert python(code, tmp_path / name, tmp_path / "sequences").stdout == "set()\n"


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_pickle_and_no_text_as_code(source: Path) -> None:
    tree = ast.parse(source.read_text())
    imported = {alias.name.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {str(node.module).split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not imported & {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
    called = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    assert not {func.id for func in called if isinstance(func, ast.Name)} & {"eval", "exec", "compile", "__import__"}
    of_torch = [func for func in called if isinstance(func, ast.Attribute) and isinstance(func.value, ast.Name)]
    assert not [func for func in of_torch if func.value.id == "torch" and func.attr in ("load", "save")]  # type: ignore[attr-defined]
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            assert isinstance(node.value, ast.Constant) and node.value.value is False


def comments(source: Path) -> Iterator[str]:
    with source.open("rb") as stream:
        yield from (token.string for token in tokenize.tokenize(stream.readline) if token.type == tokenize.COMMENT)


def test_nothing_is_left_to_do_in_a_comment() -> None:
    found = [(source.name, text) for source in SOURCES for text in comments(source)]
    assert len(found) > 20
    assert [one for one in found if any(word in one[1] for word in ("TODO", "FIXME", "XXX"))] == []


def test_every_module_and_package_says_what_it_is() -> None:
    for source in SOURCES:
        assert len(ast.get_docstring(ast.parse(source.read_text())) or "") > 10, source
