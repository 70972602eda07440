"""Area of a whole accelerator by part: how many of each block, what one takes, how many flip-flops it has."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from overq.eda import yosys
from overq.eda.liberty import Library
from overq.eda.netlist import Netlist
from overq.eda.synth import QUICK, RECIPES, Recipe, netlists, smallest
from overq.rtl import verilog
from overq.rtl.encoder import OverwriteEncoder, latency
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
    """`count` times one block; area of one, flip-flops of one, critical path of one (ps, 0 without a library).

    netlist   of which `share` is one block; None without a library, and for registers that were only counted
    """

    name: str
    count: int
    area: float
    flip_flops: int
    period: float
    depth: int
    share: float = 1.0
    netlist: Netlist | None = field(default=None, compare=False, repr=False)

    @property
    def total(self) -> float:
        return self.count * self.area


@dataclass(frozen=True)
class Job:
    """A block to be synthesized, and what of it counts: `count` times `share` of its area.

    beside   modules that it instantiates, which are not counted
    """

    name: str
    count: int
    text: str
    recipes: Sequence[Recipe] = FEW
    beside: str = ""
    share: float = 1.0

    def done(self, library: Library | None) -> Part:
        module = self.text.split("module ", 1)[1].split("(", 1)[0].strip()
        found = netlists(module, self.text, library, self.recipes, self.beside)
        best = smallest([one.point for one in found])
        netlist = next(one.netlist for one in found if one.point is best)
        area = best.area if self.share == 1 else round(best.area * self.share, 3)
        return Part(self.name, self.count, area, int(best.flip_flops * self.share), best.period, best.depth, self.share, netlist)


def parts(config: ArrayConfig, library: Library | None, recipes: Sequence[Recipe] = RECIPES, whole: bool | None = None) -> list[Part]:
    """Elements, encoder, output stage, and the registers that skew and deskew.

    Each block is synthesized alone, as a floor plan of blocks would be; none is counted twice. With `whole` (default: up to
    16 rows and columns) encoder, skew and control are synthesized as they are; else row 0 counts like the others, the encoder is that
    of 16 lanes, so many times, and skew and control are counted in flip-flops (`skew_flip_flops`).
    recipes   ways through Yosys for the elements, of which the smallest result counts
    """
    return compared([config], library, recipes, whole)[0]


def compared(
    configs: Sequence[ArrayConfig],
    library: Library | None,
    recipes: Sequence[Recipe] = RECIPES,
    whole: bool | None = None,
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
    workers: int = 2,
) -> list[list[Part]]:
    """`parts` of several designs, `workers` blocks at a time; progress is told (what, done, of how many)."""
    if library is not None:
        library.plain_texts, library.full_adder  # noqa: B018  read once, before the threads share them
    progress("Verilog", 0, 1)
    with ThreadPoolExecutor(workers) as pool:
        found = list(pool.map(lambda config: _jobs(config, recipes, _is_small(config) if whole is None else whole), configs))
    total, made = sum(map(len, found)), 0

    def counted(job: Job) -> Part:
        nonlocal made
        part = job.done(library)
        made += 1
        progress("synthesis", made, total)
        return part

    progress("synthesis", 0, total)
    with ThreadPoolExecutor(workers) as pool:
        running = [[pool.submit(counted, job) for job in jobs] for jobs in found]
        done = [[future.result() for future in futures] for futures in running]
    each = flip_flop_area(library)
    for config, some, jobs in zip(configs, done, found, strict=True):
        if not any(job.beside for job in jobs):
            some.append(Part("skew and control, flip-flops", skew_flip_flops(config), each, 1, 0.0, 0))
    return done


def _is_small(config: ArrayConfig) -> bool:
    return max(config.rows, config.columns) <= SMALL


def _jobs(config: ArrayConfig, recipes: Sequence[Recipe], whole: bool) -> list[Job]:
    rows, columns = config.rows, config.columns
    if not whole:
        few = config.with_(rows=SMALL, columns=1, depth=max(config.dot_depth, SMALL))
        return [
            Job("element", columns * rows, verilog.to_verilog(ProcessingElement(config=config)), recipes),
            Job("encoder, one lane of 16", rows, verilog.to_verilog(OverwriteEncoder(config=few)), share=1 / SMALL),
            output_job(config),
        ]
    placer = verilog.Placer()
    top = verilog.to_verilog(Accelerator(config=config, place=placer))
    texts = {name: verilog.to_verilog(block) for name, block in placer.blocks.items()}
    first = texts.get("overq_element_first")
    return [
        *([Job("element, first row", columns, first, recipes)] if first else []),
        Job("element", columns * (rows - (first is not None)), texts["overq_element"], recipes),
        Job("encoder", 1, texts["overq_encoder"]),
        Job("output stage, one column", columns, verilog.to_verilog(OutputStage(config=config.with_(columns=1)))),
        Job("skew and control", 1, top, beside="".join(texts.values())),
    ]


def output_job(config: ArrayConfig) -> Job:
    """The output stage of one column, as often as there are columns."""
    few = config.with_(rows=SMALL, columns=1, depth=max(config.dot_depth, SMALL))
    return Job("output stage, one column", config.columns, verilog.to_verilog(OutputStage(config=few)))


def skew_flip_flops(config: ArrayConfig, wide: int | None = None) -> int:
    """Registers of the accelerator outside of its blocks: row k's lane waits k cycles, column j's first sum j more than the encoder takes,
    its last sum for the columns behind it; valid and last bits travel along; double-buffered, so do weights and the waves of loading.

    wide   wires of a lane; default: the format's digit and state
    """
    rows, columns, encoding = config.rows, config.columns, latency(config)
    wide = wide or config.format.bits + RowState(config.format).width
    sums = columns * (encoding + config.pipeline) + columns * (columns - 1)  # in and out together
    count = rows * (rows - 1) // 2 * wide + sums * config.psum_bits + 2 * (encoding + config.pipeline + rows + columns - 1)
    if config.double_buffered:
        late = encoding - 1
        count += rows + rows * late + late + rows - 1 + (columns * late + columns * (columns - 1) // 2) * config.weight_bits
    return count


def flip_flop_area(library: Library | None) -> float:
    """Of the smallest flip-flop with a clock and data alone, or with clear or preset that is tied off where there is no such."""
    if library is None:
        return FLIP_FLOP_TRANSISTORS
    cells = [library.cell(name) for name in library.names]
    simple = [cell for cell in cells if cell.is_flip_flop and not cell.falling and len(cell.inputs) - len(cell.asynchronous) == 2]
    areas = [[cell.area for cell in simple if not cell.unusual], [cell.area for cell in simple if cell.asynchronous]]
    return min(next(filter(None, areas), [0.0]))


def array_area(made: list[Part]) -> float:
    """The elements alone."""
    return sum(part.total for part in made if part.name.startswith("element"))


def element_area(made: list[Part]) -> float:
    """One element of a row that has a row before it."""
    return next(part.area for part in made if part.name == "element")


COLUMNS = ("design", "part", "count", "area_each", "area_all", "unit", "flip_flops_each", "period_ps", "depth", "library", "yosys")


def csv_rows(designs: dict[str, list[Part]], unit: str, library: str) -> list[dict[str, object]]:
    """One line per design and part."""
    rows = []
    for name, made in designs.items():
        for part in made:
            numbers = part.count, part.area, round(part.total, 3), unit, part.flip_flops, part.period, part.depth
            rows.append(dict(zip(COLUMNS, (name, part.name, *numbers, library, yosys.version()), strict=True)))
    return rows


def to_csv(rows: Sequence[dict[str, object]]) -> str:
    return csv_text(COLUMNS, rows)
