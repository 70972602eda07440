"""Which lanes give way to an outlier that no zero serves (`Format.evict`): flags of each lane, then a window of c lanes around each.

Read from the lane that might give way, so that every lane decides for itself and nothing ripples: behind at most c lanes stands an
outlier, all between are normal values that do not suit it, this lane does, and no zero follows where the outlier would reach it.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from amaranth.hdl import C, Module, Signal, Value

from overq.spec import ArrayConfig


@dataclass(frozen=True)
class _Flags:
    """One lane.

    zero, normal, outlier   what its level is; none of them where the lane is off
    open                    nothing separates it from the lane before
    small[k - 1]            normal, and |n| at most k
    clipped[k - 1]          an outlier of which one digit clips at least k
    """

    zero: Value
    normal: Value
    outlier: Value
    open: Value
    small: list[Value]
    clipped: list[Value]


def leaving(m: Module, config: ArrayConfig, t: Sequence[Value], on: Value, starts: Value | None) -> list[Signal]:
    """A bit per lane: its value gives way, its t is to be 0.

    t        per lane; values beyond what two digits spell are as good as saturated ones
    on       the lanes that are switched on
    starts   the lanes where a segment begins; None where a tile is one segment
    """
    lanes, c = [_flags(m, config, t, on, starts, lane) for lane in range(config.rows)], config.format.cascade
    gone = []
    for here, lane in enumerate(lanes):
        ways: list[Value] = []
        near = range(1, min(c, here) + 1)
        for d in near:
            behind, between = lanes[here - d], lanes[here - d + 1 : here]
            free = _all([lane.open, *(x.open & x.normal & ~_suits(behind, x) for x in between)])
            ways.append(behind.outlier & free & _suits(behind, lane) & ~_zero_ahead(lanes, here, c - d))
        gone.append(Signal(name=f"s0_gone_{here}"))
        m.d.comb += gone[-1].eq(_any(ways))
    return gone


def _flags(m: Module, config: ArrayConfig, t: Sequence[Value], on: Value, starts: Value | None, lane: int) -> _Flags:
    fmt = config.format

    def beyond(above: Value, below: Value) -> Value:
        """An unsigned level has no lower limit to pass."""
        return above | below if fmt.signed else above

    raw = (t[lane] + fmt.unit // 2) >> (fmt.fraction_bits + 1)
    level = Signal(raw.shape(), name=f"s0_give_level_{lane}")
    zero, outlier = Signal(name=f"s0_give_zero_{lane}"), Signal(name=f"s0_give_outlier_{lane}")
    m.d.comb += [
        level.eq(raw),
        zero.eq(on[lane] & (level == 0)),
        outlier.eq(on[lane] & beyond(level > fmt.digit_max, level < fmt.digit_min)),
    ]
    normal = on[lane] & ~zero & ~outlier
    steps = range(1, fmt.evict + 1)
    within = [(level <= k) & (level >= -k) if fmt.signed else level <= k for k in steps]
    return _Flags(
        zero,
        normal,
        outlier,
        _all([on[lane], *([on[lane - 1]] if lane else [C(0, 1)]), *([~starts[lane]] if starts is not None else [])]),
        [normal & inside for inside in within],
        [on[lane] & beyond(level >= fmt.digit_max + k, level <= fmt.digit_min - k) for k in steps],
    )


def _suits(outlier: _Flags, lane: _Flags) -> Value:
    """The lane's level is no more than `evict` and no more than what one digit clips of the outlier."""
    return _any(small & clipped for small, clipped in zip(lane.small, outlier.clipped, strict=True))


def _zero_ahead(lanes: Sequence[_Flags], here: int, most: int) -> Value:
    """The first lane behind `here` that is no normal value is a zero, at most `most` lanes away."""
    ways = []
    for j in range(1, min(most, len(lanes) - 1 - here) + 1):
        between = lanes[here + 1 : here + j]
        ways.append(_all([lanes[here + j].open, lanes[here + j].zero, *(x.open & x.normal for x in between)]))
    return _any(ways)


def _all(values: Iterable[Value]) -> Value:
    return functools.reduce(operator.and_, values)


def _any(values: Iterable[Value]) -> Value:
    return functools.reduce(operator.or_, values, C(0, 1))
