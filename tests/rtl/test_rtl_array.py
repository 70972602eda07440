"""The array of elements, in Amaranth's simulator, against the definition's dot product."""

import random

import pytest
from rtl_drive import FORMATS, random_row, random_weights, row_bits, simulate

from overq.rtl import SystolicArray
from overq.spec import ArrayConfig, dot, encode


def expected(config, rows, weights):
    """sums[vector][column] = dot of the definition, in the accumulator's fraction bits."""
    return [[dot(encode(row, config.tile), [w[column] for w in weights], config.tile) for column in range(config.columns)] for row in rows]


@pytest.mark.parametrize(
    ("name", "target"), [*((name, "asic") for name in FORMATS), ("plain4", "fpga"), ("one_bit", "fpga"), ("full_signed", "fpga")]
)
def test_array_sums_equal_the_definition(name, target):
    config = ArrayConfig(FORMATS[name], weight_bits=5, rows=5, columns=3, target=target)
    rng = random.Random(name)
    vectors = [random_row(config.format, config.rows, rng) for _ in range(25)]
    weights = random_weights(config, rng)
    initial = [[rng.randint(-9, 9) for _ in range(config.columns)] for _ in vectors]
    lanes = [row_bits(config, v) for v in vectors]
    dut = SystolicArray(config=config)
    seen = {}

    async def bench(ctx):
        ctx.set(dut.load, 1)
        for row in reversed(range(config.rows)):
            for column in range(config.columns):
                ctx.set(dut.weights[column], weights[row][column])
            await ctx.tick()
        ctx.set(dut.load, 0)
        for cycle in range(len(vectors) + config.rows + config.columns - 1):
            for k in range(config.rows):
                v = cycle - k
                live = 0 <= v < len(vectors)
                ctx.set(dut.digits[k], lanes[v][0][k] if live else 0)
                if hasattr(dut, "states"):
                    ctx.set(dut.states[k], lanes[v][1][k] if live else 0)
            for j in range(config.columns):
                v = cycle - j
                ctx.set(dut.sums_in[j], initial[v][j] if 0 <= v < len(vectors) else 0)
            await ctx.tick()
            for j in range(config.columns):
                v = cycle - (config.rows - 1) - j
                if 0 <= v < len(vectors):
                    seen[v, j] = ctx.get(dut.sums_out[j])

    simulate(dut, bench)
    sums = expected(config, vectors, weights)
    assert seen == {(v, j): sums[v][j] + initial[v][j] for v in range(len(vectors)) for j in range(config.columns)}
