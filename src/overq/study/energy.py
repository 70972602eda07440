"""Energy and area of layers on arrays of several formats: blocks synthesized and watched, one clock for all, memories from a table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from overq.eda.energy import BlockEnergy, MemoryEnergy
from overq.eda.liberty import Library
from overq.eda.synth import FAST
from overq.rtl.energy import Vectors, block_energies
from overq.rtl.parts import Part, compared
from overq.sim.energy import Energy, layer_energy, total
from overq.sim.memory import Cost, Memory
from overq.sim.rates import drawn, fixed
from overq.spec import ArrayConfig

VECTORS, LANES, COLUMNS = 64, 64, 4  # that are looked at; the array's own rows where it has fewer
SEED = 3


@dataclass(frozen=True)
class Priced:
    """One format's layers with what they take, at one clock for all formats (period in ps)."""

    label: str
    layers: tuple[tuple[Cost, Energy], ...]
    blocks: BlockEnergy
    area: float
    period: float

    @property
    def energy(self) -> Energy:
        return total(energy for _, energy in self.layers)

    def lines(self) -> list[dict[str, Any]]:
        """A flat line for each layer: energies in pJ, latency in ns, as often as the layer is there."""
        return [{f"{name}_pJ" if name != "latency" else "latency_ns": value for name, value in asdict(e).items()} for _, e in self.layers]


def vectors_at_rates(config: ArrayConfig, zeros: float, outliers: float, bits: int) -> Vectors:
    """Independent values at the given rates, of which a digit of `bits` holds all but the outliers; weights as a layer's, bell-shaped."""
    fmt, lanes = config.format, min(config.rows, LANES)
    values = drawn(zeros, outliers, bits, fmt.signed, VECTORS, lanes)
    source = f"values drawn with {zeros:.0%} zeros and {outliers:.1%} outliers"
    return Vectors(fixed(values, bits, fmt).tolist(), _weights(config.weight_bits, lanes), source)


def _weights(bits: int, lanes: int) -> list[list[int]]:
    """Three standard deviations fill the range."""
    most = 2 ** (bits - 1) - 1
    drawn_weights = np.random.default_rng(SEED).normal(0, most / 3, (lanes, COLUMNS))
    grid: list[list[int]] = np.clip(np.rint(drawn_weights), -most, most).astype(int).tolist()
    return grid


def synthesized(
    configs: Sequence[ArrayConfig], library: Library, progress: Callable[[str, int, int], None] = lambda what, done, of: None
) -> list[list[Part]]:
    """Blocks of each array, elements by one good recipe; each block once, so that no size takes long."""
    return compared(configs, library, FAST, whole=False, progress=progress)


def priced(
    found: Mapping[str, Sequence[Cost]],
    configs: Sequence[ArrayConfig],
    blocks: Sequence[BlockEnergy],
    memory: Memory,
    table: MemoryEnergy,
    period: float | None = None,
) -> list[Priced]:
    """Each format's layers with their energy.

    found    label -> layers; configs and blocks belong to the labels in their order
    period   of the clock in ps; None: the longest path of all the designs' elements, so that all can have it
    """
    clock = period or max(block.period for block in blocks)
    out = []
    for (label, layers), config, block in zip(found.items(), configs, blocks, strict=True):
        made = tuple((layer, layer_energy(layer, config, memory, block, table, clock)) for layer in layers)
        out.append(Priced(label, made, block, block.area * (layers[0].arrays if layers else 1), clock))
    return out


def blocks_at_rates(
    configs: Sequence[ArrayConfig], parts: Sequence[Sequence[Part]], library: Library, zeros: float, outliers: float, bits: int
) -> list[BlockEnergy]:
    """What each design's blocks take where only rates are known; bits: of the digit that outliers are of."""
    return [
        block_energies(config, made, library, vectors_at_rates(config, zeros, outliers, bits))
        for config, made in zip(configs, parts, strict=True)
    ]
