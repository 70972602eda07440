"""Counts: how many zeros, outliers and served values, and the coverage theory expects (design, section 1.3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from overq.spec.encode import encode, give_way, is_outlier, is_zero, saturate
from overq.spec.format import Format
from overq.spec.modes import State


@dataclass(frozen=True)
class Counts:
    """Lane counts of encoded rows; they add.

    values    lanes looked at
    zeros     free lanes, n == 0
    outliers  lanes that one digit clips, seen before t saturates, so also where the format has no high digit
    served    outliers that got a second digit (range overwrite)
    precise   normal values that got a fraction digit (precision overwrite)
    evicted   normal values that gave way to an outlier; they are no zeros
    """

    values: int = 0
    zeros: int = 0
    outliers: int = 0
    served: int = 0
    precise: int = 0
    evicted: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.values + other.values,
            self.zeros + other.zeros,
            self.outliers + other.outliers,
            self.served + other.served,
            self.precise + other.precise,
            self.evicted + other.evicted,
        )

    @property
    def zero_rate(self) -> float:
        return self.zeros / self.values if self.values else 0.0

    @property
    def outlier_rate(self) -> float:
        return self.outliers / self.values if self.values else 0.0

    @property
    def coverage(self) -> float:
        """Served outliers / outliers; NaN where there is no outlier."""
        return self.served / self.outliers if self.outliers else float("nan")


def expected_coverage(zero_rate: float, cascade: int) -> float:
    """1 - (1-p)^c: an isolated outlier among independent zeros of probability p."""
    return 1.0 - (1.0 - zero_rate) ** cascade


def seen(fmt: Format) -> tuple[int, int]:
    """(least, greatest) t that counting tells apart: what two digits spell and, where there is no high digit, one level beyond, so
    that an outlier counts although the encoder sees it saturated. Unsigned, what is below 0 is a zero."""
    low = min(fmt.t_min, (fmt.digit_min - 1) * fmt.unit) if fmt.signed else 0
    return low, max(fmt.t_max, (fmt.digit_max + 1) * fmt.unit)


def count(row: Sequence[int], fmt: Format) -> Counts:
    """The counts of one channel vector of integers t."""
    low, high = seen(fmt)
    row = [max(low, min(high, t)) for t in row]
    states = [lane.state for lane in encode(row, fmt)]
    before = [saturate(t, fmt) for t in row]
    return Counts(
        values=len(row),
        zeros=sum(is_zero(t, fmt) for t in row),
        outliers=sum(is_outlier(t, fmt) for t in row),
        served=states.count(State.RANGE),
        precise=states.count(State.PRECISION),
        evicted=sum(a != b for a, b in zip(before, give_way(before, fmt), strict=True)),
    )
