"""The synthesized netlist as Verilog, with models of the cells it uses made from the Liberty functions."""

from __future__ import annotations

import re
from pathlib import Path

from overq.eda import function
from overq.eda.cells import Cell
from overq.eda.liberty import Library
from overq.eda.synth import RECIPES, netlists
from overq.output import write_all
from overq.rtl import verilog
from overq.rtl.top import Accelerator
from overq.spec import ArrayConfig

RECIPE = next(r for r in RECIPES if r.script == "default" and not r.apart and not r.adders)


def cell_model(cell: Cell) -> str:
    """One Verilog module that does what the cell's Liberty functions say, without delays."""
    ports = [f"input {pin.name}" for pin in cell.inputs] + [f"output {pin.name}" for pin in cell.outputs]
    lines = [f"module {cell.name}({', '.join(ports)});"]
    if cell.is_flip_flop:
        held, inverse = cell.states
        edge = "negedge" if cell.falling else "posedge"
        lines.append(f"  reg {held}; wire {inverse} = ~{held};")
        lines.append(f"  always @({edge} {cell.clock}) {held} <= {function.expression(cell.data)};")
        lines += [f"  assign {pin.name} = {function.expression(pin.function)};" for pin in cell.outputs if pin.function]
    else:
        lines += [f"  assign {pin.name} = {function.expression(pin.function)};" for pin in cell.outputs if pin.function]
    return "\n".join([*lines, "endmodule", ""])


def design(config: ArrayConfig, library: Library | None) -> dict[str, str]:
    """Every module of the accelerator as gates: name -> Verilog. Without a library the gates are Verilog operators."""
    placer = verilog.Placer()
    top = verilog.to_verilog(Accelerator(config=config, place=placer))
    texts = {name: verilog.to_verilog(block) for name, block in placer.blocks.items()} | {"overq_top": top}
    out = {}
    for name, text in texts.items():
        beside = "".join(other for o, other in texts.items() if o != name)
        out[name] = netlists(name, text, library, [RECIPE], beside)[0].verilog
    if library is not None:
        used = {word for text in out.values() for word in re.findall(r"^\s+(\w+) \S+ \($", text, re.M)}
        names = sorted(used & set(library.names))
        out["cells"] = "".join(cell_model(library.cell(name)) for name in names)
    return out


def write(config: ArrayConfig, folder: Path, library: Library | None) -> list[Path]:
    """One file per module under `folder`, all or none."""
    return write_all(folder, {f"{name}.v": text for name, text in sorted(design(config, library).items())})
