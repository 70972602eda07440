"""The compiled part of `numba_cpu`. Memory is flat: value (o, lane, i) of an [O, K, I] array lies at (o·K + lane)·I + i.

A block is some positions with their lanes, small enough for the cache and flat too: a lane's neighbour is `unit` values away
(1 where lanes are contiguous in memory, else one padded row of positions). Three steps, the same for every layout:

    stage    real x -> t (int32)
    decide   one bit per value: nonzero? outlier? -> which values get a second digit, 64 values at a time
    emit     t and those bits -> E · step / 2^f, or digits and states, or nothing but counts

All is integer from t on. Casts to int32 are spelled out because Numba would compute in int64, which halves the vector width.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit, types
from numba.extending import overload

from overq.kernels.bits import at_least, clear_where, copy_where, from_half, ones, outside, part, shift_right, spread, to_half

NAN = np.int32(-(2**31))  # stands for the t of a NaN
I32, F32, U8, U64 = np.int32, np.float32, np.uint8, np.uint64

compiled = njit(cache=True, nogil=True, error_model="numpy")
_options: Any = {"nogil": True, "error_model": "numpy", "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
inner = njit(**_options)  # what only compiled code calls: half the time to compile


class Rule(NamedTuple):
    """A Format and its two factors as plain numbers."""

    bits: int
    fraction: int  # f
    cascade: int
    digit_min: int
    digit_max: int
    t_min: int  # what the encoder gets
    t_max: int
    seen_min: int  # what `stage` keeps of it, so that outliers count also where they saturate to a digit
    seen_max: int
    fine_min: int
    fine_max: int
    fraction_min: int
    lanes: int  # 0: no tiles
    range_on: bool
    precision_on: bool
    largest: bool
    evict: Any  # None: nothing gives way, and that is not compiled
    bfloat: bool  # what a 16-bit pattern is
    r: np.float32
    q: np.float32


class Block(NamedTuple):
    """Working memory: words hold 64 values each and start after `front` empty ones, so that looking back needs no check."""

    t: Any  # int32 per value
    key: Any  # int32 per value, policy "largest": how much a lane wants a second digit
    best: Any  # int32 per value
    two: Any  # uint8 per value: it has a second digit
    after: Any  # uint8 per value: it moved up a lane
    nonzero: Any  # words from here on
    outlier: Any
    open: Any  # the lane before belongs to the same tile
    inside: Any  # … and is nonzero
    near: Any
    far: Any
    reach: Any
    served: Any
    moved: Any
    hits: Any  # cascade times as many: zeros that serve the lane d before them
    gone: Any  # it gave way


@inner
def numbers(count):  # type: ignore[no-untyped-def]
    return np.zeros(count, I32)


@inner
def flags(count):  # type: ignore[no-untyped-def]
    return np.zeros(count, U8)


@inner
def bits(count):  # type: ignore[no-untyped-def]
    return np.zeros(count, U64)


@inner
def new_block(words, front, cascade):  # type: ignore[no-untyped-def]
    size = words + 2 * front
    return Block(
        numbers(64 * size),
        numbers(64 * size),
        numbers(64 * size),
        flags(64 * size),
        flags(64 * size),
        bits(size),
        bits(size),
        bits(size),
        bits(size),
        bits(size),
        bits(size),
        bits(size),
        bits(size),
        bits(size),
        bits(max(cascade, 1) * size),
        bits(size),
    )


@inner
def join(b, front, rows, lanes, tile):  # type: ignore[no-untyped-def]
    """Open every lane to the one before it, but the first of each tile."""
    count = rows * lanes
    for k in range(front, front + count // 64):
        b.open[k] = ~U64(0)
    if count % 64:
        b.open[front + count // 64] = (U64(1) << U64(count % 64)) - U64(1)
    for start in range(0, count, lanes):
        for v in range(start, start + lanes, tile):
            b.open[front + v // 64] &= ~(U64(1) << U64(v % 64))


@inner
def tail(values, start):  # type: ignore[no-untyped-def]
    return part(values, start, values.size)


@inner
def clear(values, start, stop):  # type: ignore[no-untyped-def]
    some = part(values, start, stop)
    for k in range(some.size):
        some[k] = 0


# stage -----------------------------------------------------------------------------------------------


def stage(x: Any, t: Any, r: np.float32, rule: Rule) -> None:
    """t = floor(x · r), saturated, NaN marked; integers are t already and only saturate. Compiled code only."""


@overload(stage)
def _stage(x, t, r, rule):  # type: ignore[no-untyped-def]
    def reals(x, t, r, rule):  # type: ignore[no-untyped-def]
        low, high = F32(rule.seen_min), F32(rule.seen_max)
        for k in range(x.size):
            v = np.floor(F32(x[k]) * r)
            t[k] = NAN if v != v else I32(min(max(v, low), high))

    def halves(x, t, r, rule):  # type: ignore[no-untyped-def]
        low, high = F32(rule.seen_min), F32(rule.seen_max)
        for k in range(x.size):
            v = np.floor(from_half(x[k], rule.bfloat) * r)
            t[k] = NAN if v != v else I32(min(max(v, low), high))

    def integers(x, t, r, rule):  # type: ignore[no-untyped-def]
        low, high = I32(rule.seen_min), I32(rule.seen_max)
        for k in range(x.size):
            t[k] = I32(min(max(x[k], low), high))

    return integers if x.dtype == types.int32 else halves if x.dtype == types.uint16 else reals


# decide ----------------------------------------------------------------------------------------------


@inner
def classify(b, start, stop, rule):  # type: ignore[no-untyped-def]
    """The bits `nonzero` and `outlier` of words start … stop, and the keys."""
    half, shift = I32(1 << rule.fraction), I32(rule.fraction + 1)
    low = I32((rule.digit_min << (rule.fraction + 1)) - (1 << rule.fraction))
    high = I32((rule.digit_max << (rule.fraction + 1)) + (1 << rule.fraction) - 1)
    if rule.digit_min < 0:
        for k in range(start, stop):
            number = ~outside(b.t, 64 * k, I32(NAN + 1), I32(2**31 - 1))
            b.nonzero[k] = outside(b.t, 64 * k, I32(-half), I32(half - 1)) & number
            b.outlier[k] = outside(b.t, 64 * k, low, high) & number
    else:
        for k in range(start, stop):  # t >= 0, but for NAN
            b.nonzero[k] = outside(b.t, 64 * k, NAN, I32(half - 1))
            b.outlier[k] = outside(b.t, 64 * k, NAN, high)
    if rule.largest:
        least, greatest, bonus = I32(rule.digit_min), I32(rule.digit_max), I32(2 << rule.fraction)
        t_min, t_max = I32(rule.t_min), I32(rule.t_max)
        t, key = part(b.t, 64 * start, 64 * stop), part(b.key, 64 * start, 64 * stop)
        for k in range(t.size):
            v = I32(min(max(t[k], t_min), t_max))
            n = shift_right(I32(v + half), shift)
            digit = I32(min(max(n, least), greatest))
            key[k] = I32(abs(I32(v - I32(digit * I32(2 * half)))) + (bonus if n != digit else I32(0)))


@inner
def and_back(out, words, start, stop, distance):  # type: ignore[no-untyped-def]
    """out &= words, each value seeing the one `distance` values before it; words start … stop of out.

    Slices, not indices, so that the compiler sees plain loops and takes many words at a time.
    """
    skip, rest = distance >> 6, U64(distance & 63)
    o, here, before = part(out, start, stop), part(words, start - skip, stop - skip), part(words, start - skip - 1, stop - skip - 1)
    for k in range(o.size):
        o[k] &= (here[k] << rest) | ((before[k] >> U64(1)) >> (U64(63) - rest))


@inner
def or_ahead(out, words, start, stop, distance):  # type: ignore[no-untyped-def]
    """out |= words, each value seeing the one `distance` values after it."""
    skip, rest = distance >> 6, U64(distance & 63)
    o, here, after = part(out, start, stop), part(words, start + skip, stop + skip), part(words, start + skip + 1, stop + skip + 1)
    for k in range(o.size):
        o[k] |= (here[k] >> rest) | ((after[k] << U64(1)) << (U64(63) - rest))


@inner
def decide(b, begin, start, stop, unit, rule, moved):  # type: ignore[no-untyped-def]
    """Let the zeros of words start … stop choose; mark `served` (and `moved`) from word `begin` on."""
    size = b.reach.size
    reach, served, lifted = part(b.reach, start, stop), part(b.served, start, stop), part(b.moved, start, stop)
    nonzero, inside, opened = part(b.nonzero, start, stop), part(b.inside, begin, stop), part(b.open, begin, stop)
    for k in range(reach.size):
        reach[k] = ~nonzero[k]
        served[k] = lifted[k] = U64(0)
    for k in range(inside.size):
        inside[k] = opened[k]
    and_back(b.inside, b.nonzero, begin, stop, unit)
    _wanted(part(b.nonzero, begin, stop), part(b.outlier, begin, stop), part(b.near, begin, stop), part(b.far, begin, stop), rule)
    for d in range(1, rule.cascade + 1):
        hits = part(b.hits, (d - 1) * size + start, (d - 1) * size + stop)
        and_back(b.reach, b.inside, start, stop, (d - 1) * unit)
        for k in range(hits.size):
            hits[k] = reach[k]
        and_back(part(b.hits, (d - 1) * size, d * size), b.near if d == 1 else b.far, start, stop, d * unit)
        if rule.largest:
            _contest(b, hits, start, stop, d, unit)
    free = reach  # from here on: zeros that have not chosen yet
    for k in range(free.size):
        free[k] = ~U64(0)
    for d in range(rule.cascade, 0, -1):  # the farthest hit of a zero is its choice
        hits = part(b.hits, (d - 1) * size + start, (d - 1) * size + stop)
        for k in range(hits.size):
            hits[k] &= free[k]
            free[k] ^= hits[k]
        all_hits = part(b.hits, (d - 1) * size, d * size)
        clear(all_hits, begin, start)
        clear(all_hits, stop, stop + d * unit // 64 + 2)
        or_ahead(b.served, all_hits, begin, stop, d * unit)
        if moved:  # the lanes from behind the second digit up to the zero
            for back in range(d - 1):
                or_ahead(b.moved, all_hits, begin, stop, back * unit)


@inner
def _wanted(nonzero, outlier, near, far, rule):  # type: ignore[no-untyped-def]
    """Which values may get a second digit: from the zero next door (`near`), from zeros farther off (`far`).

    Without range overwrite, t saturates to a digit and no value is an outlier.
    """
    ranged = ~U64(0) if rule.range_on else U64(0)
    precise = ~U64(0) if rule.precision_on else U64(0)
    precise_far = precise if rule.largest else U64(0)
    for k in range(near.size):
        far_off = outlier[k] & ranged
        near[k] = far_off | (nonzero[k] & ~far_off & precise)
    for k in range(far.size):
        far_off = outlier[k] & ranged
        far[k] = far_off | (nonzero[k] & ~far_off & precise_far)


@inner
def _contest(b, hits, start, stop, d, unit):  # type: ignore[no-untyped-def]
    """Keep the hits whose key is no less than the best so far; on a tie the lower lane, met later, wins."""
    if d == 1:
        clear(b.best, 64 * start, 64 * stop)
    for k in range(hits.size):
        v = 64 * (start + k)
        hits[k] &= at_least(b.key, v - d * unit, b.best, v)
        copy_where(hits[k], b.key, v - d * unit, b.best, v)


# give way --------------------------------------------------------------------------------------------


@inner
def give_way(b, start, stop, unit, rule):  # type: ignore[no-untyped-def]
    """Between `classify` and `decide`: values that give way to an outlier become zeros. Words start … stop hold whole vectors.

    First zeros look back for outliers, which then need no other lane; then what is left looks on for a small value, a bit for each.
    """
    nonzero, outlier, gone, opened = (
        part(b.nonzero, start, stop),
        part(b.outlier, start, stop),
        part(b.gone, start, stop),
        part(b.open, start, stop),
    )
    waiting, look, step, small = (
        part(b.reach, start, stop),
        part(b.near, start, stop),
        part(b.far, start, stop),
        part(b.inside, start, stop),
    )
    some = U64(0)
    for k in range(gone.size):
        gone[k] = U64(0)
        some |= outlier[k]
        waiting[k], look[k] = outlier[k], ~nonzero[k]
    if some == U64(0):
        return
    clear(b.far, stop, stop + unit // 64 + 2)
    for _ in range(rule.cascade):
        for k in range(look.size):
            step[k], look[k] = look[k] & opened[k], U64(0)
        or_ahead(b.near, b.far, start, stop, unit)
        for k in range(look.size):
            waiting[k] &= ~look[k]
            look[k] &= nonzero[k] & ~outlier[k]
    size, half = rule.fraction + 1, 1 << rule.fraction
    for most in range(1, rule.evict + 1):  # those whose greatest level to take is this one
        for k in range(look.size):
            at = 64 * (start + k)
            look[k] = waiting[k] & _beyond(b.t, at, most - 1, rule)
            if most < rule.evict:
                look[k] &= ~_beyond(b.t, at, most, rule)
            small[k] = nonzero[k] & ~outlier[k] & ~outside(b.t, at, I32(-(most << size) - half), I32((most << size) + half - 1))
        for _ in range(rule.cascade):
            for k in range(step.size):
                step[k] = opened[k]
            and_back(b.far, b.near, start, stop, unit)
            for k in range(step.size):
                gone[k] |= step[k] & small[k]
                look[k] = step[k] & nonzero[k] & ~outlier[k] & ~small[k]
    for k in range(gone.size):
        if gone[k]:
            nonzero[k] &= ~gone[k]
            clear_where(gone[k], b.t, 64 * (start + k))


@inner
def _beyond(t, at, levels, rule):  # type: ignore[no-untyped-def]
    """Of 64 outliers, those that one digit clips by more than so many levels."""
    size, half = rule.fraction + 1, 1 << rule.fraction
    return outside(t, at, I32(((rule.digit_min - levels) << size) - half), I32(((rule.digit_max + levels) << size) + half - 1))


def yield_to(b: Any, start: int, stop: int, unit: int, rule: Rule) -> None:
    """`give_way` where the rule has it; a block then has all lanes. Compiled code only."""


@overload(yield_to)
def _yield_to(b, start, stop, unit, rule):  # type: ignore[no-untyped-def]
    if isinstance(rule.types[rule.fields.index("evict")], types.NoneType):
        return lambda b, start, stop, unit, rule: None
    return lambda b, start, stop, unit, rule: give_way(b, start, stop, unit, rule)


# emit ------------------------------------------------------------------------------------------------


def emit(out: Any, at: int, count: int, t: Any, two: Any, after: Any, v: int, unit: int, q: np.float32, rule: Rule) -> None:
    """Write values v … v + count of the block to flat places at … of the output arrays. Compiled code only.

    out: () nothing; (y,) real numbers of any stored type; (digits int16, states uint8).
    """


@overload(emit)
def _emit(out, at, count, t, two, after, v, unit, q, rule):  # type: ignore[no-untyped-def]
    if len(out) == 0:
        return lambda out, at, count, t, two, after, v, unit, q, rule: None
    if len(out) == 2:
        return lambda out, at, count, t, two, after, v, unit, q, rule: emit_digits(
            part(out[0], at, at + count),
            part(out[1], at, at + count),
            tail(t, v - unit),
            tail(t, v),
            tail(two, v - unit),
            tail(two, v),
            tail(after, v),
            rule,
        )
    if out[0].dtype == types.uint16:
        return lambda out, at, count, t, two, after, v, unit, q, rule: emit_halves(
            part(out[0], at, at + count), tail(t, v), tail(two, v), q, rule
        )
    return lambda out, at, count, t, two, after, v, unit, q, rule: emit_reals(
        part(out[0], at, at + count), tail(t, v), tail(two, v), q, rule
    )


@inner
def value(t, two, q, rule):  # type: ignore[no-untyped-def]
    """E · q of one value."""
    n = shift_right(I32(t + I32(1 << rule.fraction)), I32(rule.fraction + 1))
    digit = I32(min(max(n, I32(rule.digit_min)), I32(rule.digit_max)))
    fine = I32(min(max(shift_right(I32(t + I32(1)), I32(1)), I32(rule.fine_min)), I32(rule.fine_max)))
    precise = two and (n == digit or not rule.range_on)
    E = F32(fine) if precise else F32(n if two else digit) * F32(1 << rule.fraction)  # exact
    return F32(np.nan) if t == NAN else E * q


@inner
def emit_reals(y, t, two, q, rule):  # type: ignore[no-untyped-def]
    for k in range(y.size):
        y[k] = value(t[k], two[k] != 0, q, rule)


@inner
def emit_halves(y, t, two, q, rule):  # type: ignore[no-untyped-def]
    for k in range(y.size):
        y[k] = to_half(value(t[k], two[k] != 0, q, rule), rule.bfloat)


@inner
def emit_digits(digits, states, t_before, t, two_before, two, after, rule):  # type: ignore[no-untyped-def]
    """Everything is loaded first and nothing branches, so that many values go at once."""
    least, greatest, shift, mask = I32(rule.digit_min), I32(rule.digit_max), I32(rule.bits), I32((1 << rule.bits) - 1)
    bits, part_min, part = I32(rule.fraction), I32(rule.fraction_min), I32((1 << rule.fraction) - 1)
    fine_min, fine_max, half = I32(rule.fine_min), I32(rule.fine_max), I32(1 << rule.fraction)
    ranges = I32(-1) if rule.range_on else I32(0)
    for k in range(digits.size):
        own, before = t[k], t_before[k]
        second, first, lifted = -I32(two_before[k]), -I32(two[k]), -I32(after[k])  # all ones or 0
        held = second | lifted  # the lane holds something of the lane before it
        a = I32((before & held) | (own & ~held))
        n = shift_right(I32(a + half), I32(bits + I32(1)))
        digit = I32(min(max(n, least), greatest))
        ranged = (I32(-1) if n != digit else I32(0)) & ranges
        low = I32(I32(I32(n - least) & mask) + least)
        high = shift_right(I32(n - low), shift)
        fine = I32(min(max(shift_right(I32(a + I32(1)), I32(1)), fine_min), fine_max))
        fraction = I32(I32(I32(fine - part_min) & part) + part_min)
        whole = shift_right(I32(fine - fraction), bits)
        two_of = (high & ranged) | (fraction & ~ranged)
        one_of = (low & ranged) | (whole & ~ranged)
        serves = first & ~held
        digits[k] = I32((two_of & second) | (one_of & serves) | (digit & ~(second | serves)))
        states[k] = I32((I32(I32(3) + I32(I32(2) * ranged)) & second) | (I32(2) & lifted & ~second))


# The pass over memory --------------------------------------------------------------------------------


@inner
def tally(sums, b, start, stop):  # type: ignore[no-untyped-def]
    """Add the words' nonzero values, outliers, served outliers, other served values and values that gave way."""
    for k in range(start, stop):
        sums[0] += ones(b.nonzero[k])
        sums[1] += ones(b.outlier[k])
        sums[2] += ones(b.served[k] & b.outlier[k])
        sums[3] += ones(b.served[k] & ~b.outlier[k])
        sums[4] += ones(b.gone[k])


