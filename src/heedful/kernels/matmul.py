"""Small matrix products and softmax in registers, for one user's attention, where matrix libraries
spend more on the call.

Replaces BLAS, and the loops that numba compiles, for matrices of a few rows. References: `a @ b`,
`a.T`, `reference.softmax`, `reference.softmax_gradient` and `reference.positive_part`. Gain:
docs/kernels.md. Delete it with `attention_cpu`, `attention_scoring` and `interactions_scoring`.

Everything is read and written by address, row-major float32; strides count floats, and the columns
of results and of the right-hand matrix are padded to a multiple of `LANES`. The instructions are
emitted (`heedful.kernels.simd`).
"""

from __future__ import annotations

from typing import Any

import llvmlite.binding
import numba
from llvmlite import ir
from numba import types
from numba.np.numpy_support import carray

from heedful.kernels.simd import (
    FAST,
    FLOAT,
    INT,
    LANES,
    VECTOR,
    ZERO,
    cgutils,
    constant,
    emitted,
    lane_pointer,
    load,
    multiply_add,
    number,
    polynomial,
    shuffle,
    splat,
    store,
)

__all__ = [
    "LANES",
    "floats_at",
    "integers_at",
    "multiply",
    "next_task",
    "positive_part",
    "softmax",
    "softmax_gradient",
    "transpose",
]

# exp(r) on |r| <= log(2) / 2, highest power first (the coefficients of Cephes): 1e-7 from exact.
_EXP = (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1, 1.0, 1.0)
_LOG2_E, _LN2_HIGH, _LN2_LOW = 1.44269504088896341, 0.693359375, -2.12194440e-4
# Added to a number below 2^22 it leaves the nearest integer in the low bits.
_ROUNDER = 1.5 * 2.0**23
_ROUNDER_BITS = 0x4B400000
# Weights below e to this are nothing: 1e-20 of the largest. Subnormal numbers would slow the arithmetic.
_NOTHING = -46.0
# Vectors beside each other in a tile of 4 to 6 rows: with the rows, as many sums as registers hold.
_WIDE = 2 if llvmlite.binding.get_host_cpu_features().get("avx512f") else 1


def _tile(rows: int, vectors: int) -> Any:
    """C[:rows, :vectors * LANES] (+)= A B, its sums kept in registers."""

    def tile(
        typing: Any, a: Any, a_row: Any, a_step: Any, b: Any, b_row: Any, c: Any, c_row: Any, depth: Any, add: Any
    ) -> Any:
        def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            a, a_row, a_step, b, b_row, c, c_row, depth, add = arguments
            sums = [[cgutils.alloca_once(builder, VECTOR) for _ in range(vectors)] for _ in range(rows)]
            places = [
                [builder.add(builder.mul(c_row, number(r)), number(v * LANES)) for v in range(vectors)] for r in range(rows)
            ]
            with builder.if_else(builder.icmp_signed("!=", add, number(0))) as (then, otherwise):
                with then:
                    for r in range(rows):
                        for v in range(vectors):
                            builder.store(load(builder, c, places[r][v]), sums[r][v])
                with otherwise:
                    for r in range(rows):
                        for v in range(vectors):
                            builder.store(ZERO, sums[r][v])
            with cgutils.for_range(builder, depth) as step:
                b_place, a_place = builder.mul(step.index, b_row), builder.mul(step.index, a_step)
                right = [load(builder, b, builder.add(b_place, number(v * LANES))) for v in range(vectors)]
                for r in range(rows):
                    place = builder.add(a_place, builder.mul(a_row, number(r)))
                    left = splat(builder, builder.load(lane_pointer(builder, a, place)))
                    for v in range(vectors):
                        builder.store(multiply_add(builder, left, right[v], builder.load(sums[r][v])), sums[r][v])
            for r in range(rows):
                for v in range(vectors):
                    store(builder, builder.load(sums[r][v]), c, places[r][v])
            return context.get_dummy_value()

        return types.void(*[types.intp] * 9), emit

    return emitted(tile)


