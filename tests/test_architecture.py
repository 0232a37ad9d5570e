"""What keeps the code as it was meant: light modules, no pickle, nothing that runs text as code."""

from __future__ import annotations

import ast
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest

import heedful
from heedful.rankers.registry import MODELS
from ranking_worlds import QUICK, python, random_log, table_of

SOURCES = sorted(Path(heedful.__file__).parent.rglob("*.py"))
ROOT = Path(heedful.__file__).parent
CLONE = Path(__file__).parents[1]


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


def test_a_model_is_loaded_and_asked_without_the_compiler_of_torch(tmp_path: Path) -> None:
    """Importing it takes longer than everything else of `heedful serve` and `heedful recommend` until the first answer."""
    log = random_log()
    ranker = MODELS["attention"](**QUICK["attention"]).fit(log, table_of(log.catalog.items.ids))
    ranker.save(tmp_path / "model", pack=True)
    code = (
        "import sys, heedful; ranker = heedful.load_ranker(sys.argv[1])\n"
        "print(len(heedful.Recommender(ranker).recommend(['item1'], k=3)), {'torch._dynamo'} & set(sys.modules))"
    )
    outcome = python(code, tmp_path / "model")
    assert outcome.stdout == "3 set()\n", outcome.stderr


def test_preparing_a_log_does_without_pandas(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("user,item,time\na,b,1700000000\na,c,1700000001\n")
    pq.write_table(pacsv.read_csv(tmp_path / "log.csv"), tmp_path / "log.parquet")
    code = (
        "import sys, heedful\n"
        "for source in sys.argv[2:]:\n"
        "    heedful.prepare(source, sys.argv[1], overwrite=True)\n"
        "    print({'pandas', 'pyarrow.dataset'} & set(sys.modules))"
    )
    outcome = python(code, tmp_path / "sequences", tmp_path / "log.csv", tmp_path / "log.parquet")
    assert outcome.stdout == "set()\nset()\n"


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


def paths_of_tree(tree: str) -> set[str]:
    """The paths of a tree that is drawn by two blanks a level."""
    paths: set[str] = set()
    above: list[str] = []
    for indent, name in re.findall(r"^( *)(\S+)", tree, re.MULTILINE):
        del above[len(indent) // 2 :]
        paths.add("".join([*above, name]))
        above.append(name)
    return paths


def test_the_tree_of_contributing_is_that_of_the_folders() -> None:
    tree = re.search(r"## Where things are\n\n```\n(.*?)```", (CLONE / "CONTRIBUTING.md").read_text(), re.DOTALL)
    assert tree is not None
    packages = {f"src/heedful/{path.parent.relative_to(ROOT)}/" for path in ROOT.rglob("__init__.py")} - {"src/heedful/./"}
    modules = {f"src/heedful/{path.name}" for path in ROOT.glob("*.py") if path.name != "__main__.py"}
    own = [path for path in CLONE.iterdir() if not path.name.startswith(".")]
    folders = {f"{path.name}/" for path in own if any(path.glob("*.py")) or any(path.glob("*.md"))}
    assert {"docs/", "tests/"} <= folders
    assert paths_of_tree(tree.group(1)) == {"src/heedful/"} | packages | modules | folders


def test_trees_are_read() -> None:
    assert paths_of_tree("a/\n  b/   one\n    c.py  two\n  d.py\ne/\n") == {"a/", "a/b/", "a/b/c.py", "a/d.py", "e/"}


# What is read and changed most must stay easy to read.
SMALL_PACKAGES = [package for package in ("model", "training", "rankers", "kernels") if (ROOT / package).is_dir()]
SMALL_FILES = [file for package in SMALL_PACKAGES for file in sorted((ROOT / package).rglob("*.py"))]
MOST_LINES, MOST_BODY_LINES = 400, 40


def body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines from the first statement to the last, without the docstring."""
    statements = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return (statements[-1].end_lineno or 0) - statements[0].lineno + 1 if statements else 0


@pytest.mark.parametrize("source", SMALL_FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_are_small(source: Path) -> None:
    assert len(source.read_text().splitlines()) <= MOST_LINES
    functions = [node for node in ast.walk(ast.parse(source.read_text())) if isinstance(node, ast.FunctionDef)]
    assert {one.name: body_lines(one) for one in functions if body_lines(one) > MOST_BODY_LINES} == {}


def test_sizes_are_measured() -> None:
    text = 'def f():\n    """One.\n\n    Two.\n    """\n    x = 1\n\n    return (\n        x\n    )\n'
    (function,) = ast.parse(text).body
    assert isinstance(function, ast.FunctionDef) and body_lines(function) == 5
    assert len(SMALL_FILES) > 30
