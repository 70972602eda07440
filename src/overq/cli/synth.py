"""`overq synth`: parse, call, print."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from overq.cli.hardware import (
    Bits,
    Cascade,
    Columns,
    Depth,
    DoubleBuffer,
    Evict,
    FractionBits,
    Modes,
    Policy,
    RangeBits,
    Rows,
    Signed,
    WeightBits,
)
from overq.cli.inputs import beside_plain, format_of
from overq.cli.progress import progress
from overq.errors import InputError
from overq.output import check_outputs, write
from overq.spec import ArrayConfig
from overq.text import add_row, console, visible

if TYPE_CHECKING:
    from rich.console import Console

    from overq.rtl.parts import Part

app = typer.Typer()
WIDTH = 100


@app.command(epilog="Example: overq synth --fast --liberty cells.lib --beside slow_corner.lib --rows 8 --columns 8 --csv parts.csv")
def synth(
    liberty: Annotated[
        list[Path] | None, typer.Option(help="Liberty file, .gz too; again for more files of one library. Without: transistors.")
    ] = None,
    beside: Annotated[list[Path] | None, typer.Option(help="Another library, or another corner, for the same; again for more.")] = None,
    bits: Bits = 4,
    cascade: Cascade = 4,
    modes: Modes = "both",
    range_bits: RangeBits = None,
    fraction_bits: FractionBits = None,
    policy: Policy = "first",
    signed: Signed = False,
    evict: Evict = 0,
    weight_bits: WeightBits = 8,
    rows: Rows = 16,
    columns: Columns = 16,
    depth: Depth = None,
    double_buffer: DoubleBuffer = False,
    sums: Annotated[str, typer.Option(help="equal: all have sums as wide as the widest needs; own: each as wide as it needs.")] = "equal",
    fast: Annotated[bool, typer.Option("--fast", help="One good recipe for the elements instead of all 24.")] = False,
    csv: Annotated[Path | None, typer.Option(help="Write one line per part; - is standard output.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write everything; - is standard output.")] = None,
) -> None:
    """Area by part, flip-flops and critical path of the accelerator, beside plain ones with as many bits and with one more.

    What was synthesized once is remembered, in $OVERQ_CACHE or else in the user's cache folder.
    """
    from overq.eda import yosys
    from overq.eda.liberty import Library
    from overq.eda.remembered import keep
    from overq.eda.synth import FAST, RECIPES
    from overq.rtl.parts import compared, csv_rows, to_csv

    fmt = format_of(bits, cascade, modes, policy, signed, range_bits, fraction_bits, evict)
    check_outputs(csv, json_file)
    if sums not in ("equal", "own"):
        raise InputError(f"--sums must be equal or own, not {sums!r}")
    if beside and not liberty:
        raise InputError("--beside is another library beside that of --liberty, which is not given")
    config = ArrayConfig(fmt, weight_bits, rows, columns, depth, double_buffered=double_buffer)
    configs = [config.with_(format=one) for one in beside_plain(fmt)]
    if sums == "equal":
        configs = [one.with_(sum_bits=max(other.psum_bits for other in configs)) for one in configs]
    keep()
    libraries = [Library(liberty), *map(Library, beside or [])] if liberty else [None]
    recipes = FAST if fast else RECIPES
    screen = console(width=WIDTH, quiet=Path("-") in (csv, json_file))
    lines: list[dict[str, object]] = []
    for library in libraries:
        name, unit = (library.name, "µm²") if library else ("none", "transistors")
        screen.print(f"{yosys.version()}, {visible(name) if library else 'no library: CMOS transistor estimate'}")
        with progress() as update:
            made = compared(configs, library, recipes, progress=update)
        designs = {f"{one.label}, {one.psum_bits}-bit sums": parts for one, parts in zip(configs, made, strict=True)}
        for title, parts in designs.items():
            screen.print(_table(f"{title}, {rows} × {columns}, {unit}", parts, library is not None))
        if cascade:
            _headline(screen, [one.label for one in configs], made, sums)
        lines += csv_rows(designs, unit, name)
    if csv is not None:
        write(csv, to_csv(lines))
        screen.print(f"written: {visible(csv)}")
    if json_file is not None:
        write(json_file, json.dumps(lines, indent=1) + "\n")


def _table(title: str, made: list[Part], timed: bool) -> Table:
    total = sum(part.total for part in made)
    table = Table(title=visible(title))
    for head in ("part", "count", "each", "all", "share", "flip-flops", *(("ps", "depth") if timed else ())):
        table.add_column(head, justify="left" if head == "part" else "right", no_wrap=True)
    for part in made:
        areas = f"{part.area:.1f}", f"{part.total:.0f}", f"{part.total / total:.1%}"
        path = (f"{part.period:.0f}" if part.period else "–", part.depth or "–") if timed else ()
        add_row(table, part.name, part.count, *areas, part.count * part.flip_flops, *path)
    table.add_section()
    table.add_row("all", "", "", f"{total:.0f}", "", str(sum(p.count * p.flip_flops for p in made)))
    return table


def _headline(screen: Console, labels: list[str], made: list[list[Part]], sums: str) -> None:
    """OverQ, which is the second, over each plain design: an element of the rows that have a row before them, then all of the array."""
    from overq.rtl.parts import array_area, element_area

    ours = made[1]
    for label, plain in zip(labels, made, strict=True):
        if plain is ours:
            continue
        whole = sum(part.total for part in ours) / sum(part.total for part in plain) - 1
        one, grid = element_area(ours) / element_area(plain) - 1, array_area(ours) / array_area(plain) - 1
        text = f"{labels[1]} over {label}, {sums} sums: an element {one:+.1%}, all elements {grid:+.1%}, whole array {whole:+.1%}"
        screen.print(text)
