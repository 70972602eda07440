"""What is known of a library's cells: pins, functions, delay and power tables. Picoseconds, femtofarads, femtojoules."""

from __future__ import annotations

import bisect
from dataclasses import dataclass

from overq.eda import function
from overq.errors import InputError


@dataclass(frozen=True)
class Table:
    """A lookup table over (input slew ps, load fF), bilinear, extrapolated at the edges. One axis may be missing."""

    slews: list[float]
    loads: list[float]
    values: list[list[float]]

    def at(self, slew: float, load: float) -> float:
        i, x = _place(self.slews, slew)
        j, y = _place(self.loads, load)
        rows = [self.values[i], self.values[min(i + 1, len(self.values) - 1)]]
        low, high = (row[j] + y * (row[min(j + 1, len(row) - 1)] - row[j]) for row in rows)
        return low + x * (high - low)


@dataclass(frozen=True)
class Arc:
    """Delay from one input to one output: for each output edge, the input edges that cause it, delay and slew tables."""

    source: str
    causes: dict[str, tuple[str, ...]]
    delay: dict[str, Table]
    slew: dict[str, Table]


@dataclass(frozen=True)
class Pin:
    """capacitance in fF, and `edges` for each edge, where the library tells them apart; function is empty for inputs; energy is the mean
    internal energy of one output edge (fJ by slew, load)."""

    name: str
    direction: str
    capacitance: float
    function: str
    arcs: tuple[Arc, ...]
    energy: tuple[Table, ...]
    edges: dict[str, float]


@dataclass(frozen=True)
class Cell:
    """One library cell.

    clock, falling   of a flip-flop: the clock pin, and whether it acts on the falling edge
    data             its next state, a function of pins and of `states`, the inner value and its inverse
    setup            in ps
    leakage          in nW, 0 where the library does not tell
    unusual          what netlists here cannot hold, in words: a latch, a clear or preset, …; empty for ordinary cells
    asynchronous     of a flip-flop with clear or preset: (pin, the value at which it does nothing); tied to that, it is an ordinary one
    """

    name: str
    area: float
    pins: dict[str, Pin]
    clock: str = ""
    falling: bool = False
    data: str = ""
    states: tuple[str, str] = ("", "")
    setup: float = 0.0
    leakage: float = 0.0
    unusual: str = ""
    asynchronous: tuple[tuple[str, bool], ...] = ()

    @property
    def is_flip_flop(self) -> bool:
        return bool(self.clock)

    @property
    def data_pins(self) -> list[str]:
        """Input pins that the next state depends on."""
        return [name for name in function.names(self.data) if name in self.pins] if self.data else []

    @property
    def inputs(self) -> list[Pin]:
        return [pin for pin in self.pins.values() if pin.direction == "input"]

    @property
    def outputs(self) -> list[Pin]:
        return [pin for pin in self.pins.values() if pin.direction == "output"]

    def inverted(self, pin: Pin) -> bool:
        """Whether a flip-flop's output is the inverse of its inner value."""
        on, off = (function.evaluate(pin.function, dict(zip(self.states, (v, not v), strict=True))) for v in (True, False))
        if on == off:
            raise InputError(f"cell {self.name}: output {pin.name} = {pin.function!r} is neither the inner value nor its inverse")
        return off

    @property
    def timed(self) -> bool:
        """Whether every output has delays from all that it depends on."""
        for pin in self.outputs:
            wanted = {self.clock} if self.is_flip_flop else set(function.names(pin.function)) if pin.function else set()
            if wanted - {arc.source for arc in pin.arcs if arc.causes}:
                return False
        return True


def _place(axis: list[float], value: float) -> tuple[int, float]:
    """Index of the interval and position in it."""
    if len(axis) == 1:
        return 0, 0.0
    i = min(max(bisect.bisect_right(axis, value) - 1, 0), len(axis) - 2)
    return i, (value - axis[i]) / (axis[i + 1] - axis[i])
