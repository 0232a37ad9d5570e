"""Batches made by other threads while this one computes."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from heedful.training.batch import Batch
from heedful.training.sampler import Position, Recipe

__all__ = ["batches_ahead"]

# Threads that make batches for a GPU.
_GPU_MAKERS = 8


def batches_ahead(recipes: Iterator[Recipe], *, on_cpu: bool) -> Iterator[tuple[Batch, Position]]:
    """The batches of recipes, in their order, and where to go on after each.

    A GPU takes batches faster than one thread makes them; on a CPU training itself needs the cores.
    """
    makers = 1 if on_cpu else max(min(_GPU_MAKERS, (os.cpu_count() or 1) - 1), 1)
    with ThreadPoolExecutor(1, "plans") as planner, ThreadPoolExecutor(makers, "batches") as pool:

        def start() -> Future[tuple[Batch, Position]]:
            return pool.submit(_made, planner.submit(next, recipes))

        waiting = deque(start() for _ in range(makers + 1))
        try:
            while True:
                ready = waiting.popleft().result()
                waiting.append(start())
                yield ready
        finally:
            for future in waiting:
                future.cancel()


def _made(recipe: Future[Recipe]) -> tuple[Batch, Position]:
    make, position = recipe.result()
    return make(), position
