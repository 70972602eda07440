"""MX block formats: small blocks of channels share a power-of-two scale."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import array_api_compat
import numpy as np

from overq.errors import FormatError, InputError
from overq.methods.blocks import blockwise
from overq.methods.method import Array, Cost, Fitted, Method, check_integer, checked_sample
from overq.methods.numbers import exponent, minifloat, power_of_two


class Element(NamedTuple):
    """bits; fraction bits of the significand; exponents of the least normal and the greatest number; greatest number;
    significand: multiplier operand, sign and hidden one included."""

    bits: int
    mantissa: int
    least: int
    greatest: int
    most: float
    significand: int


ELEMENTS = {
    "int8": Element(8, 6, 0, 0, 127 / 64, 8),
    "int4": Element(4, 2, 0, 0, 7 / 4, 4),
    "fp4": Element(4, 1, 0, 2, 6.0, 3),
    "fp6_e2m3": Element(6, 3, 0, 2, 7.5, 5),
    "fp6_e3m2": Element(6, 2, -2, 4, 28.0, 4),
    "fp8_e4m3": Element(8, 3, -6, 8, 448.0, 5),
}


@dataclass(frozen=True)
class MX(Method):
    """`block` neighbouring channels share a scale 2^k (E8M0); each is an element of a small type. Nothing is fitted.

    Source: OCP Microscaling Formats (MX) Specification v1.0 (2023): k = floor(log2 of the greatest magnitude) minus
    the type's greatest exponent; elements round to nearest, ties to even, and saturate; MXINT8 has 6 fraction bits.
    Our choices: integers are symmetric (-128 is not used, as the specification allows); "int4", which it does not define, is its MXINT8
    with 2 fraction bits; the last block of a vector may be short; a block of zeros has k = -127; unsigned tensors keep the sign bit that
    the format has. element: int8, int4, fp4 (E2M1), fp6_e2m3, fp6_e3m2, fp8_e4m3. block: 32 in the specification.
    """

    stepless = True

    element: str = "fp4"
    block: int = 32

    def __post_init__(self) -> None:
        if not isinstance(self.element, str) or self.element not in ELEMENTS:
            raise FormatError(f"MX.element must be one of {', '.join(ELEMENTS)}, not {self.element!r}")
        check_integer(self, "block", 2, 2**16)

    @property
    def bits(self) -> int:
        """Bits of an element."""
        return ELEMENTS[self.element].bits

    def fit(self, sample: np.ndarray, signed: bool, step: float | None = None) -> Fitted:
        """No step to choose: the sample is checked, a given step refused."""
        if step is not None:
            raise InputError(f"{self.describe()} takes its scales from each block and has no step; {step!r} was given")
        checked_sample(sample, signed)
        return Fitted(self, signed, None)

    @property
    def neighbours(self) -> bool:
        return True

    def decode(self, x: Array, fitted: Fitted, axis: int) -> Array:
        return blockwise(x, axis, self.block, lambda part, along: self._blocks(part, along, fitted.signed))

    def _blocks(self, x: Array, axis: int, signed: bool) -> Array:
        """Blocks along `axis`, each with its own scale."""
        xp = array_api_compat.array_namespace(x)
        element = ELEMENTS[self.element]
        x = x if signed else xp.clip(x, 0.0, None)
        k = xp.clip(exponent(xp.max(xp.abs(x), axis=axis, keepdims=True)) - element.greatest, -127, 127)
        scale = power_of_two(k)
        return xp.clip(minifloat(x / scale, element.mantissa, element.least), -element.most, element.most) * scale

    def count(self, x: Array, fitted: Fitted, axis: int, weight_bits: int) -> Cost:
        lanes = x.shape[axis]
        return Cost(self.bits, 8 * math.ceil(lanes / self.block) / lanes, ELEMENTS[self.element].significand, weight_bits)

    def describe(self) -> str:
        return f"MX{self.element.upper()}" + ("" if self.block == 32 else f", blocks of {self.block}")