@inner
def reveal(b, start, stop, moved):  # type: ignore[no-untyped-def]
    """Bits to bytes, for `emit`."""
    for k in range(start, stop):
        spread(b.served[k], b.two, 64 * k)
        if moved:
            spread(b.moved[k], b.after, 64 * k)


@compiled
def lanes_inside(x, out, lanes, first, last, rows, rule, sums):  # type: ignore[no-untyped-def]
    """Lanes contiguous in memory: positions first … last, `rows` of them to a block."""
    tile = rule.lanes if rule.lanes else lanes
    words = (rows * lanes + 63) // 64
    front, unit = 2 + rule.cascade // 64, np.int64(1)
    b = new_block(words, front, rule.cascade)
    join(b, front, rows, lanes, tile)
    for row in range(first, last, rows):
        at, count = row * lanes, (min(row + rows, last) - row) * lanes
        stop = front + (count + 63) // 64
        stage(part(x, at, at + count), tail(b.t, 64 * front), rule.r, rule)
        clear(b.t, 64 * front + count, 64 * stop)
        classify(b, front, stop, rule)
        yield_to(b, front, stop, unit, rule)
        decide(b, front, front, stop, unit, rule, len(out) == 2)
        tally(sums, b, front, stop)
        reveal(b, front, stop, len(out) == 2)
        emit(out, at, count, b.t, b.two, b.after, 64 * front, unit, rule.q, rule)


