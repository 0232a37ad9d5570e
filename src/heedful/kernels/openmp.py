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

__all__ = ["at", "run_on_threads"]


def run_on_threads(work: Callable[[Any], None], *facts: int | np.ndarray | torch.Tensor) -> None:
    """Have every thread run `work` once, and wait for all of them.

    Args:
        work: compiled when it is first needed; takes tasks (`matmul.next_task`) until there are none. Its argument is the
            address of int64 numbers: the counter of tasks, then the facts, for arrays and tensors their addresses.
        facts: numbers, and contiguous int64 arrays and float32 tensors in CPU memory.

    Raises:
        TypeError: an array or tensor that the compiled code would read or write as what it is not.
    """
    numbers = np.array([0, *(fact if isinstance(fact, int) else _address(fact) for fact in facts)], np.int64)
    compiled = _compiled(work)
    if _PARALLEL is None:
        compiled.ctypes(numbers.ctypes.data_as(ctypes.POINTER(ctypes.c_int64)))
    else:
        _PARALLEL(compiled.address, numbers.ctypes.data, torch.get_num_threads(), 0)


def _address(fact: np.ndarray | torch.Tensor) -> int:
    if isinstance(fact, np.ndarray):
        if fact.dtype != np.int64 or not fact.flags.c_contiguous:
            raise TypeError(f"kernels take contiguous int64 arrays; got: {fact.dtype}, strides {fact.strides}")
        return fact.ctypes.data
    if fact.dtype != torch.float32 or fact.device.type != "cpu" or not fact.is_contiguous():
        found = f"{fact.dtype} on {fact.device}, strides {fact.stride()}"
        raise TypeError(f"kernels take contiguous float32 tensors on the CPU; got: {found}")
    return fact.data_ptr()


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
