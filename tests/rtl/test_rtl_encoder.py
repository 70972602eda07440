"""The encoder in Amaranth's simulator against the definition, with a stuttering sink and source."""

import json
import random
from pathlib import Path

import pytest
from rtl_drive import FORMATS, random_row, simulate

from overq.rtl import OverwriteEncoder
from overq.spec import ArrayConfig, Format, encode, encode_tile
from overq.spec.encode import saturate

GOLDEN = [path for path in sorted((Path(__file__).parents[1] / "golden").glob("*.json")) if path.stem != "records"]


def run_encoder(config, rows, rng, enabled=None, starts=None):
    """Push every row through the encoder with random gaps on both sides; returns [(digits, states)].

    enabled, starts   masks, one bit a lane, for each row
    """
    dut = OverwriteEncoder(config=config)
    outputs = [dut.out_digits] + ([dut.out_states] if config.format.cascade else [])
    seen = []

    async def source(ctx):
        for row, on, begin in zip(rows, enabled or [-1] * len(rows), starts or [0] * len(rows), strict=True):
            while rng.random() < 0.2:
                await ctx.tick()
            for lane in range(config.rows):
                ctx.set(dut.in_t[lane], row[lane])
            ctx.set(dut.in_enable, on & (1 << config.rows) - 1)
            if config.edges:
                ctx.set(dut.in_starts, begin)
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
    seen = run_encoder(config, [row + [0] * (6 - len(row)) for row in rows], rng, [(1 << n) - 1 for n in lengths])
    for row, got in zip(rows, seen, strict=True):
        digits, states = as_lists(encode(row, config.tile))
        pad = [0] * (6 - len(row))
        assert got == (digits + pad, states + pad)


@pytest.mark.parametrize("name", ["plain4", "range_c4", "precision_largest", "full_c4", "full_signed_largest"])
def test_lanes_off_anywhere_and_segments(name):
    """A lane that is switched off is digit 0, OWN, serves nobody and is crossed by nothing; so is no segment's edge."""
    config = ArrayConfig(FORMATS[name], rows=7, segments=True)
    rng = random.Random(name)
    rows = [random_row(config.format, config.rows, rng) for _ in range(60)]
    masks, starts = ([rng.getrandbits(7) | rng.getrandbits(7) for _ in rows] for _ in range(2))
    starts = [mask & rng.getrandbits(7) & 126 for mask in starts]
    expected = []
    for row, on, begin in zip(rows, masks, starts, strict=True):
        given = [t if on >> lane & 1 else None for lane, t in enumerate(row)]
        expected.append(as_lists(encode_tile(given, config.format, [lane for lane in range(7) if begin >> lane & 1])))
    assert run_encoder(config, rows, rng, masks, starts) == expected


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_encoder_reproduces_the_golden_vectors(path):
    """Every golden row that fits 12 lanes (one whole vector, or tiles), short rows behind switched-off lanes."""
    tried = 0
    for case in json.loads(path.read_text(encoding="utf-8"))["cases"]:
        fmt = Format.from_json(case["format"])
        lanes = fmt.lanes or max(2, *(n for row in case["rows"] if (n := len(row["t"])) <= 12), 0)
        tiles = []
        for row in case["rows"]:
            if fmt.lanes is None and len(row["t"]) > lanes:
                continue
            tiles += [{key: row[key][i : i + lanes] for key in ("t", "digits", "states")} for i in range(0, len(row["t"]), lanes)]
        tiles = tiles[:30]
        config = ArrayConfig(fmt, rows=lanes)
        enabled = [(1 << len(tile["t"])) - 1 for tile in tiles]
        padded = [{key: values + [0] * (lanes - len(values)) for key, values in tile.items()} for tile in tiles]
        rows = [[saturate(t, fmt) for t in tile["t"]] for tile in padded]
        assert run_encoder(config, rows, random.Random(1), enabled) == [(tile["digits"], tile["states"]) for tile in padded]
        tried += len(tiles)
    assert tried
