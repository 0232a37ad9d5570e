"""Work in numbered parts: Ray Data hands them to one worker for each processor, each part leaves files, then its report.

A part that has its report is finished and is never done again, by whomever; one without is done anew and writes the very
same files. So a worker or node that dies, or the whole command, costs no more than the parts in hand, and nothing is there
twice.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from heedful.cluster.connection import as_facts, cpus, raise_facts
from heedful.cluster.storage import Place
from heedful.errors import ClusterError, HeedfulError
from heedful.progress import progress, say

__all__ = ["PartWorker", "open_work", "run_parts"]

_INPUTS = "inputs.json"


class PartWorker(Protocol):
    """What a class must offer whose instances do parts."""

    def run(self, part: Any, path: Path) -> dict[str, Any]:
        """Do one part (plain values), write files whose names begin with `path`, return facts fit for JSON."""


def open_work(work: Place, inputs: Mapping[str, Any]) -> None:
    """Make the folder of the parts, or go on with the one that a stopped run with the same inputs left."""
    text = json.dumps(inputs, sort_keys=True, default=str)
    fingerprint = hashlib.sha256(text.encode()).hexdigest()
    known = work / _INPUTS
    if known.exists() and known.read_text() == fingerprint:
        say(f"going on with the parts in {work}")
        return
    work.remove()
    work.make()
    known.write_text(fingerprint)


def run_parts(
    work: Place, stage: str, parts: Sequence[Any], worker: type, arguments: Mapping[str, Any], *, kept: bool = True
) -> list[dict[str, Any]]:
    """Do all parts of a stage that are not yet done.

    Args:
        work: a folder that all nodes share, from `open_work`.
        stage: name of the stage; part n writes files `work / f"{stage}-{n:05d}" + ...`.
        parts: plain values, one for each part.
        worker: a `PartWorker`, made with `arguments`.
        arguments: plain values.
        kept: whether a worker process makes one and keeps it, because that costs something; else one is made for each part,
            in processes that the next stage uses again.

    Returns:
        The facts of each part, in their order.

    Raises:
        HeedfulError: what a worker raised.
        ClusterError: the cluster cannot go on.
    """
    done_before = work.names()
    waiting = [number for number in range(len(parts)) if _report(stage, number) not in done_before]
    if waiting:
        import ray
        from ray.data import ActorPoolStrategy, DataContext, TaskPoolStrategy

        DataContext.get_current().enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        n = min(cpus(), len(waiting))
        rows = [{"number": number, "part": json.dumps(parts[number])} for number in waiting]
        numbers = ray.data.from_items(rows, override_num_blocks=len(rows))
        how = (worker, dict(arguments), work, stage)
        if kept:
            pool = ActorPoolStrategy(min_size=1, max_size=n, initial_size=n, max_tasks_in_flight_per_actor=2)
            done = numbers.map_batches(_Worker, batch_size=1, num_cpus=1, compute=pool, fn_constructor_args=how)
        else:
            done = numbers.map_batches(_do_one, batch_size=1, num_cpus=1, compute=TaskPoolStrategy(n), fn_args=how)
        with progress(stage, len(parts), "parts") as meter:
            meter.resume_at(len(parts) - len(waiting))
            try:
                for row in done.iter_rows():
                    if row["error"]:
                        raise_facts(json.loads(row["error"]))
                    meter.advance()
            except ray.exceptions.RayError as error:
                what = str(error).strip().splitlines()[-1]
                raise ClusterError(
                    f"{stage} failed on the cluster", got=what, fix="run it again: finished parts count"
                ) from error
    return [json.loads((work / _report(stage, number)).read_text()) for number in range(len(parts))]


class _Worker:
    """One worker of `run_parts`, in the form that Ray Data calls."""

    def __init__(self, worker: type, arguments: dict[str, Any], work: Place, stage: str) -> None:
        self._work, self._stage = work, stage
        self._error: HeedfulError | None = None
        try:
            self._worker: PartWorker = worker(**arguments)
        except HeedfulError as error:
            self._error = error

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, list[Any]]:
        (number,), (part,) = batch["number"].tolist(), batch["part"].tolist()
        report = _report(self._stage, number)
        try:
            if self._error is not None:
                raise self._error
            with self._work.workshop() as folder:
                facts = self._worker.run(json.loads(part), folder / report.removesuffix(".json"))
            (self._work / report).write_text(json.dumps(facts))
        except HeedfulError as error:
            return {"number": [number], "error": [json.dumps(as_facts(error))]}
        return {"number": [number], "error": [""]}


def _do_one(
    batch: dict[str, np.ndarray], worker: type, arguments: dict[str, Any], work: Place, stage: str
) -> dict[str, list[Any]]:
    return _Worker(worker, arguments, work, stage)(batch)


def _report(stage: str, number: int) -> str:
    return f"{stage}-{number:05d}.json"
