"""Workers that run one function together, with torch.distributed between them: Ray Train starts and restarts them.

A worker or node that dies takes the group with it; Ray Train starts a new one on what is left and hands it the last
checkpoint. An error that heedful raised on purpose is different: it is recorded, and the new group ends at once.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from heedful.cluster.connection import as_facts, cpus, raise_facts
from heedful.cluster.storage import Place
from heedful.errors import ClusterError, HeedfulError

__all__ = ["checkpoint_in", "finish", "run_team", "team_errors"]

# Groups started before the work is given up.
_FAILURES = 16
_SETTINGS = {
    # Ray Train would otherwise send every line of the workers here.
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    # How often it looks at the workers, who wait for that look whenever they have something to report.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    # Starting a worker means importing torch, which on a busy machine takes its time; one that then says nothing is stuck.
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "240",
    "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": "240",
}
# A worker that waits for the others so long gives up, should Ray not have found out before that one of them is gone.
_MEETING_SECONDS = 600
# Linux's number for asking the address of an interface.
_SIOCGIFADDR = 0x8915
_ERROR, _FACTS = "error.json", "facts.json"


def run_team(function: Callable[[dict[str, Any]], None], arguments: dict[str, Any], work: Place) -> dict[str, Any]:
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
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer
    from ray.train.v2.api.exceptions import TrainingFailedError

    for name in (_ERROR, _FACTS):
        (work / name).remove()
    system, path = work.system
    parent, name = path.rsplit("/", 1)
    trainer = TorchTrainer(
        function,
        train_loop_config={**arguments, "work": work},
        torch_config=_gloo(),
        scaling_config=ScalingConfig(num_workers=(1, cpus()), resources_per_worker={"CPU": 1}),
        run_config=RunConfig(
            name=name,
            storage_path=parent,
            storage_filesystem=None if work.path is not None else system,
            failure_config=FailureConfig(max_failures=_FAILURES),
            checkpoint_config=CheckpointConfig(num_to_keep=2),
        ),
    )
    try:
        trainer.fit()
    except (RuntimeError, TrainingFailedError) as error:
        _raise_written(work)
        raise ClusterError("the workers failed again and again", got=_last_line(error), fix="see `ray status`") from error
    _raise_written(work)
    facts: dict[str, Any] = json.loads((work / _FACTS).read_text())
    return facts


@contextlib.contextmanager
def team_errors(work: Place) -> Iterator[bool]:
    """Inside a worker: whether there is anything to do, and errors written down for `run_team`."""
    told = work / _ERROR
    try:
        yield not told.exists()
    except HeedfulError as error:
        told.write_text(json.dumps(as_facts(error)))
        raise


def finish(work: Place, facts: dict[str, Any]) -> None:
    """Inside the first worker: what `run_team` returns."""
    (work / _FACTS).write_text(json.dumps(facts, default=str))


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


def _gloo() -> Any:
    """Gloo on the network that Ray is on: by itself it takes the address of the host's name, often the loopback one."""
    from ray.train.torch import TorchConfig

    base = TorchConfig().backend_cls

    class Backend(base):  # type: ignore[misc, valid-type]
        def on_start(self, worker_group: Any, backend_config: Any) -> None:
            worker_group.execute(_use_interface_of_node)
            super().on_start(worker_group, backend_config)

    class Config(TorchConfig):  # type: ignore[misc]
        @property
        def backend_cls(self) -> type:
            return Backend

    return Config(backend="gloo", timeout_s=_MEETING_SECONDS)


def _use_interface_of_node() -> None:
    """Tell gloo the interface whose address Ray knows this node by, if there is one and nobody told it another."""
    import ray.util

    own = ray.util.get_node_ip_address()
    for _, name in socket.if_nameindex():
        with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            found = fcntl.ioctl(probe.fileno(), _SIOCGIFADDR, struct.pack("256s", name.encode()))
            if socket.inet_ntoa(found[20:24]) == own:
                os.environ.setdefault("GLOO_SOCKET_IFNAME", name)


def _raise_written(work: Place) -> None:
    told = work / _ERROR
    if told.exists():
        found = json.loads(told.read_text())
        told.remove()
        raise_facts(found)


def _last_line(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else repr(error)
