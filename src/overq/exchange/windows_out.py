"""Padding, pooling, resizing and reductions of a PyTorch model as ONNX operators."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from overq.exchange.emitted import Emitted, Shape, refused
from overq.exchange.overwriting import REDUCE_AXES
from overq.nn.graph import Node

PADS = {"constant": "constant", "reflect": "reflect", "replicate": "edge"}


def pad(out: Emitted, node: Node, x: list[Any]) -> Any:
    op: Any = node.op
    return padded(out, node, x[0], list(op.widths), op.mode, op.value)


def padded(out: Emitted, node: Node, x: Any, widths: list[int], mode: str, value: float) -> Any:
    """widths as torch has them."""
    if mode not in PADS:
        raise refused(node, f"padding mode {mode}")
    count = len(widths) // 2
    before, behind = [widths[2 * i] for i in reversed(range(count))], [widths[2 * i + 1] for i in reversed(range(count))]
    lead = [0] * (out.rank(node.operands[0]) - count)
    more = [out.number(value)] if mode == "constant" else []
    return out.op("Pad", x, out.ints("pads", [*lead, *before, *lead, *behind]), *more, mode=PADS[mode])


def pool(out: Emitted, node: Node, x: list[Any]) -> Any:
    op: Any = node.op
    options: dict[str, Any] = {"kernel_shape": list(op.kernel), "strides": list(op.stride), "pads": [*op.padding, *op.padding]}
    if op.how == "greatest":
        return out.op("MaxPool", x[0], dilations=list(op.dilation), ceil_mode=int(op.ceil), **options)
    now = out.shapes[node.operands[0]]
    fits = not any(extent is None or extent % size for size, extent in zip(op.kernel, now[-len(op.kernel) :], strict=True))
    if out.form == "exact" and fits and not any(op.padding) and op.kernel == op.stride and op.divisor is None:
        return _mean(out, x[0], now, op.kernel)
    if op.ceil:
        raise refused(node, "option ceil_mode=True of an average")
    pooled = out.op("AveragePool", x[0], count_include_pad=int(op.include_pad or op.divisor is not None), **options)
    return pooled if op.divisor is None else out.op("Mul", pooled, out.number(math.prod(op.kernel) / op.divisor))


def adaptive(out: Emitted, node: Node, x: list[Any]) -> Any:
    op: Any = node.op
    pool = {"average": "AveragePool", "greatest": "MaxPool"}[op.how]
    shape = out.shapes[node.operands[0]]
    now = shape[-len(op.size) :]
    if all(size == 1 for size in op.size):
        if out.form == "exact" and op.how == "average" and None not in now:
            return _mean(out, x[0], shape, now)
        return out.op(f"Global{pool}", x[0])
    wanted = [size if size is not None else extent for size, extent in zip(op.size, now, strict=True)]
    if any(extent is None or extent % size for size, extent in zip(wanted, now, strict=True)):
        raise refused(node, f"{list(now)} pixels do not divide into {wanted}")
    window = [extent // size for size, extent in zip(wanted, now, strict=True)]
    if out.form == "exact" and op.how == "average":
        return _mean(out, x[0], shape, window)
    return out.op(pool, x[0], kernel_shape=window, strides=window)


def _mean(out: Emitted, x: Any, shape: Shape, window: Sequence[int]) -> Any:
    """Of windows that lie side by side: float64 has no AveragePool."""
    lead, count = list(shape[: -len(window)]), len(window)
    blocks = [part for extent, size in zip(shape[-count:], window, strict=True) for part in (extent // size, size)]  # type: ignore[operator]
    axes = [len(lead) + 2 * i + 1 for i in range(count)]
    if all(extent == size for extent, size in zip(shape[-count:], window, strict=True)):
        return _averaged(out, x, [len(lead) + i for i in range(count)], keep=True)
    laid = out.op("Reshape", x, out.ints("shape", [-1 if size is None else size for size in (*lead, *blocks)]))
    return _averaged(out, laid, axes, keep=False)


def _averaged(out: Emitted, x: Any, axes: list[int], keep: bool) -> Any:
    if out.opset >= REDUCE_AXES:
        return out.op("ReduceMean", x, out.ints("axes", axes), keepdims=int(keep))
    return out.op("ReduceMean", x, axes=axes, keepdims=int(keep))


def upsample(out: Emitted, node: Node, x: list[Any]) -> Any:
    op: Any = node.op
    factors = op.factors if isinstance(op.factors, tuple) else (op.factors,) * (out.rank(node.name) - 2)
    scales = out.constant("scales", np.array([1, 1, *factors], np.float32))
    return out.op("Resize", x[0], None, scales, mode="nearest", nearest_mode="floor", coordinate_transformation_mode="asymmetric")


def reduce(out: Emitted, node: Node, x: list[Any]) -> Any:
    op: Any = node.op
    names = {"average": "ReduceMean", "sum": "ReduceSum", "greatest": "ReduceMax", "least": "ReduceMin"}
    if op.how == "sum":
        axes = [] if op.dims is None else [out.ints("axes", op.dims)]
        return out.op("ReduceSum", x[0], *axes, keepdims=int(op.keep))
    if out.opset >= REDUCE_AXES:
        axes = [] if op.dims is None else [out.ints("axes", op.dims)]
        return out.op(names[op.how], x[0], *axes, keepdims=int(op.keep))
    given: dict[str, Any] = {} if op.dims is None else {"axes": list(op.dims)}
    return out.op(names[op.how], x[0], keepdims=int(op.keep), **given)
