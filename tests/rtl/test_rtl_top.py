"""The whole accelerator in Amaranth's simulator: weight tiles, chained partial sums, requantization, and every cycle counted."""

import random

import pytest
from rtl_drive import FORMATS, random_row, random_weights, simulate

from overq.rtl import Accelerator
from overq.rtl.encoder import latency
from overq.sim import total_cycles
from overq.spec import ArrayConfig, Format, dot, encode
from overq.spec.requantize import MULTIPLIER_BITS, requantize

TILES = 3
BOTH = pytest.mark.parametrize("double_buffered", [False, True], ids=["one register", "two registers"])


class Run:
    """Streams every vector through every tile of weights, as early as the ports allow."""

    def __init__(self, config, weights, tiles, scale, relu=True, chained=True):
        self.config, self.weights, self.tiles, self.scale = config, weights, tiles, scale
        self.dut = Accelerator(config=config, relu=relu)
        self.vectors, self.chained = len(tiles[0]), chained
        self.loaded, self.sent = 0, []  # tiles of weights; cycle of every vector's transfer
        self.sums, self.seen = [], []  # of every vector of every tile, and the cycle in which they are out
        self.t, self.early, self.cycle = [], 0, 0
        simulate(self.dut, self.watch, self.load, self.stream)

    @property
    def cycles(self):
        """From the first weight to the last sum."""
        return self.seen[-1]

    async def watch(self, ctx):
        """Looks at a cycle's outputs before the others set its inputs."""
        dut, columns = self.dut, range(self.config.columns)
        while len(self.t) < self.vectors * (1 if self.chained else TILES):
            if ctx.get(dut.out_valid):
                assert ctx.get(dut.out_last) == (not self.chained or len(self.sums) >= (TILES - 1) * self.vectors)
                self.sums.append([ctx.get(dut.out_sums[j]) for j in columns])
                self.seen.append(self.cycle)
            if ctx.get(dut.t_valid):
                self.t.append([ctx.get(dut.t[j]) for j in columns])
            await ctx.tick()
            self.cycle += 1

    async def load(self, ctx):
        dut = self.dut
        for j, scale in enumerate(self.scale):
            for port, value in zip((dut.multipliers, dut.biases, dut.shifts), scale, strict=True):
                ctx.set(port[j], value)
        for tile in range(TILES):
            while not self.config.double_buffered and len(self.sent) < tile * self.vectors:
                await ctx.tick()
            ctx.set(dut.weight_valid, 1)
            for row in reversed(self.weights[tile]):
                for j, weight in enumerate(row):
                    ctx.set(dut.weights[j], weight)
                await ctx.tick().until(dut.weight_ready)
                self.early += len(self.sums) < tile * self.vectors
            ctx.set(dut.weight_valid, 0)
            self.loaded += 1

    async def stream(self, ctx):
        dut = self.dut
        ctx.set(dut.in_enable, (1 << self.config.rows) - 1)
        for index in range(TILES * self.vectors):
            tile, vector = divmod(index, self.vectors)
            while (not self.config.double_buffered and self.loaded <= tile) or self.waits(index):
                await ctx.tick()
            for k, t in enumerate(self.tiles[tile][vector]):
                ctx.set(dut.in_t[k], t)
            for j in range(self.config.columns):
                ctx.set(dut.in_sums[j], self.sums[index - self.vectors][j] if tile and self.chained else 0)
            if self.config.double_buffered:
                ctx.set(dut.in_first, vector == 0)
            ctx.set(dut.in_last, not self.chained or tile == TILES - 1)
            ctx.set(dut.in_valid, 1)
            await ctx.tick().until(dut.in_ready)
            self.sent.append(self.cycle - 1)  # watch has already counted the next one
            ctx.set(dut.in_valid, 0)

    def waits(self, index):
        """For the sums of the tile before."""
        return self.chained and index >= self.vectors and len(self.sums) <= index - self.vectors


def random_case(config, vectors, seed):
    rng = random.Random(seed)
    tiles = [[random_row(config.format, config.rows, rng) for _ in range(vectors)] for _ in range(TILES)]
    scale = [(rng.randrange(1, 1 << MULTIPLIER_BITS), rng.randint(-(1 << 20), 1 << 20), rng.randint(12, 20)) for _ in range(config.columns)]
    return [random_weights(config, rng) for _ in range(TILES)], tiles, scale


