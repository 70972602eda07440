"""The README that lies beside emitted Verilog: ports, timing, how to run the testbench."""

from __future__ import annotations

from amaranth.hdl import Shape, ShapeLike
from amaranth.lib import data, wiring
from amaranth.lib.wiring import Flow

from overq.rtl import axis
from overq.rtl.array import SystolicArray
from overq.rtl.encoder import OverwriteEncoder, latency
from overq.rtl.output import OutputStage, output_latency
from overq.rtl.pe import ProcessingElement
from overq.rtl.state import RowState
from overq.rtl.top import Accelerator
from overq.rtl.verilog import meanings
from overq.spec import ArrayConfig
from overq.spec.requantize import MULTIPLIER_BITS

_TEXT = """\
# OverQ accelerator {name}

{rows} rows × {columns} columns, {bits}-bit {kind} digits, {weight_bits}-bit weights, cascade {cascade}, modes: {modes}.
Partial sums have {sum_bits} bits, {fraction} of them fraction bits; enough for any dot product of {depth} lanes.
{registers} per element. {multiplier}
Plain Verilog-2001, one module per file, one clock (`clk`, rising edge), synchronous active-high `rst` where a module has one.
Only control bits are reset; hold `rst` for at least one cycle.

## Run it

    iverilog -g2001 -s testbench -o sim *.v && vvp sim
    iverilog -g2012 -DOVERQ_ASSERT -s testbench -o sim *.v *.sv && vvp sim
    verilator --binary --timing -Wno-fatal -Wno-lint --top-module testbench *.v && obj_dir/Vtestbench

The testbench streams the vectors of the .hex files through `overq_top`, compares every sum and every output, and prints PASS or FAIL
with the cycles from the first weight to the last sum. Nothing else is needed: no Python, no other file. With `OVERQ_ASSERT` the
promises of the ports in `overq_protocol.sv` are watched, too. `example.cpp` (Verilator) and `example_cocotb.py` (cocotb) drive
the same design with the same files, and say in their first line how they are run.

For other tools: `overq.f` (files), `overq.core` (FuseSoC), `overq.sdc` (constraints), `overq.vlt` (Verilator's lint, each waiver
with its reason): `verilator --lint-only -Wall --top-module overq_top overq.vlt -f overq.f` and `iverilog -Wall` are silent.
`librelane.json` and `openroad.mk` configure LibreLane and OpenROAD-flow-scripts; neither was run with them.

## Feeding it your own data

**t.** The input of a layer is x with a step Δ; `t` of a value is floor(x · {scale} / Δ), clamped to {t_min} … {t_max}: an integer with
{t_fraction} fraction bits of the step. n = (t + {half}) >> {t_fraction} is the nearest multiple of Δ.
{rule}
**Sums.** With integer weights w of a step Δw, a column's sum is {sum_scale} Σ x/Δ · w, so x · W ≈ sum · Δ · Δw{over}.
A dot product of more than {rows} lanes is cut into tiles; each but the first starts from the sums of the one before.

**The next layer.** t of the next layer, whose step is Δ', is clamp((sum · multiplier + bias) >> shift), per column: choose
multiplier / 2^shift near {scale} · Δ · Δw / Δ'{over}, with {multiplier_bits} bits of multiplier,
and bias = {scale} · b / Δ' · 2^shift for a bias b.

**Lanes not used**: `in_enable` low. `weights` and `in_t` of one transfer are all columns or all lanes of it. `overq vectors` and
`overq.spec.encode` give reference answers for any row.

{axi}## Vectors on ports

A port of several values packs them without gaps, lane (or column) 0 in the least significant bits.

{tables}
## Timing of overq_top

1. Weights: {rows} transfers with `weight_valid` and `weight_ready`, one row of the tile each, **the last row first**.
   {loading}
2. Vectors: one transfer per cycle with `in_valid` and `in_ready`. Lanes without a value have their `in_enable` bit low:
   wherever they stand and whatever is on their `in_t`, they become digit 0, OWN, and nothing crosses them.{starts}{first}
   `in_sums` is what each column starts from: 0 for the first tile of a dot product, later the `out_sums` of the tile before.
3. Sums: `out_valid` and `out_sums` come {latency} cycles after the transfer, in order{stalling}
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


_STALLING = """, counted in cycles in which the array moves.
   It stands still while `enable` is low, or while `out_valid` or `t_valid` is high and not answered by `out_ready` or `t_ready`: each
   transfer of sums and of t takes place once. `in_tag` of a vector comes out again as `out_tag` and `t_tag`."""
_MULTIPLIER = {
    "asic": "Products are sums of gated weights, which standard cells take best; for an FPGA, emit with `--target fpga`.",
    "fpga": "Products are written `*`, one multiplier of the device each, digits placed by their shift before it.",
}
_KIND = {
    "known": "A second digit's kind is known: at most one mode is on.",
    "digit": "A second digit's top bit on the array's `digits` says its kind: 0 RANGE, 1 PRECISION; its payload is in the bits below.",
    "placed": "A second digit stands on the array's `digits` where its bits count: a high digit in the top {r} of the {b} bits, a fraction "
    "in the lowest; which it is makes no difference there.",
    "pair": "`fine` (bit 1) says that a second digit is a PRECISION one.",
}
_STARTS = """
   Several whole channel vectors may share a tile, side by side: `in_starts` marks the lane where each begins, nothing crosses there."""


def _table(title: str, ports: dict[str, tuple[Flow, ShapeLike]], said: dict[str, str]) -> str:
    lines = [f"### {title}", "", "| port | direction | bits | how they are read | meaning |", "| --- | --- | --- | --- | --- |"]
    for name, (flow, shape) in ports.items():
        bits = Shape.cast(shape).width
        if isinstance(shape, data.ArrayLayout):
            inner = Shape.cast(shape.elem_shape)
            what = f"{shape.length} × {inner.width} bits{', two’s complement' if inner.signed else ''}"
        else:
            what = "two’s complement" if Shape.cast(shape).signed else ""
        lines.append(f"| `{name}` | {'in' if flow == Flow.In else 'out'} | {bits} | {what} | {said.get(name, '')} |")
    return "\n".join([*lines, ""])


_RULE = """\
**The encoder** lays them on lanes, one tile a cycle. n outside {digit_min} … {digit_max} is an outlier, which one digit clips.
A lane with n = 0 is free, and serves one value among the up to {cascade} lanes before it, back to the previous zero or the tile's edge:
{served}.
That value then stands on two lanes, its own and the next, and the values between it and the zero move up one lane.
"""
_PLAIN_RULE = "The encoder clamps n to {digit_min} … {digit_max}: one digit a lane.\n"
_SERVED = {
    ("first", "range"): "the outlier farthest from it, as a low and a high digit",
    ("first", "precision"): "the value directly before it, if that is no outlier, as a whole and a fraction digit",
    ("largest", "range"): "the outlier that its digit clips most (of equals the lower lane), as a low and a high digit",
    ("largest", "precision"): "the value that n rounds worst (of equals the lower lane), as a whole and a fraction digit",
}
_AXI = """\
## AXI4-Stream

