"""Liberty, timing, synthesis and the netlists that come out, on a tiny library written here."""

import csv
import json
import random

import pytest
import real_layer
from rtl_drive import FORMATS
from typer.testing import CliRunner

from overq.cli import app
from overq.eda import simulators, yosys
from overq.eda.liberty import Library
from overq.eda.remembered import CACHE_VARIABLE
from overq.eda.synth import RECIPES, mapped, smallest, synthesize
from overq.errors import InputError
from overq.rtl import Accelerator, ProcessingElement, RowState, gates, testbench, verilog
from overq.rtl.parts import skew_flip_flops
from overq.rtl.rivals import RIVALS
from overq.rtl.vectors import LayerVectors
from overq.spec import ArrayConfig, Format, Lane, shift
from overq.spec.packing import payload

pytestmark = pytest.mark.yosys
AMAP, RESYN = ([r for r in RECIPES if r.script == script] for script in ("amap", "resyn"))

FULL_ADDER = ("A", "B", "CI"), {"S": "(A^B)^CI", "CO": "(A&B)|(CI&(A|B))"}
GATES = {
    "BUF": (1.5, ("A",), {"Z": "A"}),
    "INV": (1.0, ("A",), {"Z": "!A"}),
    "NAND2": (2.0, ("A", "B"), {"Z": "!(A & B)"}),
    "NOR2": (2.0, ("A", "B"), {"Z": "(A + B)'"}),
    "XOR2": (4.0, ("A", "B"), {"Z": "(A ^ B)"}),
    "FA": (9.0, *FULL_ADDER),
}


def tiny_library(path):
    """Every arc takes 10 ps + 2 ps per fF of load; every input pin is 1 fF; the flip-flop needs 5 ps of setup."""

    def table(low: str, high: str) -> str:
        return f'(t) {{ index_1 ("0.001, 0.1"); index_2 ("0, 10"); values ("{low}, {high}", "{low}, {high}"); }}'

    delay = "".join(f"cell_{e} {table('0.01', '0.03')} {e}_transition {table('0.01', '0.01')} " for e in ("rise", "fall"))
    text = 'library (tiny) {\n time_unit : "1ns"; capacitive_load_unit (1, ff); nom_voltage : 1.0;\n'
    text += "lu_table_template (t) { variable_1 : input_net_transition; variable_2 : total_output_net_capacitance;"
    text += ' index_1 ("0.001, 0.1"); index_2 ("0, 10"); }\n'
    for name, (area, inputs, outputs) in GATES.items():
        text += f"cell ({name}) {{ area : {area};\n"
        text += "".join(f" pin ({p}) {{ direction : input; capacitance : 1; }}\n" for p in inputs)
        for pin, function in outputs.items():
            arcs = "".join(f'timing () {{ related_pin : "{p}"; timing_sense : non_unate; {delay} }}\n' for p in inputs)
            text += f' pin ({pin}) {{ direction : output; function : "{function}"; {arcs} }}\n'
        text += "}\n"
    setup = f'timing () {{ related_pin : "CK"; timing_type : setup_rising; rise_constraint {table("0.005", "0.005")} }}'
    launch = f'timing () {{ related_pin : "CK"; timing_type : rising_edge; {delay} }}'
    text += 'cell (DFF) { area : 10; ff ("IQ", "IQN") { next_state : "D"; clocked_on : "CK"; }\n'
    text += " pin (CK) { direction : input; capacitance : 1; clock : true; }\n"
    text += f" pin (D) {{ direction : input; capacitance : 1; {setup} }}\n"
    text += f' pin (Q) {{ direction : output; function : "IQ"; {launch} }}\n}}\n}}\n'
    path.write_text(text)
    return Library(path)


@pytest.fixture
def library(tmp_path):
    return tiny_library(tmp_path / "tiny.lib")


def test_library_units_and_full_adder(library):
    assert (library.name, library.time, library.capacitance, library.voltage) == ("tiny", 1000.0, 1.0, 1.0)
    assert library.full_adder == ("FA", ("A", "B", "CI"), "S", "CO")
    assert library.cell("DFF").setup == pytest.approx(5)
    assert library.cell("INV").pins["Z"].arcs[0].delay["rise"].at(50, 5) == pytest.approx(20)


def test_unreadable_liberty_gets_one_line(tmp_path):
    with pytest.raises(InputError, match=r"^cannot read the Liberty file .*none\.lib: No such file or directory$"):
        Library(tmp_path / "none.lib")
    (tmp_path / "odd.lib").write_text("not liberty")
    with pytest.raises(InputError, match=r"odd\.lib is no Liberty file: it has no library or no cells$"):
        Library(tmp_path / "odd.lib")


