"""Energy and area as `overq shapes` and `overq cycles` print them, and the options that ask for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from overq.cli.progress import progress
from overq.errors import InputError
from overq.text import add_row, console, visible

if TYPE_CHECKING:
    from overq.eda.energy import MemoryEnergy
    from overq.eda.liberty import Library
    from overq.sim.memory import Cost, Memory
    from overq.study.choices import Choice
    from overq.study.energy import Design, Priced

Liberty = Annotated[
    list[Path] | None, typer.Option(help="Liberty file: energy and area, from netlists of its cells; again for more files of one library.")
]
Clock = Annotated[float | None, typer.Option(help="Clock period in ns. Default: the longest path of all elements compared.")]
DramEnergy = Annotated[float | None, typer.Option("--dram-energy", help="pJ for a bit of DRAM. Default: 30.5, Horowitz 2014.")]


def memory_energy(dram: float | None) -> MemoryEnergy:
    """The table, with the user's own DRAM."""
    from overq.eda.energy import MemoryEnergy

    table = MemoryEnergy()
    return table if dram is None else MemoryEnergy(dram=dram, source=f"{table.source}; DRAM as given, {dram:g} pJ a bit")


def check_energy(liberty: list[Path] | None, clock: float | None, dram: float | None, dataflow: str) -> None:
    """That the options go together."""
    if clock is not None and not 0 < clock < float("inf"):
        raise InputError(f"--clock {clock}: a period in ns, more than 0")
    if not liberty and (clock, dram) != (None, None):
        raise InputError("--clock and --dram-energy are for energy, which needs --liberty")
    if liberty and dataflow != "ws":
        raise InputError(f"--liberty: the netlists are of the weight-stationary array, so there is no energy of the dataflow {dataflow}")


@contextmanager
def library_of(liberty: list[Path]) -> Iterator[tuple[Library, Callable[[str, int, int], None]]]:
    """(the library, what synthesis tells its progress to); what is synthesized meanwhile is remembered."""
    from overq.eda.liberty import Library
    from overq.eda.remembered import keep

    keep()
    library = Library(liberty)
    with progress() as update:
        yield library, update


def lines_of(costs: Mapping[Choice, Sequence[Cost]]) -> list[dict[str, Any]]:
    """A flat line for each format and layer."""
    return [{"format": choice.label} | asdict(layer) | {"dram": layer.dram} for choice, layers in costs.items() for layer in layers]


def with_energy(
    lines: list[dict[str, Any]],
    designs: Sequence[Design],
    memory: Memory,
    dram: float | None,
    clock: float | None,
    vectors: str,
    *,
    quiet: bool,
) -> list[dict[str, Any]]:
    """`lines_of` the same formats with what each layer takes, and unless quiet the table of all. clock: ns; vectors: in words."""
    from overq.study.energy import priced

    table = memory_energy(dram)
    made = priced(designs, memory, table, clock and clock * 1000)
    if not quiet:
        show_energy(made, table, vectors)
    return [line | more for line, more in zip(lines, (more for one in made for more in one.lines()), strict=True)]


def show_energy(found: list[Priced], table: MemoryEnergy, vectors: str) -> None:
    """One line a format; the first, plain one is what the others are compared with."""
    from rich.table import Table

    screen, blocks = console(width=150), found[0].blocks
    base = found[0].energy
    joule, factor = ("mJ", 1e-9) if base.total > 1e9 else ("µJ", 1e-6)
    parts_of_it = "elements", "edge", "leakage", "buffers", "DRAM"
    heads = ("format", "area mm²", "latency ms", f"energy {joule}", *parts_of_it, f"EDP {joule}·ms", "energy", "EDP")
    shown = Table(title=f"energy and area, all layers, clock {found[0].period / 1000:.2f} ns")
    for head in heads:
        shown.add_column(head, justify="left" if head == "format" else "right")
    for one in found:
        e = one.energy
        parts = (f"{value * factor:.4g}" for value in (e.total, e.elements, e.edge, e.leakage, e.buffers, e.dram))
        against = ("", "") if one is found[0] else (f"{e.total / base.total - 1:+.1%}", f"{e.edp / base.edp - 1:+.1%}")
        add_row(shown, one.label, f"{one.area * 1e-6:.3f}", f"{e.latency * 1e-6:.4g}", *parts, f"{e.edp * factor * 1e-6:.4g}", *against)
    screen.print(shown)
    screen.print(
        f"measured: elements, edge (encoder, output stage, skew) and leakage, from switching in netlists of {visible(blocks.library)}, "
        f"{blocks.voltage:g} V, with {visible(vectors)}; no wires, no glitches, no clock tree"
    )
    screen.print(f"a table: buffers and DRAM, {visible(table.source)}; not measured here")
    for one in found:
        if one.blocks.encode == 0:
            screen.print(f"{one.label}: what makes its lanes is not built here and takes nothing, in its favour")
        if one.blocks.period > one.period + 0.5:
            screen.print(f"{one.label}: an element's path takes {one.blocks.period / 1000:.2f} ns, more than this clock has")
    slow = max(one.blocks.edge for one in found)
    if slow > found[0].period + 0.5:
        screen.print(
            f"encoder and output stage are synthesized for area, as they are: a path takes up to {slow / 1000:.1f} ns; the registers that "
            "this clock would need there are not counted, for no format"
        )
