"""What the form `exact` computes with: sums of integers, which float32 holds whatever their order, and float64 behind them.

A layer's input enters its convolution or matrix product as the integers E, its weight as integers, too. Where the sum of magnitudes may
reach 2^24, E is cut into pieces of so few bits that no piece's sum can; the pieces' sums are put together in float64, and scale, bias and
the batch norm behind the layer are one multiplication and one addition there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from overq.errors import InputError
from overq.exchange.overwriting import SINGLE, Nodes
from overq.nn.rotation import factors, mixing, signs
from overq.spec import Format

IN_FLOAT64 = ("settle", "rotate")  # functions whose outputs are


@dataclass(frozen=True)
class Pieces:
    """How E is cut: `count` pieces, all but the highest of `bits` bits."""

    count: int = 1
    bits: int = 0


def pieces(fmt: Format, weights: np.ndarray, name: str) -> Pieces:
    """Of a layer with integer weights [O, ...]; InputError where even pieces of one bit have no exact sums."""
    total = max(1, int(np.abs(weights.astype(np.int64)).reshape(len(weights), -1).sum(1).max(initial=0)))
    spelled = (fmt.wide_min << fmt.fraction_bits, fmt.wide_max << fmt.fraction_bits, fmt.fine_min, fmt.fine_max)
    greatest = max(map(abs, spelled))
    if total * greatest < SINGLE:
        return Pieces()
    bits = ((SINGLE - 1) // total).bit_length() - 1
    if bits < 1:
        raise InputError(f"layer {name!r}: sums over {weights[0].size:,} weights have no exact form in ONNX: float32 does not hold them")
    count = 2
    while total * ((greatest >> bits * (count - 1)) + 1) >= SINGLE:
        count += 1
    return Pieces(count, bits)


def _function(n: Nodes, name: str, inputs: list[Any], outputs: list[Any], doc: str) -> Any:
    for place, output in enumerate(outputs):
        output.name = f"y{place}"
    return n.function(name, inputs, outputs, doc)


def cut_function(name: str, cut: Pieces) -> Any:
    """E -> its pieces, the highest first: E = (p0 · 2^bits + p1) · 2^bits + …"""
    n = Nodes()
    x = rest = n.ir.val("x", n.ir.DataType.FLOAT)
    found = []
    for _ in range(cut.count - 1):
        high = n("Floor", n("Mul", rest, n.number(2.0**-cut.bits)))
        found.append(n("Sub", rest, n("Mul", high, n.number(2.0**cut.bits))))
        rest = high
    return _function(n, name, [x], [rest, *reversed(found)], f"{cut.count} pieces of {cut.bits} bits")


def settle_function(name: str, cut: Pieces, each: bool, offset: bool) -> Any:
    """(sums, one for each piece; each: what they are worth, position by position; factor; offset) -> float64 sum · factor + offset."""
    n = Nodes(np.float64)
    sums = [n.ir.val(f"sum{i}", n.ir.DataType.FLOAT) for i in range(cut.count)]
    factor = n.ir.val("factor", n.ir.DataType.DOUBLE)
    inputs, y = [*sums], n("Cast", sums[0], to=n.ir.DataType.DOUBLE)
    for part in sums[1:]:
        y = n("Add", n("Mul", y, n.number(2.0**cut.bits)), n("Cast", part, to=n.ir.DataType.DOUBLE))
    if each:
        inputs.append(n.ir.val("each", n.ir.DataType.FLOAT))
        y = n("Mul", y, n("Cast", inputs[-1], to=n.ir.DataType.DOUBLE))
    inputs.append(factor)
    y = n("Mul", y, factor)
    if offset:
        inputs.append(n.ir.val("offset", n.ir.DataType.DOUBLE))
        y = n("Add", y, inputs[-1])
    return _function(n, name, inputs, [y], "the sum of integers as a number")


def rotate_function(name: str, lanes: int, seed: int, linear: bool) -> Any:
    """x and, but for a `linear` layer, the shape [N, groups, lanes, pixels] -> x rotated (`nn.rotation`), in float64."""
    n = Nodes(np.float64)
    x, shape = n.ir.val("x", n.ir.DataType.FLOAT), n.ir.val("shape", n.ir.DataType.INT64)
    y = n("Cast", x, to=n.ir.DataType.DOUBLE)
    if not linear:
        y = n("Transpose", n("Reshape", y, shape), perm=[0, 1, 3, 2])
    laid = n("Shape", y)
    y = n("Mul", y, n("Constant", value=n.ir.tensor(signs(lanes, seed).numpy().astype(np.float64))))
    for factor in factors(lanes):
        y = n("Reshape", y, n.ints([-1, lanes // factor, factor]))
        y = n("Transpose", n("MatMul", y, n("Constant", value=n.ir.tensor(mixing(factor).numpy()))), perm=[0, 2, 1])
    y = n("Reshape", y, laid)
    if not linear:
        y = n("Reshape", n("Transpose", y, perm=[0, 1, 3, 2]), n("Shape", x))
    return _function(n, name, [x] if linear else [x, shape], [y], f"rotation of {lanes} lanes, seed {seed}")
