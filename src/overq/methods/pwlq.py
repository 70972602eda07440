"""PWLQ: piecewise linear quantization with one breakpoint."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import array_api_compat
import numpy as np

from overq.methods.method import Array, Cost, Fitted, Method, check_integer
from overq.methods.numbers import magnitude, nearest, scaled, with_sign

RATIOS = tuple(2.0 ** (k / 2) for k in range(11))  # tail step / centre step, 1 … 32


@dataclass(frozen=True)
class TwoPiece(Fitted):
    """tail: distance of two levels beyond the breakpoint (step: before it)."""

    tail: float

    def with_steps(self, steps: Callable[[float], Any]) -> Any:
        return replace(super().with_steps(steps), tail=steps(self.tail))


@dataclass(frozen=True)
class PWLQ(Method):
    """A dense centre [-p, p] and a wide tail up to m, with the same number of levels each.

    Source: Fang et al., "Post-Training Piecewise Linear Quantization for Deep Neural Networks", ECCV 2020 (arXiv 2002.00104):
    non-overlapping regions, sign(r) · uniform(|r|) over [0, p] and over [p, m], b-1 bits each beside the sign, and one bit that tells
    the region. The paper quantizes weights so and activations plainly; here it is applied to activations.
    Our choices: unsigned tensors spend the sign's bit on levels (b bits per region); p and m come from the least squared error on the
    sample (the paper searches p and takes the greatest magnitude as m), with m - p between 1 and 32 times p in half octaves; the point p
    belongs to the centre.
    bits: 2 to 8, without the region bit. Step: distance of two levels of the centre.
    """

    fitted = TwoPiece

    bits: int = 4

    def __post_init__(self) -> None:
        check_integer(self, "bits", 2, 8)

    def candidates(self, sample: np.ndarray, signed: bool) -> list:
        def make(ratio: float) -> object:
            return lambda step: TwoPiece(self, signed, step, float(np.float32(step * ratio)))

        return [make(ratio) for ratio in RATIOS]

    def top(self, signed: bool) -> float:
        """Greatest level of a region."""
        return 2.0 ** (self.bits - signed) - 1

    def decode(self, x: Array, fitted: TwoPiece, axis: int) -> Array:
        assert fitted.step is not None
        xp = array_api_compat.array_namespace(x)
        top, size = self.top(fitted.signed), magnitude(x, fitted.signed)
        end: Any = top * fitted.step
        breakpoint_ = end if getattr(end, "ndim", 0) else float(np.float32(end))
        centre = xp.clip(nearest(scaled(size, fitted.step)), None, top) * fitted.step
        tail = xp.clip(nearest(scaled(size - breakpoint_, fitted.tail)), None, top) * fitted.tail + breakpoint_
        y = xp.where(size <= breakpoint_, centre, tail)
        return with_sign(y, x) if fitted.signed else y

    def count(self, x: Array, fitted: TwoPiece, axis: int, weight_bits: int) -> Cost:
        return Cost(self.bits, 1, self.bits, weight_bits)

    def describe(self) -> str:
        return f"PWLQ A{self.bits}"