def test_timing_of_three_inverters_by_hand(library):
    """Launch 10 + 2·1, two inverters with one load each 12 + 12, the last drives the flip-flop's 1 fF: 12, setup 5."""
    text = "module chain(input clk, input a, output reg q); reg r; always @(posedge clk) begin r <= a; q <= s[2]; end\n"
    text += "wire [2:0] s; INV i0(.A(r), .Z(s[0])); INV i1(.A(s[0]), .Z(s[1])); INV i2(.A(s[1]), .Z(s[2])); endmodule\n"
    text += "(* blackbox *) module INV(input A, output Z); endmodule\n"
    netlist, _ = mapped("chain", text, library, AMAP[0])
    timing = netlist.timing()
    assert (round(timing.period, 6), timing.depth, netlist.area) == (4 * 12 + 5, 3, 23)


@pytest.mark.parametrize("name", ["plain4", "range_c4", "full_c4", "one_bit"])
@pytest.mark.parametrize("recipe", AMAP, ids=lambda r: r.name)
def test_netlist_of_the_element_keeps_its_equation(library, name, recipe):
    fmt = FORMATS[name]
    config = ArrayConfig(fmt, weight_bits=5, rows=4)
    state = RowState(fmt)
    netlist, _ = mapped("overq_element", verilog.to_verilog(ProcessingElement(config=config)), library, recipe)
    rng, cycles, expected = random.Random(name), [{"load": 1, "weight_in": 9, "digit_in": 0, "sum_in": 0}], []
    mask = (1 << config.psum_bits) - 1
    for _ in range(200):
        above, total, code = rng.randint(-16, 15), rng.getrandbits(config.psum_bits), rng.choice(fmt.states)
        digit = rng.randint(*payload(code, fmt))
        field, bits = state.wires(Lane(digit, code))
        given = {"load": 0, "weight_in": above & 31, "digit_in": field, "sum_in": total}
        if state.width:
            given["state_in"] = bits
            if state.has_moved:
                given["neighbour_above"] = int(code == 2)
        cycles.append(given)
        weight = above if code else 9
        expected.append(total + (digit * weight << shift(code, fmt)) & mask)
    seen, _ = netlist.run([*cycles, cycles[-1]])
    assert [row["sum_out"] for row in seen[2:]] == expected


@pytest.mark.parametrize("name", RIVALS)
def test_rivals_multiply_and_shift(library, name):
    module, text = RIVALS[name](4, 8, 20)
    netlist, _ = mapped(module, text, library, AMAP[0])
    rng, cycles, expected = random.Random(1), [{"load": 1, "weight_in": 77}], []
    for _ in range(100):
        digit, shift, partner = rng.randrange(16), rng.randrange(5), rng.randint(-128, 127)
        given = {"load": 0, "digit_in": digit, "shift_in": shift, "sum_in": 1000}
        weight = 77
        if name == "SPARQ":
            given |= {"other_in": rng.randrange(2), "partner_weight": partner & 255}
            weight = partner if given["other_in"] else 77
        cycles.append(given)
        expected.append(1000 + (digit * weight << shift) & (1 << 20) - 1)
    seen, _ = netlist.run([*cycles, cycles[-1]])
    assert [row["sum_out"] for row in seen[2:]] == expected


def test_smallest_follows_its_two_rules(library):
    points = synthesize(*verilog.named(ProcessingElement(config=ArrayConfig(Format(3, 2), 4, 4))), library, [*AMAP, *RESYN])
    assert len(points) == 12
    assert smallest(points).area == min(p.area for p in points)
    limit = sorted(p.period for p in points)[3]
    assert smallest(points, limit).area == min(p.area for p in points if p.period <= limit + 0.5)
    assert smallest(points, 1.0).period == min(p.period for p in points)