`overq_axis` has streams instead: s_axis_weights, s_axis_vectors, s_axis_sums in; m_axis_sums, m_axis_t out. Values stand in whole
bytes ({weight} for a weight, {t} for a t, {sum} for a sum), so that memory holds plain arrays. tuser[0] of a vector: its sums are
complete and leave as t; tuser[1]: they start from a transfer of s_axis_sums; tlast: the last vector of a tile. Weights may be sent
ahead: they wait for their tile. `multipliers`, `biases`, `shifts` stay ports, constant while vectors are in flight.

    iverilog -g2001 -s testbench_axis -o sim *.v && vvp sim

"""


def _rule(config: ArrayConfig) -> str:
    fmt = config.format
    if not fmt.cascade:
        return _PLAIN_RULE.format(digit_min=fmt.digit_min, digit_max=fmt.digit_max)
    served = "; else ".join(_SERVED[fmt.policy, mode] for mode in fmt.modes)
    gives = f"Before that, an outlier that no zero serves may take a lane whose |n| is at most {fmt.evict}.\n" if fmt.evict else ""
    return _RULE.format(digit_min=fmt.digit_min, digit_max=fmt.digit_max, cascade=fmt.cascade, served=served) + gives


def text(config: ArrayConfig, axi: bool = False) -> str:
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
        tables.append(
            _table(title, {name: (member.flow, member.shape) for name, member in block.signature.members.items()}, meanings(block))
        )
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
        rule=_rule(config),
        multiplier_bits=MULTIPLIER_BITS,
        axi=_AXI.format(**axis.sizes(config)) if axi else "",
        stalling=_STALLING if config.stalls else "; nothing can stall them.",
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
        kind_bit=_KIND["placed" if RowState(fmt).placed else fmt.kind].format(r=fmt.range_bits, b=fmt.bits),
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
