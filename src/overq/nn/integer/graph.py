"""A quantized model as a list of steps: what an integer network does, in order. Anything else is refused by name."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from overq.errors import InputError
from overq.nn.integer.layer import pair, taps
from overq.nn.layers import Quantized


@dataclass(frozen=True)
class Step:
    """One operation.

    name      of the graph's node; inputs: names of the steps it reads
    kind      input, layer, pool (an average over `area` values) or same: a step that keeps the scale
    target    the layer's dotted name
    norm      the batch norm right behind the layer, if any
    apply     what pool (as a sum) and same do to integers
    """

    name: str
    kind: str
    inputs: tuple[str, ...] = ()
    target: str = ""
    norm: nn.Module | None = None
    apply: Callable[..., Tensor] | None = None
    area: int | None = None  # None: all pixels that there are


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, Quantized) or super().is_leaf_module(m, module_qualified_name)


def steps(model: nn.Module) -> list[Step]:
    """In execution order; the last one's value is the output. InputError names the first operation without an integer form."""
    try:
        graph = _Tracer().trace(model)
    except Exception as error:  # tracing runs the model's own code: whatever that does with a symbolic value
        raise InputError(f"the model cannot be traced: {' '.join(str(error).split())[:200]}") from error
    modules = dict(model.named_modules())
    made: dict[fx.Node, Step] = {}
    for node in graph.nodes:
        if node.op == "output":
            if not isinstance(node.args[0], fx.Node):
                raise InputError("the model returns more than one tensor: integers are for models with one output")
            return [*dict.fromkeys(made.values()), Step("output", "same", (made[node.args[0]].name,), apply=lambda x: x)]
        inputs = tuple(made[n].name for n in node.all_input_nodes)
        module = modules[str(node.target)] if node.op == "call_module" else None
        if node.op == "placeholder" and not any(s.kind == "input" for s in made.values()):
            made[node] = Step(node.name, "input")
        elif isinstance(module, Quantized):
            norm = _norm_behind(node, modules)
            made[node] = Step(node.name, "layer", inputs, str(node.target), norm)
        elif isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)) and _norm_behind(node.all_input_nodes[0], modules) is module:
            made[node] = made[node.all_input_nodes[0]]
        else:
            kind, apply, area = _operation(node, module)
            made[node] = Step(node.name, kind, inputs, apply=apply, area=area)
    raise InputError("the model returns nothing")


def _norm_behind(node: fx.Node, modules: dict[str, nn.Module]) -> nn.Module | None:
    """The batch norm that is the only user of a quantized layer, and has statistics of its own."""
    users = list(node.users)
    if len(users) != 1 or users[0].op != "call_module" or not isinstance(modules.get(str(node.target)), Quantized):
        return None
    norm = modules[str(users[0].target)]
    fits = isinstance(norm, (nn.BatchNorm1d, nn.BatchNorm2d)) and norm.running_var is not None
    return norm if fits else None


Operation = tuple[str, Callable[..., Tensor], int | None]


def _operation(node: fx.Node, module: nn.Module | None) -> Operation:
    """(kind, what it does to integers, averaged values) of a node that is not a layer."""
    args, named = node.args, dict(node.kwargs)
    target = node.target
    if isinstance(module, nn.ReLU) or target in (F.relu, torch.relu, "relu", "relu_"):
        return "same", lambda x: x.clamp(min=0), None
    if isinstance(module, (nn.Identity, nn.Dropout)) or target in ("contiguous", F.dropout):
        return "same", lambda x: x, None
    if target in (operator.add, operator.iadd, torch.add, "add") and len(node.all_input_nodes) == len(args) == 2 and not named:
        return "same", operator.add, None
    if isinstance(module, nn.Flatten):
        start, end = int(module.start_dim), int(module.end_dim)
        return "same", lambda x: x.flatten(start, end), None
    if target in (torch.flatten, "flatten"):
        numbers = [*args[1:], *named.values()]
        return "same", lambda x: x.flatten(*numbers), None
    if target is operator.getitem and not _has_node(args[1]):
        return "same", lambda x: x[args[1]], None
    if target is F.pad and (len(args) < 3 or args[2] == "constant") and not named.get("value", args[3] if len(args) > 3 else 0):
        return "same", lambda x: F.pad(x, args[1]), None
    if target is torch.cat and (dim := named.get("dim", args[1] if len(args) > 1 else 0)) is not None:
        return "same", lambda *parts: torch.cat(parts, dim), None
    return _pooling(node, module)


