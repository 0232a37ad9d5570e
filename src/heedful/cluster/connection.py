"""A connection to a Ray cluster, with what may be wrong with its nodes found out before the work."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import logging
import os
import platform
import socket
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import NoReturn, TypeVar

import heedful.errors
from heedful.cluster.storage import Place, forget_copies, used_urls
from heedful.errors import ClusterError, FolderError, HeedfulError, MissingExtraError
from heedful.progress import say

__all__ = ["as_facts", "check_paths", "connect", "cpus", "on_every_node", "raise_facts"]

Answer = TypeVar("Answer")

_VERSION = importlib.metadata.version("heedful")
_REACH_SECONDS = 5.0
_NODE_SECONDS = 180.0


@contextlib.contextmanager
def connect(address: str) -> Iterator[None]:
    """Join a Ray cluster for the length of a `with` block.

    Args:
        address: "auto" for the cluster that this machine is a node of; HOST:PORT of its head; or "local" for Ray on this
            machine alone, started here and stopped in the end. This process must run on a node of the cluster.

    Raises:
        MissingExtraError: Ray is not installed.
        ClusterError: nothing answers there, or a node has not this version of heedful.
    """
    try:
        import ray
    except ImportError as error:
        raise MissingExtraError("ray", "cluster") from error
    _check_address(address)
    if ray.is_initialized():
        # Whoever connected (a notebook, a job of several stages) also disconnects.
        _check_versions()
        with _copies_forgotten():
            yield
        return
    # What the engine says about itself is in its own log files; errors come as exceptions.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    for name in ("ray.data", "ray.train"):
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        ray.init(
            address=None if address == "local" else address,
            logging_level=logging.ERROR,
            log_to_driver=False,
            configure_logging=True,
        )
    except ray.exceptions.AuthenticationError as error:
        raise ClusterError(
            f"the Ray cluster at {address} asks for a token",
            fix="set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH to its file, here and on every node (see docs/scaling.md)",
        ) from error
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        raise ClusterError(
            f"cannot join the Ray cluster at {address}",
            got=str(error).strip().splitlines()[0],
            expected="a running cluster of this version of Ray and Python, with a node on this machine",
            fix="`ray start --address=HEAD:PORT` on this machine, or submit the command with `ray job submit`",
        ) from error
    try:
        _check_versions()
        say(f"connected to {address}: {len(_nodes())} nodes, {cpus()} processors")
        with _copies_forgotten():
            yield
    finally:
        ray.shutdown()


@contextlib.contextmanager
def _copies_forgotten() -> Iterator[None]:
    try:
        yield
    finally:
        if used_urls():
            # Whatever ended the block matters more than what this meets.
            with contextlib.suppress(Exception):
                on_every_node(forget_copies)


def cpus() -> int:
    """Processors of the cluster."""
    import ray

    return max(int(ray.cluster_resources().get("CPU", 0)), 1)


def check_paths(read: Sequence[Place] = (), write: Place | None = None) -> None:
    """Find out before the work whether every node sees what it has to read and can write where it has to write.

    Raises:
        FolderError: a node does not; the message names it.
    """
    for node, found in on_every_node(functools.partial(_look, list(read), write)).items():
        if found is not None:
            raise FolderError(
                f"the node {node} does not share this storage", got=found, fix="put it on storage that all nodes reach alike"
            )


def _look(read: Sequence[Place], write: Place | None) -> str | None:
    """What is wrong with these places on this node."""
    try:
        for place in read:
            if not place.exists():
                return f"{place} is not there"
        if write is not None:
            if write.path is not None and not write.path.is_dir():
                return f"{write} cannot be written: it is not there"
            probe = write / f".probe-{uuid.uuid4().hex}"
            probe.write_text("")
            probe.remove()
    except HeedfulError as error:
        return str(error)
    return None


def on_every_node(function: Callable[[], Answer]) -> dict[str, Answer]:
    """Call a function once on every node of the cluster; its answers by address of the node.

    Raises:
        ClusterError: a node does not answer.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    def call() -> Answer:
        return function()

    asked = {}
    for node in _nodes():
        where = NodeAffinitySchedulingStrategy(node, soft=False)
        asked[node] = ray.remote(num_cpus=0, max_retries=0, scheduling_strategy=where)(call).remote()
    answers = {}
    for node, reference in asked.items():
        # Several nodes may have one address, hence a part of the id.
        name = f"{_nodes().get(node, 'that left')} ({node[:8]})"
        try:
            answers[name] = ray.get(reference, timeout=_NODE_SECONDS)
        except ray.exceptions.RayError as error:
            if node not in _nodes():  # it has left the cluster, which continues without it
                continue
            raise ClusterError(
                f"the node {name} does not answer", got=str(error).strip().splitlines()[0], fix="check it with `ray status`"
            ) from error
    return answers


def _nodes() -> dict[str, str]:
    """Addresses of the nodes by their ids."""
    import ray

    return {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}


def _check_address(address: str) -> None:
    """An address where nothing answers, found out at once: Ray itself keeps trying."""
    if address in ("auto", "local"):
        return
    host, _, port = address.rpartition(":")
    if "://" in address or not host or not port.isdigit():
        raise ClusterError(
            "invalid address of a cluster",
            got=address,
            expected="auto, local or HOST:PORT",
            fix="run the command on a node of the cluster; from outside, `ray job submit` does that",
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_REACH_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise ClusterError(
            f"nothing answers at {address}",
            got=error,
            expected="the head of a Ray cluster",
            fix="start one with `ray start --head`, or check host, port and firewall",
        ) from error


def _check_versions() -> None:
    def version() -> str | None:
        try:
            return importlib.metadata.version("heedful")
        except importlib.metadata.PackageNotFoundError:
            return None

    for node, found in on_every_node(version).items():
        if found != _VERSION:
            raise ClusterError(
                f"the node {node} has another version of heedful" if found else f"the node {node} has no heedful",
                got=found or "no such package",
                expected=f"{_VERSION}, as here (Python {platform.python_version()})",
                fix=f"pip install 'heedful[cluster]=={_VERSION}' on that node",
            )


def as_facts(error: HeedfulError) -> dict[str, str]:
    """An error that heedful raised on purpose, so that it can travel from a node without being taken for a failure."""
    return {"kind": type(error).__name__, "message": str(error)}


def raise_facts(facts: dict[str, str]) -> NoReturn:
    """Raise the error that `as_facts` described."""
    error = HeedfulError(facts["message"])
    kind = getattr(heedful.errors, facts["kind"], HeedfulError)
    # Not every error is made from one message.
    raise error if kind is heedful.errors.MissingExtraError else kind(facts["message"])
