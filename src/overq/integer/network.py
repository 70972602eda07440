"""IntegerNetwork: a whole quantized model in integers, from the first layer's t to the logits.

Scales. Steps that keep the scale (ReLU, max pooling, addition, padding, slicing) tie their inputs and output together; all values so tied
are a *stream* and share one unit, a real number that one integer step is worth. Streams begin at layers, average poolings, batch norms
without a layer and multiplications by a number, where a Scaling (multiplier, offset, shift) brings the values to the stream's unit; a
layer's bias and batch norm are in it.

    one reader and no addition     the unit is the reader's own, step / 2^(f+1): the stream *is* the next layer's t, and saturates like it
    several readers, or additions  the finest reader's step / 2^(b+1+GUARD), in 32 bits; each reader scales it to its own t

Everything rounds down, as t = floor(x · r) does. A negative batch-norm scale is folded by negating that channel's weights.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from overq.errors import FormatError, InputError
from overq.integer import check as checks
from overq.integer.layer import IntegerLayer, integer_layer
from overq.integer.scaling import Scaling, scaling
from overq.integer.steps import Affine, Step, norm_affine, steps
from overq.integer.streams import STREAM_BITS, Stream, streams_of
from overq.nn.convert import summary
from overq.nn.graph import read
from overq.nn.quantized import Quantized

Watch = Callable[[IntegerLayer, Tensor, Tensor], None]
LARGEST_AREA = 1 << 16  # values of 32 bits that may be summed before a 16-bit multiplier


@dataclass(frozen=True)
class IntegerNetwork:
    """steps in order; per step: its stream, and where it has them its layer, its Scaling into the stream, its Scaling to the layer's t.

    constants  int64, in their stream's unit
    sqnr       of the output, in dB, against the simulation on the batch that it was checked on; None: it was not checked
    """

    steps: tuple[Step, ...]
    streams: dict[str, Stream]
    layers: dict[str, IntegerLayer]
    entries: dict[str, Scaling]
    readings: dict[str, Scaling]
    constants: dict[str, Tensor]
    sqnr: float | None = None

    @property
    def unit(self) -> float:
        """What one unit of the output is worth."""
        return self.streams["output"].unit

    def enter(self, x: Tensor) -> Tensor:
        """Real input to the integers of the first stream: the only place where real numbers occur. NaN is refused, infinity saturates."""
        reader = self.reader_of_input()
        return reader.fixed(x) if reader is not None else self.streams[self.input].enter(x)

    @property
    def input(self) -> str:
        """Name of the step that is given the input."""
        return next(s.name for s in self.steps if s.kind == "input")

    def reader_of_input(self) -> IntegerLayer | None:
        """The only layer that reads the input, where the input's integers are its t."""
        stream = self.streams[self.input]
        readers = [
            self.layers[s.name] for s in self.steps if s.kind == "layer" and s.inputs == (self.input,) and s.name not in self.readings
        ]
        fits = len(readers) == 1 and readers[0].unit == stream.unit and readers[0].format.t_max == stream.high
        return readers[0] if fits else None

    def run(self, t: Tensor, watch: Watch | None = None) -> Tensor:
        """int64 input of `enter` -> int64 output. `watch` is called with every layer, its t and its accumulators."""
        values: dict[str, Any] = {}
        last_use = {name: i for i, s in enumerate(self.steps) for name in s.inputs}
        for i, step in enumerate(self.steps):
            values[step.name] = t if step.kind == "input" else self.step(step, [values[name] for name in step.inputs], watch)
            for name in {name for name in step.inputs if last_use[name] == i}:
                del values[name]
        return values["output"]

    def __call__(self, x: Tensor) -> Tensor:
        """Real input -> integer output; `unit` says what it is worth."""
        return self.run(self.enter(x))

    def step(self, step: Step, inputs: list[Any], watch: Watch | None = None) -> Any:
        """One step's value from those that it reads."""
        if step.kind == "constant":
            return self.constants[step.name]
        if step.kind == "layer":
            total = self.accumulated(step, self.reading(step, inputs[0]), watch)
            return self.entered(step, total)
        assert step.apply is not None  # all others have it
        if step.kind == "number":
            return step.apply(*inputs)
        if step.kind == "same":
            return step.apply(self.streams[step.name].unit, *inputs)
        return self._rescaled(step, *step.apply(*inputs))

    def reading(self, step: Step, value: Tensor) -> Tensor:
        """A layer's t from the integers of the stream that it reads."""
        scale = self.readings.get(step.name)
        if scale is None:
            return value
        layer = self.layers[step.name]
        return scale(value, layer.channel_dim).clamp(layer.format.t_min, layer.format.t_max)

    def accumulated(self, step: Step, t: Tensor, watch: Watch | None = None) -> Tensor:
        layer = self.layers[step.name]
        total = layer.accumulate(t)
        if watch is not None:
            watch(layer, t, total)
        return total

    def entered(self, step: Step, total: Tensor) -> Tensor:
        """A layer's accumulators in its stream's unit."""
        stream = self.streams[step.name]
        return self.entries[step.name](total, self.layers[step.name].channel_dim).clamp(stream.low, stream.high)

    def _rescaled(self, step: Step, total: Tensor, divisor: int | Tensor) -> Tensor:
        stream, source = self.streams[step.name], self.streams[step.inputs[0]].unit
        factors, offsets = step.affine
        dim = step.dim if step.dim < total.ndim else -1
        signs = torch.tensor([-1 if factor < 0 else 1 for factor in factors])
        shape = [1] * total.ndim
        shape[dim] = -1
        total = total * signs.reshape(shape)

        def divided(by: int) -> Tensor:
            if by >= LARGEST_AREA:
                raise InputError(f"operation {step.name!r}: an average over {by} values is more than the {LARGEST_AREA - 1} that fit")
            scale = [abs(factor) * source / (by * stream.unit) for factor in factors]
            return scaling(scale, [offset / stream.unit for offset in offsets], STREAM_BITS + 12)(total, dim)

        if isinstance(divisor, int):
            return divided(divisor).clamp(stream.low, stream.high)
        result = torch.zeros_like(total)
        for by in divisor.unique().tolist():
            result = torch.where(divisor == by, divided(by), result)
        return result.clamp(stream.low, stream.high)


