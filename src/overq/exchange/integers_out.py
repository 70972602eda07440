"""An integer network in ONNX's integer operators: int64 between the layers, ConvInteger and MatMulInteger in them; bit for bit.

A layer's effective values E have more than 8 bits, which the integer products do not take: E is cut into bytes, each has its own product
with the same weights, and the products are added up shifted. Shifts to the right round down: ONNX shifts unsigned numbers only, so a
power of two is added before and taken away behind. Which value goes where is found as in `overwriting`, on exact floating-point numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
import torch

from overq.errors import InputError
from overq.exchange.emit import EMITTERS
from overq.exchange.emitted import Emitted, refused
from overq.exchange.overwriting import Nodes, Tiles, exact_type, lane_counts, of_tiles, rows, tiles_of
from overq.integer import IntegerLayer, IntegerNetwork, Scaling, scaling
from overq.integer.network import LARGEST_AREA
from overq.integer.steps import Step
from overq.integer.streams import STREAM_BITS
from overq.kernels.scale import factors
from overq.nn import kinds
from overq.spec import Format

BYTE = 256
LIFT = 62  # 2^62 makes every number that is shifted positive
PLACES = (
    kinds.Cat, kinds.Flatten, kinds.Reshape, kinds.Pick, kinds.Split, kinds.Part, kinds.Move, kinds.Same,
)  # fmt: skip


class Integers(Emitted):
    """Nodes on int64 values; network: what they are to compute."""

    network: IntegerNetwork

    def whole(self, value: int) -> Any:
        return self.shared("number", np.array(value, np.int64))

    def cast(self, x: Any, kind: str) -> Any:
        return self.op("Cast", x, to=getattr(self.ir.DataType, kind))

    def clipped(self, x: Any, low: int | None, high: int | None) -> Any:
        if (low, high) == (None, None):
            return x
        return self.op("Clip", x, *(None if bound is None else self.whole(bound) for bound in (low, high)))

    def scaled(self, x: Any, by: Scaling, rank: int, dim: int) -> Any:
        """(x · multiplier + offset) >> shift, rounded down."""
        shape = [-1 if d == dim % rank else 1 for d in range(rank)]
        multiplier, offset, shift = (t.reshape(shape) for t in (by.multiplier, by.offset, by.shift))
        lifted = self.op("Add", self.op("Mul", x, self.constant("multiplier", multiplier)), self.constant("offset", offset + (1 << LIFT)))
        amount = self.constant("shift", shift.numpy().astype(np.uint64))
        moved = self.cast(self.op("BitShift", self.cast(lifted, "UINT64"), amount, direction="RIGHT"), "INT64")
        return self.op("Sub", moved, self.constant("lift", (1 << LIFT) >> shift))


def emit_integers(network: IntegerNetwork, out: Integers, x: Any) -> Any:
    """The int64 value of the network's output. x: the real input. InputError names what has no form."""
    values: dict[str, Any] = {}
    for step in network.steps:
        if step.kind == "number":
            continue
        inputs = [values[name] for name in step.inputs if name in values]
        if step.kind == "input":
            made = _entered(network, out, x, step)
        elif step.kind == "constant":
            made = out.constant(step.name, network.constants[step.name])
        elif step.kind == "layer":
            made = _layer(network, out, step, inputs[0])
        elif step.kind == "rescale":
            made = _rescaled(network, out, step, inputs)
        else:
            made = _same(network, out, step, inputs)
        values[step.name] = made
    return values["output"]


def _entered(network: IntegerNetwork, out: Integers, x: Any, step: Step) -> Any:
    """As `IntegerNetwork.enter`: floor(x / unit), saturated."""
    reader = network.reader_of_input()
    if reader is not None:
        if reader.input_scale is not None:
            raise InputError(f"layer {reader.name!r} divides the network's input channel by channel: that has no integer form in ONNX")
        rate, _ = factors(reader.step, reader.format)
        floored = out.op("Floor", out.op("Mul", x, out.shared("rate", rate)))
        return out.cast(_within(out, floored, np.float32, reader.format.t_min, reader.format.t_max), "INT64")
    stream = network.streams[step.name]
    quotient = out.op("Floor", out.op("Div", out.cast(x, "DOUBLE"), out.shared("unit", np.float64(stream.unit))))
    return out.cast(_within(out, quotient, np.float64, stream.low, stream.high), "INT64")