def parts(config, weights, tiles):
    """[tile][vector][column], from the definition."""
    return [
        [[dot(encode(row, config.tile), [w[j] for w in grid], config.tile) for j in range(config.columns)] for row in rows]
        for grid, rows in zip(weights, tiles, strict=True)
    ]


@BOTH
@pytest.mark.parametrize("name", ["plain4", "range_c4", "full_c4", "full_signed", "gives_way"])
def test_a_layer_of_three_tiles(name, double_buffered):
    """Sums and t of the definition; as many cycles as the cycle model says, the encoder's added."""
    fmt, vectors = FORMATS[name], 16
    config = ArrayConfig(fmt, weight_bits=6, rows=5, columns=4, depth=15, double_buffered=double_buffered)
    weights, tiles, scale = random_case(config, vectors, name)
    ran = Run(config, weights, tiles, scale, relu=not fmt.signed)
    expected = [[sum(column) for column in zip(*rows, strict=True)] for rows in zip(*parts(config, weights, tiles), strict=True)]
    assert ran.sums[-vectors:] == expected
    low = max(0, fmt.t_min) if not fmt.signed else fmt.t_min
    assert ran.t == [[requantize(total, *scale[j], low, fmt.t_max) for j, total in enumerate(row)] for row in expected]
    assert {out - sent for out, sent in zip(ran.seen, ran.sent, strict=True)} == {ran.dut.latency}
    more = latency(config) - 1 if double_buffered else TILES * latency(config)
    assert ran.cycles == total_cycles(config, vectors, TILES) + more


@BOTH
@pytest.mark.parametrize(("name", "pipeline", "target"), [("plain4", 1, "fpga"), ("full_c4", 2, "fpga"), ("full_signed", 2, "asic")])
def test_a_pipelined_element_computes_the_same_a_little_later(name, pipeline, target, double_buffered):
    fmt, vectors = FORMATS[name], 9
    config = ArrayConfig(fmt, weight_bits=6, rows=4, columns=3, depth=12, double_buffered=double_buffered, target=target, pipeline=pipeline)
    weights, tiles, scale = random_case(config, vectors, name)
    ran = Run(config, weights, tiles, scale, relu=not fmt.signed)
    expected = [[sum(column) for column in zip(*rows, strict=True)] for rows in zip(*parts(config, weights, tiles), strict=True)]
    assert ran.sums[-vectors:] == expected
    low = max(0, fmt.t_min) if not fmt.signed else fmt.t_min
    assert ran.t == [[requantize(total, *scale[j], low, fmt.t_max) for j, total in enumerate(row)] for row in expected]
    more = latency(config) - 1 if double_buffered else TILES * latency(config)
    assert {out - sent for out, sent in zip(ran.seen, ran.sent, strict=True)} == {latency(config) + pipeline + 4 + 3 - 1}
    if not double_buffered or vectors >= ran.dut.latency:
        assert ran.cycles == total_cycles(config, vectors, TILES) + more


@BOTH
@pytest.mark.parametrize("vectors", [1, 5, 6, 11])
@pytest.mark.parametrize("name", ["plain4", "full_c4"])
def test_tiles_of_different_outputs_follow_as_closely_as_the_model_says(name, vectors, double_buffered):
    """Sums that start from 0 need not wait for each other; loading overlaps streaming only with two registers."""
    config = ArrayConfig(FORMATS[name], weight_bits=6, rows=5, columns=4, double_buffered=double_buffered)
    weights, tiles, scale = random_case(config, vectors, name)
    ran = Run(config, weights, tiles, scale, chained=False, relu=not config.format.signed)
    assert ran.sums == [row for rows in parts(config, weights, tiles) for row in rows]
    more = latency(config) - 1 if double_buffered else TILES * latency(config)
    assert ran.cycles == total_cycles(config, vectors, TILES) + more
    assert ran.early == (2 * config.rows if double_buffered else 0)  # transfers before the sums of the tile before were out


