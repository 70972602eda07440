"""The README that lies beside emitted Verilog: ports, timing, how to run the testbench."""

from __future__ import annotations

from amaranth.hdl import Shape, ShapeLike
from amaranth.lib import data, wiring
from amaranth.lib.wiring import Flow

from overq.rtl.array import SystolicArray
from overq.rtl.encoder import OverwriteEncoder, latency
from overq.rtl.output import OutputStage, output_latency
from overq.rtl.pe import ProcessingElement
from overq.rtl.top import Accelerator
from overq.spec import ArrayConfig

_TEXT = """\
# OverQ accelerator {name}

{rows} rows × {columns} columns, {bits}-bit {kind} digits, {weight_bits}-bit weights, cascade {cascade}, modes: {modes}.
Partial sums have {sum_bits} bits, {fraction} of them fraction bits; enough for any dot product of {depth} lanes.
{registers} per element. {multiplier}
Plain Verilog-2001, one module per file, one clock (`clk`, rising edge), synchronous active-high `rst` where a module has one.
Only control bits are reset; hold `rst` for at least one cycle.

## Run the testbench

    iverilog -g2001 -o sim *.v && vvp sim
    verilator --binary --timing -Wno-fatal -Wno-lint --top-module testbench *.v && obj_dir/Vtestbench

It streams the vectors of the .hex files through `overq_top`, compares every sum and every output, and prints PASS or FAIL
with the cycles from the first weight to the last sum. Nothing else is needed: no Python, no other file.

## Feeding it your own data

The input of a layer is x with a step Δ; `t` of a value is floor(x · {scale} / Δ), clamped to {t_min} … {t_max}: an integer with
{t_fraction} fraction bits of the step. n = (t + {half}) >> {t_fraction} is the nearest multiple of Δ; lanes with n = 0 are zeros, which the
encoder gives to values before them; n outside {digit_min} … {digit_max} is an outlier. With integer weights w of a step Δw,
a column's sum is {sum_scale} Σ x/Δ · w, so x · W ≈ sum · Δ · Δw{over}. Lanes not used: `in_enable` low. `weights`
and `in_t` of one transfer are all columns or all lanes of it. `overq vectors` and `overq.spec.encode` give reference answers for any row.

For other tools: `overq.f` (files), `overq.core` (FuseSoC), `overq.sdc` (constraints), `overq.vlt` (Verilator's lint, each waiver
with its reason): `verilator --lint-only -Wall --top-module overq_top overq.vlt -f overq.f` and `iverilog -Wall` are silent.

## Vectors on ports

A port of several values packs them without gaps, lane (or column) 0 in the least significant bits.

{tables}
## Timing of overq_top

1. Weights: {rows} transfers with `weight_valid` and `weight_ready`, one row of the tile each, **the last row first**.
   {loading}
2. Vectors: one transfer per cycle with `in_valid` and `in_ready`. Lanes without a value have their `in_enable` bit low:
   wherever they stand and whatever is on their `in_t`, they become digit 0, OWN, and nothing crosses them.{starts}{first}
   `in_sums` is what each column starts from: 0 for the first tile of a dot product, later the `out_sums` of the tile before.
3. Sums: `out_valid` and `out_sums` come {latency} cycles after the transfer, in order; nothing can stall them.
4. With `in_last`, the output stage turns them into `t` = clamp((sum · multiplier + bias) >> shift) of the next
   layer, {output} cycles later.

{cycles}

## States

| code | name | the lane holds | weight | shift |
| --- | --- | --- | --- | --- |
| 0 | OWN | its own value, or the first digit of a served one | own | {own} |
| 1 | RANGE | the high digit of the value before it | previous row's | {range} |
| 2 | MOVED | the value that was one lane before | previous row's | {own} |
| 3 | PRECISION | the fraction digit of the value before it | previous row's | {precision} |

Inside the array a state travels as `previous` (bit 0: any state but OWN). MOVED is `previous` below a row that is `previous` itself for
the same vector, so it needs no bit. {kind_bit}
"""


