"""Functions, commands and scripts in processes of their own, forked from one that has imported what takes seconds.

What a process does from its start on is tested with `ranking_worlds.heedful` and `ranking_worlds.python`, which start one.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from functools import cache
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any

import pytest

# `torch._dynamo` is what the first training imports.
_PRELOADED = [
    "torch._dynamo", "heedful.cli.evaluate", "heedful.cli.refresh", "heedful.serving.server", "heedful.updating.nightly",
]  # fmt: skip


class Forked:
    """A function in a process of its own, with the methods of `subprocess.Popen` that the tests use."""

    def __init__(self, function: Callable[..., object], *arguments: Any) -> None:
        self._process: ForkServerProcess = _context().Process(target=_alone, args=(function, arguments))
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        code = self._process.exitcode
        if code is None:
            raise subprocess.TimeoutExpired("forked", timeout or 0.0)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def command(*arguments: object, environment: Mapping[str, str], folder: Path, out: Path, err: Path) -> Forked:
    """The command `heedful` in a folder, which writes standard output and standard error to the ends of files."""
    return Forked(_command, [str(one) for one in arguments], dict(environment), str(folder), str(out), str(err))


def script(path: Path, *, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a file of Python in a folder, where what it says is left."""
    out, err = folder / "script.out", folder / "script.err"
    process = Forked(_script, str(path), str(folder), str(out), str(err))
    try:
        code = process.wait(300)
    finally:
        process.kill()
    return subprocess.CompletedProcess([path], code, out.read_text(), err.read_text())


@cache
def _context() -> ForkServerContext:
    """Starts the process that others are forked from, with one thread, so that results are the same bit for bit."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        forkserver.ensure_running()
    return context


def _alone(function: Callable[..., object], arguments: tuple[Any, ...]) -> None:
    # For multiprocessing the tests are the parent of this process, and for the system the process it was forked from is.
    # A server that looks for its parent has none.
    multiprocessing.process._parent_process = None  # type: ignore[attr-defined]
    function(*arguments)


def _command(arguments: list[str], environment: dict[str, str], folder: str, *files: str) -> None:
    from heedful.cli import main

    os.environ.clear()
    os.environ.update(environment)
    tempfile.tempdir = None  # it depends on the environment
    _go(folder, files)
    main(arguments)


def _script(path: str, folder: str, *files: str) -> None:
    _go(folder, files)
    runpy.run_path(path, run_name="__main__")


def _go(folder: str, files: tuple[str, ...]) -> None:
    """Have a folder as the current one, and files as standard output and standard error."""
    os.chdir(folder)
    for standard, file in enumerate(files, start=1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND), standard)
