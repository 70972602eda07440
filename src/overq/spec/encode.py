"""encode: who may overwrite whom, and what then stands on each lane (design, sections 1.1 and 1.2).

This is the definition. It is slow and plain on purpose; every kernel, the cycle model and the RTL must equal it
bit for bit. Rules the paper's abstract leaves open (saturation, ties, tiles, what `largest` means) are our own
choice and are stated where they are made.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from overq.spec.format import Format
from overq.spec.modes import Lane, State

# From fixed point to levels ---------------------------------------------------------------------------


def saturate(t: int, fmt: Format) -> int:
    """The encoder's input range: what a low and a high digit can spell, in units of step / 2^(f+1)."""
    return _clip(t, fmt.t_min, fmt.t_max)


def level(t: int, fmt: Format) -> int:
    """n(t): nearest integer multiple of the step, ties up."""
    return (t + fmt.unit // 2) >> (fmt.fraction_bits + 1)


def fine(t: int) -> int:
    """p(t): nearest multiple of step / 2^f, ties up."""
    return (t + 1) >> 1


def is_zero(t: int, fmt: Format) -> bool:
    """The lane is free."""
    return level(t, fmt) == 0


def is_outlier(t: int, fmt: Format) -> bool:
    """One digit clips it."""
    return not fmt.digit_min <= level(t, fmt) <= fmt.digit_max


def clipping_error(t: int, fmt: Format) -> int:
    """|t - clip(n) · 2^(f+1)|: how badly one digit represents the value. Policy `largest` serves the greatest."""
    return abs(t - one_digit(t, fmt) * fmt.unit)


# Digits -----------------------------------------------------------------------------------------------


def one_digit(t: int, fmt: Format) -> int:
    """clip(n): the value of a lane that is not served."""
    return _clip(level(t, fmt), fmt.digit_min, fmt.digit_max)


def range_pair(t: int, fmt: Format) -> tuple[int, int]:
    """(low, high) with low + high · 2^b = n(t), saturating: low of b bits, high of r."""
    return _split(_clip(level(t, fmt), fmt.wide_min, fmt.wide_max), fmt.bits, fmt.signed)


def precision_pair(t: int, fmt: Format) -> tuple[int, int]:
    """(whole, fraction) with whole + fraction / 2^f = p(t) / 2^f, saturating: whole of b bits, fraction of f."""
    fraction, whole = _split(_clip(fine(t), fmt.fine_min, fmt.fine_max), fmt.fraction_bits, fmt.signed)
    return whole, fraction


def _split(value: int, bits: int, signed: bool) -> tuple[int, int]:
    """(low, high) with low + high · 2^bits = value; low is balanced, -2^(bits-1) … 2^(bits-1)-1, where signed, else 0 … 2^bits-1."""
    least = -(1 << bits >> 1) if signed else 0
    low = (value - least) % (1 << bits) + least
    return low, (value - low) >> bits


# Giving way -------------------------------------------------------------------------------------------


def gives_way(outlier: int, row: Sequence[int], fmt: Format) -> int | None:
    """The lane that gives way to the outlier on lane `outlier`, or None.

    Look at the lanes behind it, at most c, up to the first zero or outlier or the tile's edge. Is that a zero, it can serve the
    outlier: None. Else the first normal value passed whose level is no more than `evict`, and no more than what one digit clips of
    the outlier, gives way. Every lane lies behind at most one outlier without another between, so no two outliers ask the same lane.
    """
    n = level(row[outlier], fmt)
    most = min(fmt.evict, abs(n - one_digit(row[outlier], fmt)))
    edge = len(row) if fmt.lanes is None else outlier - outlier % fmt.lanes + fmt.lanes
    found = None
    for lane in range(outlier + 1, min(outlier + fmt.cascade + 1, edge, len(row))):
        if is_zero(row[lane], fmt):
            return None
        if is_outlier(row[lane], fmt):
            break
        if found is None and abs(level(row[lane], fmt)) <= most:
            found = lane
    return found


def give_way(row: Sequence[int], fmt: Format) -> list[int]:
    """The row with t = 0 where a value gives way: a step before the encoder, decided on the row as it was. `fmt.evict` 0: the row."""
    outliers = [lane for lane, t in enumerate(row) if is_outlier(t, fmt)] if fmt.evict else []
    left = {gives_way(outlier, row, fmt) for outlier in outliers}
    return [0 if lane in left else t for lane, t in enumerate(row)]


# Assignment -------------------------------------------------------------------------------------------


def reach(zero: int, row: Sequence[int], fmt: Format) -> range:
    """The lanes that the zero lane `zero` may serve: up to c lanes before it, back to the previous zero or the
    tile's edge. Reaches of different zeros are disjoint."""
    edge = 0 if fmt.lanes is None else zero - zero % fmt.lanes
    start = zero
    while start > max(edge, zero - fmt.cascade) and not is_zero(row[start - 1], fmt):
        start -= 1
    return range(start, zero)


def choose(zero: int, row: Sequence[int], fmt: Format) -> tuple[int, State] | None:
    """Which lane the zero serves, and how; None leaves it an ordinary zero."""

    def worst(lanes: list[int]) -> int:
        return max(lanes, key=lambda lane: (clipping_error(row[lane], fmt), -lane))  # on a tie the lower lane

    candidates = reach(zero, row, fmt)
    outliers = [lane for lane in candidates if is_outlier(row[lane], fmt)]
    normal = [lane for lane in candidates if not is_outlier(row[lane], fmt)]
    if fmt.range_on and outliers:
        return (outliers[0] if fmt.policy == "first" else worst(outliers)), State.RANGE
    if fmt.precision_on and normal:
        if fmt.policy == "largest":
            return worst(normal), State.PRECISION
        if normal[-1] == zero - 1:
            return zero - 1, State.PRECISION
    return None


def encode(row: Iterable[int], fmt: Format) -> list[Lane]:
    """Lay one channel vector on its lanes.

    row: integers t with f+1 fraction bits (section 1.1); values beyond what a low and a high digit spell saturate.
    Returns one Lane per value.
    """
    row = give_way([saturate(t, fmt) for t in row], fmt)
    digits = [one_digit(t, fmt) for t in row]
    lanes = [Lane(digit, State.OWN) for digit in digits]
    for zero in (i for i, t in enumerate(row) if is_zero(t, fmt)):
        chosen = choose(zero, row, fmt)
        if chosen is None:
            continue
        served, state = chosen
        first, second = (range_pair if state is State.RANGE else precision_pair)(row[served], fmt)
        lanes[served] = Lane(first, State.OWN)
        lanes[served + 1] = Lane(second, state)
        for lane in range(served + 1, zero):  # the values between move up one lane
            lanes[lane + 1] = Lane(digits[lane], State.MOVED)
    return lanes


def _clip(value: int, low: int, high: int) -> int:
    return max(low, min(high, value))
