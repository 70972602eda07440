"""A PyTorch model, read by `nn.graph`, as an ONNX graph: convolutional networks and what stands around them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from overq.errors import InputError
from overq.exchange import windows_out
from overq.exchange.emitted import Emitted, refused
from overq.exchange.layers_out import Affine
from overq.nn import kinds
from overq.nn.graph import Graph, Node
from overq.nn.layers import kind
from overq.nn.quantized import Quantized

SAME_NAMES = {"sigmoid": "Sigmoid", "tanh": "Tanh", "exp": "Exp", "log": "Log", "sqrt": "Sqrt", "abs": "Abs", "reciprocal": "Reciprocal",
              "sin": "Sin", "cos": "Cos", "erf": "Erf", "floor": "Floor", "ceil": "Ceil", "sign": "Sign", "softsign": "Softsign",
              "selu": "Selu", "round": "Round"}  # fmt: skip
LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
LAST = np.iinfo(np.int64).max


def emit(graph: Graph, out: Emitted, inputs: dict[str, Any]) -> Any:
    """The value that the model returns. inputs: ONNX values by name of the graph's input nodes. InputError names what has no form."""
    values: dict[str, Any] = dict(inputs)
    live = graph.live()
    out.norms = _norms(live) if out.form == "exact" else {}
    for node in live[:-1]:
        if isinstance(node.op, (kinds.Number, kinds.Input)):
            continue
        made = EMITTERS[type(node.op)](out, node, [values[name] for name in node.operands])
        if not isinstance(made, list) and not made.name:
            made.name = node.name
        values[node.name] = made
    last = live[-1]
    if not (isinstance(last.op, kinds.Output) and last.op.single):
        raise InputError("the model returns more than one tensor: ONNX is written for models with one output")
    return values[last.inputs[0]]


def _norms(live: Sequence[Node]) -> dict[str, Node]:
    readers: dict[str, list[Node]] = {}
    for node in live:
        for name in node.inputs:
            readers.setdefault(name, []).append(node)
    alone = {node.name: readers[node.name][0] for node in live if isinstance(node.module, Quantized) and len(readers[node.name]) == 1}
    return {name: norm for name, norm in alone.items() if isinstance(norm.op, kinds.Norm) and _has_statistics(norm.module)}


def _has_statistics(norm: Any) -> bool:
    return norm.running_mean is not None


# Layers --------------------------------------------------------------------------------------------------


def _layer(out: Emitted, node: Node, x: list[Any]) -> Any:
    layer: Any = node.module
    assert layer is not None  # by its kind
    name = node.target or "layer"
    if kind(layer) not in LAYERS:
        raise refused(node, "a layer of this kind")
    linear = isinstance(layer, nn.Linear)
    if not linear and ("_conv_forward" in vars(layer) or type(layer)._conv_forward is not getattr(kind(layer), "_conv_forward", None)):
        raise refused(node, "it convolves in a way of its own")

    def multiply(source: Any, weight: Any, bias: Any) -> Any:
        if linear:
            product = out.op("MatMul", source, weight)
            return product if bias is None else out.op("Add", product, bias)
        pads, count = _pads(layer), len(layer.kernel_size)
        if layer.padding_mode != "zeros" and any(pads):
            widths = [w for i in reversed(range(count)) for w in (pads[i], pads[count + i])]
            source, pads = windows_out.padded(out, node, source, widths, layer.padding_mode, 0.0), [0] * 2 * count
        options: dict[str, Any] = {"kernel_shape": list(layer.kernel_size), "strides": list(layer.stride)}
        options |= {"dilations": list(layer.dilation), "pads": pads, "group": layer.groups}
        return out.op("Conv", source, weight, *([] if bias is None else [bias]), **options)

    if isinstance(layer, Quantized):
        norm = out.norms.get(node.name)
        affine = None if norm is None else _affine(norm.module)
        return out.product(x[0], name, layer, multiply, transposed=linear, affine=affine)
    weight = layer.weight.detach().float()
    return multiply(x[0], out.constant(f"{name}.weight", weight.T if linear else weight), out.bias(name, layer))


def _affine(norm: Any) -> Affine:
    """What a batch norm does, in float64."""
    slope, shift, mean, variance = (t.detach().cpu().double().numpy() for t in _parts(norm).values())
    factor = slope / np.sqrt(variance + float(norm.eps))
    return Affine(factor, shift - mean * factor)


