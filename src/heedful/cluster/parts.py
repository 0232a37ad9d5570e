"""Work in numbered parts: Ray hands them to one worker for each processor, each part leaves files, then its report.

Workers that are worth keeping (a ranker with its table) are the actors of Ray Data; parts that need none are tasks of Ray's
core, which start at once. Ray Data took as long to hand out the parts of `prepare` as they took themselves.

A part that has its report is finished and is never done again, by whomever; one without is done again and writes the very
same files. So a worker or node that dies, or the whole command, costs no more than the parts in hand, and nothing is there
twice.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np

from heedful.cluster.connection import as_facts, cpus, raise_facts
from heedful.cluster.storage import Place
from heedful.errors import ClusterError, HeedfulError
from heedful.progress import progress, say

__all__ = ["PartWorker", "open_work", "run_parts"]

_INPUTS = "inputs.json"
# Attempts of a part whose worker has died.
_DEATHS = 16
_How: TypeAlias = tuple[type, dict[str, Any], Place, str]


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

        rows = [(number, json.dumps(parts[number])) for number in waiting]
        how = (worker, dict(arguments), work, stage)
        with progress(stage, len(parts), "parts") as meter:
            meter.resume_at(len(parts) - len(waiting))
            try:
                for error in (_by_actors if kept else _by_tasks)(rows, how):
                    if error:
                        raise_facts(json.loads(error))
                    meter.advance()
            except ray.exceptions.RayError as error:
                what = str(error).strip().splitlines()[-1]
                raise ClusterError(
                    f"{stage} failed on the cluster", got=what, fix="run it again: finished parts count"
                ) from error
    return [json.loads((work / _report(stage, number)).read_text()) for number in range(len(parts))]


def _by_actors(rows: list[tuple[int, str]], how: _How) -> Iterator[str]:
    """Have the parts done by workers that are kept; the error of each, empty if there is none, as they end."""
    import ray
    from ray.data import ActorPoolStrategy, DataContext

    DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    n = min(cpus(), len(rows))
    pool = ActorPoolStrategy(min_size=1, max_size=n, initial_size=n, max_tasks_in_flight_per_actor=2)
    numbers = ray.data.from_items([{"number": number, "part": part} for number, part in rows], override_num_blocks=len(rows))
    done = numbers.map_batches(_Kept, batch_size=1, num_cpus=1, compute=pool, fn_constructor_args=how)
    yield from (row["error"] for row in done.iter_rows())


def _by_tasks(rows: list[tuple[int, str]], how: _How) -> Iterator[str]:
    """Have the parts done by tasks; the error of each, empty if there is none, as they end."""
    import ray

    task = ray.remote(num_cpus=1, max_retries=_DEATHS)(_do_one)
    waiting = [task.remote(number, part, *how) for number, part in rows]
    try:
        while waiting:
            ended, waiting = ray.wait(waiting)
            yield from ray.get(ended)
    finally:
        for reference in waiting:
            ray.cancel(reference)


class _Worker:
    """One worker of `run_parts`."""

    def __init__(self, worker: type, arguments: dict[str, Any], work: Place, stage: str) -> None:
        self._work, self._stage = work, stage
        self._error: HeedfulError | None = None
        try:
            self._worker: PartWorker = worker(**arguments)
        except HeedfulError as error:
            self._error = error

    def do(self, number: int, part: str) -> str:
        """Do one part; its error as JSON, empty if there is none."""
        report = _report(self._stage, number)
        try:
            if self._error is not None:
                raise self._error
            with self._work.workshop() as folder:
                facts = self._worker.run(json.loads(part), folder / report.removesuffix(".json"))
            (self._work / report).write_text(json.dumps(facts))
        except HeedfulError as error:
            return json.dumps(as_facts(error))
        return ""


class _Kept(_Worker):
    """A worker in the form that Ray Data calls."""

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, list[Any]]:
        (number,), (part,) = batch["number"].tolist(), batch["part"].tolist()
        return {"number": [number], "error": [self.do(number, part)]}


def _do_one(number: int, part: str, worker: type, arguments: dict[str, Any], work: Place, stage: str) -> str:
    return _Worker(worker, arguments, work, stage).do(number, part)


def _report(stage: str, number: int) -> str:
    return f"{stage}-{number:05d}.json"
