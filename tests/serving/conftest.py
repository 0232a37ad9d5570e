from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from serving_worlds import SLOTS, shop_log, train
from store_worlds import Server, binaries

from heedful.serving.store import Store


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Server]:
    """A running PostgreSQL server."""
    programs = binaries()
    if programs is None:
        pytest.skip("PostgreSQL's programs initdb and postgres are not installed")
    # Not below pytest's own folder: each pytest that starts closes that to other users, and so to the server.
    with tempfile.TemporaryDirectory(prefix="heedful-postgresql-") as folder:
        server = Server(Path(folder), programs)
        server.make()
        server.start()
        yield server
        server.stop()


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Where a store can be made: a file that is not there yet, and the URL of an empty PostgreSQL database."""
    if request.param == "sqlite":
        yield str(tmp_path / "shop.sqlite")
        return
    server: Server = request.getfixturevalue("postgresql")
    server.empty()
    yield server.url


@pytest.fixture
def store(place: str) -> Iterator[Store]:
    """An empty store on each of the systems."""
    store = Store.open(place, lock_seconds=1.0)
    yield store
    store.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MB, which `mount -o remount,size=` enlarges."""
    folder = tmp_path / "disk"
    folder.mkdir()
    made = ["mount", "-t", "tmpfs", "-o", "size=4m,mode=777", "tmpfs", folder]
    if os.geteuid() != 0 or subprocess.run(made, capture_output=True).returncode != 0:
        pytest.skip("a file system can be mounted by root alone")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two small models and the log of their shop."""
    folder = tmp_path_factory.mktemp("models")
    train("attention").save(folder / "first", pack=True)
    train("averaging").save(folder / "second", pack=True)
    shop_log().save(folder / "sequences")
    return folder


@pytest.fixture
def models(trained: Path, tmp_path: Path) -> Path:
    """Copies of them that a test may damage."""
    return Path(shutil.copytree(trained, tmp_path / "models"))


@pytest.fixture
def slots(tmp_path: Path) -> Path:
    """A file of slots."""
    (tmp_path / "slots.toml").write_text(SLOTS)
    return tmp_path / "slots.toml"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server keeps its state in the current folder where its database is not a file: not in the repository."""
    monkeypatch.chdir(tmp_path)
