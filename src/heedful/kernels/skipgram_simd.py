"""One step of skip-gram in registers: the small matrix products that its time goes into.

Replaces the loops that numba compiles. Reference: `reference.skipgram_gradient`. Gain:
docs/kernels.md. Delete it when `benchmarks/kernels.py` shows less than 1.3.

The functions read and write rows of tables by address, and are emitted as vector instructions
(`simd`).

Shape suffixes: N pairs of an input and its true target, S = `LANES` places for the numbers of one:
the true target, then the negatives that all pairs share, always `NEGATIVES`.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types

from heedful.kernels.simd import (
    FAST,
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

__all__ = ["LANES", "NEGATIVES", "add_products", "dot_products", "logistic_steps", "prefetch"]

NEGATIVES = 5
"""Negatives of one call, as many as word2vec has for a pair: their sums and vectors fit the registers."""


def _sums(builder: Any, vectors: list[Any]) -> Any:
    """The sum of each of `LANES` vectors, side by side: neighbours are cut in halves that are added, until one is left."""
    segment = LANES
    while len(vectors) > 1:
        half = segment // 2
        low = [start + i for start in range(0, LANES, segment) for i in range(half)]
        masks = low + [LANES + i for i in low], [half + i for i in low] + [LANES + half + i for i in low]
        vectors = [
            builder.fadd(*(shuffle(builder, a, b, mask) for mask in masks), flags=FAST)
            for a, b in zip(vectors[::2], vectors[1::2], strict=True)
        ]
        segment = half
    return vectors[0]


def _row_place(builder: Any, rows: Any, i: Any, width: Any) -> Any:
    """Where the row at place `i` of an int32 array begins, in floats from the start of its table."""
    pointer = builder.gep(builder.inttoptr(rows, ir.IntType(32).as_pointer()), [i])
    return builder.mul(builder.zext(builder.load(pointer, align=4), INT), width)


@emitted
def dot_products(typing: Any, x: Any, y: Any, width: Any, inputs: Any, trues: Any, n: Any, negatives: Any, out: Any) -> Any:
    """out_NS[i, 0] = x[inputs[i]] . y[trues[i]], out_NS[i, 1 + t] = x[inputs[i]] . y[negatives[t]], zero beyond.

    Args: addresses of the float32 tables x and y and the number of their columns, a multiple of `LANES`; addresses of the
    int32 rows of n inputs and their true targets, and how many; address of the int32 rows of the negatives;
    address of the float32 result [n, S].
    """

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        x, y, width, inputs, trues, n, negatives, out = arguments
        sums = [cgutils.alloca_once(builder, VECTOR) for _ in range(1 + NEGATIVES)]
        shared = [_row_place(builder, negatives, number(t), width) for t in range(NEGATIVES)]
        with cgutils.for_range(builder, n) as pairs:
            x_row = _row_place(builder, inputs, pairs.index, width)
            y_rows = [_row_place(builder, trues, pairs.index, width), *shared]
            for total in sums:
                builder.store(ZERO, total)
            with cgutils.for_range(builder, builder.udiv(width, number(LANES))) as parts:
                first = builder.mul(parts.index, number(LANES))
                x_part = load(builder, x, builder.add(x_row, first))
                for y_row, total in zip(y_rows, sums, strict=True):
                    y_part = load(builder, y, builder.add(y_row, first))
                    builder.store(multiply_add(builder, x_part, y_part, builder.load(total)), total)
            totals = [builder.load(total) for total in sums] + [ZERO] * (LANES - len(sums))
            store(builder, _sums(builder, totals), out, builder.mul(pairs.index, number(LANES)))
        return context.get_dummy_value()

    return types.void(*[types.intp] * 8), emit


@emitted
def add_products(typing: Any, x: Any, y: Any, width: Any, inputs: Any, trues: Any, n: Any, negatives: Any, step: Any) -> Any:
    """Add to each x[inputs[i]] its targets times step_NS[i], and to each target its inputs times the same.

    Both from the vectors as they were, but for a row that is named twice, which takes both steps in turn. Arguments as for
    `dot_products`, with the address of step_NS, float32 [n, S], in place of the result's.
    """

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        x, y, width, inputs, trues, n, negatives, step = arguments
        sums = [cgutils.alloca_once(builder, VECTOR) for _ in range(NEGATIVES)]
        shared = [_row_place(builder, negatives, number(t), width) for t in range(NEGATIVES)]
        with cgutils.for_range(builder, builder.udiv(width, number(LANES))) as parts:
            first = builder.mul(parts.index, number(LANES))
            places = [builder.add(row, first) for row in shared]
            y_parts = [load(builder, y, place) for place in places]
            for total in sums:
                builder.store(ZERO, total)
            with cgutils.for_range(builder, n) as pairs:
                x_place = builder.add(_row_place(builder, inputs, pairs.index, width), first)
                true_place = builder.add(_row_place(builder, trues, pairs.index, width), first)
                x_part, true_part = load(builder, x, x_place), load(builder, y, true_place)
                step_row = builder.mul(pairs.index, number(LANES))
                rates = [
                    splat(builder, builder.load(lane_pointer(builder, step, builder.add(step_row, number(t)))))
                    for t in range(1 + NEGATIVES)
                ]
                store(builder, multiply_add(builder, rates[0], x_part, true_part), y, true_place)
                x_new = multiply_add(builder, rates[0], true_part, x_part)
                for rate, total, y_part in zip(rates[1:], sums, y_parts, strict=True):
                    builder.store(multiply_add(builder, rate, x_part, builder.load(total)), total)
                    x_new = multiply_add(builder, rate, y_part, x_new)
                store(builder, x_new, x, x_place)
            for place, total in zip(places, sums, strict=True):
                store(builder, builder.fadd(load(builder, y, place), builder.load(total), flags=FAST), y, place)
        return context.get_dummy_value()

    return types.void(*[types.intp] * 8), emit


# tanh(z) for |z| < 7.9 as z p(z^2) / q(z^2), highest power first (the coefficients of Eigen): 1e-6 from exact.
_TANH_P = (
    -2.76076847742355e-16, 2.00018790482477e-13, -8.60467152213735e-11, 5.12229709037114e-08,
    1.48572235717979e-05, 6.37261928875436e-04, 4.89352455891786e-03,
)  # fmt: skip
_TANH_Q = (1.19825839466702e-06, 1.18534705686654e-04, 2.26843463243900e-03, 4.89352518554385e-03)
_LARGEST = 7.9


def _half_tanh(builder: Any, z: Any) -> Any:
    """tanh(z) / 2; a number that is none stays none."""
    for beyond, bound in ((">", _LARGEST), ("<", -_LARGEST)):
        edge = constant(bound)
        z = builder.select(builder.fcmp_ordered(beyond, z, edge), edge, z)
    s = builder.fmul(z, z, flags=FAST)
    numerator = builder.fmul(z, polynomial(builder, s, _TANH_P), flags=FAST)
    return builder.fmul(constant(0.5), builder.fdiv(numerator, polynomial(builder, s, _TANH_Q), flags=FAST), flags=FAST)


@emitted
def logistic_steps(typing: Any, logits: Any, n: Any, n_negatives: Any, has_true: Any, rate: Any) -> Any:
    """Turn logits into step sizes, rate * (label - s(logit)), in place; what does not count becomes zero.

    Args: address of float32 [n, S] and n; how many negatives count; whether the true target does (label 1, that of negatives
    is 0), 1 or 0; the learning rate, float32.
    """

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        logits, n, n_negatives, has_true, rate = arguments
        integers = ir.VectorType(INT, LANES)
        counts = builder.insert_element(ir.Constant(integers, ir.Undefined), n_negatives, number(0))
        counts = shuffle(builder, counts, counts, [0] * LANES)
        # A true target that does not count is beyond all negatives.
        place = builder.mul(builder.sub(number(1), has_true), number(LANES))
        places = builder.insert_element(ir.Constant(integers, list(range(LANES))), place, ir.Constant(ir.IntType(32), 0))
        counted = builder.icmp_signed("<=", places, counts)
        rates = splat(builder, rate)
        centred = ir.Constant(VECTOR, [0.5] + [-0.5] * (LANES - 1))
        with cgutils.for_range(builder, n) as pairs:
            place = builder.mul(pairs.index, number(LANES))
            z = builder.fmul(constant(0.5), load(builder, logits, place), flags=FAST)
            step = builder.fmul(rates, builder.fsub(centred, _half_tanh(builder, z), flags=FAST), flags=FAST)
            store(builder, builder.select(counted, step, ZERO), logits, place)
        return context.get_dummy_value()

    return types.void(types.intp, types.intp, types.intp, types.intp, types.float32), emit


@emitted
def prefetch(typing: Any, address: Any) -> Any:
    """Ask for the cache line at an address, soon to be written; the address need not be valid."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        byte, flag = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [byte, flag, flag, flag])
        call = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        pointer = builder.inttoptr(arguments[0], byte)
        builder.call(call, [pointer, *(ir.Constant(flag, value) for value in (1, 3, 1))])
        return context.get_dummy_value()

    return types.void(types.intp), emit
