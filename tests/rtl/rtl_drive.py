"""Helpers of the RTL tests: configurations to try, random rows, and drivers for Amaranth's simulator."""

from __future__ import annotations

import random

from amaranth.sim import Simulator

from overq.rtl import RowState
from overq.spec import ArrayConfig, Format, encode

FORMATS = {
    "plain4": Format.plain(4),
    "plain3s": Format.plain(3, signed=True),
    "range_c1": Format(4, 1, 4, 0),
    "range_c4": Format(4, cascade=4, fraction_bits=0),
    "precision": Format(4, cascade=1, range_bits=0),
    "precision_largest": Format(3, cascade=3, range_bits=0, policy="largest"),
    "full_c1": Format(4, 1, 4, 4),
    "full_c4": Format(4, 4, 4, 4),
    "full_largest": Format(3, 3, 3, 3, policy="largest"),
    "full_signed": Format(4, 3, 4, 4, signed=True),
    "one_bit": Format(4, 4, 3, 3),
    "one_bit_largest": Format(4, 3, 1, 2, policy="largest"),
    "one_bit_signed": Format(4, 4, 3, 2, signed=True),
    "gives_way": Format(4, 4, 3, 3, evict=2),
    "gives_way_largest": Format(3, 3, 2, 2, policy="largest", evict=3),
    "gives_way_signed": Format(4, 3, 2, 0, signed=True, evict=1),
    "full_signed_largest": Format(2, 2, 2, 2, signed=True, policy="largest"),
}


def random_row(fmt: Format, lanes: int, rng: random.Random) -> list[int]:
    """A row of t with many zeros, outliers, values beyond the range, and ties."""
    unit = fmt.unit

    def value() -> int:
        kind = rng.random()
        if kind < 0.05:
            return rng.choice((-1, 1) if fmt.signed else (1,)) * rng.randint(1, 3) * unit  # what may give way
        if kind < 0.35:
            return rng.randint(-(unit // 2) if fmt.signed else 0, unit // 2 - 1)  # zeros
        if kind < 0.65:
            return rng.randint(fmt.digit_min * unit, fmt.digit_max * unit)  # ordinary
        if kind < 0.75:
            return rng.randint(fmt.digit_min, fmt.digit_max) * unit + unit // 2  # ties
        if kind < 0.9:
            return rng.randint(fmt.t_min, fmt.t_max) // rng.choice((1, 2, 4))  # outliers
        return rng.choice((fmt.t_min, fmt.t_max, fmt.t_max - 1, fmt.digit_max * unit + unit // 2))

    return [value() for _ in range(lanes)]


def random_weights(config: ArrayConfig, rng: random.Random) -> list[list[int]]:
    """rows × columns weights, extremes included."""
    low, high = -(1 << (config.weight_bits - 1)), (1 << (config.weight_bits - 1)) - 1
    return [
        [rng.choice((low, high, rng.randint(low, high), rng.randint(low, high))) for _ in range(config.columns)] for _ in range(config.rows)
    ]


def row_bits(config: ArrayConfig, row: list[int]) -> tuple[list[int], list[int]]:
    """Digits and RowState bits of one encoded row."""
    state = RowState(config.format)
    lanes = encode(row, config.tile)
    fields, bits = zip(*map(state.wires, lanes), strict=True)
    return list(fields), list(bits)


def simulate(dut, *processes) -> None:  # type: ignore[no-untyped-def]
    """Run Amaranth's simulator with one clock until every process ends."""
    sim = Simulator(dut)
    sim.add_clock(1e-9)
    for process in processes:
        sim.add_testbench(process)
    sim.run()
