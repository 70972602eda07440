"""effective and dot: what the lanes mean, and the accumulator they need (design, section 1.3)."""

from __future__ import annotations

from collections.abc import Sequence

from overq.errors import InputError
from overq.spec.format import Format
from overq.spec.modes import Lane, State


def source(lane: int, state: State) -> int:
    """The channel whose weight the lane uses: its own, or the previous one."""
    return lane - (state != State.OWN)


def shift(state: State, fmt: Format) -> int:
    """How far left a digit's product goes in sums of f fraction bits: PRECISION 0, OWN and MOVED f, RANGE b more."""
    return {State.PRECISION: 0, State.RANGE: fmt.fraction_bits + fmt.bits}.get(State(state), fmt.fraction_bits)


def contribution(digit: int, state: State, fmt: Format) -> int:
    """What the digit counts, with f fraction bits."""
    return digit << shift(state, fmt)


def effective(lanes: Sequence[Lane], fmt: Format) -> list[int]:
    """E: for each channel, the integer with f fraction bits that its one or two digits spell."""
    values = [0] * len(lanes)
    for i, (digit, state) in enumerate(lanes):
        if source(i, state) < 0:
            raise InputError(f"lane 0 has state {State(state).name}, but there is no lane before it")
        values[source(i, state)] += contribution(digit, state, fmt)
    return values


def dot(lanes: Sequence[Lane], weights: Sequence[int], fmt: Format) -> int:
    """The array's column sum, times 2^f: what the hardware adds up. Equals sum of E[i] · weights[i]."""
    if len(lanes) != len(weights):
        raise InputError(f"{len(lanes)} lanes but {len(weights)} weights: one weight per lane is needed")
    return sum(contribution(digit, state, fmt) * weights[source(i, state)] for i, (digit, state) in enumerate(lanes))


def accumulator_bits(fmt: Format, weight_bits: int, depth: int) -> int:
    """Two's complement bits that hold every partial sum over `depth` lanes, whatever the data and the weights.

    A value of two digits needs two lanes, so `depth` lanes hold at most depth // 2 of them and, for an odd depth,
    one plain digit. Each lane's share is bounded in magnitude, so every prefix of the sum is bounded too.
    Weights may be any `weight_bits` two's complement number. The f fraction bits are included.
    """
    if depth < 1:
        raise InputError(f"depth must be at least 1, not {depth}")
    digit = max(-fmt.digit_min, fmt.digit_max)
    per_pair = max(-fmt.wide_min, fmt.wide_max, 2 * digit)  # a fraction digit counts less than one
    greatest = (per_pair * (depth // 2) + digit * (depth % 2)) << fmt.fraction_bits
    return (greatest << (weight_bits - 1)).bit_length() + 1
