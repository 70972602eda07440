"""What lies beside emitted Verilog for other tools: file list, FuseSoC core, timing constraints, waivers of lint with their reasons,
configurations of LibreLane and OpenROAD-flow-scripts."""

from __future__ import annotations

import json
from collections.abc import Iterable

# Verilator rule -> why the emitted text has it.
WAIVED = {
    "WIDTH": "operands are extended by Verilog's own rules, as the generator counts on",
    "UNUSEDSIGNAL": "bits that a narrower register does not take, and names kept for readers of waveforms",
    "UNOPTFLAT": "lanes are packed into one vector; no bit of it depends on itself",
}
PERIOD = 2.0  # ns


def waivers() -> str:
    lines = ["`verilator_config"]
    for rule, why in WAIVED.items():
        lines += [f"// {why}", f'lint_off -rule {rule} -file "*overq_*.v"']
    return "\n".join([*lines, ""])


def constraints() -> str:
    return f"""\
# overq_top: one clock; a fifth of its period for what stands outside. Change the period (ns) to yours.
set period {PERIOD}
create_clock -name clk -period $period [get_ports clk]
set_input_delay [expr 0.2 * $period] -clock clk [all_inputs]
set_output_delay [expr 0.2 * $period] -clock clk [all_outputs]
"""


def core(sources: Iterable[str], others: Iterable[str]) -> str:
    """CAPI2, as FuseSoC reads it: targets `default` (the accelerator) and `sim` (the testbench in Icarus Verilog)."""
    design = "\n".join(f"      - {name}" for name in sources)
    data = "\n".join(f"      - {name}: {{file_type: user, copyto: {name}}}" for name in others)
    return f"""\
CAPI=2:
name: overq:overq:accelerator:0
description: OverQ accelerator
filesets:
  rtl:
    files:
{design}
    file_type: verilogSource
  bench:
    files:
      - testbench.v: {{file_type: verilogSource}}
{data}
targets:
  default:
    filesets: [rtl]
    toplevel: overq_top
  sim:
    default_tool: icarus
    filesets: [rtl, bench]
    toplevel: testbench
"""


def librelane(sources: Iterable[str]) -> str:
    fields = {
        "DESIGN_NAME": "overq_top",
        "VERILOG_FILES": [f"dir::{name}" for name in sources],
        "CLOCK_PORT": "clk",
        "CLOCK_PERIOD": 10 * PERIOD,
        "PNR_SDC_FILE": "dir::overq.sdc",
        "SIGNOFF_SDC_FILE": "dir::overq.sdc",
        "FP_CORE_UTIL": 40,
    }
    return json.dumps(fields, indent=2) + "\n"


def openroad(sources: Iterable[str]) -> str:
    """config.mk of OpenROAD-flow-scripts."""
    listed = " ".join(f"$(HERE){name}" for name in sources)
    return f"""\
# make DESIGN_CONFIG=<this folder>/openroad.mk
HERE := $(dir $(lastword $(MAKEFILE_LIST)))
export PLATFORM ?= nangate45
export DESIGN_NAME = overq_top
export DESIGN_NICKNAME = overq
export VERILOG_FILES = {listed}
export SDC_FILE = $(HERE)overq.sdc
export CORE_UTILIZATION ?= 40
export PLACE_DENSITY_LB_ADDON ?= 0.2
"""


def files(design: Iterable[str], data: Iterable[str]) -> dict[str, str]:
    """design: the names of the modules' files; data: of the testbench's hex files."""
    names = sorted(design)
    return {
        "librelane.json": librelane(names),
        "openroad.mk": openroad(names),
        "overq.f": "".join(f"{name}\n" for name in names),
        "overq.core": core(names, sorted(data)),
        "overq.sdc": constraints(),
        "overq.vlt": waivers(),
    }
