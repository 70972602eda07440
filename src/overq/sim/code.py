"""Code: how many bits a value takes, in memory and on its way into the array."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from overq.sim.traffic import unencoded_bits
from overq.spec import Format
from overq.spec.packing import packed_bits


@dataclass(frozen=True)
class Code:
    """digit      bits of a lane's digit
    beside     (lanes of a vector) -> bits of their states, placements or whatever goes with the digits
    unencoded  bits of a value that is not encoded yet
    """

    digit: int
    beside: Callable[[int], int]
    unencoded: int


def code_of(fmt: Format) -> Code:
    """Of a format of ours: its states, packed."""
    return Code(fmt.bits, lambda lanes: packed_bits(lanes, fmt) - lanes * fmt.bits, unencoded_bits(fmt))


def code_with(digit: int, each: float, unencoded: int) -> Code:
    """Digits with so many further bits each, rounded up to whole bits a vector."""
    return Code(digit, lambda lanes: math.ceil(lanes * each), unencoded)
