"""One Ray session on this machine for all tests, and a small log with everything that is made of it on one machine."""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cluster_worlds import Shop

import heedful
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
def ray_session() -> Iterator[None]:
    ray = pytest.importorskip("ray", reason="the extra cluster is not installed")
    # Processes that Ray starts inherit this, and are at hand before anybody asks; a runtime_env would start each anew.
    path = os.pathsep.join([str(Path(heedful.__file__).parents[1]), str(Path(__file__).parent)])
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("PYTHONPATH", path)
        environment.setenv("OMP_NUM_THREADS", "1")
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
    heedful.AttentionRanker(depth=2, steps=20, assess_every=5).fit(log, items).save(work / "model")
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
