"""Batch ranking on a cluster: one ranker in each worker answers parts of the requests; the result is that of one machine."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from heedful.cluster.connection import check_paths
from heedful.cluster.parts import open_work, run_parts
from heedful.cluster.storage import Place, delivered, here
from heedful.config import require
from heedful.embeddings.table import ItemEmbeddings
from heedful.folders import write_atomically
from heedful.rankers.registry import load_ranker
from heedful.rankers.saving import open_model_folder
from heedful.recommending import requests as embedded
from heedful.recommending.requests import ROW_GROUP_REQUESTS, RankingReport
from heedful.recommending.retrieval import Retriever

__all__ = ["recommend_requests", "score_requests"]

# Requests of a part: some seconds of work, so that a lost one costs little, and to start one costs nothing. Whole row
# groups, so that laid end to end they are those of one machine.
_PART_REQUESTS = 8 * ROW_GROUP_REQUESTS


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
        model: a model folder that all nodes reach, as well as `requests` and the folder of `out`; each a path or a URL.
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
    retrieve: int = 0,
    index: str | os.PathLike[str] | None = None,
) -> RankingReport:
    """`heedful.recommend_requests` on the cluster that is connected; arguments as in `score_requests` and there.

    Args:
        model: as in `score_requests`.
        requests: as there, without candidates.
        out: as there.
        embeddings: as there.
        k: items for each request.
        exclude_history: never return an item of the request's history.
        pool_gamma: as in `Ranker.score`.
        retrieve: score so many retrieved items for each request; 0: all.
        index: folder of `Retriever.save` that all nodes reach; None: each worker makes its own, exact or of lists as on one
            machine. Lists made twice are not quite the same, so a large catalogue should come with an index.
    """
    require(k >= 1, "k", got=k, expected="1 or more")
    options = {"what": "recommend", "k": k, "exclude_history": exclude_history, "pool_gamma": pool_gamma}
    return _rank(model, requests, out, embeddings, options, retrieve, index)


class _Answerer:
    """One ranker, its table memory-mapped."""

    def __init__(
        self,
        model: Place,
        embeddings: Place | None,
        requests: Place,
        options: dict[str, Any],
        retrieve: int,
        index: Place | None,
    ) -> None:
        self._ranker = load_ranker(here(model), embeddings=ItemEmbeddings.load(here(embeddings)) if embeddings else None)
        self._requests = here(requests)
        self._options = {name: value for name, value in options.items() if name != "what"}
        if retrieve:
            found = Retriever.open(here(index), self._ranker, candidates=retrieve) if index else None
            self._options["retriever"] = found or Retriever(self._ranker, candidates=retrieve)
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
    retrieve: int = 0,
    index: str | os.PathLike[str] | None = None,
) -> RankingReport:
    arguments = {
        "model": Place.of(model),
        "embeddings": Place.of(embeddings) if embeddings else None,
        "requests": Place.of(requests),
        "options": options,
        "retrieve": retrieve,
        "index": Place.of(index) if index else None,
    }
    folder, _ = open_model_folder(here(model))
    file = embedded.open_requests(here(requests), candidates=options["what"] == "score")
    target = Place.of(out)
    work = target.beside(".parts")
    open_work(work, {"model": folder.content_hash, "requests": Place.of(requests).stamp(), "retrieve": retrieve, **options})
    check_paths([place for place in arguments.values() if isinstance(place, Place)], work)
    n = file.metadata.num_rows
    parts = [[low, min(low + _PART_REQUESTS, n)] for low in range(0, n, _PART_REQUESTS)] or [[0, 0]]
    facts = run_parts(work, "ranking", parts, _Answerer, arguments)
    _join(work, [f"ranking-{number:05d}.parquet" for number in range(len(parts))], target)
    work.remove()
    return RankingReport(**{name: sum(one[name] for one in facts) for name in facts[0]})


def _join(work: Place, parts: list[str], target: Place) -> None:
    """The files in one, row group by row group."""
    # Parquet names the element of a list its own way; the embedded file has Arrow's.
    with work.gathered(parts[:1]) as folder:
        fields = [pa.field(f.name, pa.list_(f.type.value_type) if pa.types.is_list(f.type) else f.type)
                  for f in pq.read_schema(folder / parts[0])]  # fmt: skip
    schema = pa.schema(fields)
    with delivered(target) as made, write_atomically(made) as path, pq.ParquetWriter(path, schema) as writer:
        for part in parts:
            with work.gathered([part]) as folder, pq.ParquetFile(folder / part) as file:
                for group in range(file.num_row_groups):
                    writer.write_table(file.read_row_group(group).cast(schema))