def _within(out: Integers, x: Any, kind: Any, low: float, high: float) -> Any:
    return out.op("Clip", x, out.shared("low", kind(low)), out.shared("high", kind(high)))


# Layers --------------------------------------------------------------------------------------------------


def _layer(network: IntegerNetwork, out: Integers, step: Step, x: Any) -> Any:
    layer, rank = network.layers[step.name], out.rank(step.node.name)
    fmt, linear = layer.format, layer.linear
    if not linear and rank != layer.dims + 2:
        raise refused(step.node, "a layer without a batch")
    if (scale := network.readings.get(step.name)) is not None:
        x = out.clipped(out.scaled(x, scale, rank, layer.channel_dim), fmt.t_min, fmt.t_max)
    channels = layer.weights.shape[1] * layer.groups
    if layer.order is not None:
        places = torch.cat([layer.order + g * len(layer.order) for g in range(layer.groups)])
        x = out.op("Gather", x, out.constant(f"{layer.name}.lane_order", places), axis=rank - 1 if linear else 1)
    total = _product(out, step, layer, _effective(out, layer, x, tiles_of(fmt, channels, layer.groups)))
    stream = network.streams[step.name]
    return out.clipped(out.scaled(total, network.entries[step.name], rank, layer.channel_dim), stream.low, stream.high)


def _effective(out: Integers, layer: IntegerLayer, t: Any, tiles: Tiles) -> Any:
    """int64 E of int64 t, in its shape."""
    fmt, exact = layer.format, exact_type(layer.format, tiles.lanes) if layer.format.cascade else np.float64
    if not fmt.cascade or tiles.lanes == 1:
        return _plain(out, t, fmt)
    kind = "FLOAT" if exact is np.float32 else "DOUBLE"
    n = Nodes(exact)
    short, count = tiles if tiles.short else None, out.shared("count", lane_counts(tiles).astype(exact))
    E = of_tiles(n, out.cast(t, kind), out.ints("rows", rows(tiles, layer.linear)), count, fmt, short)
    out.nodes += n.nodes
    return out.op("Reshape", out.cast(E, "INT64"), out.op("Shape", t))