def integer_network(model: nn.Module, check: Tensor | bool | None = None) -> IntegerNetwork:
    """From a model that overq.quantize or overq.load returned.

    check  a batch on which every step is compared with the simulation, `model` itself, within its own rounding; None: the sample
           that `quantize` kept with the model, where it kept one; False: none

    Raises InputError or FormatError where something has no integer form, with the operation's name and option, and where a step
    computes something else than the simulation, with that step's name.
    """
    bits = {layer.name: layer.weight_bits for layer in summary(model).layers}
    modules = dict(model.named_modules(remove_duplicate=False))
    weight_bits = {id(modules[name]): count for name, count in bits.items() if name in modules}
    graph = read(model)
    order = steps(graph)
    layers: dict[str, IntegerLayer] = {}
    affine: dict[str, Affine] = {}
    for step in order:
        if step.kind == "layer":
            module = modules[step.target]
            assert isinstance(module, Quantized)  # by construction of the step
            layers[step.name], affine[step.name] = _folded(integer_layer(step.target, module, weight_bits[id(module)]), module, step.norm)
        elif step.kind == "rescale":
            affine[step.name] = step.affine
    streams = streams_of(order, layers, affine)
    entries, readings, constants = {}, {}, {}
    for step in order:
        if step.kind == "layer":
            layer, unit = layers[step.name], streams[step.name].unit
            factors, offsets = affine[step.name]
            entries[step.name] = _scaling(step, [f / unit for f in factors], [c / unit for c in offsets], layer.sum_bits)
            source = streams[step.inputs[0]].unit
            divisors = [1.0] if layer.input_scale is None else layer.input_scale.double().repeat(layer.groups).tolist()
            if source != layer.unit or divisors != [1.0]:
                readings[step.name] = _scaling(step, [source / (layer.unit * d) for d in divisors], [0.0] * len(divisors), STREAM_BITS)
        elif step.kind == "constant":
            assert step.node.tensor is not None  # by its kind
            constants[step.name] = streams[step.name].enter(step.node.tensor.detach().cpu())
    network = IntegerNetwork(tuple(order), streams, layers, entries, readings, constants)
    batch = getattr(model, "overq_example", None) if check is None or check is True else check
    return network if batch is None or batch is False else replace(network, sqnr=checks.compare(network, graph, model, batch))


def _scaling(step: Step, factors: list[float], offsets: list[float], bits: int) -> Scaling:
    try:
        return scaling(factors, offsets, bits)
    except FormatError as error:
        raise FormatError(f"operation {step.name!r} ({step.node.what}): {error}") from error


def _folded(layer: IntegerLayer, module: nn.Module, norm: nn.Module | None) -> tuple[IntegerLayer, Affine]:
    """Bias and batch norm as y = sum · factor + offset with factor >= 0; channels with a negative factor have their weights negated."""
    scale = torch.tensor(layer.scale, dtype=torch.float64)
    bias = module.bias
    offset = torch.zeros_like(scale) if bias is None else bias.detach().cpu().double()  # type: ignore[operator]
    if norm is not None:
        slope, shift = norm_affine(norm)
        scale, offset = scale * slope, offset * slope + shift
    sign = torch.where(scale < 0, -1, 1)
    weights = layer.weights * sign[:, None, None, None]
    return replace(layer, weights=weights), (scale.abs().tolist(), offset.tolist())