_one_wide, _two_wide, _three_wide = _tile(1, 4), _tile(2, 3), _tile(3, 2)
_four_wide, _five_wide, _six_wide = (_tile(rows, _WIDE) for rows in (4, 5, 6))
_one, _two, _three, _four, _five, _six = (_tile(rows, 1) for rows in range(1, 7))
_ROWS = 6
# Vectors beside each other in a tile of 1, 2 or 3 rows.
_FEW_ROWS = (4, 3, 2)


@numba.njit(cache=True, nogil=True)
def multiply(
    a: int, a_row: int, a_step: int, b: int, b_row: int, c: int, c_row: int, rows: int, depth: int, columns: int, add: int
) -> None:
    """C = A B, or C += A B if `add`: A[i, k] at a + i * a_row + k * a_step, row k of B at b + k * b_row, C likewise.

    Args: addresses and strides; rows of A and C; columns of A, rows of B; columns of B and C, a multiple of `LANES`, all of
    which are read and written; `add`, 1 or 0.
    """
    vectors = _FEW_ROWS[rows - 1] if rows <= len(_FEW_ROWS) else _WIDE
    j = 0
    while j < columns:
        if columns - j < vectors * LANES:
            vectors = 1
        left, i = rows, 0
        while left > 0:
            take = (left + (left + _ROWS - 1) // _ROWS - 1) // ((left + _ROWS - 1) // _ROWS)
            a_i, b_j, c_ij = a + 4 * i * a_row, b + 4 * j, c + 4 * (i * c_row + j)
            if vectors > 1:
                if take == 1:
                    _one_wide(a_i, a_row, a_step, b_j, b_row, c_ij, c_row, depth, add)
                elif take == 2:
                    _two_wide(a_i, a_row, a_step, b_j, b_row, c_ij, c_row, depth, add)
                elif take == 3:
                    _three_wide(a_i, a_row, a_step, b_j, b_row, c_ij, c_row, depth, add)
                elif take == 4:
                    _four_wide(a_i, a_row, a_step, b_j, b_row, c_ij, c_row, depth, add)
                elif take == 5:
                    _five_wide(a_i, a_row, a_step, b_j, b_row, c_ij, c_row, depth, add)
                else:
                    _six_wide(a_i, a_row, a_step, b_j, b_row, c_ij, c_row, depth, add)
            elif take == 1:
                _one(a_i, a_row, a_step, b_j, b_row, c_ij, c_row, depth, add)
            elif take == 2:
                _two(a_i, a_row, a_step, b_j, b_row, c_ij, c_row, depth, add)
            elif take == 3:
                _three(a_i, a_row, a_step, b_j, b_row, c_ij, c_row, depth, add)
            elif take == 4:
                _four(a_i, a_row, a_step, b_j, b_row, c_ij, c_row, depth, add)
            elif take == 5:
                _five(a_i, a_row, a_step, b_j, b_row, c_ij, c_row, depth, add)
            else:
                _six(a_i, a_row, a_step, b_j, b_row, c_ij, c_row, depth, add)
            left, i = left - take, i + take
        j += vectors * LANES


def _exp(builder: Any, z: Any) -> Any:
    """The exponential of numbers that are not positive; 0 for what is next to nothing; NaN stays NaN."""
    tiny = builder.fcmp_ordered("<", z, constant(_NOTHING))
    z = builder.select(tiny, constant(_NOTHING), z)
    rounded = builder.fadd(builder.fmul(z, constant(_LOG2_E)), constant(_ROUNDER))
    integers = ir.VectorType(ir.IntType(32), LANES)
    power = builder.sub(builder.bitcast(rounded, integers), ir.Constant(integers, [_ROUNDER_BITS - 127] * LANES))
    whole = builder.fsub(rounded, constant(_ROUNDER))
    r = builder.fsub(builder.fsub(z, builder.fmul(whole, constant(_LN2_HIGH))), builder.fmul(whole, constant(_LN2_LOW)))
    scale = builder.bitcast(builder.shl(power, ir.Constant(integers, [23] * LANES)), VECTOR)
    return builder.select(tiny, ZERO, builder.fmul(scale, polynomial(builder, r, _EXP)))


@emitted
def softmax(typing: Any, p: Any, row: Any, rows: Any, columns: Any) -> Any:
    """The softmax of each column, in place.

    Args: address of float32 [rows, columns], its stride, rows, columns (a multiple of `LANES`).
    """

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        p, row, rows, columns = arguments
        largest, total = cgutils.alloca_once(builder, VECTOR), cgutils.alloca_once(builder, VECTOR)
        with cgutils.for_range(builder, builder.udiv(columns, number(LANES))) as part:
            first = builder.mul(part.index, number(LANES))
            builder.store(load(builder, p, first), largest)
            with cgutils.for_range(builder, rows) as i:
                z, before = load(builder, p, builder.add(first, builder.mul(i.index, row))), builder.load(largest)
                builder.store(builder.select(builder.fcmp_ordered(">", z, before), z, before), largest)
            builder.store(ZERO, total)
            with cgutils.for_range(builder, rows) as i:
                place = builder.add(first, builder.mul(i.index, row))
                weight = _exp(builder, builder.fsub(load(builder, p, place), builder.load(largest)))
                builder.store(builder.fadd(builder.load(total), weight), total)
                store(builder, weight, p, place)
            share = builder.fdiv(constant(1.0), builder.load(total))
            with cgutils.for_range(builder, rows) as i:
                place = builder.add(first, builder.mul(i.index, row))
                store(builder, builder.fmul(load(builder, p, place), share), p, place)
        return context.get_dummy_value()

    return types.void(*[types.intp] * 4), emit


@emitted
def softmax_gradient(typing: Any, d: Any, p: Any, row: Any, rows: Any, columns: Any) -> Any:
    """The gradient of the scores from that of the weights, in place: d = p (d - sum over rows of p d), column by column.

    Args: addresses of the gradient and of the weights, float32 [rows, columns]; as for `softmax`.
    """

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        d, p, row, rows, columns = arguments
        total = cgutils.alloca_once(builder, VECTOR)
        with cgutils.for_range(builder, builder.udiv(columns, number(LANES))) as part:
            first = builder.mul(part.index, number(LANES))
            builder.store(ZERO, total)
            with cgutils.for_range(builder, rows) as i:
                place = builder.add(first, builder.mul(i.index, row))
                product = multiply_add(builder, load(builder, d, place), load(builder, p, place), builder.load(total))
                builder.store(product, total)
            with cgutils.for_range(builder, rows) as i:
                place = builder.add(first, builder.mul(i.index, row))
                centred = builder.fsub(load(builder, d, place), builder.load(total), flags=FAST)
                store(builder, builder.fmul(load(builder, p, place), centred, flags=FAST), d, place)
        return context.get_dummy_value()

    return types.void(*[types.intp] * 5), emit


@emitted
def positive_part(typing: Any, z: Any, row: Any, rows: Any, columns: Any, threshold: Any, result: Any) -> Any:
    """The sum and the largest of relu(z - threshold) of each column, 0 without rows.

    Args: address of float32 [rows, columns], its stride, rows, columns (a multiple of `LANES`); addresses of the
    threshold and of the result, float32 [2, columns].
    """

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        z, row, rows, columns, threshold, result = arguments
        low = splat(builder, builder.load(lane_pointer(builder, threshold, number(0))))
        total, largest = cgutils.alloca_once(builder, VECTOR), cgutils.alloca_once(builder, VECTOR)
        with cgutils.for_range(builder, builder.udiv(columns, number(LANES))) as part:
            first = builder.mul(part.index, number(LANES))
            builder.store(ZERO, total)
            builder.store(ZERO, largest)
            with cgutils.for_range(builder, rows) as i:
                above = builder.fsub(load(builder, z, builder.add(first, builder.mul(i.index, row))), low)
                above = builder.select(builder.fcmp_ordered("<", above, ZERO), ZERO, above)
                builder.store(builder.fadd(builder.load(total), above), total)
                before = builder.load(largest)
                builder.store(builder.select(builder.fcmp_ordered("<", above, before), before, above), largest)
            store(builder, builder.load(total), result, first)
            store(builder, builder.load(largest), result, builder.add(first, columns))
        return context.get_dummy_value()

    return types.void(*[types.intp] * 6), emit


@emitted
def next_task(typing: Any, counter: Any) -> Any:
    """Take the next number of a counter that several threads share; the address of an int64."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = builder.inttoptr(arguments[0], INT.as_pointer())
        return builder.atomic_rmw("add", pointer, number(1), "seq_cst")

    return types.intp(types.intp), emit


def _pointer_to(kind: Any, element: Any) -> Any:
    def pointer(typing: Any, address: Any) -> Any:
        def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.inttoptr(arguments[0], element.as_pointer())

        return types.CPointer(kind)(types.intp), emit  # type: ignore[no-untyped-call]

    return emitted(pointer)


floats_at, integers_at = _pointer_to(types.float32, FLOAT), _pointer_to(types.int64, INT)
"""An address as a pointer to float32, or to int64."""


# Floats of a row that are transposed at once.
_SQUARE = 8


@emitted
def _transpose_squares(
    typing: Any, source: Any, source_row: Any, target: Any, target_row: Any, rows: Any, columns: Any
) -> Any:
    """Transpose whole squares of `_SQUARE` rows and columns."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        source, source_row, target, target_row, rows, columns = arguments
        kind = ir.VectorType(FLOAT, _SQUARE).as_pointer()

        def place(address: Any, row: Any, stride: Any, column: Any) -> Any:
            return builder.bitcast(lane_pointer(builder, address, builder.add(builder.mul(row, stride), column)), kind)

        with cgutils.for_range(builder, builder.udiv(rows, number(_SQUARE))) as down:
            first_row = builder.mul(down.index, number(_SQUARE))
            with cgutils.for_range(builder, builder.udiv(columns, number(_SQUARE))) as across:
                first_column = builder.mul(across.index, number(_SQUARE))
                lines = []
                for i in range(_SQUARE):
                    line = place(source, builder.add(first_row, number(i)), source_row, first_column)
                    lines.append(builder.load(line, align=4))
                for i, line in enumerate(_transposed(builder, lines)):
                    builder.store(line, place(target, builder.add(first_column, number(i)), target_row, first_row), align=4)
        return context.get_dummy_value()

    return types.void(*[types.intp] * 6), emit


def _transposed(builder: Any, lines: list[Any]) -> list[Any]:
    """A square's columns from its rows: in each round the off-diagonal blocks of half the size change places."""
    half = _SQUARE // 2
    while half:
        swapped = list(lines)
        for i in range(_SQUARE):
            if i & half:
                continue
            stay = [c & half == 0 for c in range(_SQUARE)]
            swapped[i] = shuffle(
                builder, lines[i], lines[i + half], [c if s else _SQUARE + c - half for c, s in enumerate(stay)]
            )
            swapped[i + half] = shuffle(
                builder, lines[i], lines[i + half], [c + half if s else _SQUARE + c for c, s in enumerate(stay)]
            )
        lines, half = swapped, half // 2
    return lines


@numba.njit(cache=True, nogil=True)
def transpose(source: int, source_row: int, target: int, target_row: int, rows: int, columns: int) -> None:
    """target[c, r] = source[r, c]; addresses and strides."""
    _transpose_squares(source, source_row, target, target_row, rows, columns)
    whole_rows, whole_columns = rows // _SQUARE * _SQUARE, columns // _SQUARE * _SQUARE
    read = carray(floats_at(source), (rows - 1) * source_row + columns)
    written = carray(floats_at(target), (columns - 1) * target_row + rows)
    for r in range(rows):
        for c in range(0 if r >= whole_rows else whole_columns, columns):
            written[c * target_row + r] = read[r * source_row + c]
