from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
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
