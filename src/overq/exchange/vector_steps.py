"""Steps that vectors give themselves (`kernels.scale.Dynamic`) as a function of standard ONNX operators, bit for bit.

One exception: a root mean square adds its squares in float64 in whatever order the runtime likes. That moves a step where the sum lies
within 10^-16 of where float32 rounds, which is one vector in some 10^8.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from overq.exchange.fields import check_fields
from overq.exchange.overwriting import REDUCE_AXES, Nodes, Tiles, whole
from overq.kernels.scale import GREATEST, LEAST
from overq.spec import Format

SUM_INPUTS = 13  # opset from which on the axes of a sum are an input, those of other reductions from REDUCE_AXES on


def overwrite_each_function(
    name: str, fmt: Format, short: Tiles | None, exact: Any, measure: str, vectors: tuple[int, int], linear: bool, opset: int
) -> Any:
    """(x, alpha, shape, count) -> (E in x's shape, what one unit of it is worth in each vector), or of a convolution E times that.

    vectors   (groups, channels of one); shape, count, short and exact as of `overwrite_function`, absent with cascade 0
    """
    check_fields(fmt, "has no ONNX form yet")
    n, (groups, lanes) = Nodes(), vectors
    x, alpha, count = (n.ir.val(label, n.ir.DataType.FLOAT) for label in ("x", "alpha", "count"))
    shape = n.ir.val("shape", n.ir.DataType.INT64)
    single = n("Cast", x, to=n.ir.DataType.FLOAT)
    laid = single if groups == 1 else n("Reshape", single, n.ints([0, groups, lanes, -1]))
    axis = -1 if linear else 1 if groups == 1 else 2
    magnitude = n("Abs", laid)
    magnitude = n("Where", n("Less", magnitude, n.number(np.inf)), magnitude, n.number(0))  # NaN is not less
    if measure == "max":
        found = _reduced(n, "ReduceMax", magnitude, axis, opset >= REDUCE_AXES)
    else:
        wide = n("Cast", magnitude, to=n.ir.DataType.DOUBLE)
        total = _reduced(n, "ReduceSum", n("Mul", wide, wide), axis, opset >= SUM_INPUTS)
        found = n("Cast", n("Sqrt", n("Div", total, n.number(lanes, np.float64))), to=n.ir.DataType.FLOAT)
    step = _bfloat(n, n("Clip", n("Mul", found, alpha), n.number(LEAST), n.number(GREATEST)))
    rate = n("Cast", n("Div", n.number(fmt.unit, np.float64), step), to=n.ir.DataType.FLOAT)
    back = n("Cast", n("Mul", step, n.number(1 / (1 << fmt.fraction_bits), np.float64)), to=n.ir.DataType.FLOAT)
    t = n("Floor", n("Mul", laid, rate))
    t = n("Clip", n("Where", n("IsNaN", t), n.number(0), t), n.number(fmt.t_min), n.number(fmt.t_max))
    E = whole(n, laid, t, shape, count, fmt, short, exact)
    y = n("Where", n("IsNaN", laid), laid, E if linear else n("Mul", E, back))
    y = y if groups == 1 else n("Reshape", y, n("Shape", x))
    outputs = [y, back] if linear else [y]
    for output, called in zip(outputs, ("y", "worth"), strict=False):
        output.name = called
    inputs = [x, alpha, *([shape, count] if fmt.cascade else [])]
    return n.function(name, inputs, outputs, f"{fmt.label}, policy {fmt.policy}, a step for each vector by {measure}", opset)


def _reduced(n: Nodes, op: str, x: Any, axis: int, by_input: bool) -> Any:
    return n(op, x, n.ints([axis]), keepdims=1) if by_input else n(op, x, axes=[axis], keepdims=1)


def _bfloat(n: Nodes, x: Any) -> Any:
    """Float64 of the nearest bfloat16, ties to even, of positive float32: rounded where adding 2^45 times its power of two rounds it."""
    double = n("Cast", x, to=n.ir.DataType.DOUBLE)
    spread = n("Mul", double, n.number(float((1 << 52) + 1), np.float64))
    power = n("Sub", spread, n("Sub", spread, double))  # its nearest power of two
    power = n("Where", n("Greater", power, double), n("Mul", power, n.number(0.5, np.float64)), power)
    lifted = n("Mul", power, n.number(float(1 << 45), np.float64))
    return n("Sub", n("Add", double, lifted), lifted)