@compiled
def lanes_outside(x, out, lanes, inner, outers, first, last, size, pieces, rows, rule, sums):  # type: ignore[no-untyped-def]
    """Positions contiguous in memory: tasks first … last, each `pieces` runs of up to `size` positions, `rows` lanes at a time.

    Small planes go several to a block (pieces > 1 and size = inner), large ones piecemeal (pieces = 1).
    A served lane is known only `cascade` lanes later, so the last rows of a block stay for the next one.
    """
    tile = rule.lanes if rule.lanes else lanes
    width = (size * pieces + 63) // 64  # words of a row
    unit, chunks = 64 * width, (inner + size - 1) // size
    keep = rule.cascade + 1
    front = keep * width + 2
    b = new_block((rows + keep) * width, front, rule.cascade)
    t = b.t
    for task in range(first, last):
        outer, begin = task // chunks * pieces, task % chunks * size
        count, many = min(size, inner - begin), min(pieces, outers - outer)
        old = ready = 0  # rows kept from the block before, and how many of them are written already
        for lane in range(0, lanes, rows):
            new = min(rows, lanes - lane)
            for row in range(old, old + new):
                here = front + row * width
                for piece in range(many):
                    at = ((outer + piece) * lanes + lane + row - old) * inner + begin
                    stage(part(x, at, at + count), tail(t, 64 * here + piece * count), rule.r, rule)
                clear(t, 64 * here + many * count, 64 * (here + width))
                opened = ~U64(0) if (lane + row - old) % tile else U64(0)
                for k in range(here, here + width):
                    b.open[k] = opened
            start, stop = front + old * width, front + (old + new) * width
            classify(b, start, stop, rule)
            yield_to(b, start, stop, unit, rule)
            decide(b, front, start, stop, unit, rule, len(out) == 2)
            done = old + new if lane + new == lanes else max(ready, old + new - rule.cascade)
            tally(sums, b, front + ready * width, front + done * width)
            reveal(b, front + max(ready - 1, 0) * width, front + done * width, len(out) == 2)
            for row in range(ready, done):
                for piece in range(many):
                    at = ((outer + piece) * lanes + lane + row - old) * inner + begin
                    emit(out, at, count, t, b.two, b.after, 64 * (front + row * width) + piece * count, unit, rule.q, rule)
            drop = max(done - 1, 0)
            ready, old = done - drop, old + new - drop
            if lane + new < lanes:
                _keep_rows(b, front, drop * width, old * width, rule.largest)


@inner
def _keep_rows(b, front, drop, count, largest):  # type: ignore[no-untyped-def]
    """Move the last rows to the front."""
    _move(b.nonzero, front, drop, count)
    _move(b.outlier, front, drop, count)
    _move(b.open, front, drop, count)
    _move(b.served, front, drop, count)
    _move(b.moved, front, drop, count)
    _move(b.t, 64 * front, 64 * drop, 64 * count)
    if largest:
        _move(b.key, 64 * front, 64 * drop, 64 * count)


@inner
def _move(values, to, by, count):  # type: ignore[no-untyped-def]
    for k in range(to, to + count):
        values[k] = values[k + by]
