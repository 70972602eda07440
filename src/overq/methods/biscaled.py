"""BiScaled: two scale factors for one tensor."""

from __future__ import annotations

import math
from dataclasses import dataclass

import array_api_compat
import numpy as np

from overq.methods.method import Array, Cost, Fitted, Method, check_integer
from overq.methods.numbers import magnitude, nearest, scaled, with_sign


@dataclass(frozen=True)
class TwoScales(Fitted):
    """shift: the wide scale's step is step · 2^shift."""

    shift: int


@dataclass(frozen=True)
class BiScaled(Method):
    """Every value has `bits` bits, at the fine scale if it fits there, else at a wide scale 2^shift times as coarse.

    Source: Jain et al., "BiScaled-DNN: Quantizing Long-tailed Datastructures with Two Scale Factors for Deep Neural Networks", DAC 2019
    (abstract): same number of bits for both, scale-fine for small and scale-wide for large magnitudes, factors found from the data, a
    shift in the processing element, and a block-sparse list of the indices of wide elements.
    Our choices: step and shift (1 to 8) have the least squared error on the sample; a value is wide where its fine level does not fit;
    signed tensors use symmetric levels. Metadata per block of `block` lanes: the number of wide elements, and an index for each.
    bits: 2 to 8. Step: distance of two fine levels.
    """

    fitted = TwoScales

    bits: int = 4
    block: int = 64

    def __post_init__(self) -> None:
        check_integer(self, "bits", 2, 8)
        check_integer(self, "block", 2, 2**16)

    def candidates(self, sample: np.ndarray, signed: bool) -> list:
        def make(shift: int) -> object:
            return lambda step: TwoScales(self, signed, step, shift)

        return [make(shift) for shift in range(1, 9)]

    def top(self, signed: bool) -> float:
        """Greatest level of a scale."""
        return 2.0 ** (self.bits - signed) - 1

    def wide(self, x: Array, fitted: TwoScales) -> Array:
        """Where the fine scale does not reach."""
        assert fitted.step is not None
        return nearest(scaled(magnitude(x, fitted.signed), fitted.step)) > self.top(fitted.signed)

    def decode(self, x: Array, fitted: TwoScales, axis: int) -> Array:
        assert fitted.step is not None
        xp = array_api_compat.array_namespace(x)
        v, top = scaled(magnitude(x, fitted.signed), fitted.step), self.top(fitted.signed)
        fine = nearest(v)
        coarse = xp.clip(nearest(v * 2.0**-fitted.shift), None, top) * 2.0**fitted.shift
        y = xp.where(fine <= top, fine, coarse) * fitted.step
        return with_sign(y, x) if fitted.signed else y

    def count(self, x: Array, fitted: TwoScales, axis: int, weight_bits: int) -> Cost:
        xp = array_api_compat.array_namespace(x)
        share = float(xp.mean(xp.astype(self.wide(x, fitted), xp.float32)))
        lanes = x.shape[axis]
        block = min(self.block, lanes)
        counters = math.ceil(lanes / block) * math.ceil(math.log2(block + 1)) / lanes
        return Cost(self.bits, share * math.ceil(math.log2(block)) + counters, self.bits, weight_bits)

    def describe(self) -> str:
        return f"BiScaled A{self.bits}, blocks of {self.block}"
