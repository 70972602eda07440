"""NVFP4: blocks of 16 share a scale with a mantissa."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import array_api_compat

from overq.methods.blocks import blockwise
from overq.methods.method import Array, Cost, Fitted, Method, check_integer
from overq.methods.mx import ELEMENTS
from overq.methods.numbers import minifloat

E4M3 = ELEMENTS["fp8_e4m3"]
LEAST = 2.0**-9  # the smallest positive E4M3


@dataclass(frozen=True)
class NVFP4(Method):
    """`block` neighbouring channels share a scale in E4M3, on top of one step for the tensor; each is E2M1 (FP4).

    Source: NVIDIA, "Pretraining Large Language Models with NVFP4" (2025, arXiv 2509.25149), section 2: blocks of 16, the scale is the
    block's greatest magnitude over 6 in units of the tensor's float32 scale, rounded to E4M3; elements round to nearest, ties to even.
    Our choices: the tensor's scale, there the greatest magnitude over 6 · 448, has the least squared error on the sample; a scale is at
    least 2^-9; the last block may be short; unsigned tensors keep the sign bit that the format has. One step a vector: `Dynamic`.
    block: 16 in the source. Step: unit of the blocks' scales.
    """

    idempotent = False
    levels = False

    block: int = 16

    def __post_init__(self) -> None:
        check_integer(self, "block", 2, 2**16)

    @property
    def bits(self) -> int:
        """Bits of an element."""
        return 4

    @property
    def neighbours(self) -> bool:
        return True

    def decode(self, x: Array, fitted: Fitted, axis: int) -> Array:
        return blockwise(x, axis, self.block, lambda part, along: self._blocks(part, fitted, along))

    def _blocks(self, x: Array, fitted: Fitted, axis: int) -> Array:
        xp = array_api_compat.array_namespace(x)
        step: Any = fitted.step
        if getattr(step, "ndim", 0) and step.ndim < x.ndim:
            step = xp.expand_dims(step, axis=axis)  # one for all blocks of a vector
        x, element = x if fitted.signed else xp.clip(x, 0.0, None), ELEMENTS["fp4"]
        most = xp.max(xp.abs(x), axis=axis, keepdims=True) / element.most / step
        scale = xp.clip(minifloat(xp.clip(most, None, E4M3.most), E4M3.mantissa, E4M3.least), LEAST, E4M3.most) * step
        return xp.clip(minifloat(x / scale, element.mantissa, element.least), -element.most, element.most) * scale

    def count(self, x: Array, fitted: Fitted, axis: int, weight_bits: int) -> Cost:
        lanes = x.shape[axis]
        return Cost(4, 8 * math.ceil(lanes / self.block) / lanes, ELEMENTS["fp4"].significand, weight_bits)

    def describe(self) -> str:
        return "NVFP4" + ("" if self.block == 16 else f", blocks of {self.block}")
