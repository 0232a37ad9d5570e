"""Vector instructions for compiled code, emitted through llvmlite: what the products of skip-gram and of attention share.

The loops that numba writes for small matrix products keep no sums in registers, and its views of rows cost more than the
work on them (measured: 2 to 3 times slower). LLVM splits the vectors on processors with narrower ones.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils as untyped_cgutils
from numba.extending import intrinsic

__all__ = [
    "FAST",
    "FLOAT",
    "INT",
    "LANES",
    "VECTOR",
    "ZERO",
    "cgutils",
    "constant",
    "emitted",
    "lane_pointer",
    "load",
    "multiply_add",
    "number",
    "polynomial",
    "shuffle",
    "splat",
    "store",
]

LANES = 16
"""Numbers in a vector register of AVX-512."""

# The functions that it makes are called with the arguments after `typing`, which its type does not say.
emitted: Any = intrinsic
cgutils: Any = untyped_cgutils

FLOAT, INT = ir.FloatType(), ir.IntType(64)
VECTOR = ir.VectorType(FLOAT, LANES)
FAST = ("reassoc", "contract", "nsz", "arcp")
"""Reassociation and fused multiply-add are allowed; NaN keeps its meaning, so that divergence is seen."""

ZERO = ir.Constant(VECTOR, None)


def number(value: int) -> Any:
    """An integer known when the code is emitted."""
    return ir.Constant(INT, value)


def constant(value: float) -> Any:
    """A vector of one number known when the code is emitted."""
    return ir.Constant(VECTOR, [float(value)] * LANES)


def lane_pointer(builder: Any, address: Any, index: Any) -> Any:
    """Pointer to the float at `index` floats after an address."""
    return builder.gep(builder.inttoptr(address, FLOAT.as_pointer()), [index])


def load(builder: Any, address: Any, index: Any) -> Any:
    """The vector at `index` floats after an address."""
    pointer = builder.bitcast(lane_pointer(builder, address, index), VECTOR.as_pointer())
    return builder.load(pointer, align=4)


def store(builder: Any, vector: Any, address: Any, index: Any) -> None:
    """Write a vector at `index` floats after an address."""
    pointer = builder.bitcast(lane_pointer(builder, address, index), vector.type.as_pointer())
    builder.store(vector, pointer, align=4)


def splat(builder: Any, scalar: Any) -> Any:
    """A vector of one number."""
    one = builder.insert_element(ir.Constant(VECTOR, ir.Undefined), scalar, ir.Constant(ir.IntType(32), 0))
    zeros = ir.Constant(ir.VectorType(ir.IntType(32), LANES), None)
    return builder.shuffle_vector(one, ir.Constant(VECTOR, ir.Undefined), zeros)


def multiply_add(builder: Any, a: Any, b: Any, c: Any) -> Any:
    """The sum a * b + c."""
    return builder.fadd(builder.fmul(a, b, flags=FAST), c, flags=FAST)


def shuffle(builder: Any, a: Any, b: Any, mask: list[int]) -> Any:
    """Elements of a, then of b, at the places of `mask`."""
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(ir.IntType(32), len(mask)), mask))


def polynomial(builder: Any, x: Any, coefficients: tuple[float, ...]) -> Any:
    """A polynomial of each number, highest power first."""
    value = constant(coefficients[0])
    for coefficient in coefficients[1:]:
        value = multiply_add(builder, x, value, constant(coefficient))
    return value
