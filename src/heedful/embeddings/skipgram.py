"""`SkipGram`: item embeddings from an event log by skip-gram with negative sampling (section 3 of the paper).

Shape suffixes: I items of the table, D width, C rows of the log's catalogue, E events, U users.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import itertools
import math
import os
import queue
import re
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa

from heedful.config import Config, option, require
from heedful.embeddings.table import ItemEmbeddings
from heedful.errors import TrainingError
from heedful.events.log import EventLog
from heedful.events.vocabulary import Vocabulary
from heedful.kernels.alias import alias_table, smoothed_weights
from heedful.kernels.skipgram import Plan, Source, Tables, train_users
from heedful.kernels.skipgram_simd import LANES
from heedful.progress import Meter, progress

__all__ = [
    "SkipGram",
    "SkipGramConfig",
    "TrainingRun",
    "chunk_bounds",
    "count_actions",
    "epochs_for",
    "keep_probability",
    "kind_weights_of",
    "padded_tables",
    "plan_of",
    "source_of",
    "threads_of",
    "versions",
]

# Events that one call of the kernel trains on, unless a user alone has more.
_CHUNK_EVENTS = 20_000
# The loss is measured at one centre of so many, at each one in small logs.
_LOSS_EVERY, _SMALL_LOG = 61, 100_000
# Pairs of one update, and updates with the same negatives: more of the first costs hit-rate (docs/log.md).
_SHARING, _TURNS = 2, 8
# With `epochs` 0: enough passes that training sees about this many events, within limits.
_AUTO_EVENTS, _AUTO_EPOCHS = 30e6, (5, 40)
_BLOCK_EVENTS = 10_000_000
_BLOCK_ROWS = 100_000
_CACHE_LINE = 64


@dataclasses.dataclass(frozen=True, kw_only=True)
class SkipGramConfig(Config):
    """Options of `SkipGram`."""

    width: int = option(64, "dimensions of the vectors")
    window: int = option(20, "largest distance, in actions, between two items that count as neighbours")
    dynamic_window: bool = option(True, "draw each centre's window from 1..window, so that near neighbours weigh more")
    negatives: int = option(5, "negative samples for each pair of neighbours")
    negative_exponent: float = option(
        0.75, "negatives are drawn by frequency to this power; 0 is uniform, below 0 favours rare"
    )
    shared_negatives: bool = option(True, "let sixteen pairs share their negatives (faster); off: own ones for each pair")
    subsample: float = option(0.0, "thin out items above this share of all actions, as word2vec's `sample`; 0 is off")
    epochs: int = option(0, "passes over the log; 0 chooses 5 to 40 by its size, so that small logs get more")
    learning_rate: float = option(0.025, "step size at the start")
    min_learning_rate: float = option(1e-4, "step size at the end; it falls linearly")
    max_gap_days: float = option(0.0, "a longer pause between a user's actions ends a sequence; 0 is off")
    min_count: int = option(1, "items with fewer actions get no vector")
    kinds: tuple[str, ...] = option((), "event kinds to learn from; none named: all")
    kind_weights: tuple[str, ...] = option(
        (),
        "weights of event kinds, such as purchase=1,view=0.2: in each pass an action is left out at random with 1 less the "
        "weight, so that a pair counts the product of two; kinds that are not named: 1",
    )
    shuffle_baskets: bool = option(True, "put actions of one user at the same time in a new random order each epoch")
    threads: int = option(0, "processor threads; 0 is all; 1 gives the same bits each time")
    seed: int = option(1, "seed of all random numbers")

    def __post_init__(self) -> None:
        object.__setattr__(self, "kinds", tuple(self.kinds))
        object.__setattr__(self, "kind_weights", tuple(self.kind_weights))
        self.weights_of_kinds()
        for name in ("width", "window", "negatives", "min_count"):
            require(getattr(self, name) >= 1, name, got=getattr(self, name), expected="at least 1")
        for name in ("subsample", "epochs", "max_gap_days", "threads", "seed"):
            value = getattr(self, name)
            require(value >= 0 and math.isfinite(value), name, got=value, expected="0 or more")
        require(math.isfinite(self.negative_exponent), "negative_exponent", got=self.negative_exponent, expected="a number")
        require(0 < self.learning_rate < math.inf, "learning_rate", got=self.learning_rate, expected="above 0")
        require(
            0 <= self.min_learning_rate <= self.learning_rate,
            "min_learning_rate",
            got=self.min_learning_rate,
            expected=f"0 to learning_rate, {self.learning_rate}",
        )

    def weights_of_kinds(self) -> dict[str, float]:
        """`kind_weights` by kind.

        Raises:
            ConfigError: one is not KIND=WEIGHT with a weight from 0 to 1, or a kind is there twice.
        """
        weights: dict[str, float] = {}
        for named in self.kind_weights:
            kind, _, weight = named.rpartition("=")
            fits = kind and kind not in weights and re.fullmatch(r"0|1|1\.0*|0?\.[0-9]+", weight.strip())
            require(bool(fits), "kind_weights", got=named, expected="each kind once, such as view=0.2, weights 0 to 1")
            weights[kind.strip()] = float(weight)
        return weights


class SkipGram:
    """Learns item embeddings from sequences of actions.

    Args:
        options: the fields of `SkipGramConfig`.

    """

    def __init__(self, **options: Any) -> None:
        self.config = SkipGramConfig.from_dict(options)

    def fit(self, log: EventLog, *, train: Callable[[TrainingRun], None] | None = None) -> ItemEmbeddings:
        """Embeddings of the items of a log, most frequent first; the log stays as it is.

        One thread gives the same bits for the same log, options and seed; several threads do not.

        Args:
            log: the training log.
            train: trains the run instead of the threads here (see `heedful.cluster`).

        Raises:
            ConfigError: a kind that the log does not have.
            TrainingError: no item has enough actions, or the loss is not finite any more.

        """
        config = self.config
        kind_weights = kind_weights_of(log, config)
        counts_C = count_actions(log, kind_weights > 0)
        chosen_I = np.flatnonzero(counts_C >= config.min_count)
        chosen_I = chosen_I[np.argsort(-counts_C[chosen_I], kind="stable")]
        if len(chosen_I) == 0:
            raise TrainingError(
                "there is nothing to learn from",
                got=f"no item with {config.min_count} actions, out of {log.n_events} actions on {len(log.catalog)} items",
                fix="lower min_count, name other kinds, or prepare more events",
            )
        counts_I = counts_C[chosen_I]
        epochs = config.epochs or epochs_for(int(counts_I.sum()))
        items, attributes = Vocabulary(log.catalog.items.take(chosen_I)), log.catalog.attributes
        # Checking that ids are distinct takes memory that the tables will need.
        pa.default_memory_pool().release_unused()
        source = source_of(
            log, kind_weights, _rows_of(chosen_I, len(log.catalog)), keep_probability(counts_I, config.subsample)
        )
        tables = _tables(counts_I, config)
        run = TrainingRun(source, tables, plan_of(config, epochs, log.n_events), epochs)
        if train is None:
            run.train(threads_of(config.threads))
        else:
            train(run)
        return ItemEmbeddings.from_arrays(
            items,
            np.ascontiguousarray(tables.x[:, : config.width]),
            np.ascontiguousarray(tables.y[:, : config.width]),
            attributes=attributes.take(pa.array(chosen_I)) if attributes.num_columns else attributes,
            provenance={
                "trainer": "SkipGram",
                "config": {**config.to_dict(), "epochs": epochs},
                "log": log.provenance(),
                "training": run.facts(),
                "versions": versions(),
            },
        )


def versions() -> dict[str, str]:
    """Versions of what decides about the numbers."""
    return {name: importlib.metadata.version(name) for name in ("heedful", "numpy", "numba")}


def keep_probability(counts_I: np.ndarray, subsample: float) -> np.ndarray:
    """Probability that an action on each item is kept, sqrt(t/f) + t/f at most 1 as in word2vec; float32 [I].

    Args:
        counts_I: actions on each item.
        subsample: the threshold t on the item's share f of all actions; 0 keeps everything.

    """
    if subsample == 0:
        return np.ones(len(counts_I), np.float32)
    ratio_I = subsample * counts_I.sum() / np.maximum(counts_I, 1)
    keep_I: np.ndarray = np.minimum(np.sqrt(ratio_I) + ratio_I, 1).astype(np.float32)
    return keep_I


class TrainingRun:
    """One training run: threads that take chunks of users in turn, epoch by epoch, until all are done."""

    def __init__(self, source: Source, tables: Tables, plan: Plan, epochs: int, chunk_events: int = _CHUNK_EVENTS) -> None:
        self.source, self.tables, self.plan, self.epochs = source, tables, plan, epochs
        bounds = chunk_bounds(source.offsets, chunk_events)
        self._tasks = iter([(e, low, high) for e in range(epochs) for low, high in itertools.pairwise(bounds)])
        self._lock = threading.Lock()
        self._stop = np.zeros(1, bool)
        self._news: queue.SimpleQueue[tuple[int, np.ndarray] | BaseException | None] = queue.SimpleQueue()
        # Of each epoch: centres trained, pairs at which the loss was measured, their summed loss.
        self.totals = np.zeros((epochs, 3))
        self.seconds = 0.0

    def train(self, threads: int) -> None:
        """Train to the end. On an error or an interrupt the threads are stopped first."""
        # Compile here, before the clock and the threads start.
        train_users(self.source, self.tables, self.plan, 0, 0, 0, self._stop, np.zeros(3))
        started = time.monotonic()
        workers = [threading.Thread(target=self._work, daemon=True) for _ in range(threads)]
        try:
            with progress("learning item embeddings", self.epochs * len(self.source.items), "words") as meter:
                for worker in workers:
                    worker.start()
                self._follow(meter, threads)
        finally:
            self._stop[0] = True
            for worker in workers:
                if worker.ident is not None:
                    worker.join()
        self.seconds = time.monotonic() - started
        self.check_tables()

    def facts(self) -> dict[str, Any]:
        """What the provenance says of the run."""
        return {
            "words": int(self.totals[:, 0].sum()),
            "seconds": round(self.seconds, 3),
            "words_per_second": round(self.totals[:, 0].sum() / max(self.seconds, 1e-9)),
            "loss_per_pair": [self._loss(epoch) for epoch in range(self.epochs)],
        }

    def _loss(self, epoch: int) -> float | None:
        """Mean loss per pair in an epoch, measured before each update; None where no item has a neighbour."""
        _, pairs, loss = self.totals[epoch]
        return float(loss / pairs) if pairs else None

    def _work(self) -> None:
        try:
            while not self._stop[0]:
                with self._lock:
                    task = next(self._tasks, None)
                if task is None:
                    break
                totals = np.zeros(3)
                train_users(self.source, self.tables, self.plan, *task, self._stop, totals)
                self._news.put((task[0], totals))
            self._news.put(None)
        except BaseException as error:  # handed to the thread that waits
            self._news.put(error)

    def _follow(self, meter: Meter, working: int) -> None:
        while working:
            try:
                # With a timeout, so that an interrupt gets through on every platform.
                news = self._news.get(timeout=0.2)
            except queue.Empty:
                continue
            if news is None:
                working -= 1
            elif isinstance(news, BaseException):
                raise news
            else:
                epoch, totals = news
                self.totals[epoch] += totals
                self.check(epoch)
                loss = self._loss(epoch)
                meter.advance(totals[0], f"epoch {epoch + 1} of {self.epochs}" + (f", loss {loss:.3f}" if loss else ""))

    def check(self, epoch: int) -> None:
        """Raise `TrainingError` if the loss of an epoch is not finite."""
        if not math.isfinite(self.totals[epoch, 2]):
            raise self._diverged(f"the loss is not finite any more in epoch {epoch + 1}")

    def check_tables(self) -> None:
        """The loss is measured here and there only, so that a vector may have diverged unseen."""
        for table_ID in (self.tables.x, self.tables.y):
            if not np.isfinite(table_ID.sum(axis=1)).all():
                raise self._diverged("the vectors are not finite any more")

    def _diverged(self, what: str) -> TrainingError:
        return TrainingError(what, got=f"learning_rate {self.plan.first_rate}", fix="lower learning_rate")


def plan_of(config: SkipGramConfig, epochs: int, n_events: int) -> Plan:
    """The plan of a run of so many passes over a log of so many events."""
    return Plan(
        seed=config.seed,
        window=config.window,
        dynamic_window=config.dynamic_window,
        negatives=config.negatives,
        sharing=_SHARING if config.shared_negatives else 1,
        turns=_TURNS if config.shared_negatives else 1,
        shuffle_baskets=config.shuffle_baskets,
        max_gap=math.ceil(config.max_gap_days * 86400),
        first_rate=float(config.learning_rate),
        last_rate=float(config.min_learning_rate),
        n_events=epochs * n_events,
        loss_every=_LOSS_EVERY if n_events > _SMALL_LOG else 1,
    )


def source_of(log: EventLog, kind_weights: np.ndarray, rows_C: np.ndarray, keep_I: np.ndarray) -> Source:
    """What the kernel reads.

    Args:
        log: the log.
        kind_weights: `kind_weights_of`.
        rows_C: row of the table of each item of the log's catalogue, -1 for none, int32 [C].
        keep_I: `keep_probability`.
    """
    h = log.histories
    return Source(
        offsets=_read_only(h.offsets, np.int64),
        items=_read_only(h.items, np.int32),
        times=_read_only(h.times, np.int64),
        kinds=_read_only(h.kinds, np.uint8),
        rows=rows_C,
        kind_weights=kind_weights,
        keep=keep_I,
    )


def _rows_of(chosen_I: np.ndarray, n_catalogue: int) -> np.ndarray:
    rows_C = np.full(n_catalogue, -1, np.int32)
    rows_C[chosen_I] = np.arange(len(chosen_I), dtype=np.int32)
    return rows_C


def _read_only(array: np.ndarray, kind: type) -> np.ndarray:
    """A read-only view, mapped or not: numba compiles once for all of them."""
    view = np.ascontiguousarray(array, kind).view(np.ndarray)
    view.flags.writeable = False
    return view


def _tables(counts_I: np.ndarray, config: SkipGramConfig) -> Tables:
    """Start as word2vec does: small random item vectors, context vectors of zeros; columns beyond the width stay zero."""
    padded = -(-config.width // LANES) * LANES
    x_ID, y_ID = (aligned_zeros(len(counts_I), padded) for _ in range(2))
    random = np.random.default_rng(config.seed)
    for low in range(0, len(x_ID), _BLOCK_ROWS):
        part = x_ID[low : low + _BLOCK_ROWS, : config.width]
        part[:] = (random.random(part.shape, np.float32) - np.float32(0.5)) / np.float32(config.width)
    return Tables(x_ID, y_ID, *alias_table(smoothed_weights(counts_I, config.negative_exponent)))


def padded_tables(vectors_ID: np.ndarray, contexts_ID: np.ndarray, counts_I: np.ndarray, config: SkipGramConfig) -> Tables:
    """Tables that start from given vectors; columns beyond the width stay zero."""
    width = vectors_ID.shape[1]
    x_ID, y_ID = (aligned_zeros(len(counts_I), -(-width // LANES) * LANES) for _ in range(2))
    x_ID[:, :width], y_ID[:, :width] = vectors_ID, contexts_ID
    return Tables(x_ID, y_ID, *alias_table(smoothed_weights(counts_I, config.negative_exponent)))


def aligned_zeros(rows: int, width: int) -> np.ndarray:
    """Zeros, float32 [rows, width], that begin on a cache line: a vector then touches as few of them as it can."""
    memory = np.zeros(rows * width * 4 + _CACHE_LINE, np.uint8)
    low = -memory.ctypes.data % _CACHE_LINE
    return memory[low : low + rows * width * 4].view(np.float32).reshape(rows, width)


def kind_weights_of(log: EventLog, config: SkipGramConfig) -> np.ndarray:
    """Probability that an action of each kind is kept, float32 [256]; 0 for kinds that are not learnt from."""
    used = np.full(256, not config.kinds)
    used[log.kind_codes(config.kinds)] = True
    weights = used.astype(np.float32)
    named = config.weights_of_kinds()
    weights[log.kind_codes(list(named))] *= np.array(list(named.values()), np.float32)
    return weights


def count_actions(log: EventLog, used_kinds: np.ndarray) -> np.ndarray:
    """Events of the used kinds on each item, int64 [C], a part of the log at a time."""
    counts_C = np.zeros(len(log.catalog), np.int64)
    for low in range(0, log.n_events, _BLOCK_EVENTS):
        part = slice(low, low + _BLOCK_EVENTS)
        items = log.histories.items[part]
        counts_C += np.bincount(items[used_kinds[log.histories.kinds[part]]], minlength=len(counts_C))
    return counts_C


def chunk_bounds(offsets: np.ndarray, events: int) -> np.ndarray:
    """Bounds between users, so that consecutive users with about `events` events in all form a chunk."""
    inner = np.searchsorted(offsets, np.arange(0, offsets[-1], events), side="left")
    return np.unique(np.concatenate([[0], inner, [len(offsets) - 1]]))


def epochs_for(n_events: int) -> int:
    """Passes over a log of so many events when none are asked for."""
    low, high = _AUTO_EPOCHS
    return round(min(max(_AUTO_EVENTS / n_events, low), high))


def threads_of(threads: int) -> int:
    """The number of threads of an option, all cores for 0."""
    if threads:
        return threads
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
