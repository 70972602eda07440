"""OverQ's first form (2019): an outlier overwrites its neighbour, zero or not."""

from __future__ import annotations

from dataclasses import dataclass

import array_api_compat

from overq.errors import FormatError
from overq.methods.method import Array, Cost, Fitted, Method, check_integer
from overq.methods.numbers import digit_range, lanes_of, nearest, scaled
from overq.spec import Format


@dataclass(frozen=True)
class OverQFirst(Method):
    """An outlier takes the next lane for its high digit; the value that was there is lost (becomes 0).

    Source: abstract of arXiv 1910.06909v1, "letting them overwrite adjacent values". Its full text is not at hand; our choices:
    the neighbour is the next lane of the same tile, as in v2; an outlier never overwrites another outlier (that would lose more than
    clipping does); two digits spell what they spell in v2's format.
    bits: 2 to 8. lanes: tile width, None is the whole vector. Step: distance of two levels.
    """

    bits: int = 4
    lanes: int | None = None

    def __post_init__(self) -> None:
        check_integer(self, "bits", 2, 8)
        if self.lanes is not None:
            check_integer(self, "lanes", 1, 2**31 - 1)
        if self.lanes == 1:
            raise FormatError("OverQFirst.lanes is 1: a one-lane tile has no neighbour to overwrite; use 2 or more, or None")

    @property
    def neighbours(self) -> bool:
        return True

    def decode(self, x: Array, fitted: Fitted, axis: int) -> Array:
        assert fitted.step is not None
        xp = array_api_compat.array_namespace(x)
        wide = Format(self.bits, 1, self.bits, 0, signed=fitted.signed)
        level = nearest(scaled(x, fitted.step))
        digit = xp.clip(level, *digit_range(self.bits, fitted.signed))
        outlier = level != digit
        here, after = lanes_of(axis, 0, -1), lanes_of(axis, 1)
        served = outlier[here] & ~outlier[after]
        if self.lanes is not None:
            inside = xp.arange(1, x.shape[axis], device=array_api_compat.device(x)) % self.lanes != 0
            served = served & xp.reshape(inside, (-1,) + (1,) * (x.ndim - axis - 1))
        value = xp.asarray(digit, copy=True)
        value[here] = xp.where(served, xp.clip(level[here], float(wide.wide_min), float(wide.wide_max)), value[here])
        value[after] = xp.where(served, 0.0, value[after])
        return value * fitted.step

    def count(self, x: Array, fitted: Fitted, axis: int, weight_bits: int) -> Cost:
        return Cost(self.bits, 1, self.bits, weight_bits)

    def describe(self) -> str:
        return f"OverQ v1 A{self.bits}" + ("" if self.lanes is None else f", tiles of {self.lanes}")
