"""Outliers kept in high precision: the accuracy ceiling of outlier handling."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import array_api_compat
import numpy as np

from overq.methods.method import Array, Cost, Fitted, Method, check_fraction, check_integer
from overq.methods.numbers import digit_range, nearest, scaled


@dataclass(frozen=True)
class Threshold(Fitted):
    """threshold: magnitudes above it stay as they are."""

    threshold: float

    def with_steps(self, steps: Callable[[float], Any]) -> Any:
        return replace(super().with_steps(steps), threshold=self.threshold * steps(1.0))


@dataclass(frozen=True)
class HighPrecision(Method):
    """The greatest `fraction` of all values keeps high precision, the rest is uniform.

    Source: Park, Kim, Yoo, "Energy-efficient Neural Network Accelerator Based on Outlier-aware Low-precision Computation" (OLAccel),
    ISCA 2018: 4 bits for most values, 16 for about 3 % of outliers, which are stored apart with their positions; the threshold is
    fixed beforehand from samples.
    Our choices: the fraction counts all values, zeros too; outliers are not rounded at all (so this is a ceiling, and unbounded) but
    counted as `high_bits`; the dense part keeps a place for every value, so an outlier costs bits + high_bits and an index of
    ceil(log2 K) bits; the step of the rest has the least squared error. Step: distance of two low-precision levels.
    bits: 2 to 8. fraction: 0 to below 1. high_bits: 8 to 32.
    """

    fitted = Threshold

    bits: int = 4
    fraction: float = 0.03
    high_bits: int = 16

    def __post_init__(self) -> None:
        check_integer(self, "bits", 2, 8)
        check_integer(self, "high_bits", 8, 32)
        check_fraction(self, "fraction")

    def candidates(self, sample: np.ndarray, signed: bool) -> list:
        # inverted_cdf: a value of the sample itself, with at most the wanted fraction above it; none asked for: none kept
        threshold = float(np.quantile(np.abs(sample), 1 - self.fraction, method="inverted_cdf")) if self.fraction else math.inf
        return [lambda step: Threshold(self, signed, step, threshold)]

    def outliers(self, x: Array, fitted: Threshold) -> Array:
        xp = array_api_compat.array_namespace(x)
        return (xp.abs(x) if fitted.signed else x) > fitted.threshold

    def decode(self, x: Array, fitted: Threshold, axis: int) -> Array:
        assert fitted.step is not None
        xp = array_api_compat.array_namespace(x)
        level = xp.clip(nearest(scaled(x, fitted.step)), *digit_range(self.bits, fitted.signed))
        return xp.where(self.outliers(x, fitted), x, level * fitted.step)

    def count(self, x: Array, fitted: Threshold, axis: int, weight_bits: int) -> Cost:
        xp = array_api_compat.array_namespace(x)
        share = float(xp.mean(xp.astype(self.outliers(x, fitted), xp.float32)))
        index = math.ceil(math.log2(x.shape[axis]))
        width = (1 - share) * self.bits + share * self.high_bits
        return Cost(self.bits + share * self.high_bits, share * index, width, weight_bits)

    def describe(self) -> str:
        return f"high-precision outliers A{self.bits}, {self.fraction:.2%} in {self.high_bits} bits"
