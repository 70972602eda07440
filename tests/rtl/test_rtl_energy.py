"""Energy from switching: streams side by side, blocks of a whole array, and the command that prices shapes."""

import csv
import json
import random
from dataclasses import replace

import pytest
from test_rtl_synth import AMAP, tiny_library
from typer.testing import CliRunner

from overq.cli import app
from overq.eda.liberty import Library
from overq.eda.remembered import CACHE_VARIABLE
from overq.eda.synth import FAST, mapped
from overq.errors import InputError
from overq.rtl.energy import Vectors, block_energies
from overq.rtl.parts import compared
from overq.rtl.rivals import RIVALS, rival_parts
from overq.spec import ArrayConfig, Format
from overq.study.choices import beside
from overq.study.energy import sample_at_rates, watched

pytestmark = pytest.mark.yosys
ADD = "module add(input clk, input [5:0] a, input [5:0] b, output reg [6:0] q); always @(posedge clk) q <= a + b; endmodule\n"


@pytest.fixture
def library(tmp_path):
    return tiny_library(tmp_path / "tiny.lib")


def test_streams_side_by_side_take_the_mean_of_each_alone(library):
    netlist, _ = mapped("add", ADD, library, AMAP[0])
    rng = random.Random(2)
    streams = [[{"a": rng.getrandbits(bits), "b": rng.getrandbits(bits)} for _ in range(40)] for bits in (6, 1, 3, 6)]
    alone = [netlist.energy(stream) for stream in streams]
    assert netlist.energy(*streams) == pytest.approx(sum(alone) / 4)
    assert min(alone) == alone[1]  # fewer bits change
    assert netlist.energy([{"a": 0, "b": 0}] * 3) == pytest.approx(7.0)  # 7 clock pins of 1 fF at 1 V, up and down


def test_leakage_is_the_cells_or_the_mean_of_its_states(tmp_path):
    tiny_library(tmp_path / "tiny.lib")
    text = (tmp_path / "tiny.lib").read_text().replace("nom_voltage", 'leakage_power_unit : "1pW"; nom_voltage')
    text = text.replace("area : 1.0;", "area : 1.0; cell_leakage_power : 500; leakage_power () { value : 1; }")
    text = text.replace("area : 10;", "area : 10; leakage_power () { value : 1000; } leakage_power () { value : 3000; }")
    (tmp_path / "tiny.lib").write_text(text)
    library = Library(tmp_path / "tiny.lib")
    assert [library.cell(name).leakage for name in ("INV", "DFF", "XOR2")] == [0.5, 2.0, 0.0]
    netlist, _ = mapped("add", ADD, library, AMAP[0])
    inverters = sum(i.cell.name == "INV" for i in netlist.instances)
    assert netlist.leakage == pytest.approx(7 * 2.0 + 0.5 * inverters)


def test_blocks_of_an_array(library):
    fmt = Format(2, 2)
    config = ArrayConfig(fmt, 3, 4, 2)
    parts = compared([config], library, FAST, whole=False)[0]
    rng = random.Random(5)
    weights = [[rng.randint(-3, 3) for _ in range(2)] for _ in range(4)]
    quiet = Vectors([[0] * 4] * 20, weights, "zeros")
    busy = Vectors([[rng.choice((0, rng.randint(0, fmt.t_max))) for _ in range(4)] for _ in range(20)], weights, "random")
    silent, found = (block_energies(config, parts, library, vectors) for vectors in (quiet, busy))
    registers = next(part for part in parts if part.name == "element").flip_flops
    assert found.idle == silent.idle == pytest.approx(registers)
    assert found.element > 1.3 * silent.element >= 1.0
    assert found.encode > silent.encode
    assert found.scale > silent.scale
    assert found.load > found.idle
    assert (found.waiting, found.area) == (1.0, sum(part.total for part in parts))
    assert (found.library, found.voltage) == ("tiny", 1.0)
    with pytest.raises(InputError, match="^energy needs a cell library$"):
        block_energies(config, [replace(part, netlist=None) for part in parts], library, busy)


