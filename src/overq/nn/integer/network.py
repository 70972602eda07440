"""IntegerNetwork: a whole quantized model in integers, from the first layer's t to the logits.

Scales. Steps that keep the scale (ReLU, max pooling, addition, padding, slicing) tie their inputs and output together; all values so tied
are a *stream* and share one unit, a real number that one integer step is worth. Streams begin at layers and average poolings, where
a Scaling (multiplier, offset, shift) brings the accumulator to the stream's unit; a layer's bias and batch norm are in it.

    one reader and no addition     the unit is the reader's own, step / 2^(b+1): the stream *is* the next layer's t, and saturates like it
    several readers, or additions  the finest reader's unit / 2^GUARD, in 32 bits; each reader scales it to its own t

Everything rounds down, as t = floor(x · r) does. A negative batch-norm scale is folded by negating that channel's weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from overq import kernels
from overq.errors import InputError
from overq.nn.convert import summary
from overq.nn.integer.graph import Step, steps
from overq.nn.integer.layer import IntegerLayer, integer_layer
from overq.nn.integer.scaling import Scaling, scaling
from overq.nn.layers import Quantized

GUARD = 4  # extra fraction bits of a stream that several steps read or that sums are made in
STREAM_BITS = 32

Watch = Callable[[IntegerLayer, Tensor, Tensor], None]


@dataclass(frozen=True)
class Stream:
    """unit: what one integer step is worth; low, high: where values saturate when they enter."""

    unit: float
    low: int
    high: int


@dataclass(frozen=True)
class IntegerNetwork:
    """steps in order; per step: its stream, and where it has them its layer, its Scaling into the stream, its Scaling to the layer's t."""

    steps: tuple[Step, ...]
    streams: dict[str, Stream]
    layers: dict[str, IntegerLayer]
    entries: dict[str, Scaling]
    readings: dict[str, Scaling]

    @property
    def unit(self) -> float:
        """What one unit of the output is worth."""
        return self.streams["output"].unit

    def enter(self, x: Tensor) -> Tensor:
        """Real input to the integers of the first stream: the only place where real numbers occur. NaN is refused, infinity saturates."""
        name = next(s.name for s in self.steps if s.kind == "input")
        readers = [self.layers[s.name] for s in self.steps if s.kind == "layer" and s.inputs == (name,)]
        if len(readers) == 1 and readers[0].unit == self.streams[name].unit:
            return kernels.get("array").to_fixed(x, readers[0].step, readers[0].format).to(torch.int64)
        if bool(x.isnan().any()):
            raise InputError("the input holds NaN, which no integer can spell")
        stream = self.streams[name]
        return torch.floor(x.double() / stream.unit).clamp(stream.low, stream.high).to(torch.int64)

    def run(self, t: Tensor, watch: Watch | None = None) -> Tensor:
        """int64 input of `enter` -> int64 output. `watch` is called with every layer, its t and its accumulators."""
        values: dict[str, Tensor] = {}
        last_use = {name: i for i, s in enumerate(self.steps) for name in s.inputs}
        for i, step in enumerate(self.steps):
            values[step.name] = self._step(step, [values[name] for name in step.inputs], t, watch)
            for name in {name for name in step.inputs if last_use[name] == i}:
                del values[name]
        return values["output"]

    def __call__(self, x: Tensor) -> Tensor:
        """Real input -> integer output; `unit` says what it is worth."""
        return self.run(self.enter(x))

    def _step(self, step: Step, inputs: list[Tensor], t: Tensor, watch: Watch | None) -> Tensor:
        if step.kind == "input":
            return t
        stream = self.streams[step.name]
        if step.kind == "layer":
            layer, value = self.layers[step.name], inputs[0]
            if step.name in self.readings:
                value = self.readings[step.name](value, 1)
            total = layer.accumulate(value)
            if watch is not None:
                watch(layer, value, total)
            return self.entries[step.name](total, 1).clamp(stream.low, stream.high)
        assert step.apply is not None  # pool and same always have it
        value = step.apply(*inputs)
        if step.kind == "same":
            return value
        area = step.area or inputs[0].shape[2] * inputs[0].shape[3]
        factor = self.streams[step.inputs[0]].unit / (area * stream.unit)
        return scaling([factor], [0.0], STREAM_BITS + 12)(value, 1).clamp(stream.low, stream.high)


