"""Small event logs, tables and trained rankers with known properties, for the tests of everything that ranks."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

import forked
from heedful.embeddings.table import ItemEmbeddings
from heedful.events.catalog import Catalog
from heedful.events.histories import Histories
from heedful.events.log import EventLog, count_items
from heedful.events.vocabulary import Vocabulary

DAY = 86_400
START = 1_500_000_000


def chance_ndcg(positives: np.ndarray, negatives: int) -> float:
    """Mean NDCG of a random order, for users with so many positives each among so many negatives.

    Each place is as likely as another, so p positives get p mean discounts, divided by the first p discounts.
    """
    discounts = 1 / np.log2(np.arange(negatives + positives.max()) + 2)
    return float(np.mean([p * discounts[: negatives + p].mean() / discounts[:p].sum() for p in positives]))


# Options that train a neural ranker in a fraction of a second.
SMALL: dict[str, Any] = {
    "hidden": 8, "steps": 20, "validate_every": 10, "batch_users": 16, "positives": 3, "negatives": 8, "device": "cpu",
}  # fmt: skip
SESSIONS: dict[str, Any] = {"factors": 8, "blocks": 1, "session_length": 12, "epochs": 2, "negatives": 20}
QUICK: dict[str, dict[str, Any]] = {
    "attention": {**SMALL, "depth": 2, "null_tokens": 2},
    "averaging": SMALL,
    "mixed": {**SMALL, "depth": 2, "null_tokens": 2, "stage_users": 40, "stage_windows": 2},
    "recent-popularity": {},
    "two-stage": {"users": 40, "windows": 2},
    "weighted-sum": {"evaluations": 20, "negatives": 10, "positives": 3},
    "last-item": {},
    "popularity": {},
    "ease": {"top_items": 50, "regularization": 5.0},
    "als": {"factors": 4},
    "bpr": {"factors": 4, "iterations": 5},
    "cosine": {"neighbours": 10},
    "bm25": {"neighbours": 10},
    "sasrec": SESSIONS,
    "gsasrec": SESSIONS,
    "esasrec": SESSIONS,
    "hstu": SESSIONS,
    "tifu-knn": {"neighbours": 10},
    "up-cf": {"recent_baskets": 5},
    "own-frequent": {},
}


def histories_of(
    sequences: Sequence[Sequence[int]],
    times: Sequence[Sequence[int]] | None = None,
    kinds: Sequence[Sequence[int]] | None = None,
) -> Histories:
    """Histories from item rows, one list a user; a day between actions unless times are given."""
    lengths = [len(s) for s in sequences]
    flat = times if times is not None else [START + DAY * np.arange(n) for n in lengths]
    codes = kinds if kinds is not None else [[0] * n for n in lengths]
    return Histories(
        np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        np.concatenate([np.empty(0, int), *sequences]).astype(np.int32),
        np.concatenate([np.empty(0, int), *flat]).astype(np.int64),
        np.concatenate([np.empty(0, int), *codes]).astype(np.uint8),
    )


def log_of(
    sequences: Sequence[Sequence[int]],
    times: Sequence[Sequence[int]] | None = None,
    kinds: Sequence[Sequence[int]] | None = None,
    *,
    n_items: int | None = None,
    ids: Sequence[Any] | None = None,
    kind_names: tuple[str, ...] = ("view",),
) -> EventLog:
    """An event log of item numbers; number n has row n and the id "item n" unless ids are given."""
    histories = histories_of(sequences, times, kinds)
    if n_items is None:
        n_items = int(histories.items.max()) + 1
    names = Vocabulary(list(ids) if ids is not None else [f"item{row}" for row in range(n_items)])
    attributes = pa.table({"title": [f"title {row}" for row in range(n_items)]})
    catalog = Catalog(names, *count_items(histories, n_items), attributes)
    return EventLog(catalog, Vocabulary([f"u{u}" for u in range(len(sequences))]), histories, kind_names)


def random_log(
    seed: int = 0, *, users: int = 80, items: int = 60, events: int = 25, skew: float = 0.7, **kwargs: Any
) -> EventLog:
    """Histories of 1 to 2 x `events` actions, items by popularity rank ** -skew, times even over 100 days."""
    randoms = np.random.default_rng(seed)
    weights = np.arange(1, items + 1) ** -skew
    lengths = randoms.integers(1, 2 * events, users)
    sequences = [randoms.choice(items, n, p=weights / weights.sum()) for n in lengths]
    times = [np.sort(START + randoms.integers(0, 100 * DAY, n)) for n in lengths]
    kinds = [randoms.integers(0, len(kwargs.get("kind_names", ("view",))), n) for n in lengths]
    return log_of(sequences, times, kinds, n_items=items, **kwargs)


def table_of(ids: Any, *, width: int = 8, seed: int = 0, attributes: pa.Table | None = None) -> ItemEmbeddings:
    """A table of vectors without meaning."""
    vectors = np.random.default_rng(seed).normal(size=(len(ids), width)).astype(np.float32)
    return ItemEmbeddings.from_arrays(ids, vectors, attributes=attributes)


def heedful(*arguments: object, cwd: Path | None = None, anew: bool = False) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own; `anew`: in one that imports the package itself, which takes seconds."""
    with tempfile.TemporaryDirectory(prefix="heedful-command-") as folder:
        files = {"out": Path(folder, "out"), "err": Path(folder, "err")}
        process = started(*arguments, cwd=cwd, anew=anew, **files)
        try:
            code = process.wait(240)
        finally:
            process.kill()
        return subprocess.CompletedProcess(arguments, code, *(file.read_text() for file in files.values()))


def started(
    *arguments: object, out: Path, err: Path, cwd: Path | None = None, anew: bool = False
) -> subprocess.Popen[bytes] | forked.Forked:
    """The command in a process of its own, which goes on; what it says is written to the ends of files."""
    for file in (out, err):
        file.touch()
    if not anew:
        return forked.command(*arguments, environment=quiet_environment(), folder=cwd or Path.cwd(), out=out, err=err)
    command = [sys.executable, "-m", "heedful", *map(str, arguments)]
    with out.open("a") as stdout, err.open("a") as stderr:
        return subprocess.Popen(command, stdout=stdout, stderr=stderr, env=quiet_environment(), cwd=cwd)


def python(code: str, *arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run some Python in a process of its own, with these worlds importable."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, env=quiet_environment(), **options)


def quiet_environment() -> dict[str, str]:
    """The environment for another process: one thread, so that results are the same bit for bit."""
    path = os.pathsep.join(filter(None, [str(Path(__file__).parent), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


@contextmanager
def unprivileged() -> Iterator[None]:
    """Permissions hold inside, also when the tests run as root."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65_534)
    try:
        yield
    finally:
        if user == 0:
            os.seteuid(0)
