"""`overq shapes`: parse, call, print."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from overq.cli.hardware import Bits, Cascade, DoubleBuffer, Evict, FractionBits, Modes, Policy, RangeBits, Signed, WeightBits
from overq.cli.inputs import beside_plain, format_of, integers
from overq.errors import InputError
from overq.output import check_outputs, write
from overq.spec import ArrayConfig
from overq.text import add_row, console, csv_text, visible

if TYPE_CHECKING:
    from overq.sim.memory import Cost
    from overq.sim.workload import Work

app = typer.Typer()


@app.command(epilog="Example: overq shapes --topology resnet50.csv --rows 128 --columns 128 --bandwidth 64 --zeros 0.5 --outliers 0.02")
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
    wait: Annotated[bool, typer.Option("--wait", help="Single buffers: the array waits for every transfer.")] = False,
    csv: Annotated[Path | None, typer.Option(help="Write one line per format and layer; - is standard output.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write everything; - is standard output.")] = None,
) -> None:
    """Cycles, stalls and memory traffic from shapes alone: no network, no images. Plain and OverQ side by side.

    Every layer is in the format given; zeros and outliers are independent, at the given rates, and matter for what compression of maps
    would save. Plain formats with as many bits and with one more are beside OverQ's.
    """
    from overq.sim.memory import Memory, cost
    from overq.sim.rates import shares

    check_outputs(csv, json_file)
    work = _work(topology, decoder, tokens, cached, batch)
    sizes = integers("--buffers", buffers)
    if len(sizes) != 3:
        raise InputError(f"--buffers {buffers}: three sizes, of maps, weights and sums")
    maps, weights, sums = (1024 * size for size in sizes)
    memory = Memory(maps, weights, sums, bandwidth, burst, double_buffered=not wait)
    fmt = format_of(bits, cascade, modes, policy, signed, range_bits, fraction_bits, evict)
    found: dict[str, list[Cost]] = {}
    for one in beside_plain(fmt):
        machine = ArrayConfig(one, weight_bits, rows, columns, double_buffered=double_buffer, segments=True)
        found[one.label] = [
            cost(
                layer,
                machine,
                memory,
                shares(machine.tile, zeros, outliers, layer.channels),
                dataflow=dataflow,
                dynamic=dynamic,
                encode_on_read=encode_on_read,
            )
            for layer in work
        ]
    if Path("-") not in (csv, json_file):
        _show(found, fmt.label, f"{visible(topology or 'decoder')}, {rows} × {columns}, {dataflow}")
    lines = [{"format": label} | asdict(layer) | {"dram": layer.dram} for label, layers in found.items() for layer in layers]
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
