"""The whole accelerator in Amaranth's simulator: weight tiles, chained partial sums, requantization, exact latency."""

import random

import pytest
from rtl_drive import FORMATS, random_row, random_weights, simulate

from overq.rtl import Accelerator, ArrayConfig, requantize
from overq.rtl.output import MULTIPLIER_BITS
from overq.spec import Format, dot, encode, fraction_bits

TILES, VECTORS = 3, 12


def run_layer(config, weights, tiles, scale, relu=True):
    """Stream every vector through every tile of weights; returns (final sums, t, latencies seen)."""
    dut = Accelerator(config=config, relu=relu)
    columns, rows = range(config.columns), range(config.rows)
    sums = {}
    results, latencies, sent = [], set(), {}

    async def cycles(ctx, state):
        *_, out_valid, out_sums, out_last, t_valid, t = await ctx.tick().sample(
            dut.out_valid, dut.out_sums, dut.out_last, dut.t_valid, dut.t
        )
        if out_valid:
            v = state["out"]
            state["out"] += 1
            sums[v] = [out_sums[j] for j in columns]
            latencies.add(state["cycle"] - sent[v])
            assert out_last == state["last"]
        if t_valid:
            results.append([t[j] for j in columns])
        state["cycle"] += 1

    async def bench(ctx):
        state = {"cycle": 0, "out": 0, "last": 0}
        for j in columns:
            ctx.set(dut.multipliers[j], scale[j][0])
            ctx.set(dut.biases[j], scale[j][1])
            ctx.set(dut.shifts[j], scale[j][2])
        for tile in range(TILES):
            state |= {"out": 0, "last": int(tile == TILES - 1)}
            ctx.set(dut.weight_valid, 1)
            for row in reversed(rows):
                for j in columns:
                    ctx.set(dut.weights[j], weights[tile][row][j])
                while not ctx.get(dut.weight_ready):
                    await cycles(ctx, state)
                await cycles(ctx, state)
            ctx.set(dut.weight_valid, 0)
            for v in range(VECTORS):
                assert ctx.get(dut.in_ready)
                for k in rows:
                    ctx.set(dut.in_t[k], tiles[tile][v][k])
                ctx.set(dut.in_enable, (1 << config.rows) - 1)
                for j in columns:
                    ctx.set(dut.in_sums[j], sums[v][j] if tile else 0)
                ctx.set(dut.in_last, state["last"])
                ctx.set(dut.in_valid, 1)
                sent[v] = state["cycle"]
                await cycles(ctx, state)
            ctx.set(dut.in_valid, 0)
            while state["out"] < VECTORS:
                await cycles(ctx, state)
        for _ in range(3):
            await cycles(ctx, state)

    simulate(dut, bench)
    return [sums[v] for v in range(VECTORS)], results, latencies, dut


@pytest.mark.parametrize("name", ["plain4", "range_c4", "full_c4", "full_signed"])
def test_a_layer_of_three_tiles(name):
    fmt = FORMATS[name]
    config = ArrayConfig(fmt, weight_bits=6, rows=5, columns=4, depth=15)
    rng = random.Random(name)
    tiles = [[random_row(fmt, config.rows, rng) for _ in range(VECTORS)] for _ in range(TILES)]
    weights = [random_weights(config, rng) for _ in range(TILES)]
    scale = [(rng.randrange(1, 1 << MULTIPLIER_BITS), rng.randint(-(1 << 20), 1 << 20), rng.randint(12, 20)) for _ in range(config.columns)]
    drop = fmt.bits - fraction_bits(fmt)
    expected = [
        [
            sum(dot(encode(tiles[i][v], config.tile), [w[j] for w in weights[i]], config.tile) for i in range(TILES)) >> drop
            for j in range(config.columns)
        ]
        for v in range(VECTORS)
    ]
    sums, t, latencies, dut = run_layer(config, weights, tiles, scale, relu=not fmt.signed)
    assert sums == expected
    low = max(0, fmt.t_min) if not fmt.signed else fmt.t_min
    assert t == [[requantize(total, *scale[j], low, fmt.t_max) for j, total in enumerate(row)] for row in expected]
    assert latencies == {dut.latency}


def test_t_saturates_at_both_ends():
    """Scales that push every sum far out of range give exactly t_max and, below, 0."""
    fmt = Format(3, cascade=2)
    config = ArrayConfig(fmt, weight_bits=4, rows=3, columns=2, depth=9)
    rng = random.Random(2)
    tiles = [[random_row(fmt, config.rows, rng) for _ in range(VECTORS)] for _ in range(TILES)]
    weights = [random_weights(config, rng) for _ in range(TILES)]
    _, t, _, _ = run_layer(config, weights, tiles, [(1, 1 << 22, 0), (1, -(1 << 22), 0)])
    assert t == [[fmt.t_max, 0]] * VECTORS
