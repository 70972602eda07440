"""Plain uniform quantization: the baseline A3 … A8 of every plot."""

from __future__ import annotations

from dataclasses import dataclass

from overq.kernels import get
from overq.methods.method import Array, Cost, Fitted, Method, check_integer
from overq.methods.numbers import device_of
from overq.spec import Format


@dataclass(frozen=True)
class Uniform(Method):
    """One step for the whole tensor, nearest level, clipped.

    Source: textbook; computed by the OverQ format with everything switched off, so that it differs from OverQ in nothing else.
    bits: 2 to 8. Step: distance of two levels. Signed tensors use -2^(b-1) … 2^(b-1)-1.
    """

    bits: int = 4

    def __post_init__(self) -> None:
        check_integer(self, "bits", 2, 8)

    def format(self, signed: bool) -> Format:
        return Format.plain(self.bits, signed)

    def decode(self, x: Array, fitted: Fitted, axis: int) -> Array:
        return get("auto", device=device_of(x)).overwrite(x, fitted.step, self.format(fitted.signed), axis)

    def count(self, x: Array, fitted: Fitted, axis: int, weight_bits: int) -> Cost:
        return Cost(self.bits, 0, self.bits, weight_bits)

    def describe(self) -> str:
        return f"uniform A{self.bits}"
