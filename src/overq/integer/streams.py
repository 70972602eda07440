"""Which steps of an integer network share a unit, and what it is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from overq.errors import InputError
from overq.integer.layer import IntegerLayer
from overq.integer.steps import Affine, Step

GUARD = 4  # extra fraction bits of a stream that several steps read or that sums are made in
STREAM_BITS = 32
LIMIT = 1 << (STREAM_BITS - 1)


@dataclass(frozen=True)
class Stream:
    """unit: what one integer step is worth; low, high: where values saturate when they enter."""

    unit: float
    low: int
    high: int

    def enter(self, x: Tensor) -> Tensor:
        """int64 of real values, rounded down. NaN is refused, infinity saturates."""
        if bool(x.isnan().any()):
            raise InputError("the input holds NaN, which no integer can spell")
        return torch.floor(x.double() / self.unit).clamp(self.low, self.high).to(torch.int64)


def streams_of(order: Sequence[Step], layers: Mapping[str, IntegerLayer], affine: Mapping[str, Affine]) -> dict[str, Stream]:
    """By step name. affine: what layers (one unit of their accumulators) and rescaling steps multiply by."""
    root = {step.name: step.name for step in order}

    def find(name: str) -> str:
        while root[name] != name:
            name = root[name]
        return name

    extents = {step.name for step in order if step.kind == "number"}
    for step in order:
        if step.kind == "same":
            for name in step.inputs:
                if name not in extents:
                    root[find(name)] = find(step.name)
    members: dict[str, list[Step]] = {}
    for step in order:
        if step.kind != "number":
            members.setdefault(find(step.name), []).append(step)
    read: dict[str, list[Step]] = {name: [] for name in members}
    for step in order:
        if step.kind in ("layer", "rescale"):
            read[find(step.inputs[0])].append(step)

    def wanted(stream: str, seen: frozenset[str] = frozenset()) -> list[tuple[float, float]]:
        """(unit, largest value worth telling apart) of the layers that read the stream, in its own scale, also through rescaling steps."""
        units: list[tuple[float, float]] = []
        for step in read[stream]:
            if step.kind == "layer":
                units.append((_finest(layers[step.name]), _reach(layers[step.name])))
            elif find(step.name) not in seen | {stream}:  # a pool beside its own input may end in one sum with it
                gain = max(map(abs, affine[step.name][0])) or 1.0
                units += [(unit / gain, reach / gain) for unit, reach in wanted(find(step.name), seen | {stream})]
        return units

    def natural(stream: str, seen: frozenset[str] = frozenset()) -> list[float]:
        """The least worth of an accumulator unit among the stream's sources, as far as 32 bits then hold every accumulator."""
        units = []
        for step in members[stream]:
            factors = [abs(f) for f in affine.get(step.name, ((), ()))[0] if f]
            if step.kind == "layer" and factors:
                units.append(max(min(factors), max(factors) * 2.0 ** (layers[step.name].sum_bits - STREAM_BITS)))
            elif step.kind == "rescale" and factors and find(step.inputs[0]) not in seen | {stream}:
                units += [unit * max(factors) for unit in natural(find(step.inputs[0]), seen | {stream})]
        return units

    made: dict[str, Stream] = {}
    for stream, parts in members.items():
        returned = any(step.name == "output" for step in parts)
        merged = any(step.merges for step in parts)
        only = layers[read[stream][0].name] if len(read[stream]) == 1 and read[stream][0].kind == "layer" else None
        if only is not None and only.input_scale is None and not merged and not returned:
            made[stream] = Stream(only.unit, only.format.t_min, only.format.t_max)
            continue
        units = wanted(stream)
        finest = [min(unit for unit, _ in units) / 2**GUARD] if units else []
        own = natural(stream) if returned or not units else []
        unit = min([*finest, *own], default=math.ldexp(1.0, -16))
        unit = max(unit, max((reach for _, reach in units), default=0.0) / LIMIT)
        made[stream] = Stream(unit, -LIMIT, LIMIT - 1)
    return {step.name: made[find(step.name)] for step in order if step.kind != "number"}


def _finest(layer: IntegerLayer) -> float:
    """The worth of a t with b+1 fraction bits, however many the layer's own t has: sums are made in this."""
    return layer.step / (2 * layer.format.base) * (1.0 if layer.input_scale is None else float(layer.input_scale.min()))


def _reach(layer: IntegerLayer) -> float:
    scale = 1.0 if layer.input_scale is None else float(layer.input_scale.max())
    return layer.unit * scale * max(layer.format.t_max, -layer.format.t_min)
