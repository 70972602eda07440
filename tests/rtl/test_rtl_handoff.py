"""What is written beside the design: AXI-Stream wrapper, programs that drive it, files for other tools."""

import json
import shutil
import subprocess
import sys
from importlib.util import find_spec

import pytest
from rtl_drive import FORMATS

from overq.eda import simulators
from overq.errors import FormatError
from overq.rtl import axis, axis_bench, examples, handoff, readme, testbench, verilog
from overq.rtl.vectors import LayerVectors
from overq.spec import ArrayConfig, Format


def write(folder, config, *, axi=False):
    layer = LayerVectors.random(config, vectors=12, tiles=3)
    sources = verilog.files(config)
    files = sources | testbench.files(layer) | examples.files(layer) | handoff.files(sources, [])
    if axi:
        files |= {"overq_axis.v": axis.text(config), "testbench_axis.v": axis_bench.text(layer)}
    for name, text in files.items():
        (folder / name).write_text(text)


def needs(*tools):
    missing = [tool for tool in tools if not shutil.which(tool)]
    if missing:
        pytest.skip(f"{' and '.join(missing)} not installed")


def drive(folder, command):
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("double_buffered", [False, True], ids=["one register", "two registers"])
@pytest.mark.parametrize("name", ["plain4", "one_bit", "gives_way_signed"])
def test_the_axi_streams_carry_every_sum_and_t_once(tmp_path, name, double_buffered):
    """Six streams that pause at random; partial sums go round through memory."""
    needs("iverilog")
    config = ArrayConfig(FORMATS[name], 6, 4, 3, 12, segments=True, double_buffered=double_buffered, stalls=True)
    write(tmp_path, config, axi=True)
    assert simulators.simulate("iverilog", tmp_path, "testbench_axis") == "PASS: 36 sums and 36 t equal"


def test_the_axi_testbench_notices_sums_that_start_from_nothing(tmp_path):
    needs("iverilog")
    write(tmp_path, ArrayConfig(Format(4, 4), 6, 4, 3, 12, stalls=True), axi=True)
    path = tmp_path / "overq_axis.v"
    broken = path.read_text().replace("{(COLUMNS*SB){accumulate}}", "{(COLUMNS*SB){1'b0}}")
    assert broken != path.read_text()
    path.write_text(broken)
    assert simulators.simulate("iverilog", tmp_path, "testbench_axis").startswith("FAIL")


def test_the_axi_wrapper_is_clean_in_verilator(tmp_path):
    needs("verilator")
    for name in ("one_bit", "full_signed"):
        config = ArrayConfig(FORMATS[name], 6, 4, 3, 12, segments=True, stalls=True)
        write(tmp_path, config, axi=True)
        lint = ["verilator", "--lint-only", "-Wall", "--top-module", "overq_axis", "overq.vlt", "-f", "overq.f", "overq_axis.v"]
        done = drive(tmp_path, lint)
        assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_an_array_that_cannot_be_held_gets_no_streams():
    with pytest.raises(FormatError, match=r"^an AXI-Stream wrapper needs an array that can be held: ArrayConfig\(stalls=True\)$"):
        axis.text(ArrayConfig())


CONFIGS = {
    "plain": ArrayConfig(Format.plain(4), 6, 4, 3, 12),
    "all": ArrayConfig(FORMATS["one_bit"], 6, 4, 3, 12, double_buffered=True, segments=True, stalls=True),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_the_cocotb_example_passes(tmp_path, name):
    needs("iverilog")
    if find_spec("cocotb") is None:
        pytest.skip("the cocotb extra is not installed")
    write(tmp_path, CONFIGS[name])
    done = drive(tmp_path, [sys.executable, "example_cocotb.py"])
    assert done.returncode == 0, done.stderr[-800:]
    assert "PASS=1 FAIL=0" in done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_the_cpp_example_passes_as_its_first_lines_say(tmp_path, name):
    needs("verilator", "g++")
    write(tmp_path, CONFIGS[name])
    command = (tmp_path / "example.cpp").read_text().splitlines()[1].lstrip("/ ")
    done = subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "PASS: 12 vectors, 0 differ"), done.stderr[-800:]


def test_configurations_name_the_files_that_are_there():
    names = sorted(verilog.files(CONFIGS["plain"]))
    beside = handoff.files(names, [])
    fields = json.loads(beside["librelane.json"])
    assert fields["VERILOG_FILES"] == [f"dir::{name}" for name in names]
    assert fields["DESIGN_NAME"] == "overq_top"
    assert all(f"$(HERE){name}" in beside["openroad.mk"] for name in names)


def test_the_readme_says_the_rule_of_its_own_format():
    one = readme.text(ArrayConfig(Format(4, 3, 2, 1, "largest", evict=1), stalls=True), axi=True)
    assert "the up to 3 lanes before it" in one
    assert "the outlier that its digit clips most" in one
    assert "else the value that n rounds worst" in one
    assert "may take a lane whose |n| is at most 1." in one
    assert "1 for a weight, 1 for a t, 4 for a sum" in one
    assert "It stands still while `enable` is low" in one
    plain = readme.text(ArrayConfig(Format.plain(4)))
    assert "The encoder clamps n to 0 … 15: one digit a lane." in plain
    assert "nothing can stall them" in plain
