"""Deliberately wrong implementations: the definition with one function replaced. Each must be rejected by the agreement body."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from importlib import import_module
from typing import Any
from unittest.mock import patch

import numpy as np

from overq.kernels.scale import factors
from overq.spec import Counts, Format, Lane, State

spec_encode = import_module("overq.spec.encode")
spec_dot = import_module("overq.spec.dot")
spec_counts = import_module("overq.spec.counts")
TRUE = {
    name: getattr(spec_encode, name)
    for name in (
        "reach",
        "choose",
        "range_pair",
        "precision_pair",
        "_split",
        "fine",
        "level",
        "one_digit",
        "encode",
        "is_outlier",
        "gives_way",
    )
}


class Implementation:
    """A kernel backend made of the definition, with some of its functions replaced."""

    def __init__(self, **replaced: Callable[..., Any]) -> None:
        self.replaced = replaced

    def _patched(self) -> ExitStack:
        stack = ExitStack()
        for name, function in self.replaced.items():
            for module in (spec_encode, spec_counts, spec_dot):
                if hasattr(module, name):
                    stack.enter_context(patch.object(module, name, function))
        return stack

    def encode(self, t: np.ndarray, fmt: Format, axis: int = -1) -> tuple[np.ndarray, np.ndarray]:
        with self._patched():
            t = np.moveaxis(t, axis, -1)
            lanes = np.array([spec_encode.encode(row, fmt) for row in t.reshape(-1, t.shape[-1]).tolist()]).reshape(*t.shape, 2)
        return np.moveaxis(lanes[..., 0], -1, axis), np.moveaxis(lanes[..., 1], -1, axis)

    def effective(self, digits: np.ndarray, states: np.ndarray, fmt: Format) -> np.ndarray:
        with self._patched():
            pairs = zip(digits.reshape(-1, digits.shape[-1]).tolist(), states.reshape(-1, states.shape[-1]).tolist(), strict=True)
            rows = [[Lane(d, State(s)) for d, s in zip(*pair, strict=True)] for pair in pairs]
            return np.array([spec_dot.effective(row, fmt) for row in rows]).reshape(digits.shape)

    def counts(self, t: np.ndarray, fmt: Format, axis: int = -1) -> Counts:
        with self._patched():
            t = np.moveaxis(t, axis, -1)
            return sum((spec_counts.count(row, fmt) for row in t.reshape(-1, t.shape[-1]).tolist()), Counts())

    def overwrite(self, x: np.ndarray, step: float, fmt: Format, axis: int = -1) -> np.ndarray:
        r, q = factors(step, fmt)
        digits, states = self.encode(np.floor(x * r).astype(np.int64), fmt, axis)
        E = self.effective(np.moveaxis(digits, axis, -1), np.moveaxis(states, axis, -1), fmt)
        return np.moveaxis(E, -1, axis).astype(np.float32) * q


def _reach(cascade: int = 0, tiles: bool = True, stop_at_zero: bool = True) -> Callable[..., range]:
    def reach(zero: int, row: Sequence[int], fmt: Format) -> range:
        edge = zero - zero % fmt.lanes if tiles and fmt.lanes else 0
        start = zero
        while start > max(edge, zero - fmt.cascade - cascade) and not (stop_at_zero and spec_encode.is_zero(row[start - 1], fmt)):
            start -= 1
        return range(start, zero)

    return reach


def _choose(rule: Callable[[list[int], Sequence[int], Format], int]) -> Callable[..., Any]:
    """`choose` with another rule for which of the outliers is served."""

    def choose(zero: int, row: Sequence[int], fmt: Format) -> Any:
        chosen = TRUE["choose"](zero, row, fmt)
        if chosen is None or chosen[1] is not State.RANGE:
            return chosen
        outliers = [lane for lane in spec_encode.reach(zero, row, fmt) if spec_encode.is_outlier(row[lane], fmt)]
        return rule(outliers, row, fmt), State.RANGE

    return choose


def _higher_on_a_tie(outliers: list[int], row: Sequence[int], fmt: Format) -> int:
    if fmt.policy == "first":
        return outliers[0]
    return max(outliers, key=lambda lane: (spec_encode.clipping_error(row[lane], fmt), lane))


def _fraction_of_the_farthest(zero: int, row: Sequence[int], fmt: Format) -> Any:
    chosen = TRUE["choose"](zero, row, fmt)
    return (TRUE["reach"](zero, row, fmt)[0], State.PRECISION) if chosen is not None and chosen[1] is State.PRECISION else chosen


def _fraction_before_range(zero: int, row: Sequence[int], fmt: Format) -> Any:
    next_door = zero - 1 in TRUE["reach"](zero, row, fmt) and not TRUE["is_outlier"](row[zero - 1], fmt)
    return (zero - 1, State.PRECISION) if fmt.precision_on and next_door else TRUE["choose"](zero, row, fmt)


def _edit(change: Callable[[Lane], Lane]) -> Callable[..., list[Lane]]:
    return lambda row, fmt: [change(lane) for lane in TRUE["encode"](row, fmt)]


def _swapped(t: int, fmt: Format) -> tuple[int, int]:
    low, high = TRUE["range_pair"](t, fmt)
    return high, low


def _unbalanced(value: int, bits: int, signed: bool) -> tuple[int, int]:
    return value % (1 << bits), value >> bits


def _fraction_of_a_level(t: int, fmt: Format) -> tuple[int, int]:
    """As if every fraction digit had b bits."""
    value = max(fmt.fine_min, min(fmt.fine_max, TRUE["fine"](t)))
    fraction, whole = TRUE["_split"](value, fmt.bits, fmt.signed)
    return whole, fraction


def _wide_high_digit(t: int, fmt: Format) -> tuple[int, int]:
    """As if every high digit had b bits: saturates too late."""
    return TRUE["_split"](TRUE["level"](t, fmt), fmt.bits, fmt.signed)


def _gives_way(tiles: bool = True, zero_stops: bool = True, clipped: bool = True, first: bool = True, reach: int = 0) -> Callable[..., Any]:
    def gives_way(outlier: int, row: Sequence[int], fmt: Format) -> int | None:
        n = TRUE["level"](row[outlier], fmt)
        most = min(fmt.evict, abs(n - TRUE["one_digit"](row[outlier], fmt))) if clipped else fmt.evict
        edge = outlier - outlier % fmt.lanes + fmt.lanes if fmt.lanes and tiles else len(row)
        found = []
        for lane in range(outlier + 1, min(outlier + fmt.cascade + 1 + reach, edge, len(row))):
            if spec_encode.is_zero(row[lane], fmt):
                if zero_stops:
                    return None
                break
            if TRUE["is_outlier"](row[lane], fmt):
                break
            if abs(TRUE["level"](row[lane], fmt)) <= most:
                found.append(lane)
        return (found[0] if first else found[-1]) if found else None

    return gives_way


BROKEN = {
    "cascade one too long": Implementation(reach=_reach(cascade=1)),
    "cascade one too short": Implementation(reach=_reach(cascade=-1)),
    "reaches across a tile's edge": Implementation(reach=_reach(tiles=False)),
    "reaches past the previous zero": Implementation(reach=_reach(stop_at_zero=False)),
    "serves the nearest outlier": Implementation(choose=_choose(lambda outliers, row, fmt: outliers[-1])),
    "tie to the higher lane": Implementation(choose=_choose(_higher_on_a_tie)),
    "fraction of the farthest value": Implementation(choose=_fraction_of_the_farthest),
    "fraction before range": Implementation(choose=_fraction_before_range),
    "high and low digit swapped": Implementation(range_pair=_swapped),
    "digits not balanced": Implementation(_split=_unbalanced),
    "a fraction of b bits": Implementation(precision_pair=_fraction_of_a_level),
    "a high digit of b bits": Implementation(range_pair=_wide_high_digit, saturate=lambda t, fmt: t),
    "fraction does not saturate": Implementation(
        precision_pair=lambda t, fmt: TRUE["_split"](TRUE["fine"](t), fmt.fraction_bits, fmt.signed)[::-1]
    ),
    "lost sign": Implementation(one_digit=lambda t, fmt: abs(TRUE["one_digit"](t, fmt))),
    "rounds down": Implementation(level=lambda t, fmt: t >> (fmt.fraction_bits + 1)),
    "ties down": Implementation(level=lambda t, fmt: (t + fmt.unit // 2 - 1) >> (fmt.fraction_bits + 1)),
    "fraction rounds down": Implementation(fine=lambda t: t >> 1),
    "does not saturate": Implementation(saturate=lambda t, fmt: t),
    "greatest digit counts as an outlier": Implementation(is_outlier=lambda t, fmt: TRUE["level"](t, fmt) >= fmt.digit_max),
    "nothing gives way": Implementation(gives_way=lambda outlier, row, fmt: None),
    "gives way although a zero serves": Implementation(gives_way=_gives_way(zero_stops=False)),
    "gives way across a tile's edge": Implementation(gives_way=_gives_way(tiles=False)),
    "gives way for less than it loses": Implementation(gives_way=_gives_way(clipped=False)),
    "the last gives way": Implementation(gives_way=_gives_way(first=False)),
    "gives way out of reach": Implementation(gives_way=_gives_way(reach=1)),
    "gives way from too near only": Implementation(gives_way=_gives_way(reach=-1)),
    "moved lanes not marked": Implementation(
        encode=_edit(lambda lane: Lane(lane.digit, State.OWN if lane.state == State.MOVED else lane.state))
    ),
    "state codes swapped": Implementation(encode=_edit(lambda lane: Lane(lane.digit, State((0, 2, 1, 3)[lane.state])))),
    "wrong neighbour's weight": Implementation(source=lambda lane, state: max(0, lane - 2 * (state != State.OWN))),
    "own weight": Implementation(source=lambda lane, state: lane),
}
