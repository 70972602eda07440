"""OliVe: outlier-victim pairs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import array_api_compat

from overq.methods.method import Array, Cost, Fitted, Method, check_integer
from overq.methods.numbers import lanes_of, magnitude, minifloat, nearest, scaled, with_sign


class Numbers(NamedTuple):
    """normal: greatest normal integer. mantissa, exponent: of the outlier type. least, greatest: outlier magnitudes."""

    normal: int
    mantissa: int
    exponent: int
    least: int
    greatest: int


@dataclass(frozen=True)
class OliVe(Method):
    """Of two neighbouring values an outlier may sacrifice the other (its victim) and take a floating type of the same width.

    Source: Guo et al., "OliVe: Accelerating Large Language Models via Hardware-friendly Outlier-Victim Pair Quantization", ISCA 2023
    (arXiv 2304.07493): one code of the normal type marks the victim, which counts as 0; of two outliers the greater
    survives; outliers are abfloat, magnitude (2^m + mantissa) << (exponent + bias), with the bias that puts the type just above the normal
    one: int4 (-7 … 7) goes with E2M1, bias 2: 12, 16, 24, 32, 48, 64, 96; int8 with E4M3, bias 4; the all-zero code is not used and
    outliers stay within 2^15; the threshold comes from the least squared error.
    Our choices: pairs are lanes 2i and 2i+1, a last odd lane has an empty victim beside it; a value is an outlier where the outlier type
    is nearer than the greatest normal value; ties of two outliers keep the lower lane; other widths have two exponent bits (8 bits: four)
    and the smallest bias above the normal type. The paper has only signed types; unsigned tensors use the sign's bit: normals
    0 … 2^b-2 (the top code marks the victim), abfloat with one more mantissa bit. The paper's flint4 normals are left out.
    bits: 3 to 8. Step: distance of two normal levels.
    """

    bits: int = 4

    def __post_init__(self) -> None:
        check_integer(self, "bits", 3, 8)

    def numbers(self, signed: bool) -> Numbers:
        """The two number types of a tensor."""
        normal = 2 ** (self.bits - 1) - 1 if signed else 2**self.bits - 2
        exponent_bits = 4 if self.bits == 8 else 2
        mantissa = self.bits - signed - exponent_bits
        first = 2**mantissa + 1 if mantissa else 2  # the all-zero code is not used
        bias = next(bias for bias in range(16) if first << bias > normal)
        last = (2 ** (mantissa + 1) - 1) << (2**exponent_bits - 1 + bias)
        return Numbers(normal, mantissa, mantissa + bias, first << bias, min(last, 2**15))

    @property
    def neighbours(self) -> bool:
        return True

    def decode(self, x: Array, fitted: Fitted, axis: int) -> Array:
        assert fitted.step is not None
        xp = array_api_compat.array_namespace(x)
        numbers = self.numbers(fitted.signed)
        size = magnitude(x, fitted.signed)
        v = xp.clip(scaled(size, fitted.step), None, float(numbers.greatest))
        y = xp.clip(nearest(v), None, float(numbers.normal))
        float_value = xp.clip(minifloat(v, numbers.mantissa, numbers.exponent), float(numbers.least), None)
        outlier = v > (numbers.normal + numbers.least) / 2
        paired = x.shape[axis] // 2 * 2
        even, odd, rest = lanes_of(axis, 0, paired, 2), lanes_of(axis, 1, paired, 2), lanes_of(axis, paired)
        first = outlier[even] & (size[even] >= size[odd])
        second = outlier[odd] & ~first
        y[even] = xp.where(first, float_value[even], xp.where(second, 0.0, y[even]))
        y[odd] = xp.where(second, float_value[odd], xp.where(first, 0.0, y[odd]))
        y[rest] = xp.where(outlier[rest], float_value[rest], y[rest])
        y = y * fitted.step
        return with_sign(y, x) if fitted.signed else y

    def count(self, x: Array, fitted: Fitted, axis: int, weight_bits: int) -> Cost:
        return Cost(self.bits, 0, self.bits, weight_bits)

    def describe(self) -> str:
        return f"OliVe A{self.bits}"
