"""The matrices between the layers of attention, folded to the width of an item: f^kT h and f^kT g^j
for j < k.

Side by side they are one matrix, whose product with an item is all that `attention_layers` needs of
it. Of layer k they are f^kT [h, g^0, ..., g^(k-1)]. After all of these come the vectors whose
products with an item are what each layer's scores start with, and what each layer's reading adds to
the logit.

Replaces a library product for each layer and its gradients. Reference: those products,
`benchmarks/kernels.py`; the tests compare all of `attention_cpu`. Gain: docs/kernels.md. Delete it
when `benchmarks/kernels.py` shows less than 1.3.

Shapes: K layers, H hidden width, D embedding width (a multiple of `LANES`), X = (K + 1) D, E
columns.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import torch
from numba.np.numpy_support import carray
from torch.autograd.function import once_differentiable

from heedful.kernels.matmul import LANES, floats_at, multiply, next_task, transpose
from heedful.kernels.openmp import at, run_on_threads

__all__ = ["FoldedMatrices", "first_column", "n_columns"]


@numba.njit(inline="always")
def first_column(layer: Any, width: Any) -> Any:
    """Where the columns of a layer begin."""
    return layer * (layer + 1) // 2 * width


@numba.njit(inline="always")
def n_columns(depth: Any, width: Any) -> Any:
    """E: columns of all layers and of the 2 K vectors, padded."""
    return (first_column(depth, width) + 2 * depth + LANES - 1) // LANES * LANES


class FoldedMatrices(torch.autograd.Function):
    """The maps and their gradients. A library spends more than twice as long on so many products of this size."""

    @staticmethod
    def forward(
        ctx: Any, f_KHD: torch.Tensor, hg_HX: torch.Tensor, start_KD: torch.Tensor, worth_KD: torch.Tensor
    ) -> torch.Tensor:
        """Float [D, E], from contiguous matrices; h and the g^k side by side."""
        depth, hidden, width = f_KHD.shape
        maps_DE, ends = f_KHD.new_zeros(width, n_columns(depth, width)), first_column(depth, width)
        maps_DE[:, ends : ends + depth], maps_DE[:, ends + depth : ends + 2 * depth] = start_KD.T, worth_KD.T
        run_on_threads(_multiply_out, depth, hidden, width, f_KHD, hg_HX, maps_DE)
        ctx.save_for_backward(f_KHD, hg_HX)
        return maps_DE

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_maps_DE: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The gradients of what went in."""
        f_KHD, hg_HX = ctx.saved_tensors
        depth, hidden, width = f_KHD.shape
        d_maps_DE, ends = d_maps_DE.contiguous(), first_column(depth, width)
        d_f_KHD, d_hg_HX = torch.empty_like(f_KHD), torch.zeros_like(hg_HX)
        run_on_threads(_multiply_back, depth, hidden, width, f_KHD, hg_HX, d_maps_DE, d_f_KHD, d_hg_HX)
        d_start_DK, d_worth_DK = d_maps_DE[:, ends : ends + depth], d_maps_DE[:, ends + depth : ends + 2 * depth]
        return d_f_KHD, d_hg_HX, d_start_DK.T, d_worth_DK.T


def _multiply_out(address: Any) -> None:
    """A task is a layer, the widest first."""
    facts = carray(address, 7)
    depth, hidden, width = facts[1], facts[2], facts[3]
    f, hg = carray(floats_at(facts[4]), (depth * hidden, width)), carray(floats_at(facts[5]), (hidden, (depth + 1) * width))
    maps = carray(floats_at(facts[6]), (width, n_columns(depth, width)))
    while True:
        k = depth - 1 - next_task(facts.ctypes.data)
        if k < 0:
            break
        multiply(
            at(f, k * hidden, 0), 1, width, at(hg, 0, 0), hg.shape[1],
            at(maps, 0, first_column(k, width)), maps.shape[1], width, hidden, (1 + k) * width, 0,
        )  # fmt: skip


def _multiply_back(address: Any) -> None:
    """A task is the gradient of an f, the widest first, or of h or a g, in order of the layers that read it."""
    facts = carray(address, 9)
    depth, hidden, width = facts[1], facts[2], facts[3]
    f, hg = carray(floats_at(facts[4]), (depth * hidden, width)), carray(floats_at(facts[5]), (hidden, (depth + 1) * width))
    d_maps = carray(floats_at(facts[6]), (width, n_columns(depth, width)))
    d_f, d_hg = carray(floats_at(facts[7]), f.shape), carray(floats_at(facts[8]), hg.shape)
    turned = np.empty((depth * width, width), np.float32)
    while True:
        task = next_task(facts.ctypes.data)
        if task >= 2 * depth:
            break
        if task % 2 == 0:
            k = depth - 1 - task // 2
            used = (1 + k) * width
            transpose(at(d_maps, 0, first_column(k, width)), d_maps.shape[1], at(turned, 0, 0), width, width, used)
            multiply(
                at(hg, 0, 0), hg.shape[1], 1, at(turned, 0, 0), width, at(d_f, k * hidden, 0), width,
                hidden, used, width, 0,
            )  # fmt: skip
        else:
            j = task // 2
            for k in range(j, depth):
                multiply(
                    at(f, k * hidden, 0), width, 1, at(d_maps, 0, first_column(k, width) + j * width),
                    d_maps.shape[1], at(d_hg, 0, j * width), d_hg.shape[1], hidden, width, width, 1,
                )  # fmt: skip
