"""The definition as one compiled walk along each row: what `fuzz` compares the kernels with, and what makes its rows.

Written from the page (design, sections 1.1 and 1.2), lane after lane, with nothing of the other backends in it. It is no backend: it
takes rows with lanes last, and fills four arrays at once.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from overq.spec import Counts, Format, seen

OWN, RANGE, MOVED, PRECISION = 0, 1, 2, 3
ZEROS, OUTLIERS, SERVED, PRECISE, EVICTED = range(5)


class Answer(NamedTuple):
    """digits int16, states uint8, E int32, all [rows, lanes]; counts of all of it."""

    digits: np.ndarray
    states: np.ndarray
    E: np.ndarray
    counts: Counts


def answer(t: np.ndarray, fmt: Format) -> Answer:
    """t: [rows, lanes] int32."""
    digits, states, E = np.empty(t.shape, np.int16), np.empty(t.shape, np.uint8), np.empty(t.shape, np.int32)
    limits = (fmt.digit_min, fmt.digit_max, fmt.t_min, fmt.t_max, *seen(fmt), fmt.wide_min, fmt.wide_max, fmt.fine_min, fmt.fine_max)
    flags = (fmt.range_on, fmt.precision_on, fmt.policy == "largest", fmt.signed)
    sizes = (fmt.bits, fmt.fraction_bits, fmt.cascade, fmt.lanes or t.shape[1], fmt.evict)
    counts = np.zeros(5, np.int64)
    _walk(np.ascontiguousarray(t), sizes, limits, flags, digits, states, E, counts)
    return Answer(digits, states, E, Counts(t.size, *(int(count) for count in counts)))


@njit(cache=True, nogil=True)
def _walk(t, sizes, limits, flags, digits, states, E, counts):  # type: ignore[no-untyped-def]
    bits, f, cascade, tile, evict = sizes
    dmin, dmax, tmin, tmax, smin, smax, wmin, wmax, fmin, fmax = limits
    ranged, precise, largest, signed = flags
    rows, lanes = t.shape
    half, up = 1 << f, f + 1
    own, n, held = np.empty(lanes, np.int64), np.empty(lanes, np.int64), np.empty(lanes, np.int64)
    for row in range(rows):
        for i in range(lanes):
            raw = min(max(t[row, i], smin), smax)
            level = (raw + half) >> up
            counts[OUTLIERS] += level < dmin or level > dmax
            held[i] = min(max(t[row, i], tmin), tmax)
            n[i] = (held[i] + half) >> up
            counts[ZEROS] += n[i] == 0
        if evict:
            _give_way(n, held, evict, cascade, tile, dmin, dmax, counts)
        for i in range(lanes):
            own[i] = min(max(n[i], dmin), dmax)
            digits[row, i], states[row, i] = own[i], OWN
        for zero in range(lanes):
            if n[zero] != 0:
                continue
            first = max(zero - zero % tile, zero - cascade)
            served, kind, worst = -1, OWN, -1
            for i in range(zero - 1, first - 1, -1):  # away from the zero, so that the last of equals is the lowest lane
                if n[i] == 0:
                    break
                outlier = n[i] != own[i]
                if (outlier and not ranged) or (not outlier and (not precise or kind == RANGE)):
                    continue
                if not largest and not outlier and i != zero - 1:
                    continue
                error = abs(held[i] - own[i] * 2 * half) if largest else 0
                if (outlier and kind != RANGE) or error >= worst:
                    served, kind, worst = i, RANGE if outlier else PRECISION, error
            if served < 0:
                continue
            for i in range(zero, served + 1, -1):
                digits[row, i], states[row, i] = own[i - 1], MOVED
            if kind == RANGE:
                value, width = min(max(n[served], wmin), wmax), bits
            else:
                value, width = min(max((held[served] + 1) >> 1, fmin), fmax), f
            low = value & ((1 << width) - 1)
            if signed and low >= 1 << width >> 1:
                low -= 1 << width
            high = (value - low) >> width
            counts[SERVED if kind == RANGE else PRECISE] += 1
            digits[row, served], digits[row, served + 1] = (low, high) if kind == RANGE else (high, low)
            states[row, served + 1] = kind
        for i in range(lanes):
            spelled = 0
            if states[row, i] == OWN:
                spelled += digits[row, i] << f
            if i + 1 < lanes and states[row, i + 1] != OWN:
                state = states[row, i + 1]
                spelled += digits[row, i + 1] << (f + bits if state == RANGE else f if state == MOVED else 0)
            E[row, i] = spelled


@njit(cache=True, nogil=True)
def _give_way(n, held, evict, cascade, tile, dmin, dmax, counts):  # type: ignore[no-untyped-def]
    """Decided on the row as it was: who gives way is marked first, and cleared behind."""
    lanes = len(n)
    gone = np.zeros(lanes, np.bool_)
    for i in range(lanes):
        clipped = n[i] - min(max(n[i], dmin), dmax)
        if clipped == 0:
            continue
        most, found = min(evict, abs(clipped)), -1
        for j in range(i + 1, min(i + cascade + 1, i - i % tile + tile, lanes)):
            if n[j] == 0:
                found = -1
                break
            if n[j] < dmin or n[j] > dmax:
                break
            if found < 0 and abs(n[j]) <= most:
                found = j
        if found >= 0:
            gone[found] = True
    for i in range(lanes):
        if gone[i]:
            n[i], held[i] = 0, 0
            counts[EVICTED] += 1


@njit(cache=True, nogil=True)
def rows(count: int, lanes: int, seed: int, digit_max: int, t_max: int, f: int, signed: bool, shares):  # type: ignore[no-untyped-def]
    """t [count, lanes] int32: `shares` are the chances of a zero, of an outlier, of the edge of rounding."""
    zero, outlier, edge = shares
    half, unit = 1 << f, 2 << f
    top = digit_max * unit + half
    beyond = max(t_max, top) + unit - top
    state = np.uint64(seed) | np.uint64(1)
    out = np.empty((count, lanes), np.int32)
    for row in range(count):
        for lane in range(lanes):
            state ^= state << np.uint64(13)  # xorshift64
            state ^= state >> np.uint64(7)
            state ^= state << np.uint64(17)
            kind, other, sign = state & np.uint64(0xFFFF), state >> np.uint64(16) & np.uint64(0xFFFF), state >> np.uint64(63)
            state ^= state << np.uint64(13)
            state ^= state >> np.uint64(7)
            state ^= state << np.uint64(17)
            draw, choice = np.int64(state >> np.uint64(33)), np.int64(state & np.uint64(3))
            if kind < zero * 65536:
                value = (draw * unit >> 31) - half
            elif other < outlier * 65536:
                value = top + (draw * beyond >> 31)
            elif other < (outlier + edge) * 65536:
                value = (draw * (digit_max + 2) >> 31) * unit + (-half - 1 if choice == 0 else -half if choice == 1 else half - choice // 3)
            else:
                value = draw * top >> 31
            out[row, lane] = -value if signed and sign else value
    return out