@pytest.mark.slow  # 5 s: some twenty runs of Yosys
def test_the_command_compares_with_as_many_bits_and_with_one_more(library, tmp_path, monkeypatch):
    """One headline for each plain design, elements of their own kind first; what was made once is not made again."""
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    command = [
        "synth",
        "--fast",
        "--liberty",
        str(tmp_path / "tiny.lib"),
        *["--bits", "2", "--rows", "2", "--columns", "1", "--weight-bits", "2"],
    ]
    command += ["--csv", str(tmp_path / "parts.csv"), "--json", str(tmp_path / "parts.json")]
    shown = CliRunner().invoke(app, command)
    assert shown.exit_code == 0, shown.output
    lines = [line for line in shown.output.splitlines() if " over A" in line]
    assert [line.split(":")[0] for line in lines] == [f"A2 r1+f1 c4 W2 over A{bits} plain W2, equal sums" for bits in (2, 3)]
    rows = list(csv.DictReader((tmp_path / "parts.csv").open()))
    ours, plain = (next(r for r in rows if r["design"].startswith(f"A2 {word}") and r["part"] == "element") for word in ("r1", "plain"))
    assert f"an element {float(ours['area_each']) / float(plain['area_each']) - 1:+.1%}" in lines[0]
    monkeypatch.setattr(yosys, "run", None)
    assert CliRunner().invoke(app, command).output == shown.output
    assert [line["area_each"] for line in json.loads((tmp_path / "parts.json").read_text())] == [float(row["area_each"]) for row in rows]
    alone = CliRunner().invoke(app, [*command[:-1], "-"]).output
    assert len(json.loads(alone)) == len(rows), "nothing but JSON"


def test_without_a_library_transistors_are_estimated():
    configs = [ArrayConfig(fmt, 4, 4, sum_bits=20) for fmt in (Format.plain(3), Format(3, 2))]
    plain, full = (synthesize(*verilog.named(ProcessingElement(config=config)), None)[0] for config in configs)
    assert plain.flip_flops == 3 + 4 + 20
    assert full.flip_flops == 3 + 4 + 20 + 1  # one state bit
    assert 500 < plain.area < full.area < 1.6 * plain.area


@pytest.mark.parametrize("double_buffered", [False, True])
@pytest.mark.parametrize("fmt", [Format.plain(2), Format(2, 2, 2, 2), Format(3, 2, 2, 2)], ids=lambda fmt: fmt.label)
def test_skew_is_counted_as_it_is_built(fmt, double_buffered):
    """So that large arrays need not be synthesized to know it: as many flip-flops as Yosys finds outside of the blocks."""
    config = ArrayConfig(fmt, 2, 4, 3, double_buffered=double_buffered)
    placer = verilog.Placer()
    name, text = verilog.named(Accelerator(config=config, place=placer))
    beside = "".join(verilog.to_verilog(block) for block in placer.blocks.values())
    script = f"read_verilog -lib beside.v\nread_verilog top.v\nsynth -flatten -top {name}\nwrite_json out.json\n"
    cells = json.loads(yosys.run(script, {"beside.v": beside, "top.v": text}, ["out.json"]).files["out.json"])["modules"][name]["cells"]
    assert skew_flip_flops(config) == sum("DFF" in cell["type"] for cell in cells.values())


@pytest.mark.parametrize("with_library", [False, True])
def test_gate_netlist_passes_the_testbench(tmp_path, library, with_library):
    if "iverilog" not in simulators.available():
        pytest.skip("iverilog is not installed")
    config = ArrayConfig(Format(2, 2), 3, rows=3, columns=2, depth=6)
    gates.write(config, tmp_path / "g", library if with_library else None)
    testbench.write(LayerVectors.random(config, vectors=20), tmp_path / "g")
    assert simulators.simulate("iverilog", tmp_path / "g").startswith("PASS: 40 sums and 40 t equal")


@pytest.mark.slow
@pytest.mark.parametrize("simulator", simulators.SIMULATORS)
def test_every_output_of_a_whole_layer_of_resnet20(tmp_path, simulator):
    if simulator not in simulators.available():
        pytest.skip(f"{simulator} is not installed")
    if not real_layer.available():
        pytest.skip(f"no networks at {real_layer.DATA}")
    layer = real_layer.layer_vectors()
    verilog.write(layer.config, tmp_path)
    testbench.write(layer, tmp_path)
    assert simulators.simulate(simulator, tmp_path).startswith("PASS: 16384 sums and 16384 t equal")


@pytest.mark.slow
@pytest.mark.parametrize("library_name", ["nangate45_typical.lib", "sky130hd_typical.lib"])
def test_netlist_of_a_real_library_on_the_real_layer(tmp_path, library_name):
    """The 16 × 16 accelerator in library cells, on the first 64 pixels of ResNet-20's layer, all nine tiles."""
    path = real_layer.DATA / "cells" / library_name
    if "iverilog" not in simulators.available():
        pytest.skip("iverilog is not installed")
    if not path.exists():
        pytest.skip(f"no cell library at {path}")
    layer = real_layer.layer_vectors(pixels=64)
    gates.write(layer.config, tmp_path, Library(path))
    testbench.write(layer, tmp_path)
    assert simulators.simulate("iverilog", tmp_path).startswith("PASS: 1024 sums and 1024 t equal")
