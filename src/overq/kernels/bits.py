"""Compiled helpers for `numba_cpu`: 64 values and one 64-bit word, a bit per value.

Written as LLVM vectors because a comparison of 64 numbers to 64 bits is what vector units do best and what a loop in Python
cannot say. LLVM lowers them to whatever the CPU has. Indices are in elements; nothing is checked.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.imputils import impl_ret_borrowed
from numba.extending import intrinsic
from numba.np import arrayobj

I1, I32, I64, FLOAT, HALF = ir.IntType(1), ir.IntType(32), ir.IntType(64), ir.FloatType(), ir.HalfType()


def _vector(context: Any, builder: Any, array_type: Any, array: Any, index: Any) -> Any:
    """Pointer to the 64 elements from `index` on."""
    data = cgutils.create_struct_proxy(array_type)(context, builder, array).data
    vector = ir.VectorType(context.get_data_type(array_type.dtype), 64)
    return builder.bitcast(builder.gep(data, [index]), vector.as_pointer())


def _all64(builder: Any, value: Any) -> Any:
    """<64 x …> of one value."""
    vector = ir.VectorType(value.type, 64)
    one = builder.insert_element(ir.Constant(vector, ir.Undefined), value, ir.Constant(I32, 0))
    return builder.shuffle_vector(one, ir.Constant(vector, ir.Undefined), ir.Constant(ir.VectorType(I32, 64), [0] * 64))


def _load(context: Any, builder: Any, array_type: Any, array: Any, index: Any) -> Any:
    pointer = _vector(context, builder, array_type, array, index)
    return builder.load(pointer, align=context.get_abi_sizeof(context.get_data_type(array_type.dtype)))


def _as_word(builder: Any, bits: Any) -> Any:
    return builder.bitcast(bits, I64)


def _as_bits(builder: Any, word: Any) -> Any:
    return builder.bitcast(word, ir.VectorType(I1, 64))


@intrinsic
def part(context, values, start, stop):  # type: ignore[no-untyped-def]
    """values[start:stop] of contiguous memory, 0 <= start <= stop <= size: without Numba's care for other bounds, which takes long to
    compile. Nothing is checked."""
    if values.ndim != 1 or values.layout != "C":
        return None

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        array, first, last = arguments
        whole = arrayobj.make_array(signature.args[0])(context, builder, array)
        found = arrayobj.make_array(signature.return_type)(context, builder)
        size, data = builder.sub(last, first), builder.gep(whole.data, [first])
        arrayobj.populate_array(found, data, [size], whole.strides, whole.itemsize, whole.meminfo, whole.parent)
        return impl_ret_borrowed(context, builder, signature.return_type, found._getvalue())

    return values(values, types.int64, types.int64), generate


@intrinsic
def outside(context, values, index, low, high):  # type: ignore[no-untyped-def]
    """Bit j: values[index + j] < low or > high. values: int32 array."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        array, at, least, greatest = arguments
        above = builder.sub(_load(context, builder, signature.args[0], array, at), _all64(builder, least))
        width = _all64(builder, builder.sub(greatest, least))
        return _as_word(builder, builder.icmp_unsigned(">", above, width))  # below `low` wraps to a large number

    return types.uint64(values, types.int64, types.int32, types.int32), generate


@intrinsic
def at_least(context, values, index, others, place):  # type: ignore[no-untyped-def]
    """Bit j: values[index + j] >= others[place + j]. int32 arrays."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        a, i, b, j = arguments
        left, right = _load(context, builder, signature.args[0], a, i), _load(context, builder, signature.args[2], b, j)
        return _as_word(builder, builder.icmp_signed(">=", left, right))

    return types.uint64(values, types.int64, others, types.int64), generate


@intrinsic
def copy_where(context, word, values, index, others, place):  # type: ignore[no-untyped-def]
    """others[place + j] = values[index + j] where bit j of word is set. Arrays of one type."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        bits, a, i, b, j = arguments
        left, right = _load(context, builder, signature.args[1], a, i), _load(context, builder, signature.args[3], b, j)
        target = _vector(context, builder, signature.args[3], b, j)
        builder.store(builder.select(_as_bits(builder, bits), left, right), target, align=4)
        return context.get_dummy_value()

    return types.void(types.uint64, values, types.int64, others, types.int64), generate


