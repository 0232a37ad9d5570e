"""Compiled work on PyTorch's threads: everything is done once, and only what it can read is handed over."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numba.np.numpy_support import carray

from heedful.kernels import openmp
from heedful.kernels.matmul import floats_at, integers_at, next_task


def _count(address: Any) -> None:
    facts = carray(address, 4)
    tasks, floats, integers = facts[1], carray(floats_at(facts[2]), facts[1]), carray(integers_at(facts[3]), facts[1])
    while True:
        task = next_task(facts.ctypes.data)
        if task >= tasks:
            break
        floats[task] += 1
        integers[task] += 1


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("shared", [True, False])
def test_every_task_is_done_once(shared: bool, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    if not shared:
        monkeypatch.setattr(openmp, "_PARALLEL", None)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        floats, integers = torch.zeros(10_000), np.zeros(10_000, np.int64)
        openmp.run_on_threads(_count, 10_000, floats, integers)
    finally:
        torch.set_num_threads(before)
    assert (floats == 1).all() and (integers == 1).all()


@pytest.mark.parametrize(
    ("tensor", "found"),
    [
        (torch.zeros(8, dtype=torch.float16), "torch.float16 on cpu"),
        (torch.zeros(8, dtype=torch.bfloat16), "torch.bfloat16 on cpu"),
        (torch.zeros(8, dtype=torch.float64), "torch.float64 on cpu"),
        (torch.zeros(8, device="meta"), "torch.float32 on meta"),
        (torch.zeros(16)[::2], r"strides \(2,\)"),
    ],
)
def test_tensors_that_compiled_code_cannot_read_are_refused(tensor: torch.Tensor, found: str) -> None:
    with pytest.raises(TypeError, match=f"contiguous float32 tensors on the CPU; got: .*{found}"):
        openmp.run_on_threads(_count, 8, tensor, np.zeros(8, np.int64))


@pytest.mark.parametrize("array", [np.zeros(8, np.int32), np.zeros(8), np.zeros(16, np.int64)[::2]])
def test_arrays_that_compiled_code_cannot_read_are_refused(array: np.ndarray) -> None:
    with pytest.raises(TypeError, match="contiguous int64 arrays; got: "):
        openmp.run_on_threads(_count, 8, torch.zeros(8), array)
