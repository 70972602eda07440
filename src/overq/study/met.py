"""Layers of a real network as the memory model and the netlists meet them: their shapes, and the values on their lanes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from overq.eda.energy import BlockEnergy
from overq.eda.liberty import Library
from overq.integer import IntegerLayer
from overq.rtl.parts import Part
from overq.sim import ArrayLayer
from overq.sim.memory import Cost, Memory, Plan, cost
from overq.sim.rates import Shares
from overq.sim.workload import Work
from overq.spec import ArrayConfig, Format
from overq.study.choices import Choice
from overq.study.energy import COLUMNS, LANES, VECTORS, Design, Sample, synthesized, watched


@dataclass(frozen=True)
class Seen:
    """One layer.

    choices  what it is on, for each choice in its order; a layer with a format of its own (first and last) keeps it on all
    shares   of its lanes, likewise
    keeps    it has a format of its own
    kind     which layers switch alike: kernel, groups, sign, and the format where it keeps one
    sample   of its first tile
    """

    work: Work
    weight_bits: int
    choices: tuple[Choice, ...]
    shares: tuple[Shares, ...]
    keeps: bool
    kind: str
    sample: Sample


@dataclass
class Met:
    """Collects the layers that a network runs; `see` is the `watch` of `network_cycles`.

    choices   what is compared, `own` the format that the network was quantized in
    machine   the array; its format does not matter
    """

    choices: Sequence[Choice]
    own: Format
    machine: ArrayConfig
    layers: list[Seen] = field(default_factory=list)

    def see(self, layer: IntegerLayer, x: Tensor, met: ArrayLayer) -> None:
        fmt = layer.format.with_(lanes=None, signed=False)
        keeps = fmt != self.own.with_(lanes=None, signed=False)
        here = [Choice(fmt)] * len(self.choices) if keeps else list(self.choices)
        here = [choice.signed() for choice in here] if layer.format.signed else here
        values = layer.vectors(layer.scaled(x)).numpy() / np.float32(layer.step)
        known = {choice: choice.shares(values, fmt.bits, self.machine.rows) for choice in dict.fromkeys(here)}
        work = _work(layer, met)
        kernel = "×".join(map(str, work.kernel))
        kind = f"{kernel}{', groups' * (work.groups > 1)}{', signed' * layer.format.signed}{f', {fmt.label}' * keeps}"
        self.layers.append(
            Seen(
                work, layer.weight_bits, tuple(here), tuple(known[choice] for choice in here), keeps, kind, self._sample(layer, met, values)
            )
        )

    def _sample(self, layer: IntegerLayer, met: ArrayLayer, values: np.ndarray) -> Sample:
        """Consecutive vectors through some lanes of the first tile."""
        there = ArrayLayer(values, np.zeros_like(values, np.uint8), met.weights, met.stride, met.padding, met.dilation)
        fold = next(there.folds(self.machine.with_(format=layer.format.with_(lanes=None), weight_bits=layer.weight_bits)))
        tile = there.tiles(self.machine, range(there.together(self.machine)))[0]
        starts = np.cumsum([0, *(piece.lanes for piece in tile)])
        middle = max((len(fold.digits) - VECTORS) // 2, 0)
        seen = fold.digits[middle : middle + VECTORS, :LANES]
        seen = np.resize(seen, (max(len(seen), 2), max(seen.shape[1], 2)))
        weights = np.resize(fold.weights[:LANES, :COLUMNS], (seen.shape[1], min(COLUMNS, fold.weights.shape[1])))
        return Sample(seen, layer.format.bits, weights, layer.name, tuple(int(s) for s in starts if 0 < s < seen.shape[1]))

    def costs(self, memory: Memory, plan: Plan) -> dict[Choice, list[Cost]]:
        """Each choice's layers."""
        return {
            choice: [cost(seen.work, self._on(seen, i), memory, seen.shares[i], plan, seen.choices[i].code) for seen in self.layers]
            for i, choice in enumerate(self.choices)
        }

    def _on(self, seen: Seen, i: int) -> ArrayConfig:
        return seen.choices[i].on(self.machine).with_(weight_bits=seen.weight_bits)

    def designs(
        self,
        costs: dict[Choice, list[Cost]],
        library: Library,
        progress: Callable[[str, int, int], None] = lambda what, done, of: None,
    ) -> list[Design]:
        """With what blocks take: every kind of layer by the vectors of that with most multiplications."""
        deep = self.machine.with_(depth=max(self.machine.rows, *(seen.work.layer().depth for seen in self.layers)))
        parts: dict[tuple[Choice, int], list[Part]] = {}
        for bits in {seen.weight_bits for seen in self.layers}:
            choices = dict.fromkeys(choice for seen in self.layers if seen.weight_bits == bits for choice in seen.choices)
            made = synthesized({choice: choice.on(deep).with_(weight_bits=bits) for choice in choices}, library, progress)
            parts |= {(choice, bits): blocks for choice, blocks in made.items()}
        by_most = sorted(self.layers, key=lambda seen: seen.work.macs)
        typical = {seen.kind: seen for seen in by_most}
        blocks: dict[tuple[Choice, int, str], tuple[ArrayConfig, BlockEnergy]] = {}
        wanted = dict.fromkeys((choice, seen.weight_bits, seen.kind) for seen in self.layers for choice in seen.choices)
        for number, (choice, bits, kind) in enumerate(wanted):
            progress("switching", number, len(wanted))
            machine = choice.on(deep).with_(weight_bits=bits)
            blocks[choice, bits, kind] = machine, watched(choice, machine, parts[choice, bits], library, typical[kind].sample)
        out = []
        main = next((seen for seen in reversed(by_most) if not seen.keeps), by_most[-1])
        for i, choice in enumerate(self.choices):
            each = [blocks[seen.choices[i], seen.weight_bits, seen.kind] for seen in self.layers]
            layers = tuple((one, *block) for one, block in zip(costs[choice], each, strict=True))
            out.append(Design(choice.label, layers, blocks[main.choices[i], main.weight_bits, main.kind][1]))
        return out


def _work(layer: IntegerLayer, met: ArrayLayer) -> Work:
    images, height, width, groups, channels = met.digits.shape
    high, wide = met.weights.shape[:2]
    return Work(
        layer.name,
        channels,
        met.weights.shape[3] // groups,
        images,
        height,
        width,
        (high, wide),
        met.stride,
        met.padding,
        met.dilation,
        groups,
    )
