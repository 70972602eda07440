"""OverQ, the method of this package."""

from __future__ import annotations

from dataclasses import dataclass

from overq.kernels import get
from overq.methods.method import Array, Cost, Fitted, Method
from overq.spec import Format


@dataclass(frozen=True)
class OverQ(Method):
    """Outliers and normal values take a second digit from a nearby zero.

    Source: OverQ, arXiv 1910.06909v2; the definition is `overq.spec`, the fields are those of `Format` (there is `signed` only per
    tensor). Step: the format's step. Not idempotent: a value that lost its second zero's fraction digit may round to another level.
    """

    idempotent = False

    bits: int = 4
    cascade: int = 4
    range_overwrite: bool = True
    precision_overwrite: bool = True
    policy: str = "first"
    lanes: int | None = None

    def __post_init__(self) -> None:
        self.format(False)

    def format(self, signed: bool) -> Format:
        """The number format of a tensor."""
        return Format(self.bits, self.cascade, self.range_overwrite, self.precision_overwrite, self.policy, signed, self.lanes)

    def decode(self, x: Array, fitted: Fitted, axis: int) -> Array:
        fmt = self.format(fitted.signed)
        return get("auto", fmt).overwrite(x, fitted.step, fmt, axis)

    def count(self, x: Array, fitted: Fitted, axis: int, weight_bits: int) -> Cost:
        return Cost(self.bits, self.format(fitted.signed).state_bits, self.bits, weight_bits)

    def describe(self) -> str:
        fmt = self.format(False)
        tile = "" if self.lanes is None else f", tiles of {self.lanes}"
        return f"OverQ A{self.bits}, {'+'.join(fmt.modes) or 'plain'}, cascade {self.cascade}, {self.policy}{tile}"
