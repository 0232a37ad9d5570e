"""One Ray session on this machine for all tests, storage by path and by URL, and a small log with all that one machine makes
of it.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cluster_worlds import Shop
from pyarrow import fs

import heedful
from heedful.cluster.storage import Place
from heedful.events.synthetic import SyntheticConfig, synthesize

# Ray would write a token into the user's home, which from then on every cluster on this machine asks for. It looks at these
# settings once, when it is imported.
_SECRETS = tempfile.TemporaryDirectory(prefix="heedful-ray-")
_TOKEN = Path(_SECRETS.name) / "token"
_TOKEN.touch(mode=0o600)
_TOKEN.write_text(secrets.token_hex(32))
os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=str(_TOKEN), RAY_BACKEND_LOG_LEVEL="fatal")


def pytest_unconfigure() -> None:
    _SECRETS.cleanup()


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str | None]:
    """An S3-compatible server with a bucket named shop; None where nobody has one."""
    python = next((python for python in _pythons() if _has_server(python)), None)
    if python is None:
        yield None
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [python, str(Path(__file__).with_name("s3_server.py")), str(port)],
        env={"PATH": os.environ["PATH"]},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _wait_for(port)
        endpoint = f"127.0.0.1:{port}"
        options = {"access_key": "test", "secret_key": "test", "scheme": "http", "region": "us-east-1"}
        fs.S3FileSystem(endpoint_override=endpoint, allow_bucket_creation=True, **options).create_dir("shop")
        yield endpoint
    finally:
        server.kill()
        server.wait()


def _pythons() -> list[str]:
    """Moto's dependencies do not go with ours, so that it lives elsewhere: where `.ci/run` puts it, or with the system's."""
    own = Path(__file__).parents[2] / "build" / "s3" / "bin" / "python"
    # A virtual environment stands first on the path when it is active.
    places = [place for place in os.environ["PATH"].split(os.pathsep) if Path(place) != Path(sys.executable).parent]
    return [str(own), sys.executable, *filter(None, [shutil.which("python3", path=os.pathsep.join(places))])]


def _has_server(python: str) -> bool:
    with contextlib.suppress(OSError):
        command = [python, "-c", "import moto, werkzeug, flask, flask_cors"]
        return subprocess.run(command, capture_output=True, env={"PATH": os.environ["PATH"]}, check=False).returncode == 0
    return False


def _wait_for(port: int) -> None:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.1)
    raise TimeoutError("the S3 server does not answer")


@pytest.fixture(params=["path", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path, s3_endpoint: str | None) -> Place:
    """A folder on each kind of storage."""
    if request.param == "path":
        return Place.of(tmp_path / "shared")
    if s3_endpoint is None:
        pytest.skip("no S3-compatible server: pip install 'moto[s3,server]' for some python3 on the path")
    return Place.of(f"s3://shop/{secrets.token_hex(4)}")


@pytest.fixture
def far(tmp_path: Path, s3_endpoint: str | None) -> Place:
    """A folder at a URL, where there is a server; a path else. For what takes too long to be done on both."""
    return Place.of(f"s3://shop/{secrets.token_hex(4)}" if s3_endpoint else tmp_path / "shared")


@pytest.fixture(scope="session")
def ray_session(s3_endpoint: str | None) -> Iterator[None]:
    ray = pytest.importorskip("ray", reason="the extra cluster is not installed")
    # Processes that Ray starts inherit this, and are at hand before anybody asks; a runtime_env would start each anew.
    path = os.pathsep.join([str(Path(heedful.__file__).parents[1]), str(Path(__file__).parent)])
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("OMP_NUM_THREADS", "1")
        environment.setenv("AWS_ACCESS_KEY_ID", "test")
        environment.setenv("AWS_SECRET_ACCESS_KEY", "test")
        environment.setenv("AWS_ENDPOINT_URL", f"http://{s3_endpoint}")
        with pytest.MonkeyPatch.context() as python:
            python.setenv("PYTHONPATH", path)
            ray.init(
                address="local",
                num_cpus=2,
                object_store_memory=100_000_000,
                include_dashboard=False,
                log_to_driver=False,
                logging_level="ERROR",
            )
        yield
        ray.shutdown()


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    work = tmp_path_factory.mktemp("shop")
    config = SyntheticConfig(users=900, items=200, categories=5, styles=4, events_per_user=15.0, part_users=300)
    synthesize(work / "log", config=config)
    log = heedful.prepare(work / "log" / "events", work / "sequences", items=work / "log" / "items.parquet")
    heedful.SkipGram(width=8, epochs=2, threads=1).fit(log).save(work / "embeddings")
    items = heedful.ItemEmbeddings.load(work / "embeddings")
    heedful.AttentionRanker(depth=2, steps=20, validate_every=5).fit(log, items).save(work / "model")
    h, ids = log.histories, log.catalog.items.ids
    offsets = pa.array(h.offsets, pa.int32())
    drawn = np.random.default_rng(1).integers(0, len(ids), 7 * len(log.users))
    columns = {
        "request_id": log.users.ids,
        "history": pa.ListArray.from_arrays(offsets, ids.take(pa.array(h.items))),
        "history_times": pa.ListArray.from_arrays(offsets, pa.array(np.asarray(h.times))),
        "candidates": pa.ListArray.from_arrays(
            pa.array(np.arange(len(log.users) + 1) * 7, pa.int32()), ids.take(pa.array(drawn))
        ),
    }
    # Requests of several parts, in row groups that end where no batch ends.
    table = pa.concat_tables([pa.table(columns)] * 3)
    pq.write_table(table, work / "requests.parquet", row_group_size=1234)
    return Shop(work / "log", work / "sequences", work / "embeddings", work / "model", work / "requests.parquet")
