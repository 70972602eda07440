"""What a module takes of an FPGA, by Yosys' own mapping: look-up tables, carry cells, flip-flops, multipliers. No placement, no timing."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass

from overq.eda import yosys
from overq.errors import InputError

# Family -> (Yosys command, kind of resource -> names of its cells begin with).
FAMILIES: dict[str, tuple[str, dict[str, tuple[str, ...]]]] = {
    "ecp5": ("synth_ecp5", {"luts": ("LUT4",), "carries": ("CCU2C",), "flip_flops": ("TRELLIS_FF",), "multipliers": ("MULT18X18",)}),
    "xilinx": (
        "synth_xilinx -flatten",
        {"luts": ("LUT", "INV"), "carries": ("CARRY",), "flip_flops": ("FD",), "multipliers": ("DSP48",)},
    ),
    "ice40": (
        "synth_ice40 -dsp",
        {"luts": ("SB_LUT4",), "carries": ("SB_CARRY",), "flip_flops": ("SB_DFF",), "multipliers": ("SB_MAC16",)},
    ),
}


@dataclass(frozen=True)
class Resources:
    """Cells of each kind; carries are two bits each on ecp5, four on xilinx, one on ice40."""

    luts: int
    carries: int
    flip_flops: int
    multipliers: int


def resources(name: str, text: str, family: str = "ecp5") -> Resources:
    """One module with all that it contains."""
    if family not in FAMILIES:
        raise InputError(f"no FPGA family {family!r}; known: {', '.join(FAMILIES)}")
    command, kinds = FAMILIES[family]
    script = f"read_verilog design.v\n{command} -top {name}\nwrite_json out.json\n"
    cells = json.loads(yosys.run(script, {"design.v": text}, ["out.json"]).files["out.json"])["modules"][name]["cells"].values()
    types = Counter(cell["type"] for cell in cells)
    found = {kind: sum(count for cell, count in types.items() if cell.startswith(starts)) for kind, starts in kinds.items()}
    return Resources(**found)
