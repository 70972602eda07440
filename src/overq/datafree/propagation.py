"""Batch norm statistics followed through the model's graph to the input of every layer."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import nn

from overq.datafree.clipped import Clipped, joined
from overq.datafree.norms import HELP, flaw, output_moments
from overq.errors import CalibrationError, InputError
from overq.nn import channels, kinds
from overq.nn.channels import Channels
from overq.nn.graph import Node, read
from overq.nn.layers import FloatLayer


@dataclass(frozen=True)
class Spread:
    """What is known of a tensor: its channels' values, and where the channels lie (items count them).

    alike  one entry stands for all channels, however many: the image's
    """

    values: Clipped
    place: Channels
    alike: bool = False

    @classmethod
    def of(cls, values: Clipped, place: Channels) -> Spread:
        return cls(values, replace(place, items=list(range(values.channels))))


Known = Spread | list[Spread] | str  # or why nothing is known


def propagate(model: nn.Module, image: Clipped, scales: tuple[float, ...], correlation: float) -> list[tuple[str, FloatLayer, Clipped]]:
    """(dotted name, layer, its input) of every call of a Conv1d, Conv2d or Linear, in order.

    image        the model's input: one entry that stands for all channels
    scales       law of the batch norms' outputs
    correlation  of the two summands of a residual sum

    Raises CalibrationError where the model cannot be traced or a layer's input does not come from usable batch norms.
    """
    try:
        graph = read(model)
    except InputError as error:
        raise CalibrationError(f"data-free calibration: {error}; give calibration images") from error
    nodes = {node.name: node for node in graph.nodes}
    nodes = {node.name: node for node in graph.nodes}
    known: dict[str, Known] = {}
    found = []
    for node in graph.nodes:
        module: Any = node.module
        if isinstance(node.op, kinds.Input):
            known[node.name] = Spread(image, Channels([0], 4), alike=True)
        elif isinstance(node.op, (kinds.Conv, kinds.Linear)):
            found.append((node.target, module, _layer_input(node, known[node.operands[0]])))
            known[node.name] = f"no batch norm follows {node.target!r}"
        elif isinstance(node.op, kinds.Norm):
            bad = flaw(module)
            spread = Spread.of(Clipped.free(*output_moments(module), scales), _beside(nodes[node.operands[0]], known)) if not bad else None
            known[node.name] = spread or f"batch norm {node.target!r} {bad}"
        elif not isinstance(node.op, (kinds.Output, kinds.Number)):
            inputs = [known[name] for name in node.operands]
            reason = next((i for i in inputs if isinstance(i, str)), None)
            known[node.name] = reason or _operation(node, inputs, correlation)
    return found


def _beside(before: Node, known: dict[str, Known]) -> Channels:
    """Where a batch norm finds its channels: as the layer before it makes them."""
    spread = known[before.name]
    if isinstance(spread, Spread) and not spread.alike:
        return spread.place
    module: Any = before.module
    return Channels([], module.weight.ndim if isinstance(before.op, kinds.Conv) else 2 if isinstance(before.op, kinds.Linear) else 4)


def _layer_input(node: Node, known: Known) -> Clipped:
    name, module = node.target, node.module
    if not isinstance(known, Spread):
        why = known if isinstance(known, str) else "it reads several tensors"
        raise CalibrationError(f"data-free calibration: nothing is known of the input of layer {name!r}: {why}; {HELP}")
    values, place = known.values, known.place
    wanted: int = module.in_features if isinstance(module, nn.Linear) else module.in_channels  # type: ignore[union-attr, assignment]
    across = not place.last and place.rank != 2 if isinstance(node.op, kinds.Linear) else place.axis != 1
    if not known.alike and (wanted % values.channels or across):
        counts = f"reads {wanted} channels, but {values.channels} were followed to it"
        raise CalibrationError(f"data-free calibration: layer {name!r} {counts}; give calibration images")
    return values.repeated(wanted // values.channels)


def _operation(node: Node, inputs: list[Any], correlation: float) -> Known:
    """What comes out of a node that is neither layer nor norm; inputs are known."""
    op, x = node.op, inputs[0] if inputs else None
    if isinstance(op, kinds.Part) and isinstance(x, list):
        return x[op.index % len(x)] if len(x) > 1 else x[0]
    if not isinstance(x, Spread):
        return _unknown(node)
    if isinstance(op, kinds.Clip):
        return replace(x, values=x.values.clip(op.low, op.high))
    if isinstance(op, kinds.Scale):
        return replace(x, values=x.values.scaled(op.factor, op.offset))
    if isinstance(op, kinds.Same):
        return x
    if isinstance(op, kinds.Add):
        return _sum(node, op, x, inputs[1], correlation)
    if any(isinstance(i, Spread) and i.alike for i in inputs) and isinstance(op, (kinds.Cat, kinds.Split, kinds.Pick)):
        return _unknown(node)
    if isinstance(op, kinds.Cat):
        place = channels.concatenated([i.place for i in inputs], op) if all(isinstance(i, Spread) for i in inputs) else None
        return Spread.of(joined([i.values for i in inputs]), place) if place is not None else _unknown(node)
    if isinstance(op, kinds.Pad):
        widths = channels.padded(x.place, op)
        if widths is None or min(widths) < 0 or op.value or (x.alike and any(widths)):  # a border of zeros is not counted
            return _unknown(node)
        if not any(widths):
            return x
        return Spread.of(x.values.padded(*widths), x.place)
    if isinstance(op, kinds.Split):
        parts = channels.split(x.place, op)
        return _unknown(node) if parts is None else [_taken(x, part) for part in parts]
    if isinstance(op, (kinds.Pool, kinds.AdaptivePool)):
        return _pool(node, op, x)
    if isinstance(op, kinds.Reduce) and op.how != "average":
        return _unknown(node)
    # an average keeps the mean; its variance is at most that of one value, reached where the pixels are equal
    for kind, change in channels.CHANGES:
        if isinstance(op, kind):
            place = change(x.place, op)
            return _unknown(node) if place is None else _taken(x, place)
    return _unknown(node)


def _taken(x: Spread, place: Channels) -> Spread:
    return replace(x, place=place) if x.alike else Spread.of(x.values.taken(np.array(place.items, dtype=np.int64)), place)


def _sum(node: Node, op: kinds.Add, x: Spread, y: Any, correlation: float) -> Known:
    if node.operands[0] == node.operands[1]:
        return replace(x, values=x.values.scaled(1 + op.alpha, 0.0))
    if not (isinstance(y, Spread) and x.place.like(y.place)):
        return _unknown(node)
    other = y.values if op.alpha == 1 else y.values.scaled(op.alpha, 0.0)
    return replace(x, values=x.values.plus(other, correlation))


def _pool(node: Node, op: kinds.Pool | kinds.AdaptivePool, x: Spread) -> Known:
    place = channels.pooled(x.place, op)
    if place is None or (isinstance(op, kinds.Pool) and op.divisor is not None):
        return _unknown(node)
    if op.how == "average":
        return replace(x, place=place)
    if isinstance(op, kinds.AdaptivePool):
        return _unknown(node)
    return replace(x, values=x.values.greatest(math.prod(op.kernel)), place=place)


def _unknown(node: Node) -> str:
    why = f" ({node.op.why})" if isinstance(node.op, kinds.Unknown) and node.op.why else ""
    return f"operation {node.name!r} ({node.what}) has no analytic form here{why}"
