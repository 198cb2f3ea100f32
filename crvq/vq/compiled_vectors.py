"""Sums of products over vectors of 16 numbers, and the least of them, for compiled kernels (numba).

numba's own loops are not vectorized where they look for the place of a minimum, which is what code
search does most. These functions spell the vector code out: 16 entries at a time, scores, the
least so far and its place all in registers. LLVM maps vectors of 16 floats to what the processor
has (one AVX-512 register, two of AVX2, four of NEON).

Tables of shape ``(rows, columns)`` are laid out by `in_blocks` as ``(columns / 16, rows, 16)``, so
that memory is read in order. (Read as they are, rows of 1024 floats would lie 4 KiB apart and
push each other out of the first-level cache.)
"""

# Numba's extension interface passes compiler objects that have no Python types.
# ruff: noqa: ANN001, ANN202
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

from __future__ import annotations

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

LANES = 16
"""Arrays that the functions below run over have a multiple of so many elements."""
_F32, _I32, _I64 = ir.FloatType(), ir.IntType(32), ir.IntType(64)
_FLOATS, _INTS = ir.VectorType(_F32, LANES), ir.VectorType(_I32, LANES)


class _Emitter:
    """Writes vector code that runs over columns of ``base`` and of ``table (blocks, rows, 16)``."""

    def __init__(self, context, builder, signature, arguments) -> None:
        self.builder = builder

        def data(index):
            array = context.make_array(signature.args[index])
            return array(context, builder, arguments[index]).data

        self.base, self.x, self.table = data(0), data(1), data(2)
        table = context.make_array(signature.args[2])(context, builder, arguments[2])
        _, self.rows, _ = cgutils.unpack_tuple(builder, table.shape, 3)
        base = context.make_array(signature.args[0])(context, builder, arguments[0])
        self.columns = cgutils.unpack_tuple(builder, base.shape, 1)[0]
        x = context.make_array(signature.args[1])(context, builder, arguments[1])
        self.depth = cgutils.unpack_tuple(builder, x.shape, 1)[0]
        self.first_row = arguments[3]
        # llvmlite's own method takes scalars only.
        self.fma = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(_FLOATS, [_FLOATS] * 3), f"llvm.fma.v{LANES}f32"
        )

    def splat(self, value, kind):
        """A vector with ``value`` in each lane."""
        one = self.builder.insert_element(ir.Constant(kind, ir.Undefined), value, _I32(0))
        zeros = ir.Constant(ir.VectorType(_I32, LANES), [0] * LANES)
        return self.builder.shuffle_vector(one, one, zeros)

    def vector_at(self, pointer, offset):
        """Address of the vector that begins ``offset`` floats after ``pointer``."""
        return self.builder.bitcast(self.builder.gep(pointer, [offset]), _FLOATS.as_pointer())

    def load(self, pointer, offset):
        """Sixteen floats, from an address that need not be aligned."""
        return self.builder.load(self.vector_at(pointer, offset), align=4)

    def coefficient(self, k):
        """``x[k]`` in each lane."""
        return self.splat(self.builder.load(self.builder.gep(self.x, [k])), _FLOATS)

    def sums(self, column, coefficients):
        """``base + Σ_k x[k] table[first_row + k]`` at 16 columns, added in order of k."""
        builder = self.builder
        # The block of 16 columns starts at column * rows; its rows follow, 16 floats each.
        block = builder.mul(column, self.rows)
        block = builder.add(block, builder.mul(self.first_row, _I64(LANES)))
        zero = ir.Constant(_FLOATS, [0.0] * LANES)
        if coefficients is not None:
            total = zero
            for k, coefficient in enumerate(coefficients):
                line = self.load(self.table, builder.add(block, _I64(k * LANES)))
                total = builder.call(self.fma, [coefficient, line, total])
        else:
            place = cgutils.alloca_once_value(builder, zero)
            with cgutils.for_range(builder, self.depth) as loop:
                row = builder.mul(loop.index, _I64(LANES))
                line = self.load(self.table, builder.add(block, row))
                coefficient = self.coefficient(loop.index)
                builder.store(
                    builder.call(self.fma, [coefficient, line, builder.load(place)]), place
                )
            total = builder.load(place)
        return builder.fadd(self.load(self.base, column), total)


