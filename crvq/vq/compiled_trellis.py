"""The shortest paths of `crvq.vq.trellis` on a CPU, sixteen sequences side by side (numba).

numba does not vectorize the look for a minimum's place, which is what Viterbi does most; so a step
is spelled out as vector code, a lane for each sequence (as in `crvq.vq.compiled_vectors`).
"""

# Numba's arguments are arrays whose types are inferred, and compiler objects have no Python types.
# ruff: noqa: ANN001, ANN201, ANN202
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from crvq.vq.compiled_groups import compiled
from crvq.vq.compiled_vectors import LANES

_F32, _I64 = ir.FloatType(), ir.IntType(64)
_FLOATS, _BYTES = ir.VectorType(_F32, LANES), ir.VectorType(ir.IntType(8), LANES)


def _step_of(code_bits):
    """Make the function for codes of so many bits; its inner loops are written out."""
    ways = 1 << code_bits

    @intrinsic
    def step(typing_context, cost, value, weight, table, following, arrivals):
        """One number further: ``following (2^L, 16)`` from ``cost``, and how each was reached."""

        def build(context, builder, signature, arguments):
            def data(index):
                array = context.make_array(signature.args[index])
                return array(context, builder, arguments[index]).data

            def splat(scalar):
                zeros = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
                one = ir.Constant(_FLOATS, ir.Undefined)
                one = builder.insert_element(one, scalar, ir.IntType(32)(0))
                return builder.shuffle_vector(one, one, zeros)

            def lanes(pointer, row, kind):
                at = builder.gep(pointer, [builder.mul(row, _I64(LANES))])
                return builder.bitcast(at, kind.as_pointer())

            fma = cgutils.get_or_insert_function(
                builder.module, ir.FunctionType(_FLOATS, [_FLOATS] * 3), f"llvm.fma.v{LANES}f32"
            )
            before, number, after, reached = data(0), data(3), data(4), data(5)
            target = builder.load(lanes(data(1), _I64(0), _FLOATS), align=4)
            scale = splat(arguments[2])
            table_array = context.make_array(signature.args[3])(context, builder, arguments[3])
            states = cgutils.unpack_tuple(builder, table_array.shape, 1)[0]
            registers = builder.lshr(states, _I64(code_bits))
            with cgutils.for_range(builder, registers) as loop:
                least = builder.load(lanes(before, loop.index, _FLOATS), align=4)
                chosen = ir.Constant(_BYTES, [0] * LANES)
                for way in range(1, ways):
                    row = builder.add(builder.mul(registers, _I64(way)), loop.index)
                    other = builder.load(lanes(before, row, _FLOATS), align=4)
                    lower = builder.fcmp_ordered("<", other, least)
                    least = builder.select(lower, other, least)
                    here = ir.Constant(_BYTES, [way] * LANES)
                    chosen = builder.select(lower, here, chosen)
                builder.store(chosen, lanes(reached, loop.index, _BYTES), align=1)
                first = builder.mul(loop.index, _I64(ways))
                for code in range(ways):
                    state = builder.add(first, _I64(code))
                    off = builder.fsub(target, splat(builder.load(builder.gep(number, [state]))))
                    total = builder.call(fma, [builder.fmul(scale, off), off, least])
                    builder.store(total, lanes(after, state, _FLOATS), align=4)
            return context.get_dummy_value()

        return types.void(cost, value, types.float32, table, following, arrivals), build

    return step


_step_1, _step_2, _step_3, _step_4 = (_step_of(code_bits) for code_bits in (1, 2, 3, 4))


@compiled()
def _step(cost, value, weight, table, following, arrivals, code_bits):
    if code_bits == 1:
        _step_1(cost, value, weight, table, following, arrivals)
    elif code_bits == 2:
        _step_2(cost, value, weight, table, following, arrivals)
    elif code_bits == 3:
        _step_3(cost, value, weight, table, following, arrivals)
    else:
        _step_4(cost, value, weight, table, following, arrivals)


@compiled()
def best_paths(values, weights, table, code_bits, ends, states):
    """Fill ``states (batches, T, 16)`` for ``values`` of that shape; ``ends`` of -1 are free.

    Args:
        values: float32.
        weights: ``(T,)``, float32.
        table: ``(2^L,)``, float32.
        code_bits: k, 1 to 4.
        ends: the register before the first number and after the last, ``(batches, 16)``.
        states: int64.
    """
    length, registers = values.shape[1], len(table) >> code_bits
    cost = np.empty((len(table), LANES), dtype=np.float32)
    following = np.empty((len(table), LANES), dtype=np.float32)
    arrivals = np.empty((length, registers, LANES), dtype=np.uint8)
    for batch in range(len(values)):
        # Before the first number: one register is free of charge, or all are.
        for state in range(len(table)):
            register = state & (registers - 1)
            for lane in range(LANES):
                end = ends[batch, lane]
                cost[state, lane] = 0 if end < 0 or end == register else np.inf
        for t in range(length):
            _step(cost, values[batch, t], weights[t], table, following, arrivals[t], code_bits)
            cost, following = following, cost
        for lane in range(LANES):
            _trace(cost, arrivals, code_bits, ends[batch, lane], lane, states[batch])


@compiled()
def _trace(cost, arrivals, code_bits, end, lane, states):
    """Follow one lane back from its best last state."""
    registers = arrivals.shape[1]
    state = max(end, 0)
    step = 1 if end < 0 else registers
    for other in range(state, len(cost), step):
        if cost[other, lane] < cost[state, lane]:
            state = other
    for t in range(len(arrivals) - 1, -1, -1):
        states[t, lane] = state
        register = state >> code_bits
        state = arrivals[t, register, lane] * registers + register
