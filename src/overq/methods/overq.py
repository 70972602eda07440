"""OverQ, the method of this package."""

from __future__ import annotations

from dataclasses import InitVar, dataclass
from typing import Any

from overq.kernels import get
from overq.methods.method import Array, Cost, Fitted, Method
from overq.methods.numbers import device_of
from overq.spec import Format
from overq.spec.format import second_bits


@dataclass(frozen=True)
class OverQ(Method):
    """Outliers and normal values take a second digit from a nearby zero.

    Source: OverQ, arXiv 1910.06909v2; the definition is `overq.spec`, the fields are those of `Format` (there is `signed` only per
    tensor). Step: the format's step. Not idempotent: a value that lost its second zero's fraction digit may round to another level.
    """

    idempotent = False

    bits: int = 4
    cascade: int = 4
    range_bits: int | None = None
    fraction_bits: int | None = None
    policy: str = "first"
    lanes: int | None = None
    evict: int = 0
    range_overwrite: InitVar[bool | None] = None  # the old names, see Format
    precision_overwrite: InitVar[bool | None] = None

    def __post_init__(self, range_overwrite: bool | None, precision_overwrite: bool | None) -> None:
        switches = {"range_overwrite": range_overwrite, "precision_overwrite": precision_overwrite}
        old: dict[str, Any] = {name: value for name, value in switches.items() if value is not None}
        made = Format(self.bits, self.cascade, self.range_bits, self.fraction_bits, self.policy, False, self.lanes, self.evict, **old)
        if old:
            object.__setattr__(self, "range_bits", made.range_bits)
            object.__setattr__(self, "fraction_bits", made.fraction_bits)

    @classmethod
    def of(cls, fmt: Format) -> OverQ:
        """The method whose tensors have that format; its `signed` is left to the tensor."""
        usual = second_bits(fmt.bits, False)
        high, fraction = (None if not fmt.cascade or bits == usual else bits for bits in (fmt.range_bits, fmt.fraction_bits))
        return cls(fmt.bits, fmt.cascade, high, fraction, fmt.policy, fmt.lanes, fmt.evict)

    @property
    def neighbours(self) -> bool:
        return self.cascade > 0

    def format(self, signed: bool) -> Format:
        if signed and self.range_bits is None:
            return Format(self.bits, self.cascade, None, self.fraction_bits, self.policy, signed, self.lanes, self.evict)
        return Format(self.bits, self.cascade, self.range_bits, self.fraction_bits, self.policy, lanes=self.lanes, evict=self.evict).with_(
            signed=signed
        )

    def decode(self, x: Array, fitted: Fitted, axis: int) -> Array:
        fmt = self.format(fitted.signed)
        return get("auto", fmt, device_of(x)).overwrite(x, fitted.step, fmt, axis)

    def count(self, x: Array, fitted: Fitted, axis: int, weight_bits: int) -> Cost:
        return Cost(self.bits, self.format(fitted.signed).state_bits, self.bits, weight_bits)

    def describe(self) -> str:
        return f"OverQ {self.format(False).label}"
