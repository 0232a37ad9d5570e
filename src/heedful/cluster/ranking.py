"""Batch ranking on a cluster: one ranker in each worker answers parts of the requests; the result is that of one machine."""

from __future__ import annotations

import os
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from heedful.cluster.connection import absolute, check_paths
from heedful.cluster.parts import open_work, run_parts
from heedful.config import require
from heedful.embeddings.table import ItemEmbeddings
from heedful.folders import write_atomically
from heedful.ranking.models import load_ranker
from heedful.ranking.ranker import open_model_folder
from heedful.recommending import requests as embedded
from heedful.recommending.requests import BATCH_REQUESTS, RankingReport

__all__ = ["recommend_requests", "score_requests"]

# Requests of a part: some seconds of work, so that a lost one costs little, and starting one costs nothing beside it.
_PART_REQUESTS = 256 * BATCH_REQUESTS


def score_requests(
    model: str | os.PathLike[str],
    requests: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    embeddings: str | os.PathLike[str] | None = None,
    pool_gamma: float | None = 0.0,
) -> RankingReport:
    """`heedful.score_requests` on the cluster that is connected, with the same result.

    To the byte where one machine computes in one thread, as a worker does; more threads add up in another order.

    Args:
        model: a model folder that all nodes see, as well as `requests` and the folder of `out`.
        requests: Parquet of requests.
        out: Parquet to write. Finished parts lie in `OUT.parts` until it is, and a run that was stopped goes on from them.
        embeddings: the folder of the embedding table, when it was moved.
        pool_gamma: as in `Ranker.score`.

    Raises:
        InputError: as there.
        FolderError: a node does not see a path, or cannot write.
    """
    return _rank(model, requests, out, embeddings, {"what": "score", "pool_gamma": pool_gamma})


def recommend_requests(
    model: str | os.PathLike[str],
    requests: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    embeddings: str | os.PathLike[str] | None = None,
    k: int = 10,
    exclude_history: bool = True,
    pool_gamma: float | None = 0.0,
) -> RankingReport:
    """`heedful.recommend_requests` on the cluster that is connected; arguments as in `score_requests` and there."""
    require(k >= 1, "k", got=k, expected="1 or more")
    options = {"what": "recommend", "k": k, "exclude_history": exclude_history, "pool_gamma": pool_gamma}
    return _rank(model, requests, out, embeddings, options)


class _Answerer:
    """One ranker, its table memory-mapped."""

    def __init__(self, model: str, embeddings: str | None, requests: str, options: dict[str, Any]) -> None:
        self._ranker = load_ranker(model, embeddings=ItemEmbeddings.load(embeddings) if embeddings else None)
        self._requests, self._options = requests, {name: value for name, value in options.items() if name != "what"}
        self._function = embedded.score_requests if options["what"] == "score" else embedded.recommend_requests

    def run(self, part: list[int], path: Path) -> dict[str, Any]:
        report = self._function(self._ranker, self._requests, f"{path}.parquet", rows=range(*part), **self._options)
        return asdict(report)


def _rank(
    model: str | os.PathLike[str],
    requests: str | os.PathLike[str],
    out: str | os.PathLike[str],
    embeddings: str | os.PathLike[str] | None,
    options: dict[str, Any],
) -> RankingReport:
    folder, _ = open_model_folder(model)
    file = embedded.open_requests(requests, candidates=options["what"] == "score")
    paths = [absolute(path) for path in (model, requests, *([embeddings] if embeddings else []))]
    target, work = absolute(out), absolute(f"{os.fspath(out)}.parts")
    stat = paths[1].stat()
    open_work(work, {"model": folder.content_hash, "requests": [stat.st_size, stat.st_mtime_ns], **options})
    check_paths(paths, work)
    n = file.metadata.num_rows
    parts = [[low, min(low + _PART_REQUESTS, n)] for low in range(0, n, _PART_REQUESTS)] or [[0, 0]]
    arguments = {
        "model": str(paths[0]),
        "embeddings": str(paths[2]) if embeddings else None,
        "requests": str(paths[1]),
        "options": options,
    }
    facts = run_parts(work, "ranking", parts, _Answerer, arguments)
    _join([work / f"ranking-{number:05d}.parquet" for number in range(len(parts))], target)
    shutil.rmtree(work, ignore_errors=True)
    return RankingReport(**{name: sum(one[name] for one in facts) for name in facts[0]})


def _join(parts: list[Path], target: Path) -> None:
    """The files in one, row group by row group."""
    # Parquet names the element of a list its own way; the embedded file has Arrow's.
    fields = [pa.field(f.name, pa.list_(f.type.value_type) if pa.types.is_list(f.type) else f.type)
              for f in pq.read_schema(parts[0])]  # fmt: skip
    schema = pa.schema(fields)
    with write_atomically(target) as path, pq.ParquetWriter(path, schema) as writer:
        for part in parts:
            file = pq.ParquetFile(part)
            for group in range(file.num_row_groups):
                writer.write_table(file.read_row_group(group).cast(schema))