@intrinsic
def clear_where(context, word, values, index):  # type: ignore[no-untyped-def]
    """values[index + j] = 0 where bit j of word is set. values: int32 array."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        bits, array, at = arguments
        target = _vector(context, builder, signature.args[1], array, at)
        kept = builder.load(target, align=4)
        zero = ir.Constant(kept.type, [0] * 64)
        builder.store(builder.select(_as_bits(builder, bits), zero, kept), target, align=4)
        return context.get_dummy_value()

    return types.void(types.uint64, values, types.int64), generate


@intrinsic
def sum_where(context, word, values, index):  # type: ignore[no-untyped-def]
    """Sum of values[index + j] where bit j of word is set, added in one order on every machine. values: float32 array."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        bits, array, at = arguments
        loaded = _load(context, builder, signature.args[1], array, at)
        total = builder.select(_as_bits(builder, bits), loaded, _all64(builder, ir.Constant(FLOAT, 0.0)))
        for half in (32, 16, 8, 4, 2, 1):
            low, high = (ir.Constant(ir.VectorType(I32, half), list(range(i, i + half))) for i in (0, half))
            total = builder.fadd(builder.shuffle_vector(total, total, low), builder.shuffle_vector(total, total, high))
        return builder.extract_element(total, ir.Constant(I32, 0))

    return types.float32(types.uint64, values, types.int64), generate


@intrinsic
def spread(context, word, out, index):  # type: ignore[no-untyped-def]
    """out[index + j] = bit j of word. out: uint8 array."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        bits, array, at = arguments
        target = _vector(context, builder, signature.args[1], array, at)
        builder.store(builder.zext(_as_bits(builder, bits), ir.VectorType(ir.IntType(8), 64)), target, align=1)
        return context.get_dummy_value()

    return types.void(types.uint64, out, types.int64), generate


@intrinsic
def shift_right(context, value, bits):  # type: ignore[no-untyped-def]
    """value >> bits in int32, rounding down; Numba's own shift computes in int64."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return builder.ashr(*arguments)

    return types.int32(types.int32, types.int32), generate


@intrinsic
def bits_of(context, value):  # type: ignore[no-untyped-def]
    """int32 pattern of a float32."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return builder.bitcast(arguments[0], I32)

    return types.int32(types.float32), generate


@intrinsic
def number_of(context, pattern):  # type: ignore[no-untyped-def]
    """float32 of an int32 pattern."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return builder.bitcast(arguments[0], FLOAT)

    return types.float32(types.int32), generate


@intrinsic
def ones(context, word):  # type: ignore[no-untyped-def]
    """How many bits are set."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return builder.ctpop(arguments[0])

    return types.int64(types.uint64), generate


@intrinsic
def from_half(context, pattern, bfloat):  # type: ignore[no-untyped-def]
    """float32 of a 16-bit pattern: bfloat16 or float16."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        pattern, bfloat = arguments
        wide = builder.shl(builder.zext(pattern, I32), ir.Constant(I32, 16))
        return builder.select(bfloat, builder.bitcast(wide, FLOAT), builder.fpext(builder.bitcast(pattern, HALF), FLOAT))

    return types.float32(types.uint16, types.boolean), generate


@intrinsic
def to_half(context, value, bfloat):  # type: ignore[no-untyped-def]
    """16-bit pattern of a float32 (NaN stays NaN): bfloat16 or float16, rounded to nearest, ties to even."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        value, bfloat = arguments
        half = builder.bitcast(builder.fptrunc(value, HALF), ir.IntType(16))
        bits = builder.bitcast(value, I32)
        odd = builder.and_(builder.lshr(bits, ir.Constant(I32, 16)), ir.Constant(I32, 1))
        rounded = builder.add(bits, builder.add(odd, ir.Constant(I32, 0x7FFF)))
        nan = builder.fcmp_unordered("uno", value, value)
        wide = builder.select(nan, ir.Constant(I32, 0x7FC00000), rounded)
        bf = builder.trunc(builder.lshr(wide, ir.Constant(I32, 16)), ir.IntType(16))
        return builder.select(bfloat, bf, half)

    return types.uint16(types.float32, types.boolean), generate
