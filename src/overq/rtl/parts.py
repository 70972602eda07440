"""Area of a whole accelerator by part: how many of each block, what one takes, how many flip-flops it has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from overq.eda import yosys
from overq.eda.liberty import Library
from overq.eda.synth import QUICK, RECIPES, Point, Recipe, netlists, smallest
from overq.rtl import verilog
from overq.rtl.encoder import OverwriteEncoder
from overq.rtl.output import OutputStage
from overq.rtl.pe import ProcessingElement
from overq.rtl.state import RowState
from overq.rtl.top import Accelerator
from overq.spec import ArrayConfig
from overq.text import csv_text

# Large blocks go one way only, the quick one (no larger than Yosys' default); the elements, which are counted by the hundred, every way.
FEW = (Recipe(QUICK, "", False),)
SMALL = 16  # rows and columns up to which every block is synthesized whole
FLIP_FLOP_TRANSISTORS = 24.0


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


def parts(config: ArrayConfig, library: Library | None, recipes: Sequence[Recipe] = RECIPES, whole: bool | None = None) -> list[Part]:
    """Elements, encoder, output stage, and the registers that skew and deskew.

    Each block is synthesized alone, as a floor plan of blocks would be; none is counted twice. With `whole` (default: up to
    16 rows and columns) encoder, skew and control are synthesized as they are; else row 0 counts like the others, the encoder is that
    of 16 lanes, so many times, and skew and control are counted in flip-flops (`skew_flip_flops`).
    recipes   ways through Yosys for the elements, of which the smallest result counts
    """
    rows, columns = config.rows, config.columns
    whole = max(rows, columns) <= SMALL if whole is None else whole
    has_first = whole and config.format.cascade > 0
    made = []
    for first in (True, False) if has_first else (False,):
        count = columns * (1 if first else rows - has_first)
        text = verilog.to_verilog(ProcessingElement(config=config, first=first))
        made.append(_part("element, first row" if first else "element", count, text, library, recipes))
    if not whole:
        few = config.with_(rows=SMALL, columns=1, depth=config.dot_depth)
        sixteen = _part("encoder", 1, verilog.to_verilog(OverwriteEncoder(config=few)), library)
        lane = replace(sixteen, name="encoder, one lane of 16", area=round(sixteen.area / SMALL, 3), flip_flops=sixteen.flip_flops // SMALL)
        made.append(replace(lane, count=rows))
        made.append(_part("output stage, one column", columns, verilog.to_verilog(OutputStage(config=few)), library))
        each = _flip_flop_area(library)
        made.append(Part("skew and control, flip-flops", skew_flip_flops(config), each, 1, 0.0, 0))
        return made
    made.append(_part("encoder", 1, verilog.to_verilog(OverwriteEncoder(config=config)), library))
    made.append(_part("output stage, one column", columns, verilog.to_verilog(OutputStage(config=config.with_(columns=1))), library))
    placer = verilog.Placer()
    top = verilog.to_verilog(Accelerator(config=config, place=placer))
    blocks = "".join(verilog.to_verilog(block) for block in placer.blocks.values())
    made.append(_part("skew and control", 1, top, library, beside=blocks))
    return made


def skew_flip_flops(config: ArrayConfig) -> int:
    """Registers of the accelerator outside of its blocks: row k's lane waits k cycles, column j's first sum j more than the encoder takes,
    its last sum for the columns behind it; valid and last bits travel along; double-buffered, so do weights and the waves of loading."""
    rows, columns, latency = config.rows, config.columns, OverwriteEncoder.latency
    wide = config.format.bits + RowState(config.format).width
    sums = columns * latency + columns * (columns - 1)  # in and out together
    count = rows * (rows - 1) // 2 * wide + sums * config.psum_bits + 2 * (latency + rows + columns - 1)
    if config.double_buffered:
        late = latency - 1
        count += rows + rows * late + late + rows - 1 + (columns * late + columns * (columns - 1) // 2) * config.weight_bits
    return count


def _flip_flop_area(library: Library | None) -> float:
    """Of the smallest flip-flop without anything unusual."""
    if library is None:
        return FLIP_FLOP_TRANSISTORS
    cells = [library.cell(name) for name in library.names]
    return min(
        (cell.area for cell in cells if cell.is_flip_flop and not cell.unusual and not cell.falling and len(cell.inputs) == 2), default=0.0
    )


def _part(name: str, count: int, text: str, library: Library | None, recipes: Sequence[Recipe] = FEW, beside: str = "") -> Part:
    module = text.split("module ", 1)[1].split("(", 1)[0].strip()
    points = [point for point, _ in netlists(module, text, library, recipes, beside)]
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