def _parts(norm: Any) -> dict[str, Tensor]:
    """Slope, shift and statistics of a batch norm; without a slope 1, without a shift 0."""
    ones, zeros = torch.ones_like(norm.running_mean), torch.zeros_like(norm.running_mean)
    return {
        "weight": ones if norm.weight is None else norm.weight, "bias": zeros if norm.bias is None else norm.bias,
        "running_mean": norm.running_mean, "running_var": norm.running_var,
    }  # fmt: skip


def _pads(layer: Any) -> list[int]:
    """Begins, then ends."""
    if layer.padding == "valid":
        return [0] * 2 * len(layer.kernel_size)
    if layer.padding == "same":
        whole = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
        return [w // 2 for w in whole] + [w - w // 2 for w in whole]
    return [*layer.padding, *layer.padding]


def _norm(out: Emitted, node: Node, x: list[Any]) -> Any:
    norm: Any = node.module
    if any(node is folded for folded in out.norms.values()):
        return x[0]
    if not _has_statistics(norm):
        raise refused(node, "it keeps no statistics")
    given = [out.constant(f"{node.target}.{part}", tensor.detach().float()) for part, tensor in _parts(norm).items()]
    return out.op("BatchNormalization", x[0], *given, epsilon=float(norm.eps))


# Value by value ------------------------------------------------------------------------------------------


def _clip(out: Emitted, node: Node, x: list[Any]) -> Any:
    op: Any = node.op
    if (op.low, op.high) == (0.0, math.inf):
        return out.op("Relu", x[0])
    bounds = [None if math.isinf(bound) else out.number(bound) for bound in (op.low, op.high)]
    return out.op("Clip", x[0], *bounds)


def _scale(out: Emitted, node: Node, x: list[Any]) -> Any:
    op: Any = node.op
    y = x[0] if op.factor == 1.0 else out.op("Mul", x[0], out.number(op.factor))
    return y if op.offset == 0.0 else out.op("Add", y, out.number(op.offset))


def _add(out: Emitted, node: Node, x: list[Any]) -> Any:
    op: Any = node.op
    first, second = x if len(x) == 2 else (x[0], x[0])
    if op.alpha == -1.0:
        return out.op("Sub", first, second)
    return out.op("Add", first, second if op.alpha == 1.0 else out.op("Mul", second, out.number(op.alpha)))


def _pair(out: Emitted, node: Node, x: list[Any]) -> Any:
    op: Any = node.op
    first, second = x if len(x) == 2 else (x[0], x[0])
    return out.op({"mul": "Mul", "div": "Div", "maximum": "Max", "minimum": "Min"}[op.name], first, second)


def _pointwise(out: Emitted, node: Node, x: list[Any]) -> Any:
    """Options of a function are found by trying it: what is written gives the same on a few numbers, or the operation is refused."""
    op: Any = node.op
    place = torch.tensor([-100.0, -3.0, -1.0, -0.3, 0.2, 0.7, 1.0, 2.0, 30.0])

    def is_like(function: Callable[..., Any]) -> bool:
        return torch.allclose(node.run(place.clone()), function(place), rtol=1e-6, atol=1e-7, equal_nan=True)

    if out.form == "exact" and op.name in ("leaky_relu", "hardsigmoid", "hardswish"):
        return _in_numbers(out, node, x[0])
    if op.name == "leaky_relu":
        return out.op("LeakyRelu", x[0], alpha=-float(node.run(torch.tensor(-1.0))))
    if op.name in ("elu", "celu"):
        alpha = -float(node.run(torch.tensor(-100.0 if op.name == "elu" else -1e4)))
        return out.op("Elu" if op.name == "elu" else "Celu", x[0], alpha=alpha)
    if op.name == "silu":
        return out.op("Mul", x[0], out.op("Sigmoid", x[0]))
    if op.name == "hardsigmoid" or op.name == "hardswish":
        gate = out.op("HardSigmoid", x[0], alpha=1 / 6, beta=0.5)
        return gate if op.name == "hardsigmoid" else out.op("Mul", x[0], gate)
    if op.name == "gelu" and is_like(F.gelu):
        half = out.op("Mul", x[0], out.number(0.5))
        return out.op("Mul", half, out.op("Add", out.op("Erf", out.op("Mul", x[0], out.number(math.sqrt(0.5)))), out.number(1.0)))
    if op.name == "softplus" and is_like(F.softplus):
        return out.op("Softplus", x[0])
    if op.name == "square":
        return out.op("Mul", x[0], x[0])
    if op.name == "mish":
        return out.op("Mul", x[0], out.op("Tanh", out.op("Softplus", x[0])))
    if op.name in SAME_NAMES and (op.name != "round" or is_like(torch.round)):
        return out.op(SAME_NAMES[op.name], x[0])
    raise refused(node, "an activation with these options")


def _in_numbers(out: Emitted, node: Node, x: Any) -> Any:
    """What ONNX has an operator for, whose options are float32: with numbers of the graph's own type."""
    op: Any = node.op
    if op.name == "leaky_relu":
        slope = -float(node.run(torch.tensor(-1.0, dtype=torch.float64)))
        return out.op("Where", out.op("Less", x, out.number(0.0)), out.op("Mul", x, out.number(slope)), x)
    gate = out.op("Add", out.op("Mul", x, out.number(1 / 6)), out.number(0.5))
    gate = out.op("Clip", gate, out.number(0.0), out.number(1.0))
    return gate if op.name == "hardsigmoid" else out.op("Mul", x, gate)


def _same(out: Emitted, node: Node, x: list[Any]) -> Any:
    return x[0]


# Places --------------------------------------------------------------------------------------------------


def _reshape(out: Emitted, node: Node, x: list[Any]) -> Any:
    return out.reshaped(node, x[0])


def _cat(out: Emitted, node: Node, x: list[Any]) -> Any:
    op: Any = node.op
    return out.op("Concat", *x, axis=op.dim)


def _pick(out: Emitted, node: Node, x: list[Any]) -> Any:
    op: Any = node.op
    y, dropped = x[0], []
    for dim, part in enumerate(op.index):
        if isinstance(part, slice) and (part.step or 1) > 0:
            start, stop, step = part.start or 0, LAST if part.stop is None else part.stop, part.step or 1
        elif isinstance(part, int) and not isinstance(part, bool):
            start, stop, step = part, LAST if part == -1 else part + 1, 1
            dropped.append(dim)
        else:
            raise refused(node, f"index {part!r}")
        if (start, stop, step) != (0, LAST, 1):
            y = out.op("Slice", y, *(out.ints("slice", [value]) for value in (start, stop, dim, step)))
    return out.op("Squeeze", y, out.ints("axes", dropped)) if dropped else y


def _split(out: Emitted, node: Node, x: list[Any]) -> Any:
    op: Any = node.op
    total = out.shapes[node.operands[0]][op.dim]
    if total is None:
        raise refused(node, "it cuts the batch")
    sizes = [end - start for start, end in op.bounds(total)]
    return out.op("Split", x[0], out.ints("split", sizes), outputs=len(sizes), axis=op.dim)


def _part(out: Emitted, node: Node, x: list[Any]) -> Any:
    op: Any = node.op
    return x[0][op.index]


def _move(out: Emitted, node: Node, x: list[Any]) -> Any:
    op: Any = node.op
    if op.name in ("permute", "transpose", "swapaxes", "swapdims", "movedim", "moveaxis", "t") and op.dims is not None:
        extents = list(range(2, 2 + out.rank(node.operands[0])))
        return out.op("Transpose", x[0], perm=[extents.index(size) for size in node.run(torch.empty(extents)).shape])
    if op.name in ("unsqueeze", "squeeze", "unflatten", "view_as", "reshape_as"):
        return out.reshaped(node, x[0])
    if op.name == "pixel_shuffle":
        return out.op("DepthToSpace", x[0], blocksize=op.dims[0], mode="CRD")
    raise refused(node)


def _matmul(out: Emitted, node: Node, x: list[Any]) -> Any:
    first, second = x if len(x) == 2 else (x[0], x[0])
    return out.op("MatMul", first, second)


def _constant(out: Emitted, node: Node, x: list[Any]) -> Any:
    assert node.tensor is not None  # by its kind
    return out.constant(node.target, node.tensor.detach())


def _unknown(out: Emitted, node: Node, x: list[Any]) -> Any:
    raise refused(node)


EMITTERS: dict[type[Any], Callable[[Emitted, Node, list[Any]], Any]] = {
    kinds.Conv: _layer, kinds.Linear: _layer, kinds.Norm: _norm, kinds.MatMul: _matmul, kinds.Clip: _clip, kinds.Pointwise: _pointwise,
    kinds.Scale: _scale, kinds.Add: _add, kinds.Pair: _pair, kinds.Cat: _cat, kinds.Pad: windows_out.pad, kinds.Pool: windows_out.pool,
    kinds.AdaptivePool: windows_out.adaptive, kinds.Upsample: windows_out.upsample, kinds.Reduce: windows_out.reduce,
    kinds.Flatten: _reshape, kinds.Reshape: _reshape, kinds.Pick: _pick, kinds.Split: _split, kinds.Part: _part, kinds.Move: _move,
    kinds.Same: _same, kinds.Constant: _constant, kinds.Unknown: _unknown,
}  # fmt: skip
