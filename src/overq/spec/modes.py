"""What a lane can hold, and the overwrite modes: the table of design section 1.2 as data.

Software reads it to decode, hardware to wire the weight multiplexer and the shift.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple


class State(IntEnum):
    """What a digit is; what of it is stored and moved is in `packing`."""

    OWN = 0  # its own value, or the first digit of a served one
    RANGE = 1  # the high digit of the value before it
    MOVED = 2  # the value that was one lane before
    PRECISION = 3  # the fraction digit of the value before it


class Lane(NamedTuple):
    """One array row's input: a base-2^b digit (of a second digit its payload) and what it is."""

    digit: int
    state: State


@dataclass(frozen=True)
class Mode:
    """One way to use a free lane: the state that marks its second digit, and where the idea comes from."""

    state: State
    source: str


MODES = {
    "range": Mode(State.RANGE, "arXiv 1910.06909v2, abstract: an outlier overwrites a nearby zero and gets twice the bits"),
    "precision": Mode(State.PRECISION, "arXiv 1910.06909v2, abstract: a normal value takes a free zero for more precision"),
}
