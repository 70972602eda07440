"""One fold through the RTL array in Amaranth's simulator, with its clock counted."""

from __future__ import annotations

from typing import Any

from amaranth.sim import Simulator

from overq.rtl import ArrayConfig, RowState, SystolicArray
from overq.spec import Lane


def run_fold(config: ArrayConfig, lanes: list[list[Lane]], weights: list[list[int]]) -> tuple[list[list[int]], int]:
    """(sums [vectors][columns], cycles from the first weight loaded to the last sum out)."""
    dut, state = SystolicArray(config=config), RowState(config.format)
    sums = [[0] * config.columns for _ in lanes]
    cycles = 0

    async def bench(ctx: Any) -> None:
        nonlocal cycles
        ctx.set(dut.load, 1)
        for row in reversed(range(config.rows)):
            for column in range(config.columns):
                ctx.set(dut.weights[column], weights[row][column])
            await ctx.tick()
            cycles += 1
        ctx.set(dut.load, 0)
        left, start = 0, cycles
        while left < len(lanes) * config.columns:
            for k in range(config.rows):
                v = cycles - start - k
                lane = lanes[v][k] if 0 <= v < len(lanes) else Lane(0, 0)  # type: ignore[arg-type]
                ctx.set(dut.digits[k], lane.digit)
                if state.width:
                    ctx.set(dut.states[k], state.bits(lane.state))
            await ctx.tick()
            for j in range(config.columns):
                v = cycles - start - (config.rows - 1) - j
                if 0 <= v < len(lanes):
                    sums[v][j] = ctx.get(dut.sums_out[j])
                    left += 1
            cycles += 1

    simulator = Simulator(dut)
    simulator.add_clock(1e-9)
    simulator.add_testbench(bench)
    simulator.run()
    return sums, cycles
