"""`overq cycles`: parse, call, print."""

from __future__ import annotations

import itertools
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from overq.cli.hardware import Bits, Cascade, Columns, Evict, FractionBits, Modes, Policy, RangeBits
from overq.cli.inputs import built_in_digits, format_of, network_of, numbers
from overq.cli.memory import (
    BANDWIDTH,
    BUFFERS,
    BURST,
    Arrays,
    Bandwidth,
    Buffers,
    Burst,
    Dataflow,
    EncodeOnRead,
    Plain,
    Rivals,
    Wait,
    choices_of,
    memory_of,
    show_totals,
)
from overq.cli.priced import Clock, DramEnergy, Liberty, check_energy, library_of, lines_of, with_energy
from overq.cli.progress import prepare_kernels, progress
from overq.cli.report import Report, check_report, facts, this_command, versions_here, write_report
from overq.errors import InputError
from overq.output import check_outputs, write
from overq.spec import ArrayConfig
from overq.text import add_row, console, csv_text, visible

if TYPE_CHECKING:
    from overq.report.contents import Contents
    from overq.study.cycles import NetworkCycles

app = typer.Typer()


@app.command(
    epilog="Example: overq cycles --model nets.py:net --weights net.safetensors --images samples --rows 32 --columns 32 --csv layers.csv"
)
def cycles(
    model: Annotated[str | None, typer.Option(help="As in `overq evaluate`. Default: the built-in digits network.")] = None,
    weights: Annotated[Path | None, typer.Option(help="Checkpoint to load.")] = None,
    images: Annotated[Path | None, typer.Option(help="Any folder of images, or .npz.")] = None,
    calibration_images: Annotated[Path | None, typer.Option(help="Images to calibrate on. Default: --images.")] = None,
    samples: Annotated[int, typer.Option(min=1, help="How many images to calibrate on.")] = 64,
    count: Annotated[int, typer.Option(min=1, help="How many images to run, one after another through each tile of weights.")] = 1,
    resize: Annotated[int, typer.Option(min=0, help="Short side in pixels; 0 keeps the size.")] = 256,
    crop: Annotated[int, typer.Option(min=0, help="Center crop in pixels; 0 crops nothing.")] = 224,
    mean: Annotated[str, typer.Option(help="Per-channel mean of pixels scaled to 0 … 1.")] = "0.485,0.456,0.406",
    std: Annotated[str, typer.Option(help="Per-channel standard deviation.")] = "0.229,0.224,0.225",
    bits: Bits = 4,
    cascade: Cascade = 4,
    modes: Modes = "both",
    range_bits: RangeBits = None,
    fraction_bits: FractionBits = None,
    policy: Policy = "first",
    evict: Evict = 0,
    plain: Plain = None,
    rival: Rivals = None,
    weight_bits: Annotated[int, typer.Option(help="Weight bits, 4 to 8.")] = 8,
    calibration: Annotated[str, typer.Option(help="As in `overq evaluate`.")] = "format-mse",
    rows: Annotated[int, typer.Option(min=2, help="Rows: lanes of one tile.")] = 16,
    columns: Columns = 16,
    double_buffer: Annotated[bool, typer.Option("--double-buffer", help="Load the next weights while vectors stream.")] = False,
    segments: Annotated[bool, typer.Option("--segments/--no-segments", help="Whole pixels of several kernel taps share a tile.")] = True,
    dataflow: Dataflow = "ws",
    encode_on_read: EncodeOnRead = False,
    buffers: Buffers = BUFFERS,
    bandwidth: Bandwidth = BANDWIDTH,
    burst: Burst = BURST,
    arrays: Arrays = 1,
    liberty: Liberty = None,
    clock: Clock = None,
    dram_energy: DramEnergy = None,
    wait: Wait = False,
    check: Annotated[bool, typer.Option("--check", help="Compare every sum of the array with the integer layer's.")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write everything; - is standard output.")] = None,
    csv_file: Annotated[Path | None, typer.Option("--csv", help="Write one line per layer; - is standard output.")] = None,
    formats_file: Annotated[
        Path | None, typer.Option("--formats", help="Write one line per format and layer, as `overq shapes --csv` does; - is standard output.")
    ] = None,
    report: Report = None,
) -> None:  # fmt: skip
    """Cycles, utilization and traffic of every layer on the weight-stationary array, from real activations; then the same with buffers,
    DRAM and stalls, with --liberty energy and area, plain and OverQ side by side, as `overq shapes` has it.

    The first layer and the classifier have 8 plain bits, in every format; their cycles and energy are those of an array whose elements take
    8-bit digits. Plain formats beside meet the same values, in steps that cover the same range.
    """
    import overq
    from overq.sim.memory import Plan
    from overq.study.cycles import network_cycles, recipe
    from overq.study.data import Preprocess, open_images, some_of
    from overq.study.met import Met

    check_outputs(json_file, csv_file, formats_file, report)
    check_report(report)
    check_energy(liberty, clock, dram_energy, dataflow)
    fmt = format_of(bits, cascade, modes, policy, False, range_bits, fraction_bits, evict)
    plan = recipe(fmt, rows, weight_bits, calibration)
    memory, around = memory_of(buffers, bandwidth, burst, wait), Plan(dataflow, False, encode_on_read, arrays=arrays)
    machine = ArrayConfig(fmt, weight_bits, rows, columns, double_buffered=double_buffer, segments=segments)
    met = Met(choices_of(fmt, plain, rival), fmt, machine)
    network, name = network_of(model, weights, images, "cpu")
    if images is None:
        shown, seen = built_in_digits()
    else:
        preprocess = Preprocess(resize or None, crop or None, numbers("--mean", mean), numbers("--std", std))
        shown = open_images(images, None, preprocess, labelled=False)
        seen = open_images(calibration_images, None, preprocess, labelled=False) if calibration_images else shown
    if count > shown.count:
        raise InputError(f"--count {count}: there are only {shown.count} images")
    prepare_kernels("cpu")
    chosen = some_of(seen, samples)
    with progress() as update:
        watched = chosen.watched(lambda done: update("calibration", done, chosen.count))
        quantized = overq.quantize(network, watched.batches(32), plan, progress=update)
        total, ran = len(overq.summary(quantized)), itertools.count(1)
        result = network_cycles(
            quantized,
            shown.load(range(count)),
            rows=rows,
            columns=columns,
            double_buffered=double_buffer,
            segments=segments,
            check=check,
            names=(name, shown.name),
            watch=met.see,
            progress=lambda layer: update(layer, next(ran), total),
        )
    costs = met.costs(memory, around)
    lines = lines_of(costs)
    quiet = Path("-") in (json_file, csv_file, formats_file)
    _show(result, checked=check, quiet=quiet)
    if not quiet:
        show_totals(costs, f"with memory, {visible(f'{arrays} arrays, ') if arrays > 1 else ''}{dataflow}: all layers")
    if liberty:
        with library_of(liberty) as (library, told):
            designs = met.designs(costs, library, told)
        vectors = f"values of {visible(shown.name)}, for each kind of layer those of its largest"
        lines = with_energy(lines, designs, memory, dram_energy, clock, vectors, quiet=quiet)
    if json_file is not None:
        write(json_file, json.dumps(result.to_json() | {"formats": lines}, indent=1) + "\n")
    if formats_file is not None:
        write(formats_file, csv_text(list(lines[0]), lines))
    if csv_file is not None:
        write(csv_file, csv_text(list(asdict(result.layers[0])), map(asdict, result.layers)))
    if report is not None:
        write_report(report, _contents(result))


def _contents(result: NetworkCycles) -> Contents:
    from overq.report.contents import Contents, Cycles

    title = f"{result.model}, {result.images} × {result.data}, {result.rows} × {result.columns} array"
    rows = tuple({"layer": layer.name} | {key: value for key, value in asdict(layer).items() if key != "name"} for layer in result.layers)
    total, plain = result.total("cycles"), result.total("plain_cycles")
    known = facts({
        "cycles": f"{total:,}; the plain array takes {plain:,}, OverQ {total / plain - 1:+.2%}", "elements used": f"{result.utilization:.1%}",
        "registers of weights": "two" if result.double_buffered else "one",
    })  # fmt: skip
    return Contents(f"Cycles: {title}", cycles=Cycles(title, rows), commands=this_command(), versions=versions_here(), facts=known)


def _show(result: NetworkCycles, *, checked: bool, quiet: bool) -> None:
    from rich.table import Table

    if quiet:
        return
    kind = "double-buffered" if result.double_buffered else "one register a weight"
    table = Table(title=visible(f"{result.model}, {result.images} × {result.data}, {result.rows} × {result.columns} array, {kind}"))
    for head in (
        "layer", "A", "depth", "outputs", "vectors", "folds", "cycles", "used", "digits ≠ 0", "second digits",
        "array kB", "of it states", "memory kB: on write", "on read",
    ):  # fmt: skip
        table.add_column(head, justify="left" if head == "layer" else "right")
    for layer in result.layers:
        numbers: tuple[Any, ...] = layer.bits, layer.depth, layer.outputs, layer.vectors, layer.folds, layer.cycles
        shares = layer.utilization, layer.nonzero, layer.second
        add_row(table, layer.name, *numbers, *(f"{share:.1%}" for share in shares), *_moved(layer))
    total = result.total("folds"), result.total("cycles")
    add_row(table, "all", "", "", "", "", *total, f"{result.utilization:.1%}", "", "", *_moved(result.total))
    screen = console(width=180)
    screen.print(table)
    extra = result.total("cycles") / result.total("plain_cycles") - 1
    screen.print(f"plain array: {result.total('plain_cycles')} cycles; OverQ {extra:+.2%}")
    if checked:
        screen.print("every sum equals the integer layer's")


def _moved(of: Any) -> tuple[str, ...]:
    """Activation bits of a layer, or of all through a function, in kB."""
    get = of if callable(of) else lambda name: getattr(of, name)
    states, digits = get("array_states"), get("array_digits")
    parts = digits + states, states, get("memory_digits") + get("memory_states"), get("memory_unencoded")
    return tuple(f"{part / 8000:.1f}" for part in parts)
