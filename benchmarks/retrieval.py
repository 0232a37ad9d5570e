"""Retrieval before ranking: what it keeps of scoring every item, and its latency on a made-up catalogue.

    python benchmarks/retrieval.py quality MODEL SEQUENCES --cut DATE [--users 160] [--pool-gamma 0]
    python benchmarks/retrieval.py speed [--items 1000000] [--keep FOLDER]

`quality` asks for users of the days after the cut, whose later new items count as relevant (after `heedful demo`: folders
attention and sequences, cut 2017-12-24). It prints, for each N and each condition, the share of the top 10 of scoring every
item that is kept, and the processor time of a user. `speed` builds inverted lists over vectors in clusters and asks for 10
items for single users with 200 past items; some of the users are asked for again with exact search, to see what the lists
lose. With --keep, model and index stay in FOLDER.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from made_up import skewed_log
from side_by_side import peak_mb

from heedful.embeddings.table import ItemEmbeddings
from heedful.events.histories import Histories
from heedful.events.log import EventLog, parse_time
from heedful.rankers.attention import AttentionRanker
from heedful.rankers.base import Ranker
from heedful.rankers.registry import load_ranker
from heedful.recommending.recommend import Query, Recommender
from heedful.recommending.retrieval import Retriever


def quality(model: Path, sequences: Path, cut: str, users: int, pool_gamma: float) -> None:
    ranker = load_ranker(model)
    histories, wanted = requests(ranker, EventLog.load(sequences), cut, users)
    exact = Recommender(ranker, exact=True)
    for where in ("", "item_id LIKE '%7'", "item_id LIKE '%77'"):
        query = Query(where=where, pool_gamma=pool_gamma)
        every, seconds = one_by_one(exact, histories, query)
        reference = np.mean([ndcg(rows, w) for rows, w in zip(every, wanted, strict=True)])
        print(f"{len(histories)} users, where {where or 'true'}: every item {seconds * 1e3:.0f} ms, NDCG@10 {reference:.4f}")
        for kind in ("exact", "lists"):
            index = Retriever(ranker, index=kind).index
            for n in (100, 300, 1000):
                recommender = Recommender(ranker, retriever=Retriever(ranker, candidates=n, index=index))
                found, seconds = one_by_one(recommender, histories, query)
                kept = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found, every, strict=True)])
                print(f"  {kind:5s} N {n:5d}: top 10 {100 * kept:6.2f} %, {seconds * 1e3:5.1f} ms", flush=True)


def one_by_one(recommender: Recommender, histories: Histories, query: Query) -> tuple[np.ndarray, float]:
    """Rows for each user, asked for alone, and the median processor time of one."""
    found, seconds = [], []
    for user in range(len(histories)):
        started = time.process_time()
        found.append(recommender.top_rows(histories.part(slice(user, user + 1)), query)[0][0])
        seconds.append(time.process_time() - started)
    return np.array(found), float(np.median(seconds))


def requests(ranker: Ranker, log: EventLog, cut: str, users: int) -> tuple[Histories, list[set[int]]]:
    """Pasts of some users in rows of the ranker, and the items that are new to each in the week after the cut."""
    moment = parse_time(cut)
    rows, times = ranker.items.rows(log.catalog.items.ids), log.histories.times
    past = log.histories.where(times < moment).with_rows(rows)
    future = log.histories.where((times >= moment) & (times < moment + 7 * 86400)).with_rows(rows)
    both = np.flatnonzero((past.lengths > 0) & (future.lengths > 0))
    chosen = np.sort(np.random.default_rng(0).choice(both, min(users, len(both)), replace=False))
    past, future = past.take(chosen), future.take(chosen)
    wanted = [set(b.tolist()) - set(a.tolist()) for a, b in zip(*map(items_of, (past, future)), strict=True)]
    some = np.array([bool(items) for items in wanted])
    return past.take(np.flatnonzero(some)), [items for items in wanted if items]


def items_of(histories: Histories) -> list[np.ndarray]:
    return np.split(histories.items, histories.offsets[1:-1])


def ndcg(rows: np.ndarray, wanted: set[int]) -> float:
    discounts = 1 / np.log2(np.arange(len(rows)) + 2)
    return float(
        sum(d for r, d in zip(rows.tolist(), discounts, strict=True) if r in wanted) / discounts[: len(wanted)].sum()
    )


def speed(items: int, keep: Path | None) -> None:
    with tempfile.TemporaryDirectory() as place:
        ranker, retriever = made_up_model(items, keep or Path(place))
        histories = long_histories(110, 200, items)
        for n in (300, 1000):
            recommender = Recommender(ranker, retriever=Retriever(ranker, candidates=n, index=retriever.index))
            total, search = [], []
            for user in range(len(histories)):
                one = histories.part(slice(user, user + 1))
                started = time.perf_counter()
                recommender.retriever.retrieve(one)
                search.append(time.perf_counter() - started)
                started = time.perf_counter()
                recommender.top_rows(one, Query())
                total.append(time.perf_counter() - started)
            (a50, a99), (p50, p99) = (1e3 * np.percentile(times[10:], (50, 99)) for times in (search, total))
            print(
                f"N {n:5d}: retrieve p50 {a50:5.1f} p99 {a99:5.1f} ms; retrieve and rank p50 {p50:5.1f} p99 {p99:5.1f} ms",
                flush=True,
            )
        print(f"peak memory {peak_mb():.0f} MB")
        some = histories.part(slice(0, 10))
        lists = recommender.top_rows(some, Query())[0]
        searched = Retriever(ranker, candidates=n, index="exact")
        exact = Recommender(ranker, retriever=searched).top_rows(some, Query())[0]
        kept = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(lists, exact, strict=True)])
        print(f"top 10 of {len(some)} users by lists that exact search has, too: {100 * kept:.1f} %")


def made_up_model(items: int, place: Path) -> tuple[Ranker, Retriever]:
    """A model over vectors in clusters, and a retriever with inverted lists; from `place` where they are there already."""
    model, index = place / "model", place / "index"
    if not model.exists():
        rng = np.random.default_rng(0)
        log = skewed_log(20_000, items)
        vectors = np.empty((items, 64), np.float32)
        centres = rng.standard_normal((2000, 64), dtype=np.float32)
        for low in range(0, items, 100_000):
            part = vectors[low : low + 100_000]
            part[:] = centres[rng.integers(2000, size=len(part))] + 0.7 * rng.standard_normal(part.shape, dtype=np.float32)
        AttentionRanker(steps=100).fit(log, ItemEmbeddings.from_arrays(log.catalog.items, vectors)).save(model)
    ranker = load_ranker(model)
    if not index.exists():
        started = time.perf_counter()
        Retriever(ranker, index="lists").save(index)
        print(f"index built in {time.perf_counter() - started:.1f} s", flush=True)
    started = time.perf_counter()
    retriever = Retriever.open(index, ranker)
    opened, size = time.perf_counter() - started, sum(file.stat().st_size for file in index.iterdir())
    print(
        f"{items:,} items: index of {size / 1e6:.0f} MB opened in {opened:.1f} s, {torch.get_num_threads()} threads",
        flush=True,
    )
    return ranker, retriever


def long_histories(users: int, past: int, items: int) -> Histories:
    rng = np.random.default_rng(1)
    rows = (items * rng.random((users, past)) ** 3).astype(np.int32).ravel()
    times = np.tile(1_700_000_000 + 50_000 * np.arange(past), users)
    return Histories(past * np.arange(users + 1), rows, times, np.zeros(len(rows), np.uint8))


def main() -> None:
    commands = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    which = commands.add_subparsers(dest="what", required=True)
    for_quality = which.add_parser("quality")
    for_quality.add_argument("model", type=Path)
    for_quality.add_argument("sequences", type=Path)
    for_quality.add_argument("--cut", required=True)
    for_quality.add_argument("--users", type=int, default=160)
    for_quality.add_argument("--pool-gamma", type=float, default=0.0)
    for_speed = which.add_parser("speed")
    for_speed.add_argument("--items", type=int, default=1_000_000)
    for_speed.add_argument("--keep", type=Path, default=None)
    options = commands.parse_args()
    if options.what == "quality":
        quality(options.model, options.sequences, options.cut, options.users, options.pool_gamma)
    else:
        speed(options.items, options.keep)


if __name__ == "__main__":
    main()