_SINGLE = {
    "registers": "One weight register",
    "loading": "`weight_ready` is low while vectors are in the array, and `in_ready` is low while `weight_valid` is high.",
    "first": "",
    "cycles": """\
A tile of V vectors takes 2·rows + columns + V − 2{pipeline} = {fold} cycles in the array, from its first weight to its last sum, and
{encoder} more here, because the encoder stands before it. The next tile's first weight can follow at once.""",
}
_DOUBLE = {
    "registers": "Two weight registers (double-buffered)",
    "loading": "`weight_ready` is high unless a whole tile waits for its first vector: weights load while the tile before streams.",
    "first": """
   `in_first` marks the first vector of a tile: the waiting tile's weights become active just ahead of it. It is refused (`in_ready` low)
   until that tile is whole and, where digits overwrite their neighbours, in the cycle right after another vector.""",
    "cycles": """\
T tiles of V vectors each take 1 + {fold} + (T − 1) · max(V{gap}, {rows}) cycles in the array, from its first weight to its last sum,
and {late} more here. Where a tile's `in_sums` are the sums of the tile before, tiles can follow each other no closer than
{chain} cycles.""",
}


_MULTIPLIER = {
    "asic": "Products are sums of gated weights, which standard cells take best; for an FPGA, emit with `--target fpga`.",
    "fpga": "Products are written `*`, one multiplier of the device each, digits placed by their shift before it.",
}
_KIND = {
    "known": "A second digit's kind is known: at most one mode is on.",
    "digit": "A second digit's top bit on the array's `digits` says its kind: 0 RANGE, 1 PRECISION; its payload is in the bits below.",
    "pair": "`fine` (bit 1) says that a second digit is a PRECISION one.",
}
_STARTS = """
   Several whole channel vectors may share a tile, side by side: `in_starts` marks the lane where each begins, nothing crosses there."""


def _table(title: str, ports: dict[str, tuple[Flow, ShapeLike]]) -> str:
    lines = [f"### {title}", "", "| port | direction | bits | meaning of the bits |", "| --- | --- | --- | --- |"]
    for name, (flow, shape) in ports.items():
        bits = Shape.cast(shape).width
        if isinstance(shape, data.ArrayLayout):
            inner = Shape.cast(shape.elem_shape)
            what = f"{shape.length} × {inner.width} bits{', two’s complement' if inner.signed else ''}"
        else:
            what = "two’s complement" if Shape.cast(shape).signed else ""
        lines.append(f"| `{name}` | {'in' if flow == Flow.In else 'out'} | {bits} | {what} |")
    return "\n".join([*lines, ""])


def text(config: ArrayConfig) -> str:
    """The README of a design."""
    fmt = config.format
    blocks: dict[str, wiring.Component] = {
        "overq_top": Accelerator(config=config),
        "overq_encoder": OverwriteEncoder(config=config),
        "overq_array (digits and sums skewed: row k is due k cycles, column j's sums j cycles late)": SystolicArray(config=config),
        "overq_element": ProcessingElement(config=config),
        "overq_output": OutputStage(config=config),
    }
    tables = []
    for title, block in blocks.items():
        block._MustUse__silence = True  # looked at, not built
        tables.append(_table(title, {name: (member.flow, member.shape) for name, member in block.signature.members.items()}))
    fraction = fmt.fraction_bits
    chain = latency(config) + config.pipeline + config.rows + config.columns - 1
    kind = _DOUBLE if config.double_buffered else _SINGLE
    return _TEXT.format(
        name=config.label,
        scale=fmt.unit,
        t_min=fmt.t_min,
        t_max=fmt.t_max,
        t_fraction=fraction + 1,
        half=fmt.unit // 2,
        digit_min=fmt.digit_min,
        digit_max=fmt.digit_max,
        sum_scale=f"2^{fraction} ·" if fraction else "",
        over=f" / {1 << fraction}" if fraction else "",
        rows=config.rows,
        columns=config.columns,
        bits=fmt.bits,
        kind="signed" if fmt.signed else "unsigned",
        weight_bits=config.weight_bits,
        cascade=fmt.cascade,
        modes=", ".join(fmt.modes) or "none (plain)",
        sum_bits=config.psum_bits,
        fraction=fraction,
        depth=config.dot_depth,
        tables="\n".join(tables),
        latency=chain,
        output=output_latency(config),
        kind_bit=_KIND[fmt.kind],
        registers=kind["registers"],
        multiplier=_MULTIPLIER[config.target],
        loading=kind["loading"],
        first=kind["first"],
        starts=_STARTS if config.edges else "",
        cycles=kind["cycles"].format(
            fold=f"{2 * config.rows + config.columns - 2 + config.pipeline} + V",
            pipeline=f" + {config.pipeline}" if config.pipeline else "",
            encoder=latency(config),
            late=latency(config) - 1,
            chain=chain,
            rows=config.rows,
            gap=" + 1" if fmt.cascade else "",
        ),
        own=f"{fraction} bits",
        range=f"{fraction + fmt.bits} bits" if fmt.range_on else "does not occur",
        precision="0 bits" if fmt.precision_on else "does not occur",
    )
