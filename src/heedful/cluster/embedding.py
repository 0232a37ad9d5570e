"""Skip-gram on a cluster: every worker trains on its own users with the kernel, and they add up what they learnt.

Each worker has the whole tables. Whenever all workers together have trained on `_ROUND_EVENTS` events, they send how the
vectors of the most frequent items have changed, and each adds what the others sent. Changes that point different ways are
added up, as if they had been made to one table; where workers moved a vector the same way, as they do with frequent items,
the sum is scaled down to one of them (Maleki et al. 2020, Scaling distributed training with adaptive summation).

Rows are sorted by frequency, so the rows that are due come first: the first `_FIRST_ROWS` in each round, four
times as many in every fourth, and so on, all of them at the end of an epoch. A row is thus sent about as often as it
is used, and each of these tiers sends as many bytes as any other.

Shape suffixes: I items, D width, R rows that are due.
"""

from __future__ import annotations

import math
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import distributed

from heedful.cluster.connection import check_paths
from heedful.cluster.storage import Place, check_free, delivered, here
from heedful.cluster.team import checkpoint_in, finish, run_team, team_errors
from heedful.embeddings.skipgram import SkipGram, TrainingRun, chunk_bounds
from heedful.events.log import EventLog
from heedful.kernels.skipgram import train_users

__all__ = ["embed"]

# Events of all workers between two rounds; rows of the tier that is sent each time; by how much the next tier is larger.
_ROUND_EVENTS = 8_000
_FIRST_ROWS, _TIER = 256, 4


def embed(
    trainer: SkipGram, sequences: str | os.PathLike[str], out: str | os.PathLike[str], *, overwrite: bool = False
) -> dict[str, Any]:
    """Learn item embeddings on the cluster that is connected, and save them.

    Args:
        trainer: with its options; `threads` does not count, each worker has one.
        sequences: folder of the log, which all nodes reach, as they do `out`; each a path or a URL.
        out: the folder of embeddings. After each epoch the tables are kept in `OUT.training` until it is finished.
        overwrite: replace a finished folder of embeddings.

    Returns:
        n_items, width, workers, and bytes_sent by each worker.

    Raises:
        FolderError: a node does not see a path, or cannot write.
        TrainingError: as `SkipGram.fit`.
    """
    log, target = Place.of(sequences), Place.of(out)
    work = target.beside(".training")
    check_free(target, kind="embeddings", overwrite=overwrite)
    work.remove()
    work.make()
    check_paths([log], work)
    facts = run_team(_embed, {"config": trainer.config.to_dict(), "sequences": log, "out": target}, work)
    work.remove()
    return facts


def _embed(arguments: dict[str, Any]) -> None:
    """One worker, from the last finished epoch on."""
    torch.set_num_threads(1)
    with team_errors(arguments["work"]) as wanted:
        if not wanted:
            return
        together = _Together()
        table = SkipGram(**arguments["config"]).fit(EventLog.load(here(arguments["sequences"])), train=together)
        if distributed.get_rank() == 0:
            size = distributed.get_world_size()
            cluster = {"workers": size, "bytes_sent": together.bytes_sent, "rounds": together.rounds}
            table.provenance["cluster"] = cluster
            with delivered(arguments["out"]) as folder:
                table.save(folder, overwrite=True)
            finish(arguments["work"], {"n_items": len(table), "width": table.width, **cluster})


class _Together:
    """Trains a run with the other workers of the process group."""

    def __init__(self) -> None:
        self.bytes_sent, self.rounds = 0, 0

    def __call__(self, run: TrainingRun) -> None:
        """Train from the last checkpoint to the end; all workers then have the same tables."""
        rank, size = distributed.get_rank(), distributed.get_world_size()
        bounds = chunk_bounds(run.source.offsets, max(_ROUND_EVENTS // size, 1))
        n_chunks, stop = len(bounds) - 1, np.zeros(1, bool)
        # Compile before the clock starts, as on one machine.
        train_users(run.source, run.tables, run.plan, 0, 0, 0, stop, np.zeros(3))
        started = time.monotonic()
        first = self._resume(run)
        tables = [_Shared(run.tables.x), _Shared(run.tables.y)]
        for epoch in range(first, run.epochs):
            n_rounds = math.ceil(n_chunks / size)
            for number in range(n_rounds):
                # Neighbouring chunks in one round, so that the learning rate falls for all alike.
                own = number * size + rank
                if own < n_chunks:
                    low, high = int(bounds[own]), int(bounds[own + 1])
                    train_users(run.source, run.tables, run.plan, epoch, low, high, stop, run.totals[epoch])
                last = number == n_rounds - 1
                due = len(run.tables.x) if last else _rows_due(number + 1)
                self.bytes_sent += sum(table.meet(due) for table in tables)
                self.rounds += 1
            distributed.all_reduce(torch.from_numpy(run.totals[epoch]))
            run.check(epoch)
            self._save(run, epoch)
        run.seconds = time.monotonic() - started
        run.check_tables()

    def _resume(self, run: TrainingRun) -> int:
        """Take over the tables of the last checkpoint; the epoch to go on with."""
        with checkpoint_in() as folder:
            if folder is None:
                return 0
            for name in ("x", "y"):
                getattr(run.tables, name)[:] = np.load(folder / f"{name}.npy", mmap_mode="r")
            totals = np.load(folder / "totals.npy")
            run.totals[: len(totals)] = totals
            return len(totals)

    def _save(self, run: TrainingRun, epoch: int) -> None:
        import ray.train

        loss = run.totals[epoch, 2] / max(run.totals[epoch, 1], 1)
        facts = {"epoch": epoch + 1, "loss": float(loss)}
        if distributed.get_rank() > 0:
            ray.train.report(facts)
            return
        with tempfile.TemporaryDirectory(prefix="heedful-") as folder:
            for name in ("x", "y"):
                np.save(Path(folder) / f"{name}.npy", getattr(run.tables, name))
            np.save(Path(folder) / "totals.npy", run.totals[: epoch + 1])
            ray.train.report(facts, checkpoint=ray.train.Checkpoint.from_directory(folder))


class _Shared:
    """A table of which every worker has a copy, and what it was when the workers last met."""

    def __init__(self, table_ID: np.ndarray) -> None:
        self._table_ID, self._met_ID = table_ID, table_ID.copy()

    def meet(self, rows: int) -> int:
        """Add up everybody's changes of the first `rows` rows; returns the bytes that this worker sent."""
        now_RD, met_RD = self._table_ID[:rows], self._met_ID[:rows]
        change_RD = now_RD - met_RD
        square_R = _squares(change_RD)
        distributed.all_reduce(torch.from_numpy(change_RD))
        distributed.all_reduce(torch.from_numpy(square_R))
        share_R = np.minimum(square_R / np.maximum(_squares(change_RD), np.finfo(np.float32).tiny), 1)
        met_RD += share_R[:, None] * change_RD
        now_RD[:] = met_RD
        # What a ring all-reduce sends: all but an own part, to be added up and then to be spread.
        size = distributed.get_world_size()
        return int(2 * (change_RD.nbytes + square_R.nbytes) * (size - 1) // size)


def _squares(vectors_RD: np.ndarray) -> np.ndarray:
    squares_R: np.ndarray = np.einsum("rd,rd->r", vectors_RD, vectors_RD)
    return squares_R


def _rows_due(number: int) -> int:
    """Rows that are sent after the round of that number, from 1: four times as many in every fourth, and so on."""
    rows = _FIRST_ROWS
    while number % _TIER == 0:
        number, rows = number // _TIER, rows * _TIER
    return rows
