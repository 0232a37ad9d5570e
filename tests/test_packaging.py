"""The wheel and the sdist: what is in them, and that the wheel works in a fresh environment outside the clone."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

import heedful

CLONE = Path(__file__).parents[1]
CACHES = {"__pycache__", ".mypy_cache", ".ruff_cache", ".pytest_cache"}
PARTS = [".ci", "benchmarks", "docs", "examples", "src", "tests"]


def run(*arguments: object, cwd: Path) -> str:
    """Standard output of a command that must succeed, without the import path of the tests."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [str(one) for one in arguments], cwd=cwd, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def build(kind: str, source: Path, out: Path) -> Path:
    """Path of the `sdist` or `wheel` of a source tree, built by the hook that `python -m build` calls."""
    hook = f"from setuptools import build_meta; print(build_meta.build_{kind}(r'{out}'))"
    return out / run(sys.executable, "-c", hook, cwd=source).splitlines()[-1]


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packaging")
    tree = folder / "clone"
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for part in PARTS:
        shutil.copytree(CLONE / part, tree / part, ignore=ignored)
    for file in (path for path in CLONE.iterdir() if path.is_file()):
        if file.name != ".git":
            shutil.copy(file, tree)
    return build("sdist", tree, folder)


@pytest.fixture(scope="module")
def wheel(sdist: Path) -> Path:
    """Made from the sdist, as `python -m build` does."""
    with tarfile.open(sdist) as archive:
        archive.extractall(sdist.parent, filter="data")
    return build("wheel", sdist.parent / sdist.name.removesuffix(".tar.gz"), sdist.parent)


@pytest.fixture(scope="module")
def fresh(wheel: Path) -> Path:
    """A new environment with the wheel alone; the dependencies are those of the tests."""
    folder = wheel.parent / "environment"
    venv.create(folder, with_pip=False, symlinks=True)
    interpreter = folder / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", interpreter, "install", "--no-index", "--no-deps", wheel, cwd=folder)
    site = run(interpreter, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).strip()
    # A path in such a file is searched, but the files for editable installation in it are not read.
    Path(site, "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder


def test_the_version_is_written_once(wheel: Path, sdist: Path) -> None:
    assert sdist.name == f"heedful-{heedful.__version__}.tar.gz"
    assert wheel.name == f"heedful-{heedful.__version__}-py3-none-any.whl"
    assert f'"{heedful.__version__}"' not in (CLONE / "pyproject.toml").read_text()


def test_the_sdist_holds_the_repository(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {
        str(path.relative_to(CLONE))
        for part in PARTS
        for path in (CLONE / part).rglob("*")
        if path.is_file() and not CACHES.intersection(path.parts) and ".egg-info" not in str(path)
    }
    assert len(wanted) > 300
    assert wanted - held == set()
    assert {"LICENSE", "README.md", "pyproject.toml", "constraints.txt", "Makefile"} <= held


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    package = CLONE / "src"
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    found = (package / "heedful").rglob("*")
    files = {str(path.relative_to(package)) for path in found if path.is_file() and not CACHES.intersection(path.parts)}
    assert held == files
    assert {"heedful/py.typed", "heedful/serving/web/index.html"} <= held


def test_the_wheel_works_outside_the_clone(fresh: Path, tmp_path: Path) -> None:
    home = run(fresh / "bin" / "python", "-c", "import heedful; print(heedful.__file__)", cwd=tmp_path)
    assert Path(home.strip()).is_relative_to(fresh)

    command = fresh / "bin" / "heedful"
    assert heedful.__version__ in run(command, "--version", cwd=tmp_path)
    run(command, "synth", "--users", 200, "--items", 320, "--out", "log", cwd=tmp_path)
    run(command, "prepare", "log/events", "--items", "log/items.parquet", "--out", "sequences", cwd=tmp_path)
    run(command, "embed", "sequences", "--width", 8, "--epochs", 1, "--out", "embeddings", cwd=tmp_path)
    assert "embeddings, 6 files" in run(command, "verify", "embeddings", cwd=tmp_path)


def test_every_extra_is_documented() -> None:
    project = tomllib.loads((CLONE / "pyproject.toml").read_text())["project"]
    listed = re.findall(r"^\| `(\w+)` \|", (CLONE / "docs" / "install.md").read_text(), re.MULTILINE)
    assert listed == sorted(project["optional-dependencies"])
