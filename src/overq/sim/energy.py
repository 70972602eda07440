"""Energy, latency and their product of a layer and of a network on the weight-stationary array with its memory.

    elements    one by one: with a vector (`BlockEnergy.element`), while weights load, and waiting with a running clock
    edge        encoder, output stage, registers of skew and control
    leakage     of all gates, while the layer takes its time
    buffers     every bit between array and buffer, and once more every bit between buffer and DRAM
    dram        every bit
Gates are measured (`rtl.energy`): switching in our own netlists with vectors of the layer's kind. Memories are a table
(`eda.energy.MemoryEnergy`). Buffers' leakage, wires and the clock's tree are left out.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields

from overq.eda.energy import BlockEnergy, MemoryEnergy
from overq.sim.memory import Cost, Memory
from overq.spec import ArrayConfig


@dataclass(frozen=True)
class Energy:
    """In pJ; latency in ns. Of one layer as often as it runs, or of several."""

    elements: float
    edge: float
    leakage: float
    buffers: float
    dram: float
    latency: float

    @property
    def gates(self) -> float:
        return self.elements + self.edge + self.leakage

    @property
    def total(self) -> float:
        return self.gates + self.buffers + self.dram

    @property
    def edp(self) -> float:
        """Energy times latency, pJ · ns = 10^-21 J s."""
        return self.total * self.latency


def layer_energy(cost: Cost, machine: ArrayConfig, memory: Memory, blocks: BlockEnergy, table: MemoryEnergy, period: float) -> Energy:
    """All repetitions of one layer.

    period   of the clock, ps; not shorter than `blocks.period` where the array is to work at it
    """
    elements = machine.rows * machine.columns * cost.arrays
    loading = cost.folds * machine.rows * machine.rows * machine.columns
    waiting = max(cost.cycles * elements - cost.macs - loading, 0)
    idle = max(cost.cycles * cost.arrays - cost.passes, 0)
    registers = blocks.registers * (cost.passes * blocks.register + idle * blocks.waiting)
    size = {"maps": memory.maps, "weights": memory.weights, "sums": memory.sums}
    bits = {
        "maps": cost.array_digits + cost.array_states + cost.dram_maps + cost.dram_outputs,
        "weights": cost.array_weights + cost.dram_weights,
        "sums": cost.array_sums,
    }
    latency = cost.cycles * period * 1e-3
    once = Energy(
        elements=1e-3 * (cost.macs * blocks.element + loading * blocks.load + waiting * blocks.idle),
        edge=1e-3 * (cost.encoded * blocks.encode + cost.finished * blocks.scale + registers),
        leakage=1e-6 * blocks.leakage * cost.arrays * latency,
        buffers=sum(bits[name] * table.buffer(size[name]) for name in size),
        dram=cost.dram * table.dram,
        latency=latency,
    )
    return Energy(*(cost.repeat * getattr(once, field.name) for field in fields(Energy)))


def total(layers: Iterable[Energy]) -> Energy:
    """Of layers one after another."""
    found = list(layers)
    return Energy(*(sum(getattr(one, field.name) for one in found) for field in fields(Energy)))
