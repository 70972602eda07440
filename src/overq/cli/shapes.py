"""`overq shapes`: parse, call, print."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from overq.cli.hardware import Bits, Cascade, DoubleBuffer, Evict, FractionBits, Modes, Policy, RangeBits, Signed, WeightBits
from overq.cli.inputs import beside_plain, format_of, integers
from overq.cli.priced import Clock, DramEnergy, Liberty, check_clock, memory_energy, show_energy
from overq.cli.progress import progress
from overq.errors import InputError
from overq.output import check_outputs, write
from overq.spec import ArrayConfig, Format
from overq.text import add_row, console, csv_text, visible

if TYPE_CHECKING:
    from overq.eda.energy import MemoryEnergy
    from overq.sim.memory import Cost, Memory
    from overq.sim.workload import Work
    from overq.study.energy import Priced

app = typer.Typer()


@app.command(epilog="Example: overq shapes --topology resnet50.csv --liberty cells.lib --bandwidth 64 --zeros 0.5 --outliers 0.02")
def shapes(
    topology: Annotated[Path | None, typer.Option(help="SCALE-Sim's CSV: convolutions, or products M, N, K; Groups may follow.")] = None,
    decoder: Annotated[
        str | None, typer.Option(help="Or a language model: layers,hidden,heads,key heads,inner[,vocabulary], such as 32,4096,32,8,14336.")
    ] = None,
    tokens: Annotated[int, typer.Option(min=1, help="New tokens of the decoder; 1 with --cached is one step of generation.")] = 512,
    cached: Annotated[int, typer.Option(min=0, help="Tokens whose keys and values are in the cache.")] = 0,
    batch: Annotated[int, typer.Option(min=1, help="Images or sequences together.")] = 1,
    zeros: Annotated[float, typer.Option(help="Share of values that are zeros.")] = 0.5,
    outliers: Annotated[float, typer.Option(help="Share of values that one digit of --bits clips.")] = 0.02,
    bits: Bits = 4,
    cascade: Cascade = 4,
    modes: Modes = "both",
    range_bits: RangeBits = None,
    fraction_bits: FractionBits = None,
    policy: Policy = "first",
    signed: Signed = False,
    evict: Evict = 0,
    plain: Annotated[
        str | None, typer.Option(help="Bits of the plain formats beside, such as 4,5,6,8. Default: --bits and one more.")
    ] = None,
    weight_bits: WeightBits = 8,
    rows: Annotated[int, typer.Option(min=2, help="Rows: lanes of one tile.")] = 128,
    columns: Annotated[int, typer.Option(min=1, help="Columns: output channels side by side.")] = 128,
    double_buffer: DoubleBuffer = False,
    dataflow: Annotated[str, typer.Option(help="ws: weights stay in the elements (as in `overq rtl`); os: sums; is: inputs.")] = "ws",
    dynamic: Annotated[bool, typer.Option("--dynamic", help="A step for each channel vector, 16 bits, stored beside it.")] = False,
    encode_on_read: Annotated[bool, typer.Option("--encode-on-read", help="Maps lie unencoded in memory.")] = False,
    buffers: Annotated[str, typer.Option(help="kB (1,024 bytes) of the buffers of maps, weights and sums.")] = "256,256,256",
    bandwidth: Annotated[float, typer.Option(help="Bytes of DRAM a cycle.")] = 32.0,
    burst: Annotated[int, typer.Option(min=1, help="Bytes of a burst.")] = 64,
    arrays: Annotated[int, typer.Option(min=1, help="Arrays that share buffers and DRAM; each layer is split over them.")] = 1,
    liberty: Liberty = None,
    clock: Clock = None,
    dram_energy: DramEnergy = None,
    wait: Annotated[bool, typer.Option("--wait", help="Single buffers: the array waits for every transfer.")] = False,
    csv: Annotated[Path | None, typer.Option(help="Write one line per format and layer; - is standard output.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write everything; - is standard output.")] = None,
) -> None:
    """Cycles, stalls and memory traffic from shapes alone, with --liberty energy and area too: no network, no images. Plain and OverQ
    side by side.

    Every layer is in the format given; zeros and outliers are independent, at the given rates, and matter for what compression of maps
    would save. Plain formats with as many bits and with one more are beside OverQ's.
    """
    from overq.sim.memory import Memory, Plan, cost
    from overq.sim.rates import shares

    check_outputs(csv, json_file)
    check_clock(clock)
    if not liberty and (clock, dram_energy) != (None, None):
        raise InputError("--clock and --dram-energy are for energy, which needs --liberty")
    if liberty and dataflow != "ws":
        raise InputError(f"--liberty: the netlists are of the weight-stationary array, so there is no energy of the dataflow {dataflow}")
    work = _work(topology, decoder, tokens, cached, batch)
    sizes = integers("--buffers", buffers)
    if len(sizes) != 3:
        raise InputError(f"--buffers {buffers}: three sizes, of maps, weights and sums")
    maps, weights, sums = (1024 * size for size in sizes)
    memory = Memory(maps, weights, sums, bandwidth, burst, double_buffered=not wait)
    fmt = format_of(bits, cascade, modes, policy, signed, range_bits, fraction_bits, evict)
    plan = Plan(dataflow, dynamic, encode_on_read, arrays=arrays)
    formats = beside_plain(fmt) if plain is None else [*(Format.plain(b, signed) for b in integers("--plain", plain)), fmt]
    machines = [ArrayConfig(one, weight_bits, rows, columns, double_buffered=double_buffer, segments=True) for one in formats]
    found = {
        machine.format.label: [cost(layer, machine, memory, shares(machine.tile, zeros, outliers, layer.channels), plan) for layer in work]
        for machine in machines
    }
    lines = [{"format": label} | asdict(layer) | {"dram": layer.dram} for label, layers in found.items() for layer in layers]
    quiet = Path("-") in (csv, json_file)
    if not quiet:
        many = f"{arrays} arrays of " if arrays > 1 else ""
        _show(found, fmt.label, f"{visible(topology or 'decoder')}, {many}{rows} × {columns}, {dataflow}")
    if liberty:
        deepest = max(layer.layer().depth for layer in work)
        machines = [machine.with_(depth=max(deepest, rows)) for machine in machines]
        table, rates = memory_energy(dram_energy), (zeros, outliers, bits)
        designs = _priced(found, machines, memory, liberty, rates, table, clock)
        lines = [line | more for line, more in zip(lines, (more for design in designs for more in design.lines()), strict=True)]
        if not quiet:
            show_energy(designs, table, f"values drawn with {zeros:.0%} zeros and {outliers:.1%} outliers")
    if csv is not None:
        write(csv, csv_text(list(lines[0]), lines))
    if json_file is not None:
        write(json_file, json.dumps(lines, indent=1) + "\n")


def _work(topology: Path | None, decoder: str | None, tokens: int, cached: int, batch: int) -> list[Work]:
    from overq.sim import workload

    if (topology is None) == (decoder is None):
        raise InputError("give --topology or --decoder, one of them")
    if topology is not None:
        return workload.topology(topology, batch)
    sizes = integers("--decoder", str(decoder))
    if not 5 <= len(sizes) <= 6:
        raise InputError(f"--decoder {decoder}: layers,hidden,heads,key heads,inner and, where the head is to be counted, vocabulary")
    layers, hidden, heads, key_heads, inner, vocabulary = (*sizes, 0)[:6]
    return workload.Decoder(layers, hidden, heads, key_heads, inner, vocabulary).work(tokens, cached, batch)


def _priced(
    found: dict[str, list[Cost]],
    machines: list[ArrayConfig],
    memory: Memory,
    liberty: list[Path],
    rates: tuple[float, float, int],
    table: MemoryEnergy,
    clock: float | None,
) -> list[Priced]:
    from overq.eda.liberty import Library
    from overq.eda.remembered import keep
    from overq.study.energy import blocks_at_rates, priced, synthesized

    keep()
    library = Library(liberty)
    with progress() as update:
        parts = synthesized(machines, library, update)
    blocks = blocks_at_rates(machines, parts, library, *rates)
    return priced(found, machines, blocks, memory, table, clock and clock * 1000)


def _show(found: dict[str, list[Cost]], shown: str, title: str) -> None:
    from rich.table import Table

    screen = console(width=150)
    table = Table(title=visible(f"{title}: {shown}, layer by layer"))
    for head in ("layer", "times", "M MACs", "folds", "cycles", "stalls", "used", "DRAM kB: in", "weights", "out", "array kB: in", "sums"):
        table.add_column(head, justify="left" if head == "layer" else "right")
    for layer in found[shown]:
        sizes = (layer.dram_maps, layer.dram_weights, layer.dram_outputs, layer.array_digits + layer.array_states, layer.array_sums)
        counts: tuple[Any, ...] = layer.repeat, f"{layer.macs / 1e6:.1f}", layer.folds, layer.cycles, layer.stalls
        add_row(table, layer.name, *counts, f"{layer.utilization:.1%}", *(f"{size / 8000:.0f}" for size in sizes))
    screen.print(table)
    table = Table(title="all layers, as often as they are")
    for head in ("format", "cycles", "stalls", "DRAM MB", "of it steps", "array MB: in", "sums", "maps once", "bit mask", "run lengths"):
        table.add_column(head, justify="left" if head == "format" else "right")
    for label, layers in found.items():

        def total(*names: str, layers: list[Cost] = layers) -> int:
            return sum(layer.repeat * getattr(layer, name) for layer in layers for name in names)

        sizes = total("dram"), total("dram_steps"), total("array_digits", "array_states"), total("array_sums"), total("map_once")
        packed = (f"{total(name) / total('map_once') - 1:+.1%}" for name in ("masked", "runs"))
        add_row(table, label, total("cycles"), total("stalls"), *(f"{size / 8e6:.1f}" for size in sizes), *packed)
    screen.print(table)