def integer_network(model: nn.Module) -> IntegerNetwork:
    """From a model that overq.quantize or overq.load returned. InputError or FormatError where something has no integer form."""
    bits = {layer.name: layer.weight_bits for layer in summary(model).layers}
    modules = dict(model.named_modules())
    order = steps(model)
    layers, affine = {}, {}
    for step in order:
        if step.kind == "layer":
            module = modules[step.target]
            assert isinstance(module, Quantized)  # by construction of the step
            layers[step.name], affine[step.name] = _folded(integer_layer(step.target, module, bits[step.target]), module, step.norm)
    streams = _streams(order, layers, affine)
    entries, readings = {}, {}
    for step in order:
        if step.kind == "layer":
            layer, unit = layers[step.name], streams[step.name].unit
            factors, offsets = affine[step.name]
            entries[step.name] = scaling([f / unit for f in factors], [c / unit for c in offsets], layer.sum_bits)
            source = streams[step.inputs[0]].unit
            if source != layer.unit:
                readings[step.name] = scaling([source / layer.unit], [0.0], STREAM_BITS)
    return IntegerNetwork(tuple(order), streams, layers, entries, readings)


Affine = tuple[list[float], list[float]]  # per channel: worth of one accumulator unit, offset


def _folded(layer: IntegerLayer, module: nn.Module, norm: nn.Module | None) -> tuple[IntegerLayer, Affine]:
    """Bias and batch norm as y = sum · factor + offset with factor >= 0; channels with a negative factor have their weights negated."""
    scale = torch.tensor(layer.scale, dtype=torch.float64)
    bias = module.bias if isinstance(module, (nn.Conv2d, nn.Linear)) else None
    offset = torch.zeros_like(scale) if bias is None else bias.detach().cpu().double()
    if isinstance(norm, (nn.BatchNorm1d, nn.BatchNorm2d)):
        assert norm.running_mean is not None  # graph.steps takes only norms with statistics
        assert norm.running_var is not None
        slope = 1 / torch.sqrt(norm.running_var.detach().cpu().double() + norm.eps)
        slope = slope if norm.weight is None else slope * norm.weight.detach().cpu().double()
        shift = torch.zeros_like(scale) if norm.bias is None else norm.bias.detach().cpu().double()
        scale, offset = scale * slope, (offset - norm.running_mean.detach().cpu().double()) * slope + shift
    sign = torch.where(scale < 0, -1, 1)
    weights = layer.weights * sign[:, None, None, None]
    return replace(layer, weights=weights), (scale.abs().tolist(), offset.tolist())


def _streams(order: list[Step], layers: dict[str, IntegerLayer], affine: dict[str, Affine]) -> dict[str, Stream]:
    """Which steps share a unit, and what it is."""
    root = {step.name: step.name for step in order}

    def find(name: str) -> str:
        while root[name] != name:
            name = root[name]
        return name

    for step in order:
        if step.kind == "same":
            for name in step.inputs:
                root[find(name)] = find(step.name)
    members = {find(name): [s for s in order if find(s.name) == find(name)] for name in root}
    made: dict[str, Stream] = {}

    def readers(stream: str) -> list[Step]:
        return [s for s in order if s.kind in ("layer", "pool") and find(s.inputs[0]) == stream]

    def wanted(stream: str) -> list[float]:
        """The units that the stream's readers want; an average pooling wants what its own readers want."""
        units: list[float] = []
        for step in readers(stream):
            units += [layers[step.name].unit] if step.kind == "layer" else wanted(find(step.name))
        return units

    for stream, parts in members.items():
        units = wanted(stream)
        read = readers(stream)
        summed = any(len(s.inputs) > 1 for s in parts)
        if len(read) == 1 and read[0].kind == "layer" and not summed:
            fmt = layers[read[0].name].format
            made[stream] = Stream(units[0], fmt.t_min, fmt.t_max)
            continue
        limit = 1 << (STREAM_BITS - 1)
        finest = min(units) / 2**GUARD if units else _natural(stream, members, affine, find)
        made[stream] = Stream(finest, -limit, limit - 1)
    return {step.name: made[find(step.name)] for step in order}


def _natural(stream: str, members: dict[str, list[Step]], affine: dict[str, Affine], find: Callable[[str], str]) -> float:
    """The unit of a stream that no layer reads, the logits': the least worth of an accumulator unit among its sources."""
    units = []
    for step in members[stream]:
        if step.kind == "layer":
            units += [f for f in affine[step.name][0] if f > 0]
        elif step.kind == "pool":
            units.append(_natural(find(step.inputs[0]), members, affine, find))
    return min(units, default=math.ldexp(1.0, -16))
