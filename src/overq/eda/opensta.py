"""OpenSTA's timing of a mapped module, where the program `sta` is installed (Debian: opensta): a second opinion on `Netlist.timing`."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from overq.eda.liberty import Library
from overq.eda.netlist import INPUT_SLEW, Netlist
from overq.errors import ToolError

PROGRAM = "sta"
PERIOD = 100.0  # ns, longer than any path here


def available() -> bool:
    return shutil.which(PROGRAM) is not None


def constraints(module: str, period: float) -> str:
    """SDC for a block whose inputs come from flip-flops: one clock `clk` of `period` ns."""
    return f"# {module}\ncreate_clock -name clk -period {period:g} [get_ports clk]\nset_clock_transition {INPUT_SLEW / 1000:g} clk\n"


def framed(netlist: Netlist, module: str) -> str:
    """A module `framed` with a flip-flop before each input of `module`, the smallest that the module has: what `Netlist.timing` assumes."""
    cell = min((i.cell for i in netlist.flip_flops), key=lambda cell: cell.area)
    data, output = cell.data_pins[0], cell.outputs[0].name
    ports, wires, body, pins = ["input clk"], [], [], [".clk(clk)"]
    for name, bits in netlist.inputs.items():
        if name == "clk":
            continue
        ports.append(f"input [{len(bits) - 1}:0] {name}")
        wires.append(f"  wire [{len(bits) - 1}:0] {name}_q;")
        for k in range(len(bits)):
            body.append(f"  {cell.name} {name}_{k}_r (.{cell.clock}(clk), .{data}({name}[{k}]), .{output}({name}_q[{k}]));")
        pins.append(f".{name}({name}_q)")
    for name, bits in netlist.outputs.items():
        ports.append(f"output [{len(bits) - 1}:0] {name}")
        pins.append(f".{name}({name})")
    return "\n".join([f"module framed({', '.join(ports)});", *wires, *body, f"  {module} dut ({', '.join(pins)});", "endmodule", ""])


def period(netlist: Netlist, verilog: str, module: str, library: Library) -> float:
    """ps of the longest path, setup included. The libraries' default wire loads are left out, as nothing here has wires.

    netlist, verilog   the same mapped module, as an object and as text
    """
    if not available():
        raise ToolError(f"{PROGRAM} not found on the PATH (Debian: apt-get install opensta)")
    with tempfile.TemporaryDirectory(prefix="overq-sta-") as name:
        folder = Path(name)
        script = []
        for k, file in enumerate(library.files):
            text = re.sub(r"^\s*default_wire_load\w*\s*:.*$", "", file.text, flags=re.M)
            (folder / f"cells{k}.lib").write_text(text, encoding="utf-8")
            script.append(f"read_liberty {folder}/cells{k}.lib")
        plain = re.sub(r"\b(input|output|wire) signed\b", r"\1", verilog)  # OpenSTA's reader knows no `signed`
        (folder / "netlist.v").write_text(plain + framed(netlist, module), encoding="utf-8")
        (folder / "framed.sdc").write_text(constraints("framed", PERIOD), encoding="utf-8")
        script += [f"read_verilog {folder}/netlist.v", "link_design framed", f"read_sdc {folder}/framed.sdc"]
        script += ["report_checks -path_delay max -digits 5", "exit"]
        (folder / "script.tcl").write_text("\n".join([*script, ""]), encoding="utf-8")
        done = subprocess.run([PROGRAM, "-exit", str(folder / "script.tcl")], capture_output=True, text=True, check=False)
    found = re.search(r"(-?[\d.]+)\s+slack", done.stdout)
    if not found:
        lines = [line for line in (done.stdout + done.stderr).splitlines() if "rror" in line]
        raise ToolError(f"OpenSTA gave no path: {lines[0] if lines else 'no output'}")
    return (PERIOD - float(found.group(1))) * 1000