def test_shapes_with_a_library_are_priced(tmp_path, monkeypatch):
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    tiny_library(tmp_path / "tiny.lib")
    (tmp_path / "t.csv").write_text("Layer, M, N, K,\na, 30, 8, 16,\nb, 10, 3, 8,\n")
    command = ["shapes", "--topology", str(tmp_path / "t.csv"), "--rows", "4", "--columns", "4", "--liberty", str(tmp_path / "tiny.lib")]
    command += ["--bits", "2", "--weight-bits", "3", "--cascade", "0", "--arrays", "2"]
    shown = CliRunner().invoke(app, command)
    assert shown.exit_code == 0, shown.output
    words = " ".join(shown.output.split())
    for said in (
        "measured: elements, edge",
        "tiny, 1 V",
        "a table: buffers and DRAM, Horowitz, ISSCC 2014, 45 nm, 0.9 V; not measured here",
    ):
        assert said in words
    lines = json.loads(CliRunner().invoke(app, [*command, "--json", "-"]).output)
    assert [line["name"] for line in lines] == ["a", "b"]
    dear = json.loads(CliRunner().invoke(app, [*command, "--json", "-", "--dram-energy", "61", "--clock", "5"]).output)
    for line, other in zip(lines, dear, strict=True):
        assert line["dram_pJ"] == pytest.approx(line["dram"] * 1950 / 64)
        assert (other["dram_pJ"], other["latency_ns"]) == (pytest.approx(line["dram"] * 61), pytest.approx(line["cycles"] * 5))
        assert other["elements_pJ"] == line["elements_pJ"] > 0
    rows = list(csv.DictReader(CliRunner().invoke(app, [*command, "--csv", "-"]).output.splitlines()))
    assert float(rows[0]["elements_pJ"]) == lines[0]["elements_pJ"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--clock", "2"], "--clock and --dram-energy are for energy, which needs --liberty"),
        (["--liberty", "x.lib", "--dataflow", "os"], "there is no energy of the dataflow os"),
        (["--liberty", "x.lib", "--clock", "0"], "--clock 0.0: a period in ns, more than 0"),
    ],
    ids=["no library", "dataflow", "clock"],
)
def test_options_that_make_no_sense_are_refused(tmp_path, options, words):
    (tmp_path / "t.csv").write_text("Layer, M, N, K,\na, 30, 8, 16,\n")
    shown = CliRunner().invoke(app, ["shapes", "--topology", str(tmp_path / "t.csv"), *options])
    assert isinstance(shown.exception, InputError)
    assert words in str(shown.exception)


@pytest.mark.parametrize("name", RIVALS)
def test_rivals_lanes_through_their_elements(library, name):
    """An element's netlist adds what its lane spells; the block's energy is that of such streams, and nothing is encoded for it."""
    (rival,) = beside([name], 4)
    config = rival.on(ArrayConfig(Format.plain(8), 8, 8, 4, 64))
    sample = sample_at_rates(config, 0.5, 0.05, 4)
    parts = rival_parts(name, 4, config, library)
    netlist = parts[0].netlist
    lanes, total = rival.lanes(sample.values, 4), 1000
    stream = [dict.fromkeys((*netlist.inputs,), 0) | {"load": 1, "weight_in": -37}]
    stream += [
        dict.fromkeys(netlist.inputs, 0) | {k: v for k, v in given.items() if k in netlist.inputs}
        for digit, shift, other in (row[3] for row in lanes)
        for given in [{"digit_in": digit, "shift_in": shift, "other_in": other, "partner_weight": 90, "weight_in": -37, "sum_in": total}]
    ]
    for given in stream:
        given.pop("clk")
    outputs, _ = netlist.run([*stream, stream[-1]])
    width = config.psum_bits
    for (digit, shift, other), seen in zip((row[3] for row in lanes), outputs[2:], strict=True):
        assert seen["sum_out"] == (total + (digit << shift) * (90 if other else -37)) % 2**width
    found = watched(rival, config, parts, library, sample)
    assert found.encode == 0
    assert found.element > found.idle > 0
    assert found.area == pytest.approx(sum(part.total for part in parts))
    quiet = watched(rival, config, parts, library, replace(sample, values=0 * sample.values))
    assert quiet.element < found.element