def test_weights_that_come_with_pauses():
    """The chain stands still while no weight comes; with two registers, tiles wait for their first vector."""
    config = ArrayConfig(Format(4, 2), weight_bits=6, rows=4, columns=2, double_buffered=True)
    weights, tiles, scale = random_case(config, 3, 1)
    rng = random.Random(3)

    class Hesitant(Run):
        async def load(self, ctx):
            for grid in self.weights:
                for row in reversed(grid):
                    while rng.random() < 0.6:
                        await ctx.tick()
                    for j, weight in enumerate(row):
                        ctx.set(self.dut.weights[j], weight)
                    ctx.set(self.dut.weight_valid, 1)
                    await ctx.tick().until(self.dut.weight_ready)
                    ctx.set(self.dut.weight_valid, 0)
                    for j in range(self.config.columns):
                        ctx.set(self.dut.weights[j], rng.randint(-32, 31))

    ran = Hesitant(config, weights, tiles, scale, chained=False)
    assert ran.sums == [row for rows in parts(config, weights, tiles) for row in rows]


def test_t_saturates_at_both_ends():
    """Scales that push every sum far out of range give exactly t_max and, below, 0."""
    fmt = Format(3, cascade=2)
    config = ArrayConfig(fmt, weight_bits=4, rows=3, columns=2, depth=9)
    weights, tiles, _ = random_case(config, 12, 2)
    ran = Run(config, weights, tiles, [(1, 1 << 22, 0), (1, -(1 << 22), 0)])
    assert ran.t == [[fmt.t_max, 0]] * 12


@BOTH
@pytest.mark.parametrize("name", ["plain4", "one_bit", "gives_way_signed"])
def test_an_array_that_is_held_loses_and_doubles_nothing(name, double_buffered):
    """A clock enable that comes and goes, sums and t taken now and then: the same sums, t and tags, each once and in order."""
    fmt, vectors, rng = FORMATS[name], 12, random.Random(name)
    config = ArrayConfig(fmt, weight_bits=5, rows=4, columns=2, double_buffered=double_buffered, stalls=True)
    weights, tiles, scale = random_case(config, vectors, name)
    dut = Accelerator(config=config, relu=False)
    sums, t, tags = [], [], []

    async def weather(ctx):
        while len(t) < TILES * vectors or len(sums) < TILES * vectors:
            for port in (dut.enable, dut.out_ready, dut.t_ready):
                ctx.set(port, rng.random() < 0.6)
            if ctx.get(dut.out_valid) and ctx.get(dut.out_ready):
                sums.append([ctx.get(dut.out_sums[j]) for j in range(config.columns)])
                tags.append(ctx.get(dut.out_tag))
            if ctx.get(dut.t_valid) and ctx.get(dut.t_ready):
                t.append([ctx.get(dut.t[j]) for j in range(config.columns)])
                assert ctx.get(dut.t_tag) == (len(t) % vectors == 0)
            await ctx.tick()

    sent = 0

    async def load(ctx):
        for tile, rows in enumerate(weights):
            while not double_buffered and sent < tile * vectors:
                await ctx.tick()
            for row in reversed(rows):
                ctx.set(dut.weight_valid, 1)
                for j, weight in enumerate(row):
                    ctx.set(dut.weights[j], weight)
                await ctx.tick().until(dut.weight_ready)
            ctx.set(dut.weight_valid, 0)

    async def stream(ctx):
        nonlocal sent
        for j, values in enumerate(scale):
            for port, value in zip((dut.multipliers, dut.biases, dut.shifts), values, strict=True):
                ctx.set(port[j], value)
        ctx.set(dut.in_enable, (1 << config.rows) - 1)
        ctx.set(dut.in_last, 1)
        await ctx.tick().repeat(2 * config.rows if not double_buffered else 1)
        for rows in tiles:
            if not double_buffered:
                await ctx.tick().until(~dut.weight_valid)
            for vector, row in enumerate(rows):
                for k, value in enumerate(row):
                    ctx.set(dut.in_t[k], value)
                if double_buffered:
                    ctx.set(dut.in_first, vector == 0)
                ctx.set(dut.in_tag, vector == vectors - 1)
                ctx.set(dut.in_valid, 1)
                await ctx.tick().until(dut.in_ready)
                sent += 1
                ctx.set(dut.in_valid, 0)

    simulate(dut, weather, load, stream)
    expected = [row for tile in parts(config, weights, tiles) for row in tile]
    assert sums == expected
    assert t == [[requantize(total, *scale[j], fmt.t_min, fmt.t_max) for j, total in enumerate(row)] for row in expected]
    assert tags == [int(i % vectors == vectors - 1) for i in range(TILES * vectors)]
