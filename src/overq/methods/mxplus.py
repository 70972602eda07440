"""MX+: the greatest of a block needs no exponent."""

from __future__ import annotations

import math
from dataclasses import dataclass

import array_api_compat

from overq.errors import FormatError
from overq.methods.blocks import blockwise
from overq.methods.method import Array, Cost, Fitted
from overq.methods.mx import ELEMENTS, MX
from overq.methods.numbers import exponent, minifloat, power_of_two


@dataclass(frozen=True)
class MXPlus(MX):
    """MX with a floating element type, whose greatest magnitude of a block spends its exponent's bits on its mantissa.

    Source: Lee et al., "MX+: Pushing the Limits of Microscaling Formats for Efficient Large Language Model Serving", MICRO 2025: the
    scale is chosen so that the block's greatest has the type's greatest exponent, so it need not say it; its place in the block is stored.
    Our choices: of equal magnitudes the first; metadata is the shared 8-bit scale and ceil(log2 block) bits for the place (the paper keeps
    a byte); the paper's MX++, which rescales the others, is left out. element: fp4, fp6_e2m3, fp6_e3m2, fp8_e4m3. block: 32.
    """

    idempotent = False  # what rounds up to the greatest's place may take it

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.element.startswith("int"):
            raise FormatError(f"MXPlus.element must be a floating type, which has an exponent to spend, not {self.element!r}")

    def decode(self, x: Array, fitted: Fitted, axis: int) -> Array:
        return blockwise(x, axis, self.block, lambda part, along: self._extended(part, along, fitted.signed))

    def _extended(self, x: Array, axis: int, signed: bool) -> Array:
        """Blocks along `axis`."""
        xp = array_api_compat.array_namespace(x)
        element = ELEMENTS[self.element]
        x = x if signed else xp.clip(x, 0.0, None)
        size = xp.abs(x)
        most = xp.max(size, axis=axis, keepdims=True)
        scale = power_of_two(xp.clip(exponent(most) - element.greatest, -127, 127))
        others = xp.clip(minifloat(x / scale, element.mantissa, element.least), -element.most, element.most)
        wide = element.bits - 1  # of the significand: all but the sign
        top = (2.0 - 2.0**-wide) * 2.0**element.greatest
        greatest = xp.clip(minifloat(x / scale, wide, element.greatest), -top, top)
        lanes = xp.reshape(xp.arange(x.shape[axis], device=array_api_compat.device(x)), (-1,) + (1,) * (x.ndim - axis - 1))
        return xp.where(lanes == xp.expand_dims(xp.argmax(size, axis=axis), axis=axis), greatest, others) * scale

    def count(self, x: Array, fitted: Fitted, axis: int, weight_bits: int) -> Cost:
        lanes, wide = x.shape[axis], ELEMENTS[self.element].bits + 1
        metadata = (8 + math.ceil(math.log2(min(self.block, lanes)))) * math.ceil(lanes / self.block) / lanes
        return Cost(self.bits, metadata, wide, weight_bits)

    def describe(self) -> str:
        return f"MX{self.element.upper()}+" + ("" if self.block == 32 else f", blocks of {self.block}")
