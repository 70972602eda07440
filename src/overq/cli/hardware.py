"""`overq rtl`: parse, call, print; and the options of an array, which other commands share."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from overq.cli.inputs import format_of
from overq.errors import InputError, ToolError
from overq.output import write_all
from overq.spec import POLICIES, ArrayConfig
from overq.text import console

app = typer.Typer()

Bits = Annotated[int, typer.Option(help="Bits of one digit, 2 to 8.")]
Cascade = Annotated[int, typer.Option(help="How many lanes before a zero it may serve; 0 is the plain array.")]
Modes = Annotated[str, typer.Option(help="range, precision or both.")]
RangeBits = Annotated[int | None, typer.Option(help="Bits of an outlier's high digit, 0 to --bits.")]
FractionBits = Annotated[int | None, typer.Option(help="Bits of a fraction digit, 0 to --bits.")]
Policy = Annotated[str, typer.Option(help=f"Which value a zero serves: {' or '.join(POLICIES)}.")]
Evict = Annotated[int, typer.Option(help="Greatest level that gives way to an outlier which no zero serves, 0 (none) to 3.")]
Signed = Annotated[bool, typer.Option("--signed", help="Signed digits.")]
WeightBits = Annotated[int, typer.Option(help="Bits of a weight, 2 to 8.")]
Rows = Annotated[int, typer.Option(help="Rows: lanes of one tile.")]
Columns = Annotated[int, typer.Option(help="Columns: output channels side by side.")]
DoubleBuffer = Annotated[bool, typer.Option("--double-buffer", help="A second weight register per element.")]
Target = Annotated[str, typer.Option(help="asic: products as gated rows of the weight; fpga: as *, for the device's multipliers.")]
Stalls = Annotated[bool, typer.Option("--stalls", help="A clock enable, and ready behind sums and t: the whole array can be held.")]
Pipeline = Annotated[int, typer.Option(help="Registers from an element's lane to its sum: 0, 1 behind the product, 2 before it, too.")]
Axi = Annotated[bool, typer.Option("--axi", help="AXI4-Stream ports around it, with a testbench of their own; implies --stalls.")]
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
    evict: Evict = 0,
    weight_bits: WeightBits = 8,
    rows: Rows = 16,
    columns: Columns = 16,
    depth: Depth = None,
    double_buffer: DoubleBuffer = False,
    segments: Segments = False,
    target: Target = "asic",
    stalls: Stalls = False,
    pipeline: Pipeline = 0,
    axi: Axi = False,
    vectors: Annotated[Path | None, typer.Option(help="Layer vectors as JSON; they fix the format and the array.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of random vectors where none are given.")] = 0,
    count: Annotated[int, typer.Option(help="How many random vectors.")] = 64,
    tiles: Annotated[int, typer.Option(help="Tiles of one dot product in the random vectors.")] = 2,
    run: Annotated[bool, typer.Option("--run", help="Run the testbench with every simulator found.")] = False,
) -> None:
    """Write the accelerator as plain Verilog-2001, with a README, a self-checking testbench, assertions of its protocol, programs that drive
    it (C++ with Verilator, cocotb), and files for other tools."""
    from overq.eda import simulators
    from overq.rtl import axis, axis_bench, examples, handoff, protocol, readme, testbench, verilog
    from overq.rtl.vectors import LayerVectors

    if vectors is not None:
        layer = LayerVectors.load(vectors)
        changes = {"double_buffered": double_buffer, "target": target, "stalls": stalls or axi, "pipeline": pipeline}
        layer = replace(layer, config=layer.config.with_(**changes))
    else:
        if count < 1 or tiles < 1:
            raise InputError(f"--count and --tiles must be at least 1, not {count} and {tiles}")
        fmt = format_of(bits, cascade, modes, policy, signed, range_bits, fraction_bits, evict)
        whole = depth or rows * tiles
        config = ArrayConfig(fmt, weight_bits, rows, columns, whole, None, double_buffer, segments, target, stalls or axi, pipeline)
        layer = LayerVectors.random(config, vectors=count, tiles=tiles, seed=seed)
    sources, bench = verilog.files(layer.config), testbench.files(layer)
    beside = handoff.files(sources, (name for name in bench if name.endswith(".hex")))
    words = {"README.md": readme.text(layer.config, axi), "overq_protocol.sv": protocol.text(layer.config)}
    files = sources | bench | beside | words | examples.files(layer)
    if axi:
        files |= {"overq_axis.v": axis.text(layer.config), "testbench_axis.v": axis_bench.text(layer)}
    screen = console()
    screen.print(
        f"{len(write_all(out, files))} files in {out}: {layer.config.label}, {layer.config.rows} × {layer.config.columns}, {layer.source}"
    )
    if not run:
        return
    found = simulators.available()
    if not found:
        raise ToolError(f"no simulator found; looked for {' and '.join(simulators.SIMULATORS)} on the PATH")
    for name, top in ((name, top) for name in found for top in ("testbench", *(["testbench_axis"] if axi else []))):
        verdict = simulators.simulate(name, out, top)
        screen.print(f"{simulators.version(name)}, {top}: {verdict}")
        if not verdict.startswith("PASS"):
            raise ToolError(f"{name}: {top} failed")