def _plain(out: Integers, t: Any, fmt: Format) -> Any:
    level = Scaling(*(torch.tensor([v]) for v in (1, fmt.unit // 2, fmt.fraction_bits + 1)))
    digit = out.clipped(out.scaled(t, level, 1, 0), fmt.digit_min, fmt.digit_max)
    return digit if not fmt.fraction_bits else out.op("Mul", digit, out.whole(1 << fmt.fraction_bits))


def _product(out: Integers, step: Step, layer: IntegerLayer, E: Any) -> Any:
    """int64 sums: byte by byte."""
    fmt, weights = layer.format, layer.weights
    if int(weights.max()) > 127 or int(weights.min()) < -128 or layer.depth * BYTE * 128 >= 1 << 31:
        raise InputError(
            f"layer {layer.name!r}: {layer.depth} weights of {layer.weight_bits} bits have no integer form in ONNX: bytes, 32-bit sums"
        )
    least = min(fmt.wide_min << fmt.fraction_bits, fmt.fine_min)
    most = max(fmt.wide_max << fmt.fraction_bits, fmt.fine_max)
    count = max(1, -(-(most - least).bit_length() // 8))
    shape = weights.shape[:2] if layer.linear else weights.shape if layer.dims == 2 else (*weights.shape[:2], weights.shape[3])
    integers = weights.reshape(shape).to(torch.int8)
    constant = out.constant(f"{layer.name}.weights", integers.T.contiguous() if layer.linear else integers)
    padded = E if layer.linear else _padded(out, step, layer, E)
    rest = padded if not least else out.op("Sub", padded, out.whole(least))  # 0 and more
    total = None
    for place in range(count):
        part = _bits(out, rest, 8 * place)
        made = out.op("MatMulInteger", part, constant) if layer.linear else out.op("ConvInteger", part, constant, **_window(layer))
        made = out.cast(made, "INT64")
        made = made if not place else out.op("Mul", made, out.whole(1 << 8 * place))
        total = made if total is None else out.op("Add", total, made)
    if not least:
        return total
    sums = weights.flatten(1).sum(1) * least
    return out.op("Add", total, out.constant(f"{layer.name}.zero", sums if layer.linear else sums.reshape(-1, *[1] * layer.dims)))


def _bits(out: Integers, x: Any, place: int) -> Any:
    """uint8 of non-negative int64: bits place … place+7."""
    if place:
        amount = out.shared("place", np.array(place, np.uint64))
        x = out.cast(out.op("BitShift", out.cast(x, "UINT64"), amount, direction="RIGHT"), "INT64")
    return out.cast(out.op("Mod", x, out.whole(BYTE)), "UINT8")


def _padded(out: Integers, step: Step, layer: IntegerLayer, E: Any) -> Any:
    before, behind = (list(widths[2 - layer.dims :]) for widths in (layer.padding, layer.after))
    if not any(before) and not any(behind):
        return E
    modes = {"zeros": "constant", "reflect": "reflect", "replicate": "edge"}
    if layer.padding_mode not in modes:
        raise refused(step.node, f"padding mode {layer.padding_mode}")
    return out.op("Pad", E, out.ints("pads", [0, 0, *before, 0, 0, *behind]), mode=modes[layer.padding_mode])


def _window(layer: IntegerLayer) -> dict[str, Any]:
    strides, dilations = list(layer.stride[2 - layer.dims :]), list(layer.dilation[2 - layer.dims :])
    kernel = list(layer.weights.shape[4 - layer.dims :])
    return {"kernel_shape": kernel, "strides": strides, "dilations": dilations, "group": layer.groups}


# Everything else -----------------------------------------------------------------------------------------


def _same(network: IntegerNetwork, out: Integers, step: Step, x: list[Any]) -> Any:
    """Steps that keep the unit."""
    op: Any = step.node.op
    if step.name == "output":
        return x[0]
    unit = network.streams[step.name].unit
    if isinstance(op, PLACES):
        return EMITTERS[type(op)](out, step.node, x)
    if isinstance(op, kinds.Clip):
        return out.clipped(x[0], *(math.floor(bound / unit) if math.isfinite(bound) else None for bound in (op.low, op.high)))
    if isinstance(op, kinds.Add):
        second = x[-1]
        alpha = 1 if len(step.inputs) == 2 and step.inputs[1].endswith(".alpha") else int(op.alpha)
        return out.op("Add", x[0], second if alpha == 1 else out.op("Mul", second, out.whole(alpha)))
    if isinstance(op, kinds.Pair) and op.name in ("maximum", "minimum"):
        return out.op({"maximum": "Max", "minimum": "Min"}[op.name], x[0], x[-1])
    if isinstance(op, kinds.Pool) and op.how == "greatest":
        options: dict[str, Any] = {"kernel_shape": list(op.kernel), "strides": list(op.stride), "pads": [*op.padding, *op.padding]}
        pooled = out.op("MaxPool", out.cast(x[0], "DOUBLE"), dilations=list(op.dilation), ceil_mode=int(op.ceil), **options)
        return out.cast(pooled, "INT64")  # float64 holds every one of them
    if isinstance(op, kinds.Reduce) and op.how in ("greatest", "least"):
        given: dict[str, Any] = {} if op.dims is None else {"axes": list(op.dims)}
        return out.op({"greatest": "ReduceMax", "least": "ReduceMin"}[op.how], x[0], keepdims=int(op.keep), **given)
    if isinstance(op, kinds.Pad) and op.mode == "constant" and min(op.widths) >= 0:
        count, rank = len(op.widths) // 2, out.rank(step.node.operands[0])
        before, behind = ([op.widths[2 * i + k] for i in reversed(range(count))] for k in (0, 1))
        lead = [0] * (rank - count)
        return out.op("Pad", x[0], out.ints("pads", [*lead, *before, *lead, *behind]), out.whole(math.floor(op.value / unit)))
    raise refused(step.node, "not in integers")


def _rescaled(network: IntegerNetwork, out: Integers, step: Step, x: list[Any]) -> Any:
    """Steps whose result has another unit: sums, divided and scaled at once."""
    stream, source = network.streams[step.name], network.streams[step.inputs[0]].unit
    shape = out.shapes[step.node.name]
    total, divisor = _summed(out, step, x[0])
    if divisor >= LARGEST_AREA:
        raise InputError(f"operation {step.name!r}: an average over {divisor} values is more than the {LARGEST_AREA - 1} that fit")
    slopes, offsets = step.affine
    dim = step.dim if step.dim < len(shape) else -1
    if any(slope < 0 for slope in slopes):
        signs = torch.tensor([-1 if slope < 0 else 1 for slope in slopes])
        total = out.op("Mul", total, out.constant("signs", signs.reshape([-1 if d == dim % len(shape) else 1 for d in range(len(shape))])))
    by = scaling([abs(f) * source / (divisor * stream.unit) for f in slopes], [o / stream.unit for o in offsets], STREAM_BITS + 12)
    return out.clipped(out.scaled(total, by, len(shape), dim), stream.low, stream.high)


def _summed(out: Integers, step: Step, x: Any) -> tuple[Any, int]:
    """(int64 sums, by what to divide them)."""
    op: Any = step.node.op
    if isinstance(op, (kinds.Norm, kinds.Scale, kinds.Pair, kinds.Add)):
        return x, 1
    before = out.shapes[step.node.operands[0]]
    if isinstance(op, kinds.Reduce):
        dims = op.dims if op.dims is not None else tuple(range(len(before)))
        extents = [before[d] for d in dims]
        if None in extents:
            raise refused(step.node, "it sums over the batch")
        return _reduced(out, x, dims, op.keep), math.prod(extents) if op.how == "average" else 1
    if isinstance(op, kinds.AdaptivePool) and all(size == 1 for size in op.size):
        dims = tuple(range(len(before) - len(op.size), len(before)))
        return _reduced(out, x, dims, True), math.prod(before[d] for d in dims)
    if isinstance(op, kinds.Pool) and not op.ceil and not any(op.padding):
        return _windows(out, x, op, before), op.divisor or math.prod(op.kernel)
    raise refused(step.node, "not in integers")


def _reduced(out: Integers, x: Any, dims: Sequence[int], keep: bool) -> Any:
    return out.op("ReduceSum", x, out.ints("axes", dims), keepdims=int(keep))


def _windows(out: Integers, x: Any, op: Any, shape: Sequence[int | None]) -> Any:
    """The sum of every window, tap by tap."""
    count = len(op.kernel)
    axes = list(range(len(shape) - count, len(shape)))
    sizes: list[Any] = [shape[axis] for axis in axes]
    total = None
    for place in product(*map(range, op.kernel)):
        starts = [p * d for p, d in zip(place, op.dilation, strict=True)]
        counts = [(size - d * (k - 1) - 1) // s + 1 for size, k, s, d in zip(sizes, op.kernel, op.stride, op.dilation, strict=True)]
        ends = [start + (n - 1) * s + 1 for start, n, s in zip(starts, counts, op.stride, strict=True)]
        part = out.op("Slice", x, *(out.ints("slice", part) for part in (starts, ends, axes, op.stride)))
        total = part if total is None else out.op("Add", total, part)
    return total
