"""Batch ranking through files: Parquet requests in, Parquet scores or recommendations out, one row for each request.

A request carries its own history, so that a user whom the training log lacks is ranked like any other. Several batches are
ranked at a time, each in one thread: the matrices of a batch are too small to keep several busy, and so the result does not
depend on the number of threads.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import TypeAlias, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from heedful.errors import InputError
from heedful.events.candidates import Candidates
from heedful.events.histories import Histories
from heedful.events.times import seconds_of
from heedful.folders import write_atomically
from heedful.progress import progress
from heedful.rankers.base import Ranker
from heedful.recommending.recommend import Query, Recommender

__all__ = ["BATCH_REQUESTS", "ROW_GROUP_REQUESTS", "RankingReport", "open_requests", "recommend_requests", "score_requests"]

A = TypeVar("A")
B = TypeVar("B")

BATCH_REQUESTS = 32
"""Requests that are ranked together."""

ROW_GROUP_REQUESTS = 32 * BATCH_REQUESTS
"""Requests whose answers make up one row group of the result."""

Answer: TypeAlias = Callable[[pa.RecordBatch, Histories, "RankingReport"], list[pa.Array]]
"""The columns that answer a batch of requests with these histories; what it counts goes into the report."""


@dataclass
class RankingReport:
    """What a batch did.

    Attributes:
        requests: requests answered.
        candidates: candidates scored, or items returned.
        unknown_history: past items left out because the ranker does not know them.
        unknown_candidates: candidates that got the score for unknown items.
        empty: requests without a known past item, ranked by popularity.
    """

    requests: int = 0
    candidates: int = 0
    unknown_history: int = 0
    unknown_candidates: int = 0
    empty: int = 0

    def add(self, other: RankingReport) -> None:
        """Count what another report counted, too."""
        for name, count in asdict(other).items():
            setattr(self, name, getattr(self, name) + count)


def score_requests(
    ranker: Ranker,
    requests: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    pool_gamma: float | None = 0.0,
    rows: range | None = None,
) -> RankingReport:
    """Score the candidates of each request.

    Args:
        ranker: a fitted ranker.
        requests: Parquet with request_id, history (list of item ids, oldest first), candidates (list of item ids), and
            maybe history_times (list of times as `heedful.events.times` reads them) and history_kinds (list of strings).
        out: Parquet to write: request_id, scores (list of float32, in candidate order).
        pool_gamma: as in `Ranker.score`.
        rows: only these requests, by their position; all when None. Parts that begin at multiples of `BATCH_REQUESTS`
            together hold what one run gives.

    Raises:
        InputError: the file is not Parquet, lacks a column, or has lists that do not fit.
    """

    def answer(batch: pa.RecordBatch, histories: Histories, report: RankingReport) -> list[pa.Array]:
        offsets, ids = _lists(batch, "candidates")
        candidates = Candidates(offsets, ranker.items.rows(ids))
        report.candidates += len(candidates.rows)
        report.unknown_candidates += int(np.count_nonzero(candidates.rows < 0))
        scores = ranker.score_rows(histories, candidates, pool_gamma=pool_gamma)
        return [pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(scores))]

    return _answer_all(ranker, requests, out, ["candidates"], {"scores": pa.list_(pa.float32())}, answer, rows)


def recommend_requests(
    recommender: Recommender,
    requests: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    query: Query | None = None,
    rows: range | None = None,
) -> RankingReport:
    """The best of the catalogue for each request.

    Args:
        recommender: finds the best items.
        requests: Parquet as for `score_requests`, without candidates.
        out: Parquet to write: request_id, items (list of ids, best first), scores (list of float32).
        query: which items are asked for; None: the ten best.
        rows: as for `score_requests`.

    Raises:
        InputError: the file is not Parquet, lacks a column, or has lists that do not fit; the query
            has a condition or an attribute that cannot be used.
    """
    wanted, ranker = query or Query(), recommender.ranker

    def answer(batch: pa.RecordBatch, histories: Histories, report: RankingReport) -> list[pa.Array]:
        best, scores = recommender.top_rows(histories, wanted)
        found = best >= 0
        offsets = pa.array(np.concatenate([[0], np.cumsum(found.sum(axis=1))]), pa.int32())
        report.candidates += int(found.sum())
        return [
            pa.ListArray.from_arrays(offsets, ranker.items.take(best[found])),
            pa.ListArray.from_arrays(offsets, pa.array(scores[found])),
        ]

    columns = {"items": pa.list_(ranker.items.ids.type), "scores": pa.list_(pa.float32())}
    return _answer_all(ranker, requests, out, [], columns, answer, rows)


def _answer_all(
    ranker: Ranker,
    requests: str | os.PathLike[str],
    out: str | os.PathLike[str],
    needed: list[str],
    columns: dict[str, pa.DataType],
    answer: Answer,
    rows: range | None,
) -> RankingReport:
    file = open_requests(requests, candidates="candidates" in needed)
    rows = range(file.metadata.num_rows) if rows is None else rows
    request_id = file.schema_arrow.field("request_id")
    schema = pa.schema([request_id, *(pa.field(name, kind) for name, kind in columns.items())])

    def ranked(batch: pa.RecordBatch) -> tuple[pa.RecordBatch, RankingReport]:
        report = RankingReport(requests=len(batch))
        answers = answer(batch, _histories(ranker, batch, report), report)
        return pa.record_batch([batch["request_id"], *answers], schema=schema), report

    total, waiting = RankingReport(), []
    with (
        write_atomically(out) as path,
        pq.ParquetWriter(path, schema) as writer,
        progress("ranking", len(rows), "requests") as meter,
    ):
        for answers, report in _in_threads(ranked, _batches(file, needed, rows)):
            waiting.append(answers)
            total.add(report)
            if len(waiting) * BATCH_REQUESTS >= ROW_GROUP_REQUESTS:
                writer.write_table(pa.Table.from_batches(waiting))
                waiting = []
            meter.advance(len(answers))
        if waiting:
            writer.write_table(pa.Table.from_batches(waiting))
    return total


def _in_threads(work: Callable[[A], B], pieces: Iterable[A]) -> Iterator[B]:
    """The result of each piece, in order, from as many threads as torch uses, each of which uses no others."""
    threads = torch.get_num_threads()
    waiting: deque[Future[B]] = deque()
    try:
        with ThreadPoolExecutor(threads, "heedful-rank", initializer=torch.set_num_threads, initargs=(1,)) as pool:
            for piece in pieces:
                waiting.append(pool.submit(work, piece))
                if len(waiting) > 2 * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
    finally:
        torch.set_num_threads(threads)


def open_requests(requests: str | os.PathLike[str], *, candidates: bool) -> pq.ParquetFile:
    """Open a file of requests and check its columns.

    Raises:
        InputError: no such file, no Parquet, a column that is missing or of the wrong type.
    """
    needed = ["request_id", "history", *(["candidates"] if candidates else [])]
    try:
        file = pq.ParquetFile(requests)
    except FileNotFoundError as error:
        raise InputError(f"there is no file {requests}", fix="check the path") from error
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{requests} cannot be read", got=error, expected="a Parquet file of requests") from error
    missing = [name for name in needed if name not in file.schema_arrow.names]
    if missing:
        raise InputError(
            f"{requests} lacks a column",
            got=", ".join(file.schema_arrow.names),
            expected=", ".join(needed),
            fix=f"add {', '.join(missing)}",
        )
    for name in needed[1:]:
        kind = file.schema_arrow.field(name).type
        if not _is_list(kind):
            raise InputError(f"column {name!r} of {requests} is not a list", got=kind, expected="a list of item ids")
    for name, (fits, expected) in _OPTIONAL.items():
        kind = file.schema_arrow.field(name).type if name in file.schema_arrow.names else pa.list_(pa.null())
        values = kind.value_type if _is_list(kind) else kind
        values = values.value_type if pa.types.is_dictionary(values) else values
        if not _is_list(kind) or not (pa.types.is_null(values) or fits(values)):
            raise InputError(f"column {name!r} of {requests} has the wrong type", got=kind, expected=expected)
    return file


def _is_list(kind: pa.DataType) -> bool:
    lists = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    views = (pa.types.is_list_view, pa.types.is_large_list_view)
    return any(is_so(kind) for is_so in (*lists, *views))


def _is_time(kind: pa.DataType) -> bool:
    numbers = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    return bool(numbers or pa.types.is_timestamp(kind) or pa.types.is_date(kind) or _is_text(kind))


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


# Columns that a request may have: what their values may be, and how to say it.
_OPTIONAL = {
    "history_times": (_is_time, "a list of unix times, ISO texts, dates or timestamps"),
    "history_kinds": (_is_text, "a list of strings"),
}


def _batches(file: pq.ParquetFile, needed: list[str], rows: range) -> Iterator[pa.RecordBatch]:
    """The rows asked for in batches of `BATCH_REQUESTS`, counted from the first of them, whatever the row groups are."""
    wanted = ["request_id", "history", *needed]
    wanted += [name for name in ("history_times", "history_kinds") if name in file.schema_arrow.names]
    ends = np.cumsum([file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)], dtype=np.int64)
    groups = range(int(np.searchsorted(ends, rows.start, side="right")), int(np.searchsorted(ends, rows.stop)) + 1)
    groups = range(groups.start, min(groups.stop, len(ends)))
    skipped = rows.start - (int(ends[groups.start - 1]) if groups.start else 0)
    left, waiting = len(rows), pa.table([])
    for batch in file.iter_batches(batch_size=BATCH_REQUESTS, columns=wanted, row_groups=list(groups)) if left else ():
        part = batch.slice(min(skipped, len(batch)), left)
        skipped, left = max(skipped - len(batch), 0), left - len(part)
        waiting = pa.concat_tables([waiting, pa.table(part)]) if len(waiting) else pa.table(part)
        while len(waiting) >= BATCH_REQUESTS or (len(waiting) and not left):
            yield waiting.slice(0, BATCH_REQUESTS).combine_chunks().to_batches()[0]
            waiting = waiting.slice(BATCH_REQUESTS)
        if not left:
            break


def _histories(ranker: Ranker, batch: pa.RecordBatch, report: RankingReport) -> Histories:
    offsets, ids = _lists(batch, "history")
    rows = ranker.items.rows(ids)
    times = np.full(len(rows), ranker.last_time, np.int64)
    kinds = np.repeat(ranker.kind_codes([None]), len(rows))
    if "history_times" in batch.schema.names:
        given = _one_each(batch, "history_times", offsets)
        if given is not None:
            times = seconds_of(given, missing=ranker.last_time)
    if "history_kinds" in batch.schema.names:
        given = _one_each(batch, "history_kinds", offsets)
        if given is not None:
            kinds = ranker.kind_codes(given.to_pylist())
    histories = ranker.encode_histories(offsets, rows, times, kinds)
    report.unknown_history += int(np.count_nonzero(rows < 0))
    report.empty += int(np.count_nonzero(histories.lengths == 0))
    return histories


def _one_each(batch: pa.RecordBatch, name: str, offsets: np.ndarray) -> pa.Array | None:
    """Values of a list column that go with the history; None when the column is null throughout."""
    column = batch[name]
    if column.null_count == len(column):
        return None
    found, values = _lists(batch, name)
    if not np.array_equal(found, offsets):
        at = int(np.flatnonzero(np.diff(found) != np.diff(offsets))[0])
        raise InputError(
            f"{name} of request {batch['request_id'][at].as_py()!r} does not fit its history",
            got=f"{int(np.diff(found)[at])} values",
            expected=f"{int(np.diff(offsets)[at])}, one for each past item",
        )
    return values


def _lists(batch: pa.RecordBatch, name: str) -> tuple[np.ndarray, pa.Array]:
    """A list column as offsets int64 [B + 1] from 0 and its values laid end to end; a null list is an empty one."""
    column = batch[name]
    if not (pa.types.is_list(column.type) or pa.types.is_large_list(column.type)):
        # A list of fixed size keeps values behind nulls, and a view may keep them in any order.
        parts = [one.values if one.is_valid else pa.nulls(0, column.type.value_type) for one in column]
        offsets = np.cumsum([0, *map(len, parts)]).astype(np.int64)
        return offsets, pa.concat_arrays(parts)
    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False)
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64), column.flatten()
