"""Plain Verilog-2001 of every block, one file per module."""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass
from pathlib import Path

from amaranth.hdl import ClockSignal, Fragment, Instance, Module, ResetSignal, Shape, ShapeLike, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import Flow

from overq.output import write_all
from overq.rtl.array import SystolicArray
from overq.rtl.encoder import OverwriteEncoder
from overq.rtl.output import OutputStage
from overq.rtl.pe import ProcessingElement
from overq.rtl.top import Accelerator
from overq.rtl.writer import Port, module
from overq.spec import ArrayConfig

# The datapath has no reset: only valid bits do, so that no flip-flop pays for one it does not need.
HAS_RESET = (OverwriteEncoder, OutputStage, Accelerator)


def module_name(block: wiring.Component) -> str:
    """The Verilog module of a block."""
    if isinstance(block, ProcessingElement):
        return "overq_element_first" if block.first and block.state.width else "overq_element"
    names = {SystolicArray: "overq_array", OverwriteEncoder: "overq_encoder", OutputStage: "overq_output", Accelerator: "overq_top"}
    return names[type(block)]


@dataclass
class Placed:
    """Stands in for a block inside another: signals joined to an instance of the block's module."""

    ports: dict[str, object]
    block: wiring.Component

    def __getattr__(self, name: str) -> object:
        ports = object.__getattribute__(self, "ports")
        return ports[name] if name in ports else getattr(object.__getattribute__(self, "block"), name)


class Placer:
    """The `place` argument of a block that is to be written as Verilog; collects what it placed."""

    def __init__(self) -> None:
        self.blocks: dict[str, wiring.Component] = {}

    def __call__(self, m: Module, name: str, block: wiring.Component) -> Placed:
        module = module_name(block)
        self.blocks.setdefault(module, block)
        Fragment.get(block, None)  # elaborated here, so that what it contains is placed too
        ports: dict[str, object] = {}
        wires: dict[str, object] = {"i_clk": ClockSignal()}
        if isinstance(block, HAS_RESET):
            wires["i_rst"] = ResetSignal()
        for port, member in block.signature.members.items():
            ports[port] = Signal(member.shape, name=f"{name}_{port}")
            wires[f"{'i' if member.flow == Flow.In else 'o'}_{port}"] = Value.cast(ports[port])
        m.submodules[name] = Instance(module, **wires)
        return Placed(ports, block)


def meanings(block: wiring.Component) -> dict[str, str]:
    """Port -> what its class's docstring says of it: lines of "name, name   meaning", continued by indented ones."""
    found: dict[str, str] = {}
    names: list[str] = []
    for line in inspect.cleandoc(type(block).__doc__ or "").splitlines():
        head = re.fullmatch(r"(\w+(?:(?:, | → )\w+)*) {2,}(\S.*)", line)
        if head:
            names = re.findall(r"\w+", head[1])
            found |= dict.fromkeys(names, head[2])
        elif names and line.startswith("    "):
            found |= {name: f"{found[name]} {line.strip()}" for name in names}
        else:
            names = []
    return found


def to_verilog(block: wiring.Component) -> str:
    """One Verilog module, which instantiates what the block was told to place as instances."""
    fragment = Fragment.get(block, None)
    clock, reset, said = Signal(name="clk"), Signal(name="rst"), meanings(block)
    ports = [Port("clk", "input", clock, "rising edge")]
    if isinstance(block, HAS_RESET):
        ports.append(Port("rst", "input", reset, "synchronous, active high"))
    for name, member in block.signature.members.items():
        direction = "input" if member.flow == Flow.In else "output"
        ports.append(Port(name, direction, Value.cast(getattr(block, name)), f"{_packed(member.shape)}{said.get(name, '')}"))
    return module(module_name(block), fragment, ports, clock, reset)


def _packed(shape: ShapeLike) -> str:
    if not isinstance(shape, data.ArrayLayout):
        return ""
    return f"{shape.length} × {Shape.cast(shape.elem_shape).width} bits; "


def named(block: wiring.Component) -> tuple[str, str]:
    """The name and the text of a block's Verilog module."""
    return module_name(block), to_verilog(block)


def design(config: ArrayConfig, *, relu: bool = True) -> dict[str, str]:
    """Every module of the accelerator: name -> Verilog text."""
    placer = Placer()
    top = Accelerator(config=config, relu=relu, place=placer)
    texts = {module_name(top): to_verilog(top)}
    return texts | {name: to_verilog(block) for name, block in placer.blocks.items()}


def files(config: ArrayConfig, *, relu: bool = True) -> dict[str, str]:
    """One file per module: its name -> its text."""
    head = f"OverQ {config.label}, {config.rows} rows, {config.columns} columns"
    return {f"{name}.v": f"// {name}: {head}\n`timescale 1ns/1ps\n{text}" for name, text in sorted(design(config, relu=relu).items())}


def write(config: ArrayConfig, folder: Path, *, relu: bool = True) -> list[Path]:
    """The files of the accelerator under `folder`, all or none."""
    return write_all(folder, files(config, relu=relu))
