"""`overq fpga`: parse, call, print."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from overq.cli.hardware import (
    Bits,
    Cascade,
    Columns,
    Depth,
    Evict,
    FractionBits,
    Modes,
    Pipeline,
    Policy,
    RangeBits,
    Rows,
    Signed,
    WeightBits,
)
from overq.cli.inputs import beside_plain, format_of
from overq.cli.progress import progress
from overq.errors import InputError, ToolError
from overq.output import check_outputs, write, write_all
from overq.spec import ArrayConfig
from overq.text import add_row, console, csv_text, visible

app = typer.Typer()


@app.command(epilog="Example: overq fpga --board ulx3s-12f --out bitstream --rows 4 --columns 4")
def fpga(
    board: Annotated[str | None, typer.Option(help="Make a bitstream for this board (ulx3s-12f), in which the array tests itself.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the bitstream and all that it is made of.")] = None,
    vectors: Annotated[Path | None, typer.Option(help="Layer vectors as JSON for the board; default: random ones.")] = None,
    device: Annotated[
        str, typer.Option(help="What to place on: ecp5-12k, -25k, -45k or -85k; ice40-up5k or -hx8k; gowin-gw2a-18.")
    ] = "ecp5-25k",
    seeds: Annotated[int, typer.Option(min=1, help="Placements of each design; the clock is their median.")] = 5,
    csv: Annotated[Path | None, typer.Option(help="Write one line per design; - is standard output.")] = None,
    bits: Bits = 4,
    cascade: Cascade = 4,
    modes: Modes = "both",
    range_bits: RangeBits = None,
    fraction_bits: FractionBits = None,
    policy: Policy = "first",
    signed: Signed = False,
    evict: Evict = 0,
    weight_bits: WeightBits = 8,
    rows: Rows = 4,
    columns: Columns = 4,
    depth: Depth = None,
    pipeline: Pipeline = 2,
) -> None:
    """Place and route the accelerator on an FPGA, plain and OverQ side by side; or, with --board, make a bitstream that tests itself.

    Yosys maps, nextpnr places (pip install 'overq[fpga]'). What was placed once is remembered.
    """
    from overq.eda.fpga import device_of

    if (board is None) != (out is None):
        raise InputError("--board and --out go together: a bitstream and where to put it")
    check_outputs(csv)
    fmt = format_of(bits, cascade, modes, policy, signed, range_bits, fraction_bits, evict)
    target = "fpga" if board is not None or device_of(device).multipliers else "asic"
    config = ArrayConfig(fmt, weight_bits, rows, columns, depth, target=target, pipeline=pipeline)
    if board is not None and out is not None:
        _bitstream(board, out, vectors, config)
    elif vectors is not None:
        raise InputError("--vectors are for a --board")
    else:
        _placed([config.with_(format=one) for one in beside_plain(fmt)], device, seeds, csv)


def _bitstream(name: str, out: Path, vectors: Path | None, config: ArrayConfig) -> None:
    from dataclasses import replace

    from overq.eda import simulators
    from overq.eda.fpga import bitstream
    from overq.rtl import verilog
    from overq.rtl.board import BOARDS, files
    from overq.rtl.vectors import LayerVectors

    if name not in BOARDS:
        raise InputError(f"no board {name!r}; known: {', '.join(BOARDS)}")
    board, screen = BOARDS[name], console()
    if vectors is None:
        tiles = 2
        layer = LayerVectors.random(config.with_(depth=max(config.dot_depth, tiles * config.rows)), vectors=16, tiles=tiles)
    else:
        layer = LayerVectors.load(vectors)
        layer = replace(layer, config=layer.config.with_(target="fpga", pipeline=config.pipeline))
    sources = verilog.files(layer.config)
    made = files(layer)
    design = {**sources, "board.v": made["board.v"]}
    write_all(out, {**design, "testbench.v": made["testbench.v"], "board.lpf": board.constraints})
    for simulator in simulators.available()[:1]:
        verdict = simulators.simulate(simulator, out)
        screen.print(f"{simulators.version(simulator)}, the board's own test: {verdict}")
        if not verdict.startswith("PASS"):
            raise ToolError(f"{simulator}: the board's own test failed, so there is no bitstream")
    with progress() as update:
        update(f"placing on {board.device}", 0, 1)
        content, fmax = bitstream("overq_board", "\n".join(design.values()), board.device, board.constraints)
    write(out / "board.bit", content)
    screen.print(
        f"{visible(out / 'board.bit')}: {len(content)} bytes for {name}; {fmax:.1f} MHz, the board's clock is {board.megahertz} MHz"
    )
    screen.print("led[0] all sums and t are right, led[1] one is wrong, led[7] blinks")


def _placed(configs: list[ArrayConfig], device: str, seeds: int, csv: Path | None) -> None:
    from rich.table import Table

    from overq.eda import yosys
    from overq.eda.fpga import device_of, place, version
    from overq.eda.remembered import keep
    from overq.rtl import verilog

    family = device_of(device).family
    keep()
    lines: list[dict[str, object]] = []
    with progress() as update:
        for number, config in enumerate(configs):
            update("placing", number, len(configs))
            found = place("overq_top", "\n".join(verilog.design(config).values()), device, range(1, seeds + 1))
            lines.append({
                "format": config.format.label, "sum_bits": config.psum_bits, **found.row(),
                "device": device, "yosys": yosys.version(), "nextpnr": version(family),
            })  # fmt: skip
    if csv != Path("-"):
        one = configs[0]
        table = Table(
            title=visible(f"{one.rows} × {one.columns} on {device}, pipeline {one.pipeline}, {yosys.version()}, {version(family)}")
        )
        for head in ("format", "sum bits", "LUTs", "flip-flops", "multipliers", "memories", f"MHz, median of {seeds}", "least … most"):
            table.add_column(head, justify="left" if head == "format" else "right")
        for line in lines:
            first, *numbers = (line[key] for key in ("format", "sum_bits", "luts", "flip_flops", "multipliers", "memories", "fmax_median"))
            add_row(table, str(first), *numbers, f"{line['fmax_least']} … {line['fmax_most']}")
        console(width=130).print(table)
    if csv is not None:
        write(csv, csv_text(list(lines[0]), lines))
