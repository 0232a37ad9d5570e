"""Workers that run one function together, with torch.distributed between them: Ray Train starts and restarts them.

A worker or node that dies takes the group with it; Ray Train starts a new one on what is left and hands it the last
checkpoint. An error that heedful raised on purpose is no such failure: it is written down, and the new group ends at once.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from heedful.cluster.connection import as_facts, cpus, raise_facts
from heedful.errors import ClusterError, HeedfulError
from heedful.folders import write_atomically

__all__ = ["checkpoint_in", "finish", "run_team", "team_errors"]

# Groups started anew before the work is given up.
_FAILURES = 16
_ERROR, _FACTS = "error.json", "facts.json"


def run_team(function: Callable[[dict[str, Any]], None], arguments: dict[str, Any], work: Path) -> dict[str, Any]:
    """Run `function` in one worker for each processor of the cluster, from the last checkpoint in `work` on.

    Args:
        function: found by its name on each node; calls `ray.train.report` and, in the first worker, `finish`.
        arguments: plain values.
        work: a folder that all nodes share; checkpoints lie there until the caller removes it.

    Returns:
        What `finish` was given.

    Raises:
        ClusterError: the workers failed again and again.
    """
    # Ray Train would otherwise send every line of the workers here.
    os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    for name in (_ERROR, _FACTS):
        (work / name).unlink(missing_ok=True)
    trainer = TorchTrainer(
        function,
        train_loop_config={**arguments, "work": str(work)},
        torch_config=TorchConfig(backend="gloo"),
        scaling_config=ScalingConfig(num_workers=(1, cpus()), resources_per_worker={"CPU": 1}),
        run_config=RunConfig(
            name=work.name,
            storage_path=str(work.parent),
            failure_config=FailureConfig(max_failures=_FAILURES),
            checkpoint_config=CheckpointConfig(num_to_keep=2),
        ),
    )
    try:
        trainer.fit()
    except RuntimeError as error:
        _raise_written(work)
        raise ClusterError("the workers failed again and again", got=_last_line(error), fix="see `ray status`") from error
    _raise_written(work)
    facts: dict[str, Any] = json.loads((work / _FACTS).read_text())
    return facts


@contextlib.contextmanager
def team_errors(work: str) -> Iterator[bool]:
    """Inside a worker: whether there is anything to do, and errors written down for `run_team`."""
    path = Path(work) / _ERROR
    try:
        yield not path.exists()
    except HeedfulError as error:
        _write(path, as_facts(error))
        raise


def finish(work: str, facts: dict[str, Any]) -> None:
    """Inside the first worker: what `run_team` returns."""
    _write(Path(work) / _FACTS, facts)


@contextlib.contextmanager
def checkpoint_in() -> Iterator[Path | None]:
    """Inside a worker: the last checkpoint as a folder on this machine, None at the beginning."""
    import ray.train

    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        yield None
    else:
        with checkpoint.as_directory() as folder:
            yield Path(folder)


def _write(path: Path, facts: dict[str, Any]) -> None:
    with write_atomically(path) as partial:
        partial.write_text(json.dumps(facts, default=str))


def _raise_written(work: Path) -> None:
    path = work / _ERROR
    if path.exists():
        found = json.loads(path.read_text())
        path.unlink()
        raise_facts(found)


def _last_line(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else repr(error)
