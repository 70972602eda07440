"""The compiled pass for steps that are not one number: each group of lanes, a vector or a tile of one, is scaled by its own factors.

As `compiled.lanes_inside`, for lanes that are contiguous in memory. A group's greatest magnitude or rms is found where its values
are read anyway, so a dynamic step costs no pass of its own. `scale.steps` says what is computed, in which order; this is the same.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types
from numba.extending import overload

from overq.kernels.bits import bits_of, from_half, number_of
from overq.kernels.compiled import (
    F32,
    I32,
    classify,
    clear,
    compiled,
    decide,
    emit,
    inner,
    join,
    new_block,
    part,
    reveal,
    stage,
    tail,
    tally,
    yield_to,
)
from overq.kernels.scale import COLUMNS, GREATEST, LEAST

F64 = np.float64
GIVEN, MAX, RMS = 0, 1, 2  # where a group's factors come from
INFINITE = 0x7F800000  # bits of a float32 infinity


def real(value: Any, bfloat: bool) -> np.float32:
    """float32 of what is stored. Compiled code only."""
    raise NotImplementedError


@overload(real)
def _real(value, bfloat):  # type: ignore[no-untyped-def]
    if value == types.uint16:
        return lambda value, bfloat: from_half(value, bfloat)
    return lambda value, bfloat: F32(value)


@inner
def greatest(x, bfloat):  # type: ignore[no-untyped-def]
    """max|x| of the finite values; bit patterns of magnitudes are ordered as the magnitudes are."""
    most = I32(0)
    for k in range(x.size):
        bits = I32(bits_of(real(x[k], bfloat)) & I32(0x7FFFFFFF))
        most = I32(max(most, bits if bits < I32(INFINITE) else I32(0)))
    return number_of(most)


@inner
def rms(x, columns, bfloat):  # type: ignore[no-untyped-def]
    """Root of the mean square; values that are not finite count as 0. columns: float64 [COLUMNS], working memory."""
    columns[:] = 0.0
    for start in range(0, x.size, COLUMNS):
        some = part(x, start, min(start + COLUMNS, x.size))
        for k in range(some.size):
            v = real(some[k], bfloat)
            finite = F64(v) if I32(bits_of(v) & I32(0x7FFFFFFF)) < I32(INFINITE) else 0.0
            columns[k] += finite * finite
    half = COLUMNS // 2
    while half:
        for k in range(half):
            columns[k] += columns[k + half]
        half //= 2
    return F32(np.sqrt(columns[0] / x.size))


@inner
def _bfloat(step):  # type: ignore[no-untyped-def]
    """`scale.bfloat` of one number."""
    pattern = bits_of(step)
    return number_of(I32((pattern + 0x7FFF + ((pattern >> 16) & 1)) & -0x10000))


@compiled
def vectors_inside(x, out, lanes, size, first, last, rows, rule, source, alpha, r, q, sums):  # type: ignore[no-untyped-def]
    """Positions first … last, `rows` of them to a block, in groups of `size` lanes.

    source  GIVEN: r and q hold the factors; MAX, RMS: they are filled, float32 [positions · groups]
    """
    tile = rule.lanes if rule.lanes else lanes
    groups = (lanes + size - 1) // size
    words = (rows * lanes + 63) // 64
    front, unit = 2 + rule.cascade // 64, np.int64(1)
    b = new_block(words, front, rule.cascade)
    columns = np.zeros(COLUMNS, F64)
    fine, whole = F64(2 << rule.fraction), F64(1 << rule.fraction)
    join(b, front, rows, lanes, tile)
    for row in range(first, last, rows):
        many = min(row + rows, last) - row
        stop = front + (many * lanes + 63) // 64
        for group in range(many * groups):
            at, count = _place(group, groups, lanes, size)
            values, here = part(x, row * lanes + at, row * lanes + at + count), row * groups + group
            if source != GIVEN:
                found = greatest(values, rule.bfloat) if source == MAX else rms(values, columns, rule.bfloat)
                step = F64(_bfloat(min(max(F32(found * alpha), F32(LEAST)), F32(GREATEST))))
                r[here], q[here] = F32(fine / step), F32(step / whole)
            stage(values, tail(b.t, 64 * front + at), r[here], rule)
        clear(b.t, 64 * front + many * lanes, 64 * stop)
        classify(b, front, stop, rule)
        yield_to(b, front, stop, unit, rule)
        decide(b, front, front, stop, unit, rule, False)
        tally(sums, b, front, stop)
        reveal(b, front, stop, False)
        for group in range(many * groups):
            at, count = _place(group, groups, lanes, size)
            emit(out, row * lanes + at, count, b.t, b.two, b.after, 64 * front + at, unit, q[row * groups + group], rule)


@inner
def _place(group, groups, lanes, size):  # type: ignore[no-untyped-def]
    """(first value, how many) of a group of the block."""
    within = group % groups * size
    return group // groups * lanes + within, min(size, lanes - within)
