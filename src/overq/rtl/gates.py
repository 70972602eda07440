"""The synthesized netlist as Verilog, with models of the cells it uses made from the Liberty functions."""

from __future__ import annotations

import re
from pathlib import Path

from overq.eda.liberty import Cell, Library, python_expression
from overq.eda.synth import RECIPES, netlists
from overq.output import write_all
from overq.rtl import verilog
from overq.rtl.config import ArrayConfig
from overq.rtl.top import Accelerator

RECIPE = next(r for r in RECIPES if r.script == "default" and not r.apart and not r.adders)


def cell_model(cell: Cell) -> str:
    """One Verilog module that does what the cell's Liberty functions say, without delays."""
    ports = [f"input {pin.name}" for pin in cell.inputs] + [f"output {pin.name}" for pin in cell.outputs]
    lines = [f"module {cell.name}({', '.join(ports)});"]
    if cell.is_flip_flop:
        lines.append(f"  reg {cell.state}; always @(posedge {cell.clock}) {cell.state} <= {python_expression(cell.data)};")
        for pin in cell.outputs:
            lines.append(f"  assign {pin.name} = {cell.state if pin.function == cell.state else '~' + cell.state};")
    else:
        lines += [f"  assign {pin.name} = {python_expression(pin.function)};" for pin in cell.outputs if pin.function]
    return "\n".join([*lines, "endmodule", ""])


def design(config: ArrayConfig, library: Library | None) -> dict[str, str]:
    """Every module of the accelerator as gates: name -> Verilog. Without a library the gates are Verilog operators."""
    placer = verilog.Placer()
    top = verilog.to_verilog(Accelerator(config=config, place=placer))
    texts = {name: verilog.to_verilog(block) for name, block in placer.blocks.items()} | {"overq_top": top}
    out = {}
    for name, text in texts.items():
        beside = "".join(other for o, other in texts.items() if o != name)
        out[name] = netlists(name, text, library, [RECIPE], beside)[0][1]
    if library is not None:
        used = {word for text in out.values() for word in re.findall(r"^\s+(\w+) \S+ \($", text, re.M)}
        names = sorted(used & set(library.names))
        out["cells"] = "".join(cell_model(library.cell(name)) for name in names)
    return out


def write(config: ArrayConfig, folder: Path, library: Library | None) -> list[Path]:
    """One file per module under `folder`, all or none."""
    return write_all(folder, {f"{name}.v": text for name, text in sorted(design(config, library).items())})
