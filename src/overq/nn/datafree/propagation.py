"""Batch norm statistics followed through the model's graph to the input of every layer."""

from __future__ import annotations

import operator
from functools import reduce
from typing import Any

import numpy as np
import torch
from torch import fx, nn
from torch.nn import functional as F

from overq.errors import CalibrationError
from overq.nn.datafree.clipped import Clipped, joined
from overq.nn.datafree.norms import HELP, flaw, is_norm, output_moments
from overq.nn.layers import FloatLayer, can_quantize

Known = Clipped | str  # what is known of a tensor, or why nothing is
RELUS = (F.relu, F.relu_, torch.relu, torch.relu_, "relu", "relu_")
SAME = (F.dropout, torch.flatten, "flatten", "contiguous", "mean", torch.mean, F.adaptive_avg_pool2d, F.avg_pool2d)
SAME_MODULES = (nn.Identity, nn.Dropout, nn.Dropout2d, nn.Flatten, nn.AvgPool1d, nn.AvgPool2d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d)
SUMS = (operator.add, operator.iadd, torch.add, "add", "add_")


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return can_quantize(m) or is_norm(m) or super().is_leaf_module(m, module_qualified_name)


def propagate(model: nn.Module, image: Clipped, scales: tuple[float, ...], correlation: float) -> list[tuple[str, FloatLayer, Clipped]]:
    """(dotted name, layer, its input) of every call of a Conv1d, Conv2d or Linear, in order.

    image        the model's input: one entry that stands for all channels
    scales       law of the batch norms' outputs
    correlation  of the two summands of a residual sum

    Raises CalibrationError where the model cannot be traced or a layer's input does not come from usable batch norms.
    """
    try:
        graph = _Tracer().trace(model)
    except Exception as error:  # tracing runs the model's own code: whatever that does with a symbolic value
        raise CalibrationError(
            f"data-free calibration: the model cannot be traced ({' '.join(str(error).split())[:120]}); give calibration images"
        ) from error
    modules = dict(model.named_modules())
    known: dict[fx.Node, Known] = {}
    found = []
    for node in graph.nodes:
        module = modules[str(node.target)] if node.op == "call_module" else None
        if node.op == "placeholder":
            known[node] = image
        elif module is not None and can_quantize(module):
            name = str(node.target)
            found.append((name, module, _layer_input(name, module, known[node.all_input_nodes[0]])))
            known[node] = f"no batch norm follows {name!r}"
        elif is_norm(module):
            bad = flaw(module)
            known[node] = f"batch norm {node.target!r} {bad}" if bad else Clipped.free(*output_moments(module), scales)
        elif node.op != "output":
            inputs = [known[n] for n in node.all_input_nodes]
            reason = next((i for i in inputs if isinstance(i, str)), None)
            known[node] = reason or _operation(node, module, [i for i in inputs if isinstance(i, Clipped)], correlation)
    return found


def _layer_input(name: str, module: FloatLayer, known: Known) -> Clipped:
    if isinstance(known, str):
        raise CalibrationError(f"data-free calibration: nothing is known of the input of layer {name!r}: {known}; {HELP}")
    wanted = module.in_features if isinstance(module, nn.Linear) else module.in_channels
    if wanted % known.channels:
        counts = f"reads {wanted} channels, but {known.channels} were followed to it"
        raise CalibrationError(f"data-free calibration: layer {name!r} {counts}; give calibration images")
    return known.repeated(wanted // known.channels)


def _operation(node: fx.Node, module: nn.Module | None, inputs: list[Clipped], correlation: float) -> Known:
    """What comes out of a node that is neither layer nor norm; inputs are known."""
    args, named, target = node.args, dict(node.kwargs), node.target
    if (bounds := _bounds(module, target, args, named)) is not None:
        return inputs[0].clip(bounds[0], bounds[1])
    if isinstance(module, SAME_MODULES) or target in SAME:
        return inputs[0]  # an average keeps the mean; its variance is at most this one, reached where the pixels are equal
    if target in SUMS and len(inputs) == len(args) == 2 and not named:
        return inputs[0].plus(inputs[1], correlation)
    if target is torch.cat and (named.get("dim", args[1] if len(args) > 1 else 0)) in (1, -3):
        return joined(inputs)
    if target is F.pad and (len(args) < 3 or args[2] == "constant") and not named.get("value", args[3] if len(args) > 3 else 0):
        width: Any = args[1]
        pad = [*width, 0, 0, 0, 0, 0, 0][:8]
        return inputs[0].padded(pad[4], pad[5]) if not any(pad[6:]) else _unknown(node, module)  # zeros at the border: not counted
    if target is operator.getitem and _keeps_channels(args[1]):
        return inputs[0]
    if window := _window(module, target, args, named):
        return inputs[0].greatest(window)
    return _unknown(node, module)


def _unknown(node: fx.Node, module: nn.Module | None) -> str:
    what = type(module).__name__ if module is not None else getattr(node.target, "__name__", str(node.target))
    return f"operation {node.name!r} ({what}) has no analytic form here"


def _bounds(module: nn.Module | None, target: Any, args: tuple[Any, ...], named: dict[str, Any]) -> tuple[float, float] | None:
    """The clip of ReLU, ReLU6 and Hardtanh."""
    if isinstance(module, nn.Hardtanh):  # ReLU6 is one
        return module.min_val, module.max_val
    if isinstance(module, nn.ReLU) or target in RELUS:
        return 0.0, np.inf
    if target is F.relu6:
        return 0.0, 6.0
    if target is F.hardtanh:
        values = dict(zip(("min_val", "max_val"), args[1:3], strict=False)) | named
        return values.get("min_val", -1.0), values.get("max_val", 1.0)
    return None


def _keeps_channels(index: Any) -> bool:
    """Whether it only picks pixels: full slices of the first two axes, slices of the others."""
    index = index if isinstance(index, tuple) else (index,)
    return all(isinstance(i, slice) for i in index) and all(i == slice(None) for i in index[:2])


def _window(module: nn.Module | None, target: Any, args: tuple[Any, ...], named: dict[str, Any]) -> int:
    """How many pixels a max pooling looks at; 0 where it is none."""
    if isinstance(module, nn.MaxPool2d):
        size = module.kernel_size
    elif target is F.max_pool2d:
        size = named.get("kernel_size", args[1] if len(args) > 1 else 1)
    else:
        return 0
    return reduce(operator.mul, size) if isinstance(size, (tuple, list)) else int(size) ** 2
