"""Energy and area of layers on arrays of several formats: blocks synthesized and watched, one clock for all, memories from a table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from overq.eda.energy import BlockEnergy, MemoryEnergy
from overq.eda.liberty import Library
from overq.eda.synth import FAST
from overq.rtl.energy import Vectors, block_energies, rival_energies
from overq.rtl.parts import Part, compared
from overq.rtl.rivals import rival_parts
from overq.sim.energy import Energy, layer_energy, total
from overq.sim.memory import Cost, Memory
from overq.sim.rates import drawn, fixed
from overq.spec import ArrayConfig
from overq.study.choices import Choice

VECTORS, LANES, COLUMNS = 64, 64, 4  # that are looked at; the array's own rows where it has fewer
SEED = 3


@dataclass(frozen=True)
class Sample:
    """What streams through a tile, for every choice: values [vectors, lanes] in steps of a digit of `bits`, weights [lanes, columns] as
    integers, starts: lanes where segments begin; source in words."""

    values: np.ndarray
    bits: int
    weights: np.ndarray
    source: str
    starts: tuple[int, ...] = ()


@dataclass(frozen=True)
class Design:
    """One choice with what each of its layers is: its cost, the array it is on, and what that array's blocks take with such vectors.

    own   the blocks of the choice itself, whose area is the design's; layers that keep another format are on another array
    """

    label: str
    layers: tuple[tuple[Cost, ArrayConfig, BlockEnergy], ...]
    own: BlockEnergy


@dataclass(frozen=True)
class Priced:
    """One design's layers with what they take, at one clock for all designs (period in ps)."""

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


def sample_at_rates(config: ArrayConfig, zeros: float, outliers: float, bits: int) -> Sample:
    """Independent values at the given rates, of which a digit of `bits` holds all but the outliers; weights as a layer's, bell-shaped:
    three standard deviations fill the range."""
    lanes, most = min(config.rows, LANES), 2 ** (config.weight_bits - 1) - 1
    values = drawn(zeros, outliers, bits, config.format.signed, VECTORS, lanes)
    weights = np.random.default_rng(SEED).normal(0, most / 3, (lanes, COLUMNS))
    source = f"values drawn with {zeros:.0%} zeros and {outliers:.1%} outliers"
    return Sample(values, bits, np.clip(np.rint(weights), -most, most).astype(int), source)


def synthesized(
    machines: Mapping[Choice, ArrayConfig], library: Library, progress: Callable[[str, int, int], None] = lambda what, done, of: None
) -> dict[Choice, list[Part]]:
    """Blocks of each choice's array, elements by one good recipe; each block once, so that no size takes long."""
    ours = [choice for choice in machines if choice.method is None]
    made: dict[Choice, list[Part]] = dict(
        zip(ours, compared([machines[c] for c in ours], library, FAST, whole=False, progress=progress), strict=True)
    )
    for choice, machine in machines.items():
        if choice.method is not None:
            made[choice] = rival_parts(choice.rival, choice.method.bits, machine, library)
    return made


def watched(choice: Choice, machine: ArrayConfig, parts: Sequence[Part], library: Library, sample: Sample) -> BlockEnergy:
    """What the blocks of a choice's array take with the sample's vectors."""
    t = fixed(sample.values, sample.bits, choice.format).tolist()
    vectors = Vectors(t, sample.weights.tolist(), sample.source, sample.starts)
    if choice.method is None:
        return block_energies(machine, parts, library, vectors)
    lanes = choice.lanes(sample.values, sample.bits)
    return rival_energies(choice.rival, choice.method.bits, machine, parts, library, lanes, vectors)


def priced(designs: Sequence[Design], memory: Memory, table: MemoryEnergy, period: float | None = None) -> list[Priced]:
    """Each design's layers with their energy.

    period   of the clock in ps; None: the longest path of all elements that there are, so that all can have it
    """
    blocks = [block for design in designs for block in (design.own, *(block for _, _, block in design.layers))]
    clock = period or max(block.period for block in blocks)
    out = []
    for design in designs:
        made = tuple((layer, layer_energy(layer, config, memory, block, table, clock)) for layer, config, block in design.layers)
        arrays = design.layers[0][0].arrays if design.layers else 1
        out.append(Priced(design.label, made, design.own, design.own.area * arrays, clock))
    return out


def designs_at_rates(
    costs: Mapping[Choice, Sequence[Cost]],
    machines: Mapping[Choice, ArrayConfig],
    library: Library,
    rates: tuple[float, float, int],
    progress: Callable[[str, int, int], None] = lambda what, done, of: None,
) -> list[Design]:
    """Every layer of a choice is on its array.

    rates   of the values that are drawn: shares of zeros and of outliers, bits of the digit that they are outliers of
    """
    parts = synthesized(machines, library, progress)
    made = []
    for choice, layers in costs.items():
        machine = machines[choice]
        block = watched(choice, machine, parts[choice], library, sample_at_rates(machine, *rates))
        made.append(Design(choice.label, tuple((layer, machine, block) for layer in layers), block))
    return made
