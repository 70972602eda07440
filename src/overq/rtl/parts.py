"""Area of a whole accelerator by part: how many of each block, what one takes, how many flip-flops it has."""

from __future__ import annotations

from dataclasses import dataclass

from overq.eda import yosys
from overq.eda.liberty import Library
from overq.eda.synth import RECIPES, Point, netlists, smallest
from overq.rtl import verilog
from overq.rtl.encoder import OverwriteEncoder
from overq.rtl.output import OutputStage
from overq.rtl.pe import ProcessingElement
from overq.rtl.top import Accelerator
from overq.spec import ArrayConfig
from overq.text import csv_text

# Large blocks go through Yosys' default only; the elements, which are counted by the hundred, through every recipe.
FEW = tuple(r for r in RECIPES if r.script == "default" and not r.apart and not r.adders)


@dataclass(frozen=True)
class Part:
    """`count` times one block; area of one, flip-flops of one, critical path of one (ps, 0 without a library)."""

    name: str
    count: int
    area: float
    flip_flops: int
    period: float
    depth: int

    @property
    def total(self) -> float:
        return self.count * self.area


def parts(config: ArrayConfig, library: Library | None) -> list[Part]:
    """Elements, encoder, output stage, and the registers that skew and deskew.

    Each block is synthesized alone, as a floor plan of blocks would be; none is counted twice.
    """
    rows, columns = config.rows, config.columns
    has_first = bool(config.format.cascade)
    made = []
    if has_first:
        made.append(_part("element, first row", columns, verilog.to_verilog(ProcessingElement(config=config, first=True)), library, True))
    made.append(_part("element", columns * (rows - has_first), verilog.to_verilog(ProcessingElement(config=config)), library, True))
    made.append(_part("encoder", 1, verilog.to_verilog(OverwriteEncoder(config=config)), library))
    made.append(_part("output stage, one column", columns, verilog.to_verilog(OutputStage(config=config.with_(columns=1))), library))
    placer = verilog.Placer()
    top = verilog.to_verilog(Accelerator(config=config, place=placer))
    blocks = "".join(verilog.to_verilog(block) for block in placer.blocks.values())
    made.append(_part("skew and control", 1, top, library, beside=blocks))
    return made


def _part(name: str, count: int, text: str, library: Library | None, every: bool = False, beside: str = "") -> Part:
    module = text.split("module ", 1)[1].split("(", 1)[0].strip()
    points = [point for point, _ in netlists(module, text, library, RECIPES if every else FEW, beside)]
    best: Point = smallest(points)
    return Part(name, count, best.area, best.flip_flops, best.period, best.depth)


def array_area(made: list[Part]) -> float:
    """The elements alone."""
    return sum(part.total for part in made if part.name.startswith("element"))


COLUMNS = ("design", "part", "count", "area_each", "area_all", "unit", "flip_flops_each", "period_ps", "depth", "library", "yosys")


def to_csv(designs: dict[str, list[Part]], unit: str, library: str) -> str:
    """One line per design and part."""
    rows = []
    for name, made in designs.items():
        for part in made:
            numbers = part.count, part.area, round(part.total, 3), unit, part.flip_flops, part.period, part.depth
            rows.append(dict(zip(COLUMNS, (name, part.name, *numbers, library, yosys.version()), strict=True)))
    return csv_text(COLUMNS, rows)
