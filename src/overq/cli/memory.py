"""The memory around the array: options, what they make, and the table of several formats side by side; for `overq shapes` and `overq cycles`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from overq.cli.inputs import beside_plain, integers
from overq.errors import InputError
from overq.spec import Format
from overq.text import add_row, console, visible

if TYPE_CHECKING:
    from overq.sim.memory import Cost, Memory
    from overq.study.choices import Choice

Plain = Annotated[str | None, typer.Option(help="Bits of the plain formats beside, such as 4,5,6,8. Default: --bits and one more.")]
Rivals = Annotated[
    list[str] | None, typer.Option("--rival", help="Beside them a rival of --bits whose element is built: SPARQ, OliVe; again for more.")
]
Dataflow = Annotated[str, typer.Option(help="ws: weights stay in the elements (as in `overq rtl`); os: sums; is: inputs.")]
EncodeOnRead = Annotated[bool, typer.Option("--encode-on-read", help="Maps lie unencoded in memory.")]
Buffers = Annotated[str, typer.Option(help="kB (1,024 bytes) of the buffers of maps, weights and sums.")]
Bandwidth = Annotated[float, typer.Option(help="Bytes of DRAM a cycle.")]
Burst = Annotated[int, typer.Option(min=1, help="Bytes of a burst.")]
Arrays = Annotated[int, typer.Option(min=1, help="Arrays that share buffers and DRAM; each layer is split over them.")]
Wait = Annotated[bool, typer.Option("--wait", help="Single buffers: the array waits for every transfer.")]
BUFFERS, BANDWIDTH, BURST = "256,256,256", 32.0, 64


def memory_of(buffers: str, bandwidth: float, burst: int, wait: bool) -> Memory:
    """The memory that the options spell."""
    from overq.sim.memory import Memory

    sizes = integers("--buffers", buffers)
    if len(sizes) != 3:
        raise InputError(f"--buffers {buffers}: three sizes, of maps, weights and sums")
    maps, weights, sums = (1024 * size for size in sizes)
    return Memory(maps, weights, sums, bandwidth, burst, double_buffered=not wait)


def choices_of(fmt: Format, plain: str | None, rivals: Sequence[str] | None) -> list[Choice]:
    """The format between the plain ones, rivals behind them."""
    from overq.study.choices import Choice, beside

    if rivals and fmt.signed:
        raise InputError("--rival and --signed: no element of a rival for signed values is built")
    formats = beside_plain(fmt) if plain is None else [*(Format.plain(b, fmt.signed) for b in integers("--plain", plain)), fmt]
    return [*map(Choice, dict.fromkeys(formats)), *beside(dict.fromkeys(rivals or ()), fmt.bits)]


def show_totals(found: Mapping[Choice, Sequence[Cost]], title: str = "all layers, as often as they are") -> None:
    """One line a format."""
    from rich.table import Table

    table = Table(title=visible(title))
    for head in ("format", "cycles", "stalls", "DRAM MB", "of it steps", "array MB: in", "sums", "maps once", "bit mask", "run lengths"):
        table.add_column(head, justify="left" if head == "format" else "right")
    for choice, layers in found.items():

        def total(*names: str, layers: Sequence[Cost] = layers) -> int:
            return sum(layer.repeat * getattr(layer, name) for layer in layers for name in names)

        sizes = total("dram"), total("dram_steps"), total("array_digits", "array_states"), total("array_sums"), total("map_once")
        packed = (f"{total(name) / total('map_once') - 1:+.1%}" for name in ("masked", "runs"))
        add_row(
            table,
            choice.label,
            total("cycles"),
            total("stalls"),
            *(f"{size / 8e6:.1f}" if size > 8e7 or not size else f"{size / 8e6:.3g}" for size in sizes),
            *packed,
        )
    console(width=150).print(table)
