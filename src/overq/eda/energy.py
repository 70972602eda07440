"""BlockEnergy: what the blocks of an accelerator take, from switching in their netlists; and what memories take, from a table."""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, log

from overq.errors import InputError


@dataclass(frozen=True)
class BlockEnergy:
    """Of one design, in fJ where nothing else is said. Dynamic energy of the gates: no wires, no glitches, no clock tree.

    element     one element and one vector; idle: one element and a cycle without any; load: one element and a cycle of the weight chain
    encode      one lane through the encoder
    scale       one finished sum through the output stage
    register    one flip-flop of skew and control and a cycle with data that changes every other time; waiting: without change
    registers   how many of these the array has
    leakage     nW of the whole array
    period      ps, the longest path of an element; edge: of encoder and output stage, which more stages would shorten
    area        of the whole array, in the library's unit (µm²)
    library, voltage   of the cells
    """

    element: float
    idle: float
    load: float
    encode: float
    scale: float
    register: float
    waiting: float
    registers: int
    leakage: float
    period: float
    edge: float
    area: float
    library: str
    voltage: float


@dataclass(frozen=True)
class MemoryEnergy:
    """pJ a bit of buffers, by their size, and of DRAM.

    Default: M. Horowitz, "Computing's energy problem (and what we can do about it)", ISSCC 2014, figure 1.1.9, 45 nm and 0.9 V: 64 bits of
    a cache of 8 kB take 10 pJ, of 32 kB 20 pJ, of 1 MB 100 pJ; 64 bits of DRAM 1.3 to 2.6 nJ, of which we take the middle. Sizes between
    are interpolated (both axes logarithmic), larger ones go on the last slope, smaller ones on the first.
    """

    points: tuple[tuple[int, float], ...] = ((8 << 10, 10 / 64), (32 << 10, 20 / 64), (1 << 20, 100 / 64))
    dram: float = 1950 / 64
    source: str = "Horowitz, ISSCC 2014, 45 nm, 0.9 V"

    def __post_init__(self) -> None:
        if not 0 <= self.dram < float("inf"):
            raise InputError(f"the energy of a bit of DRAM is a number of pJ, 0 or more, not {self.dram}")

    def buffer(self, size: int) -> float:
        """pJ a bit of a buffer of so many bytes."""
        pairs = list(zip(self.points, self.points[1:], strict=False))
        (low, first), (high, second) = next((pair for pair in pairs if size <= pair[1][0]), pairs[-1])
        return first * exp(log(second / first) * log(size / low) / log(high / low))