def _pooling(node: fx.Node, module: nn.Module | None) -> Operation:
    args, named, target = node.args, dict(node.kwargs), node.target
    if isinstance(module, nn.AdaptiveAvgPool2d) and module.output_size in (1, (1, 1)):
        return "pool", lambda x: x.sum((2, 3), keepdim=True), None
    if target is F.adaptive_avg_pool2d and args[1] in (1, (1, 1)):
        return "pool", lambda x: x.sum((2, 3), keepdim=True), None
    dims: Any = args[1] if len(args) > 1 else named.get("dim")
    if target in ("mean", torch.mean) and isinstance(dims, (tuple, list)) and sorted(dims) in ([2, 3], [-2, -1]):
        keep = bool(named.get("keepdim", args[2] if len(args) > 2 else False))
        return "pool", lambda x: x.sum((2, 3), keepdim=keep), None
    names = ("kernel_size", "stride", "padding")
    given: dict[str, Any] = {}
    if isinstance(module, (nn.MaxPool2d, nn.AvgPool2d)):
        given = {k: getattr(module, k) for k in (*names, "ceil_mode", "dilation") if hasattr(module, k)}
    elif target in (F.max_pool2d, F.avg_pool2d):
        given = dict(zip(names, args[1:4], strict=False)) | named
    average = isinstance(module, nn.AvgPool2d) or target is F.avg_pool2d
    usual = given.get("dilation", 1) in (1, (1, 1)) and not given.get("return_indices")
    # An average over a window that sticks out has a divisor of its own; a maximum does not mind.
    if not given or not usual or (average and (given.get("padding", 0) not in (0, (0, 0)) or given.get("ceil_mode"))):
        what = type(module).__name__ if module is not None else getattr(target, "__name__", str(target))
        raise InputError(f"operation {node.name!r} ({what}{' with these options' if given else ''}) has no integer form")
    kernel = pair(given["kernel_size"])
    stride, (high, wide) = pair(given.get("stride") or kernel), pair(given.get("padding", 0))
    if average:
        return "pool", lambda x: sum(taps(x, kernel, stride, (1, 1), dim=2)), kernel[0] * kernel[1]  # type: ignore[return-value]
    ceil = bool(given.get("ceil_mode"))
    least = torch.iinfo(torch.int64).min

    def padded(x: Tensor) -> Tensor:
        more = [_beyond(x.shape[2 + i], kernel[i], stride[i], pad) if ceil else 0 for i, pad in enumerate((high, wide))]
        return F.pad(x, (wide, wide + more[1], high, high + more[0]), value=least)

    return "same", lambda x: _greatest(padded(x), kernel, stride), None


def _greatest(x: Tensor, kernel: tuple[int, int], stride: tuple[int, int]) -> Tensor:
    first, *others = taps(x, kernel, stride, (1, 1), dim=2)
    for other in others:
        first = torch.maximum(first, other)
    return first


def _beyond(size: int, kernel: int, stride: int, pad: int) -> int:
    """How far ceil_mode's last window sticks out of the padded input; a window must start inside the input or its left padding."""
    count = -(-(size + 2 * pad - kernel) // stride) + 1
    if (count - 1) * stride >= size + pad:
        count -= 1
    return max((count - 1) * stride + kernel - size - 2 * pad, 0)


def _has_node(value: Any) -> bool:
    found: list[fx.Node] = []
    fx.node.map_arg(value, found.append)
    return bool(found)
