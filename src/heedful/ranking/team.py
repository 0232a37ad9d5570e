"""Compiled work done by PyTorch's own threads.

Threads of another pool would wait for processors on which PyTorch's spin. Where PyTorch was built without GNU's OpenMP the
calling thread works alone.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import torch
from numba import types

__all__ = ["at", "in_team"]


def in_team(work: Callable[[Any], None], *facts: int | np.ndarray | torch.Tensor) -> None:
    """Have every thread of the team run `work` once, and wait for all of them.

    Args:
        work: compiled when it is first needed; takes tasks (`tiles.next_task`) until there are none. Its argument is the
            address of int64 numbers: the counter of tasks, then the facts, for arrays and tensors their addresses.
        facts: numbers, and arrays and tensors that are contiguous.
    """
    numbers = np.array([0, *(fact if isinstance(fact, int) else _address(fact) for fact in facts)], np.int64)
    compiled = _compiled(work)
    if _PARALLEL is None:
        compiled.ctypes(numbers.ctypes.data_as(ctypes.POINTER(ctypes.c_int64)))
    else:
        _PARALLEL(compiled.address, numbers.ctypes.data, torch.get_num_threads(), 0)


def _address(fact: np.ndarray | torch.Tensor) -> int:
    return fact.data_ptr() if isinstance(fact, torch.Tensor) else fact.ctypes.data


@functools.cache
def _compiled(work: Callable[[Any], None]) -> Any:
    """As C code sees it."""
    return numba.cfunc(types.void(types.CPointer(types.int64)), cache=True)(work)  # type: ignore[no-untyped-call]


def _parallel() -> Any:
    try:
        run = ctypes.CDLL(None).GOMP_parallel
    except (AttributeError, OSError, TypeError):
        return None
    run.argtypes, run.restype = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint], None
    return run


_PARALLEL = _parallel()


@numba.njit(inline="always")
def at(array: Any, row: Any, column: Any) -> Any:
    """The address of an element of a float32 matrix."""
    return array.ctypes.data + 4 * (row * array.shape[1] + column)
