"""Shapes without values, and the memory around the array."""

import csv

import numpy as np
import pytest
from typer.testing import CliRunner

from overq.cli import app
from overq.errors import InputError
from overq.sim import ArrayLayer, layer_traffic
from overq.sim.memory import DATAFLOWS, Cost, Memory, Plan, cost
from overq.sim.rates import Shares, shares
from overq.sim.workload import Decoder, Work, topology
from overq.spec import ArrayConfig, Format

ENOUGH = Memory(2**40, 2**40, 2**40, 1e12, 1)
ALL = Shares(1, 0, 1, 1, 0)
CONVOLUTIONS = "Layer name, IFMAP Height, IFMAP Width, Filter Height, Filter Width, Channels, Num Filter, Strides,\n"


def machine(fmt=None, rows=32, columns=32, **options):
    return ArrayConfig(fmt or Format.plain(8), 8, rows, columns, **({"segments": True} | options))


@pytest.mark.parametrize(
    ("dataflow", "cycles"),
    [("ws", 52447 - 41248), ("os", 52447 - 42272), ("is", 19984 - 5777)],
)
def test_cycles_of_scale_sims_published_traces(dataflow, cycles, tmp_path):
    """test/general/golden_trace_user_* of scale-sim-v2: M = 256, N = 128, K = 256 on 32 × 32. It prints the number of the last cycle,
    counted from 0; its stalls are those of another memory, so they are taken off."""
    (tmp_path / "t.csv").write_text("Layer Name, M, N, K,\nTest 1, 256, 128, 256,")
    (work,) = topology(tmp_path / "t.csv")
    found = cost(work, machine(), ENOUGH, ALL, Plan(dataflow))
    assert (found.cycles, found.stalls) == (cycles + 1, 0)
    assert found.macs == 256 * 128 * 256


def test_cycles_of_scale_sims_alexnet_trace(tmp_path):
    """test/golden_trace of scale-sim-v2: AlexNet's first layer, 112283 as the last cycle; it counts a last, partial stride as a pixel."""
    (tmp_path / "t.csv").write_text(CONVOLUTIONS + "Conv1,  224, 224,    11, 11,    3,      96,     4,")
    (work,) = topology(tmp_path / "t.csv")
    assert work.layer().out_size == (55, 55)
    assert cost(work, machine(), ENOUGH, ALL).cycles == 112283 + 1


