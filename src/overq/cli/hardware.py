"""`overq rtl` and `overq synth`: parse, call, print."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from overq.cli.inputs import format_of
from overq.errors import InputError, ToolError
from overq.output import check_outputs, write, write_all
from overq.spec import POLICIES, ArrayConfig, Format
from overq.text import add_row, console, visible

app = typer.Typer()

Bits = Annotated[int, typer.Option(help="Bits of one digit, 2 to 8.")]
Cascade = Annotated[int, typer.Option(help="How many lanes before a zero it may serve; 0 is the plain array.")]
Modes = Annotated[str, typer.Option(help="range, precision or both.")]
RangeBits = Annotated[int | None, typer.Option(help="Bits of an outlier's high digit, 0 to --bits.")]
FractionBits = Annotated[int | None, typer.Option(help="Bits of a fraction digit, 0 to --bits.")]
Policy = Annotated[str, typer.Option(help=f"Which value a zero serves: {' or '.join(POLICIES)}.")]
Signed = Annotated[bool, typer.Option("--signed", help="Signed digits.")]
WeightBits = Annotated[int, typer.Option(help="Bits of a weight, 2 to 8.")]
Rows = Annotated[int, typer.Option(help="Rows: lanes of one tile.")]
Columns = Annotated[int, typer.Option(help="Columns: output channels side by side.")]
DoubleBuffer = Annotated[bool, typer.Option("--double-buffer", help="A second weight register per element.")]
Target = Annotated[str, typer.Option(help="asic: products as gated rows of the weight; fpga: as *, for the device's multipliers.")]
Segments = Annotated[bool, typer.Option("--segments", help="Several whole channel vectors in one tile.")]
Depth = Annotated[int | None, typer.Option(help="Lanes of one whole dot product; default: rows × --tiles.")]


@app.command(epilog="Example: overq rtl --out accelerator --bits 4 --cascade 4 --rows 16 --columns 16 --run")
def rtl(
    out: Annotated[Path, typer.Option(help="Folder to write to.")],
    bits: Bits = 4,
    cascade: Cascade = 4,
    modes: Modes = "both",
    range_bits: RangeBits = None,
    fraction_bits: FractionBits = None,
    policy: Policy = "first",
    signed: Signed = False,
    weight_bits: WeightBits = 8,
    rows: Rows = 16,
    columns: Columns = 16,
    depth: Depth = None,
    double_buffer: DoubleBuffer = False,
    segments: Segments = False,
    target: Target = "asic",
    vectors: Annotated[Path | None, typer.Option(help="Layer vectors as JSON; they fix the format and the array.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of random vectors where none are given.")] = 0,
    count: Annotated[int, typer.Option(help="How many random vectors.")] = 64,
    tiles: Annotated[int, typer.Option(help="Tiles of one dot product in the random vectors.")] = 2,
    run: Annotated[bool, typer.Option("--run", help="Run the testbench with every simulator found.")] = False,
) -> None:
    """Write the accelerator as plain Verilog-2001, with a README and a self-checking testbench."""
    from overq.eda import simulators
    from overq.rtl import readme, testbench, verilog
    from overq.rtl.vectors import LayerVectors

    if vectors is not None:
        layer = LayerVectors.load(vectors)
        layer = replace(layer, config=layer.config.with_(double_buffered=double_buffer, target=target))
    else:
        if count < 1 or tiles < 1:
            raise InputError(f"--count and --tiles must be at least 1, not {count} and {tiles}")
        fmt = format_of(bits, cascade, modes, policy, signed, range_bits, fraction_bits)
        config = ArrayConfig(fmt, weight_bits, rows, columns, depth or rows * tiles, None, double_buffer, segments, target)
        layer = LayerVectors.random(config, vectors=count, tiles=tiles, seed=seed)
    files = verilog.files(layer.config) | testbench.files(layer) | {"README.md": readme.text(layer.config)}
    screen = console()
    screen.print(
        f"{len(write_all(out, files))} files in {out}: {layer.config.label}, {layer.config.rows} × {layer.config.columns}, {layer.source}"
    )
    if not run:
        return
    found = simulators.available()
    if not found:
        raise ToolError(f"no simulator found; looked for {' and '.join(simulators.SIMULATORS)} on the PATH")
    for name in found:
        verdict = simulators.simulate(name, out)
        screen.print(f"{simulators.version(name)}: {verdict}")
        if not verdict.startswith("PASS"):
            raise ToolError(f"{name}: the testbench failed")


@app.command(epilog="Example: overq synth --liberty cells.lib --bits 4 --cascade 4 --csv parts.csv")
def synth(
    liberty: Annotated[
        list[Path] | None, typer.Option(help="Liberty file, .gz too; again for more files of one library. Without: transistors.")
    ] = None,
    bits: Bits = 4,
    cascade: Cascade = 4,
    modes: Modes = "both",
    range_bits: RangeBits = None,
    fraction_bits: FractionBits = None,
    policy: Policy = "first",
    signed: Signed = False,
    weight_bits: WeightBits = 8,
    rows: Rows = 16,
    columns: Columns = 16,
    depth: Depth = None,
    double_buffer: DoubleBuffer = False,
    sums: Annotated[str, typer.Option(help="equal: plain has sums as wide as OverQ; own: as wide as it needs itself.")] = "equal",
    csv: Annotated[Path | None, typer.Option(help="Write the parts as CSV, too.")] = None,
) -> None:
    """Area by part, flip-flops and critical path of the accelerator, beside the plain one of the same size."""
    from overq.eda import yosys
    from overq.eda.liberty import Library
    from overq.rtl.parts import array_area, parts, to_csv

    fmt = format_of(bits, cascade, modes, policy, signed, range_bits, fraction_bits)
    check_outputs(csv)
    config = ArrayConfig(fmt, weight_bits, rows, columns, depth, double_buffered=double_buffer)
    if sums not in ("equal", "own"):
        raise InputError(f"--sums must be equal or own, not {sums!r}")
    plain = config.with_(format=Format.plain(bits, signed), sum_bits=config.psum_bits if sums == "equal" else None)
    library = Library(liberty) if liberty else None
    designs = {f"{c.label}, {c.psum_bits}-bit sums": parts(c, library) for c in ([plain, config] if cascade else [config])}
    unit = "µm²" if library else "transistors"
    screen = console(width=96)
    screen.print(f"{yosys.version()}, {library.name if library else 'no library: CMOS transistor estimate'}")
    for name, made in designs.items():
        total = sum(part.total for part in made)
        table = Table(title=visible(f"{name}, {rows} × {columns}, {unit}"))
        heads = ["part", "count", "each", "all", "share", "flip-flops", *(["ps", "depth"] if library else [])]
        for head in heads:
            table.add_column(head, justify="left" if head == "part" else "right", no_wrap=True)
        for part in made:
            cells = (
                part.name,
                part.count,
                f"{part.area:.1f}",
                f"{part.total:.0f}",
                f"{part.total / total:.1%}",
                part.count * part.flip_flops,
            )
            path = (f"{part.period:.0f}" if part.period else "–", part.depth or "–") if library else ()
            add_row(table, *cells, *path)
        table.add_section()
        table.add_row("all", "", "", f"{total:.0f}", "", str(sum(p.count * p.flip_flops for p in made)))
        screen.print(table)
    if cascade:
        base, made = designs.values()
        whole = sum(part.total for part in made) / sum(part.total for part in base) - 1
        screen.print(f"over plain with {sums} sums: elements {array_area(made) / array_area(base) - 1:+.1%}, all {whole:+.1%}")
    if csv is not None:
        write(csv, to_csv(designs, unit, library.name if library else "none"))
        screen.print(f"written: {visible(csv)}")
