"""Batch ranking on a cluster: one ranker in each worker answers parts of the requests; the result is that of one machine."""

from __future__ import annotations

import os
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from heedful.cluster.connection import check_paths
from heedful.cluster.parts import open_work, run_parts
from heedful.cluster.storage import Place, delivered, here
from heedful.embeddings.table import ItemEmbeddings
from heedful.folders import write_atomically
from heedful.rankers.base import Ranker
from heedful.rankers.registry import load_ranker
from heedful.rankers.saving import open_model_folder
from heedful.recommending import requests as embedded
from heedful.recommending.recommend import Query, Recommender
from heedful.recommending.requests import ROW_GROUP_REQUESTS, RankingReport
from heedful.recommending.retrieval import RETRIEVED, Retriever

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
    query: Query | None = None,
    exact: bool = False,
    retrieve: int | None = None,
    index: str | os.PathLike[str] | None = None,
) -> RankingReport:
    """`heedful.recommend_requests` on the cluster that is connected; arguments as there and here.

    Args:
        model: as in `score_requests`.
        requests: as there, without candidates.
        out: as there.
        embeddings: as there.
        query: which items are asked for; None: the ten best.
        exact: as in `Recommender`.
        retrieve: as in `Recommender`.
        index: folder of `Retriever.save` that all nodes reach; None: each worker makes its own,
            exact or of lists as on one machine. Lists made twice are not quite the same, so a large
            catalogue should come with an index.
    """
    options = {"what": "recommend", "query": asdict(query or Query())}
    how = {"exact": exact, "retrieve": retrieve}
    return _rank(model, requests, out, embeddings, {**options, **how}, index)


class _Answerer:
    """One ranker, its table memory-mapped."""

    def __init__(
        self,
        model: Place,
        embeddings: Place | None,
        requests: Place,
        options: dict[str, Any],
        index: Place | None,
    ) -> None:
        table = ItemEmbeddings.load(here(embeddings)) if embeddings else None
        ranker = load_ranker(here(model), embeddings=table)
        self._requests = here(requests)
        if options["what"] == "score":
            gamma = options["pool_gamma"]
            self._answer = partial(embedded.score_requests, ranker, pool_gamma=gamma)
            return
        recommender = _recommender(ranker, options["exact"], options["retrieve"], index)
        query = Query(**options["query"])
        self._answer = partial(embedded.recommend_requests, recommender, query=query)

    def run(self, part: list[int], path: Path) -> dict[str, Any]:
        report = self._answer(self._requests, f"{path}.parquet", rows=range(*part))
        return asdict(report)


def _recommender(ranker: Ranker, exact: bool, retrieve: int | None, index: Place | None) -> Recommender:
    if exact or index is None:
        return Recommender(ranker, exact=exact, retrieve=retrieve)
    retriever = Retriever.open(here(index), ranker, candidates=retrieve or RETRIEVED)
    return Recommender(ranker, retriever=retriever)


def _rank(
    model: str | os.PathLike[str],
    requests: str | os.PathLike[str],
    out: str | os.PathLike[str],
    embeddings: str | os.PathLike[str] | None,
    options: dict[str, Any],
    index: str | os.PathLike[str] | None = None,
) -> RankingReport:
    arguments = {
        "model": Place.of(model),
        "embeddings": Place.of(embeddings) if embeddings else None,
        "requests": Place.of(requests),
        "options": options,
        "index": Place.of(index) if index else None,
    }
    folder, _ = open_model_folder(here(model))
    file = embedded.open_requests(here(requests), candidates=options["what"] == "score")
    target = Place.of(out)
    work = target.beside(".parts")
    open_work(work, {"model": folder.content_hash, "requests": Place.of(requests).stamp(), **options})
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