@pytest.mark.parametrize("fmt", [Format.plain(4), Format(4, 4, 4, 4), Format(4, 2, 1, 1)], ids=lambda fmt: fmt.label)
@pytest.mark.parametrize("groups", [1, 2, 12])
def test_folds_and_traffic_are_those_of_layers_with_values(fmt, groups):
    """The same numbers as the cycle model's, which the RTL agrees with."""
    rng = np.random.default_rng(groups)
    digits = rng.integers(0, 3, (2, 5, 6, groups, 36 // groups))
    weights = rng.integers(-9, 9, (3, 2, 36 // groups, 24))
    layer, config = ArrayLayer(digits, np.zeros_like(digits), weights, (2, 1)), machine(fmt, 16, 8)
    work = Work("layer", 36 // groups, 24 // groups, 2, 5, 6, (3, 2), (2, 1), groups=groups)
    found = cost(work, config, ENOUGH, ALL)
    assert found.folds == sum(1 for _ in layer.folds(config))
    traffic = layer_traffic(layer, config)
    assert (found.array_digits, found.array_states) == (traffic.array_digits, traffic.array_states)
    assert (found.array_weights, found.array_sums) == (traffic.array_weights, traffic.array_sums)
    assert found.dram_maps == traffic.memory_digits + traffic.memory_states
    assert found.dram_weights == traffic.memory_weights


def resnet50():
    """The 54 layers, padding in the sizes, and no more of it than the stride uses."""
    yield Work("conv1", 3, 64, 1, 229, 229, (7, 7), (2, 2))
    channels, size = 64, 56
    for stage, (inner, blocks) in enumerate(((64, 3), (128, 4), (256, 6), (512, 3))):
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            out = size // stride
            yield Work("a", channels, inner, height=size, width=size)
            wide = (out - 1) * stride + 3
            yield Work("b", inner, inner, 1, wide, wide, (3, 3), (stride, stride))
            yield Work("c", inner, 4 * inner, height=out, width=out)
            if not block:
                wide = (out - 1) * stride + 1
                yield Work("d", channels, 4 * inner, 1, wide, wide, (1, 1), (stride, stride))
            channels, size = 4 * inner, out
    yield Work("fc", 2048, 1000)


@pytest.mark.parametrize("fmt", [Format.plain(4), Format(4, 4, 1, 1)], ids=lambda fmt: fmt.label)
def test_resnet50_takes_the_cycles_of_the_model_with_images(fmt):
    """916,544 on 128 × 128, plain and OverQ alike: the table of docs/cycles.md, which is of real activations."""
    layers = list(resnet50())
    assert len(layers) == 54
    assert sum(cost(work, machine(fmt, 128, 128), ENOUGH, ALL).cycles for work in layers) == 916544


def test_stalls_by_hand():
    """Two folds of 4 rows and 4 columns, 10 vectors each: 20 cycles; 16 weights and 40 values of a byte, a byte a cycle.

    A fold brings 16 + 40 bytes in: 56 cycles. Waiting: 2 · (20 + 56) + 40 out. Double-buffered: 56 before the first fold,
    then max(20, 56) and max(20, 56 + 40), and 40 for the sums of the last.
    """
    work, small = Work("product", 8, 4, 10), machine(rows=4, columns=4)
    memory = Memory(1000, 1000, 1000, 1.0, 1)
    found = cost(work, small, memory, ALL)
    assert (found.folds, found.cycles) == (2, 56 + 56 + (56 + 40) + 40)
    waiting = cost(work, small, Memory(1000, 1000, 1000, 1.0, 1, double_buffered=False), ALL)
    assert (waiting.cycles, waiting.stalls) == (2 * (20 + 56) + 40, 2 * 56 + 40)


def test_small_buffers_read_again():
    """A map that does not fit is read for each block of columns, or weights for each part of the vectors; whichever is less."""
    work, small = Work("product", 64, 64, 256), machine(rows=16, columns=16)
    plenty, tight = (cost(work, small, Memory(maps, size, size, 8.0), ALL) for maps, size in ((2**20, 2**20), (256, 256)))
    assert (plenty.dram_maps, plenty.dram_weights) == (8 * 256 * 64, 8 * 64 * 64)
    assert tight.dram_maps == 4 * plenty.dram_maps or tight.dram_weights > plenty.dram_weights
    assert tight.cycles > plenty.cycles
    with pytest.raises(InputError, match="holds not one row of 16 sums"):
        cost(work, small, Memory(256, 256, 8), ALL)


@pytest.mark.parametrize("dataflow", DATAFLOWS)
def test_overq_moves_its_states_and_dynamic_steps(dataflow):
    plain, ours = (
        cost(Work("product", 64, 64, 256), machine(fmt), ENOUGH, ALL, Plan(dataflow, dynamic=True))
        for fmt in (Format.plain(4), Format(4, 4, 1, 1))
    )
    assert (plain.array_states, ours.array_states) == (0, ours.array_digits // 4)
    assert plain.dram_steps == ours.dram_steps == 256 * 16
    assert ours.dram_maps - plain.dram_maps == 256 * 64
    assert ours.cycles == plain.cycles


def test_compression_by_hand():
    """All zeros: a bit each, or a run of 15 zeros and one in one entry. None: a bit more, or 4."""
    fmt = Format.plain(4)
    empty, full = shares(fmt, 1.0, 0.0, 256), shares(fmt, 0.0, 0.0, 256)
    assert (empty.kept, empty.entries, full.kept, full.entries) == (0.0, 1 / 16, 1.0, 1.0)
    costs = [cost(Work("product", 256, 8, 4), machine(fmt), ENOUGH, found) for found in (empty, full)]
    assert [(c.masked, c.runs) for c in costs] == [(1024, 1024 // 16 * 8), (5 * 1024, 8 * 1024)]
    assert shares(Format(4, 4, 3, 3), 0.5, 0.02, 256).kept > shares(fmt, 0.5, 0.02, 256).kept


def test_decoder_counts_every_multiplication():
    """Two layers, grouped keys: projections, attention over the cache, the gated half, and the head for the last token."""
    work = Decoder(2, 64, 4, 2, 96, 100).work(tokens=3, cached=5, batch=2)
    macs = sum(w.macs * w.repeat for w in work)
    projections = 2 * 3 * (64 * 64 * 2 + 64 * 32 * 2 + 3 * 64 * 96)
    attention = 2 * 4 * 3 * 8 * 16 * 2
    assert macs == 2 * (projections + attention) + 2 * 64 * 100
    cached = [w for w in work if w.cache]
    assert [w.name for w in cached] == ["scores", "values"]
    bits = [cost(w, machine(), ENOUGH, ALL).dram_weights for w in cached]
    assert bits == [8 * 2 * 16 * 8] * 2  # keys and values of 8 tokens, two heads of 16, once however many queries share them


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "the first line names no layer's columns"),
        ("Layer, M, N\na, 1, 2\n", "the first line names no layer's columns"),
        ("Layer, M, N, K,\n", "has no layer"),
        ("Layer, M, N, K,\na, 1, 2,\n", "line 2: 2 numbers; M, N, K are 3"),
        ("Layer, M, N, K,\na, 1, 2, x,\n", "line 2: whole numbers after the name, not 1, 2, x"),
        ("Layer, M, N, K,\na, 1, 0, 2,\n", "line 2: every size is at least 1, not 0"),
        (CONVOLUTIONS + "c, 3, 3, 5, 5, 1, 1, 1,\n", "does not fit|fit into"),
    ],
    ids=["empty", "head", "none", "short", "words", "zero", "kernel"],
)
def test_topologies_are_refused_in_one_line(tmp_path, text, words):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(InputError, match=words):
        topology(tmp_path / "t.csv")


def test_the_command_prints_plain_and_overq_side_by_side(tmp_path):
    (tmp_path / "t.csv").write_text(CONVOLUTIONS + "a, 14, 14, 3, 3, 8, 16, 1,\nb, 14, 14, 1, 1, 16, 8, 2,\n")
    command = ["shapes", "--topology", str(tmp_path / "t.csv"), "--rows", "16", "--columns", "8", "--csv", "-"]
    shown = CliRunner().invoke(app, command)
    assert shown.exit_code == 0, shown.output
    rows = list(csv.DictReader(shown.output.splitlines()))
    assert [(r["format"], r["name"]) for r in rows] == [(f, n) for f in ("A4 plain", "A4 r3+f3 c4", "A5 plain") for n in "ab"]
    assert set(Cost.__dataclass_fields__) <= set(rows[0])
    assert CliRunner().invoke(app, ["shapes"]).exit_code != 0
