"""What a lane can hold, and the overwrite modes: the table of design section 1.2 as data.

Software reads it to decode, hardware to wire the weight multiplexer and the shift.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple


class State(IntEnum):
    """The 2-bit code that travels beside a digit."""

    OWN = 0  # its own value, or the first digit of a served one
    RANGE = 1  # the high digit of the value before it
    MOVED = 2  # the value that was one lane before
    PRECISION = 3  # the fraction digit of the value before it


class Lane(NamedTuple):
    """One array row's input: a base-2^b digit and what it is."""

    digit: int
    state: State


# state -> e: the digit counts digit · 2^(b·e). Every state but OWN uses the previous lane's weight.
EXPONENT = {State.OWN: 0, State.RANGE: 1, State.MOVED: 0, State.PRECISION: -1}


@dataclass(frozen=True)
class Mode:
    """One way to use a free lane: the state that marks its second digit, and where the idea comes from."""

    state: State
    source: str


MODES = {
    "range": Mode(State.RANGE, "arXiv 1910.06909v2, abstract: an outlier overwrites a nearby zero and gets twice the bits"),
    "precision": Mode(State.PRECISION, "arXiv 1910.06909v2, abstract: a normal value takes a free zero for more precision"),
}