def _least_lane(emitter, values, places):
    """The least of 16 values and its place; of equal values the first place."""
    builder, width = emitter.builder, LANES
    while width > 1:
        width //= 2
        half = ir.Constant(_INTS, [lane + width if lane < width else lane for lane in range(LANES)])
        other_values = builder.shuffle_vector(values, values, half)
        other_places = builder.shuffle_vector(places, places, half)
        lower = builder.fcmp_ordered("<", other_values, values)
        equal = builder.fcmp_ordered("==", other_values, values)
        earlier = builder.icmp_signed("<", other_places, places)
        chosen = builder.or_(lower, builder.and_(equal, earlier))
        values = builder.select(chosen, other_values, values)
        places = builder.select(chosen, other_places, places)
    return builder.extract_element(values, _I32(0)), builder.extract_element(places, _I32(0))


def _least_of_sums(depth):
    """Make the function for products of ``depth`` terms; None: of as many as the table has rows."""

    @intrinsic
    def least(typing_context, base, x, table, first_row):
        """Entry with the least ``base[e] + Σ_k x[k] table[first_row + k, e]``, and its value.

        Of equal entries the first.
        """

        def build(context, builder, signature, arguments):
            emitter = _Emitter(context, builder, signature, arguments)
            fixed = None
            if depth is not None:
                fixed = [emitter.coefficient(_I64(k)) for k in range(depth)]
            lanes = ir.Constant(_INTS, list(range(LANES)))
            best = cgutils.alloca_once_value(builder, ir.Constant(_FLOATS, [float("inf")] * LANES))
            where = cgutils.alloca_once_value(builder, lanes)
            with cgutils.for_range_slice(
                builder, _I64(0), emitter.columns, _I64(LANES), intp=_I64
            ) as (column, _):
                scores = emitter.sums(column, fixed)
                so_far = builder.load(best)
                lower = builder.fcmp_ordered("<", scores, so_far)
                here = builder.add(emitter.splat(builder.trunc(column, _I32), _INTS), lanes)
                builder.store(builder.select(lower, scores, so_far), best)
                builder.store(builder.select(lower, here, builder.load(where)), where)
            value, place = _least_lane(emitter, builder.load(best), builder.load(where))
            pair = [builder.sext(place, _I64), value]
            return context.make_tuple(builder, signature.return_type, pair)

        return types.Tuple((types.int64, types.float32))(base, x, table, types.int64), build

    return least


def _all_sums(depth):
    """Make the function for products of ``depth`` terms; None: of as many as the table has rows."""

    @intrinsic
    def add(typing_context, base, x, table, first_row, start, out):
        """``out[e] = base[e] + Σ_k x[k] table[first_row + k, e]`` for e from ``start`` on.

        ``start`` is a multiple of 16; ``out`` may be ``base``.
        """

        def build(context, builder, signature, arguments):
            emitter = _Emitter(context, builder, signature, arguments)
            fixed = None
            if depth is not None:
                fixed = [emitter.coefficient(_I64(k)) for k in range(depth)]
            out_data = context.make_array(signature.args[5])(context, builder, arguments[5]).data
            with cgutils.for_range_slice(
                builder, arguments[4], emitter.columns, _I64(LANES), intp=_I64
            ) as (column, _):
                total = emitter.sums(column, fixed)
                builder.store(total, emitter.vector_at(out_data, column), align=4)
            return context.get_dummy_value()

        return types.void(base, x, table, types.int64, types.int64, out), build

    return add


least_of_0 = _least_of_sums(0)
least_of_4 = _least_of_sums(4)
least_of_8 = _least_of_sums(8)
least_of_16 = _least_of_sums(16)
least_of_any = _least_of_sums(None)
add_4 = _all_sums(4)
add_8 = _all_sums(8)
add_any = _all_sums(None)
