"""A layer's folds through the RTL array in Amaranth's simulator, at the times that the cycle model says, with its clock counted."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from amaranth.hdl import Module
from amaranth.lib.wiring import Component
from amaranth.sim import Simulator

from overq.rtl import RowState, SystolicArray
from overq.sim import ArrayLayer
from overq.sim.timetable import timetable
from overq.spec import ArrayConfig, Lane, State


class Ran(NamedTuple):
    """sums [vectors, outputs]; cycles from the first weight to the last sum; registers[name] [cycles, rows, columns] after every clock."""

    sums: np.ndarray
    cycles: int
    registers: dict[str, np.ndarray]


def run(config: ArrayConfig, machine: ArrayConfig, layer: ArrayLayer, watch: tuple[str, ...] = ()) -> Ran:
    """watch: ports of the elements to look at after every clock."""
    elements: dict[str, Component] = {}

    def place(m: Module, name: str, block: Component) -> Component:
        m.submodules[name] = elements[name] = block
        return block

    dut, state = SystolicArray(config=config, place=place), RowState(config.format)
    rows, columns, double = config.rows, config.columns, config.double_buffered
    folds = list(layer.folds(machine))
    times = list(timetable(machine, [layer.vectors] * len(folds)))
    finished = [np.zeros((layer.vectors, columns), np.int64) for _ in folds]
    seen: dict[str, list[list[list[int]]]] = {name: [] for name in watch}
    cycle = 0

    def drive(ctx: Any) -> None:
        load, swap = [0] * rows, [0] * rows
        digits, states = [0] * rows, [State.OWN] * rows
        weights, sums = [0] * columns, [0] * columns
        for index, (fold, time) in enumerate(zip(folds, times, strict=True)):
            lanes, outputs = fold.weights.shape
            for k in range(rows):
                load[k] |= k * double <= cycle - time.load < rows
                swap[k] |= cycle == time.start - 1 + k
                v = cycle - time.start - k
                if 0 <= v < layer.vectors and k < lanes:
                    digits[k], states[k] = int(fold.digits[v, k]), State(fold.states[v, k])
            for j in range(columns):
                row = rows - 1 - (cycle - time.load - j * double)
                if 0 <= row < rows:
                    weights[j] = int(fold.weights[row, j]) if row < lanes and j < outputs else 0
                v = cycle - time.start - j
                if 0 <= v < layer.vectors and not fold.first:
                    sums[j] = int(finished[index - 1][v, j])
        for k in range(rows):
            digit, bits = state.wires(Lane(digits[k], states[k]))
            ctx.set(dut.digits[k], digit)
            if state.width:
                ctx.set(dut.states[k], bits)
            if double:
                ctx.set(dut.load[k], load[k])
                ctx.set(dut.swap[k], swap[k])
        if not double:
            ctx.set(dut.load, load[0])
        for j in range(columns):
            ctx.set(dut.weights[j], weights[j])
            ctx.set(dut.sums_in[j], sums[j])

    def collect(ctx: Any) -> int:
        for name, found in seen.items():
            found.append([[ctx.get(getattr(elements[f"element_{k}_{j}"], name)) for j in range(columns)] for k in range(rows)])
        left = 0
        for done, time in zip(finished, times, strict=True):
            for j in range(columns):
                v = cycle - time.start - (rows - 1) - j
                if 0 <= v < layer.vectors:
                    done[v, j] = ctx.get(dut.sums_out[j])
                    left += 1
        return left

    async def bench(ctx: Any) -> None:
        nonlocal cycle
        left = 0
        while left < len(folds) * layer.vectors * columns:
            drive(ctx)
            await ctx.tick()
            left += collect(ctx)
            cycle += 1

    simulator = Simulator(dut)
    simulator.add_clock(1e-9)
    simulator.add_testbench(bench)
    simulator.run()
    sums = np.zeros((layer.vectors, layer.weights.shape[3]), np.int64)
    for fold, done in zip(folds, finished, strict=True):
        sums[:, fold.outputs] = done[:, : fold.outputs.stop - fold.outputs.start]  # a later tile holds the earlier ones' sums
    return Ran(sums, cycle, {name: np.array(found) for name, found in seen.items()})
