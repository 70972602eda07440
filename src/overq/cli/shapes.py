"""`overq shapes`: parse, call, print."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from overq.cli.hardware import Bits, Cascade, DoubleBuffer, Evict, FractionBits, Modes, Policy, RangeBits, Signed, WeightBits
from overq.cli.inputs import format_of, integers
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
from overq.errors import InputError
from overq.output import check_outputs, write
from overq.spec import ArrayConfig
from overq.text import add_row, console, csv_text, visible

if TYPE_CHECKING:
    from overq.sim.memory import Cost
    from overq.sim.workload import Work
    from overq.study.choices import Choice

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
    plain: Plain = None,
    rival: Rivals = None,
    weight_bits: WeightBits = 8,
    rows: Annotated[int, typer.Option(min=2, help="Rows: lanes of one tile.")] = 128,
    columns: Annotated[int, typer.Option(min=1, help="Columns: output channels side by side.")] = 128,
    double_buffer: DoubleBuffer = False,
    dataflow: Dataflow = "ws",
    dynamic: Annotated[bool, typer.Option("--dynamic", help="A step for each channel vector, 16 bits, stored beside it.")] = False,
    encode_on_read: EncodeOnRead = False,
    buffers: Buffers = BUFFERS,
    bandwidth: Bandwidth = BANDWIDTH,
    burst: Burst = BURST,
    arrays: Arrays = 1,
    liberty: Liberty = None,
    clock: Clock = None,
    dram_energy: DramEnergy = None,
    wait: Wait = False,
    csv: Annotated[Path | None, typer.Option(help="Write one line per format and layer; - is standard output.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write everything; - is standard output.")] = None,
) -> None:
    """Cycles, stalls and memory traffic from shapes alone, with --liberty energy and area too: no network, no images. Plain and OverQ
    side by side.

    Every layer is in the format given; zeros and outliers are independent, at the given rates, and matter for what compression of maps
    would save. Plain formats with as many bits and with one more are beside OverQ's.
    """
    from overq.sim.memory import Plan, cost
    from overq.sim.rates import drawn, shares

    check_outputs(csv, json_file)
    check_energy(liberty, clock, dram_energy, dataflow)
    work = _work(topology, decoder, tokens, cached, batch)
    memory = memory_of(buffers, bandwidth, burst, wait)
    fmt = format_of(bits, cascade, modes, policy, signed, range_bits, fraction_bits, evict)
    plan = Plan(dataflow, dynamic, encode_on_read, arrays=arrays)
    rates = zeros, outliers, bits
    config = ArrayConfig(fmt, weight_bits, rows, columns, double_buffered=double_buffer, segments=True)
    found: dict[Choice, list[Cost]] = {}
    for choice in choices_of(fmt, plain, rival):
        machine = choice.on(config)
        met = None if choice.method is None else choice.shares(drawn(zeros, outliers, bits, signed, 64, rows), bits, rows)
        found[choice] = [
            cost(layer, machine, memory, met or shares(machine.tile, zeros, outliers, layer.channels), plan, choice.code) for layer in work
        ]
    lines = lines_of(found)
    quiet = Path("-") in (csv, json_file)
    if not quiet:
        many = f"{arrays} arrays of " if arrays > 1 else ""
        ours = next(choice for choice in found if choice.format == fmt)
        _show(found[ours], fmt.label, f"{visible(topology or 'decoder')}, {many}{rows} × {columns}, {dataflow}")
        show_totals(found)
    if liberty:
        from overq.study.energy import designs_at_rates

        deep = config.with_(depth=max(rows, *(layer.layer().depth for layer in work)))
        with library_of(liberty) as (library, update):
            designs = designs_at_rates(found, {choice: choice.on(deep) for choice in found}, library, rates, update)
        vectors = f"values drawn with {zeros:.0%} zeros and {outliers:.1%} outliers"
        lines = with_energy(lines, designs, memory, dram_energy, clock, vectors, quiet=quiet)
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


def _show(layers: list[Cost], shown: str, title: str) -> None:
    from rich.table import Table

    table = Table(title=visible(f"{title}: {shown}, layer by layer"))
    for head in ("layer", "times", "M MACs", "folds", "cycles", "stalls", "used", "DRAM kB: in", "weights", "out", "array kB: in", "sums"):
        table.add_column(head, justify="left" if head == "layer" else "right")
    for layer in layers:
        sizes = (layer.dram_maps, layer.dram_weights, layer.dram_outputs, layer.array_digits + layer.array_states, layer.array_sums)
        counts: tuple[Any, ...] = layer.repeat, f"{layer.macs / 1e6:.1f}", layer.folds, layer.cycles, layer.stalls
        add_row(table, layer.name, *counts, f"{layer.utilization:.1%}", *(f"{size / 8000:.0f}" for size in sizes))
    console(width=150).print(table)
