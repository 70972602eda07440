"""The emitted Verilog: plain, one module per file, and its testbench passes in Icarus and Verilator."""

import re
import shutil
import subprocess

import pytest
from rtl_drive import FORMATS

from overq.eda import simulators, yosys
from overq.errors import InputError, ToolError
from overq.rtl import handoff, protocol, readme, testbench, verilog
from overq.rtl.vectors import LayerVectors
from overq.spec import ArrayConfig, Format

pytestmark = pytest.mark.yosys


def emit(folder, config, **options):
    layer = LayerVectors.random(config, **options)
    verilog.write(config, folder)
    testbench.write(layer, folder)
    (folder / "overq_protocol.sv").write_text(protocol.text(config))
    return layer


def needs(simulator):
    if simulator not in simulators.available():
        pytest.skip(f"{simulator} is not installed")


@pytest.mark.parametrize("name", ["plain4", "range_c4", "full_c4", "full_signed_largest"])
def test_icarus_passes_the_testbench(tmp_path, name):
    needs("iverilog")
    config = ArrayConfig(FORMATS[name], weight_bits=6, rows=5, columns=3, depth=15, segments=name != "full_c4")
    emit(tmp_path, config, tiles=3, vectors=40)
    assert simulators.simulate("iverilog", tmp_path).startswith("PASS: 120 sums and 120 t equal")


def test_verilator_passes_the_testbench(tmp_path):
    needs("verilator")
    emit(tmp_path, ArrayConfig(Format(4, 4), rows=4, columns=3, depth=8), vectors=40)
    assert simulators.simulate("verilator", tmp_path).startswith("PASS: 120 sums and 120 t equal")


def test_the_testbench_notices_one_wrong_sum(tmp_path):
    needs("iverilog")
    emit(tmp_path, ArrayConfig(Format(4, 4), rows=3, columns=2, depth=6), vectors=10)
    lines = (tmp_path / "sums.hex").read_text().split()
    lines[7] = f"{int(lines[7], 16) ^ 1:x}"
    (tmp_path / "sums.hex").write_text("\n".join(lines))
    assert simulators.simulate("iverilog", tmp_path).startswith("FAIL: 1 errors")


def test_the_testbench_notices_a_broken_element(tmp_path):
    """An element that ignores its neighbour's weight must not pass."""
    needs("iverilog")
    emit(tmp_path, ArrayConfig(Format(4, 4), rows=3, columns=2, depth=6), vectors=30)
    path = tmp_path / "overq_element.v"
    text = path.read_text()
    broken = text.replace("$unsigned(weight_in)", "$unsigned(weight_out)")
    assert broken != text
    path.write_text(broken)
    assert simulators.simulate("iverilog", tmp_path).startswith("FAIL")


def test_the_assertions_notice_a_late_sum(tmp_path):
    """A design whose sums come a cycle late breaks the first promise, before any sum is compared."""
    needs("iverilog")
    emit(tmp_path, ArrayConfig(Format(4, 4), rows=3, columns=2, depth=6), vectors=10)
    path = tmp_path / "overq_top.v"
    text = path.read_text()
    broken = re.sub(r"assign out_valid = (.*);", r"reg late; always @(posedge clk) late <= \1; assign out_valid = late;", text)
    assert broken != text
    path.write_text(broken)
    assert re.match(r"FAIL: .*overq_protocol.sv:\d+", simulators.simulate("iverilog", tmp_path))


def test_one_plain_module_per_file(tmp_path):
    config = ArrayConfig(Format(4, 4), rows=3, columns=2)
    paths = verilog.write(config, tmp_path)
    assert [p.stem for p in paths] == ["overq_array", "overq_element", "overq_element_first", "overq_encoder", "overq_output", "overq_top"]
    for path in paths:
        text = path.read_text()
        assert re.findall(r"^module (\w+)", text, re.M) == [path.stem]
        assert "(*" not in text
        assert not re.search(r"\b(logic|always_ff|always_comb)\b", text)
    assert re.search(r"input  wire state_in\b", (tmp_path / "overq_element.v").read_text())  # one state bit
    assert "state_in" not in (tmp_path / "overq_element_first.v").read_text()


@pytest.mark.parametrize("name", ["plain4", "gives_way_largest", "full_signed_largest"])
def test_a_person_can_read_what_is_written(name):
    """No name that a tool made up, no line too long to read, every port explained in one line or above it."""
    for file, text in verilog.files(ArrayConfig(FORMATS[name], 4, 3, 2, segments=True, double_buffered=True)).items():
        assert not re.search(r"\b_\d+_|\$\d|\\", text), file
        assert max(map(len, text.splitlines())) <= 140
        head = text.split("module ", 1)[1].split(");", 1)[0].splitlines()[1:]
        for before, line in zip(["", *head], head, strict=False):
            assert "//" in line or before.startswith("  //"), (file, line)


