"""The encoder in Amaranth's simulator against the definition, with a stuttering sink and source."""

import json
import random
from pathlib import Path

import pytest
from rtl_drive import FORMATS, random_row, simulate

from overq.rtl import OverwriteEncoder
from overq.spec import ArrayConfig, Format, encode
from overq.spec.encode import saturate

GOLDEN = sorted((Path(__file__).parents[1] / "golden").glob("*.json"))


def run_encoder(config, rows, rng, enabled=None):
    """Push every row through the encoder with random gaps on both sides; returns [(digits, states)]."""
    dut = OverwriteEncoder(config=config)
    outputs = [dut.out_digits] + ([dut.out_states] if config.format.cascade else [])
    seen = []

    async def source(ctx):
        for row, lanes in zip(rows, enabled or [config.rows] * len(rows), strict=True):
            while rng.random() < 0.2:
                await ctx.tick()
            for lane in range(config.rows):
                ctx.set(dut.in_t[lane], row[lane])
            ctx.set(dut.in_enable, (1 << lanes) - 1)
            ctx.set(dut.in_valid, 1)
            await ctx.tick().until(dut.in_ready)
            ctx.set(dut.in_valid, 0)

    async def sink(ctx):
        while len(seen) < len(rows):
            ready = rng.random() < 0.7
            ctx.set(dut.out_ready, ready)
            *_, valid, digits, states = await ctx.tick().sample(dut.out_valid, outputs[0], outputs[-1])
            if valid and ready:
                states = states if config.format.cascade else [0] * config.rows
                seen.append(([digits[i] for i in range(config.rows)], [states[i] for i in range(config.rows)]))

    simulate(dut, source, sink)
    return seen


def as_lists(lanes):
    return [lane.digit for lane in lanes], [int(lane.state) for lane in lanes]


@pytest.mark.parametrize("name", FORMATS)
def test_encoder_equals_the_definition(name):
    config = ArrayConfig(FORMATS[name], rows=7)
    rng = random.Random(name)
    rows = [random_row(config.format, config.rows, rng) for _ in range(60)]
    assert run_encoder(config, rows, rng) == [as_lists(encode(row, config.tile)) for row in rows]


def test_switched_off_lanes_are_no_zeros():
    """A short last tile: the lanes behind it may not be overwritten, although their t is 0."""
    config = ArrayConfig(Format(4, cascade=3), rows=6)
    rng = random.Random(5)
    lengths = [rng.randint(1, 6) for _ in range(40)]
    rows = [random_row(config.format, n, rng) for n in lengths]
    seen = run_encoder(config, [row + [0] * (6 - len(row)) for row in rows], rng, lengths)
    for row, got in zip(rows, seen, strict=True):
        digits, states = as_lists(encode(row, config.tile))
        pad = [0] * (6 - len(row))
        assert got == (digits + pad, states + pad)


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_encoder_reproduces_the_golden_vectors(path):
    """Every golden row that fits 12 lanes (one whole vector, or tiles), short rows behind switched-off lanes."""
    tried = 0
    for case in json.loads(path.read_text(encoding="utf-8"))["cases"]:
        fmt = Format(**case["format"])
        lanes = fmt.lanes or max(2, *(n for row in case["rows"] if (n := len(row["t"])) <= 12), 0)
        tiles = []
        for row in case["rows"]:
            if fmt.lanes is None and len(row["t"]) > lanes:
                continue
            tiles += [{key: row[key][i : i + lanes] for key in ("t", "digits", "states")} for i in range(0, len(row["t"]), lanes)]
        tiles = tiles[:30]
        config = ArrayConfig(fmt, rows=lanes)
        enabled = [len(tile["t"]) for tile in tiles]
        padded = [{key: values + [0] * (lanes - len(values)) for key, values in tile.items()} for tile in tiles]
        rows = [[saturate(t, fmt) for t in tile["t"]] for tile in padded]
        assert run_encoder(config, rows, random.Random(1), enabled) == [(tile["digits"], tile["states"]) for tile in padded]
        tried += len(tiles)
    assert tried