def test_second_digits_of_all_bits_in_both_modes_take_a_second_state_bit(tmp_path):
    verilog.write(ArrayConfig(Format(4, 4, 4, 4), rows=3, columns=2), tmp_path)
    assert "wire [1:0] state_in," in (tmp_path / "overq_element.v").read_text()


def test_the_plain_element_carries_nothing_of_overq(tmp_path):
    verilog.write(ArrayConfig(Format.plain(4), rows=3, columns=2), tmp_path)
    assert not (tmp_path / "overq_element_first.v").exists()
    assert "neighbour" not in (tmp_path / "overq_element.v").read_text()


def test_readme_states_ports_and_timing():
    text = readme.text(ArrayConfig(Format(4, 4), rows=16, columns=8))
    assert "| `in_t` | in | 176 | 16 × 11 bits | t per lane: the value with its fraction bits; beyond" in text
    assert "come 26 cycles after the transfer" in text


def test_layer_vectors_survive_a_file_and_refuse_damage(tmp_path):
    layer = LayerVectors.random(ArrayConfig(Format(3, 2), rows=3, columns=2, depth=6), vectors=4)
    path = tmp_path / "layer.json"
    path.write_text(layer.to_json())
    assert LayerVectors.load(path).sums() == layer.sums()
    path.write_text(layer.to_json().replace('"sums": [[', '"sums": [[1'))
    with pytest.raises(InputError, match="its sums differ from what the definition gives"):
        LayerVectors.load(path)
    path.write_text("{}")
    with pytest.raises(InputError, match=r"schema None; this version reads schema 1"):
        LayerVectors.load(path)
    path.write_text("nonsense")
    with pytest.raises(InputError, match="is no layer-vector file"):
        LayerVectors.load(path)


def test_missing_tools_are_named(monkeypatch):
    monkeypatch.setenv("OVERQ_YOSYS", "no-such-yosys")
    with pytest.raises(ToolError, match=r"^\$OVERQ_YOSYS is 'no-such-yosys', which is not a program that can be run$"):
        yosys.command()
    monkeypatch.delenv("OVERQ_YOSYS")
    with pytest.raises(ToolError, match=r"^Yosys failed: ERROR: No such command: nonsense"):
        yosys.run("nonsense\n")


@pytest.mark.parametrize("more", [{}, {"pipeline": 2, "target": "fpga", "sum_bits": 24}], ids=["straight", "pipelined"])
@pytest.mark.parametrize("name", ["plain4", "gives_way", "full_signed"])
def test_the_emitted_text_is_clean_in_both_linters(tmp_path, name, more):
    """Verilator -Wall with the waivers that lie beside it, each with its reason, and Icarus -Wall without any."""
    tools = {tool: shutil.which(tool) for tool in ("verilator", "iverilog")}
    if not all(tools.values()):
        pytest.skip(f"needs {' and '.join(tool for tool, found in tools.items() if not found)}")
    config = ArrayConfig(FORMATS[name], 4, 3, 2, segments=True, **more)
    sources, bench = verilog.files(config), testbench.files(LayerVectors.random(config, vectors=2))
    beside = handoff.files(sources, [])
    for file, text in (sources | bench | beside).items():
        (tmp_path / file).write_text(text)
    lint = ["verilator", "--lint-only", "-Wall", "--top-module", "overq_top", "overq.vlt", "-f", "overq.f"]
    icarus = ["iverilog", "-g2001", "-Wall", "-s", "testbench", "-o", "sim", *sources, "testbench.v"]
    for command in (lint, icarus):
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout + done.stderr) == (0, "")
    assert all(why in beside["overq.vlt"] for why in handoff.WAIVED.values())


@pytest.mark.skipif(not shutil.which("verilator"), reason="needs verilator")
@pytest.mark.parametrize("pipeline", [0, 2])
@pytest.mark.parametrize("stalls", [False, True])
def test_the_assertions_of_the_ports_are_clean(tmp_path, pipeline, stalls):
    """Verilator -Wall; a signal that only some promises read may stand unread in others."""
    config = ArrayConfig(FORMATS["plain4"], 4, 3, 2, pipeline=pipeline, stalls=stalls)
    (tmp_path / "overq_protocol.sv").write_text(protocol.text(config))
    lint = ["verilator", "--lint-only", "-Wall", "-Wno-UNUSEDSIGNAL", "--assert", "overq_protocol.sv"]
    done = subprocess.run(lint, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
