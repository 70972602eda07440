"""overq_protocol.sv: what the ports of `overq_top` promise, as SystemVerilog assertions beside the design.

It looks at ports only and keeps its own books. Simulators take it as it is (the testbench instantiates it under `OVERQ_ASSERT`);
tests/formal proves it by induction for small arrays, by equating its books with the design's registers.
"""

from __future__ import annotations

from overq.rtl.encoder import latency
from overq.rtl.output import output_latency
from overq.spec import ArrayConfig

_TEXT = """\
// overq_protocol: what the ports of overq_top promise. {name}, {rows} rows, {columns} columns.
`timescale 1ns/1ps
module overq_protocol (
  input wire clk, rst, weight_valid, weight_ready, in_valid, in_ready, in_last, in_first,
  input wire out_valid, out_last, t_valid,
  input wire enable, out_ready, t_ready, in_tag, out_tag, t_tag,
  input wire [{sums}-1:0] out_sums,
  input wire [{ts}-1:0] t
);
  localparam ROWS = {rows}, LATENCY = {latency};

  // The books: which vectors are in flight, which of them are the last of their dot product, which tags they carry.
  reg [LATENCY-1:0] flying, last, tag;
  reg scaling, scaled, scaling_tag, scaled_tag;  // the last two cycles of the output stage
{early}  reg sums_taken, t_taken;
  reg [ROWS-1:0] loaded;  // a bit for each row of the tile that waits, the first in bit 0
  reg known;              // there was a reset
  initial known = 0;
  wire out_due = flying[LATENCY-1] & ~sums_taken;
  wire t_due = scaled & ~t_taken;
  wire run = enable & (~out_due | out_ready) & (~t_due | t_ready);
  wire take = in_valid & in_ready, load = weight_valid & weight_ready, opens = take & in_first;
  wire whole = loaded[ROWS-1];

  // As they were a cycle ago, while nothing moved.
  reg out_waits, t_waits, was_last, was_tag, was_t_tag;
  reg [{sums}-1:0] was_sums;
  reg [{ts}-1:0] was_t;

  always @(posedge clk) begin
    if (run) begin
      flying <= {{flying[LATENCY-2:0], take}};
      last <= {{last[LATENCY-2:0], in_last}};
      tag <= {{tag[LATENCY-2:0], in_tag}};
{into}      scaled <= scaling;
      scaled_tag <= scaling_tag;
      if (load) loaded <= opens ? 1 : {{loaded[ROWS-2:0], 1'b1}};
      else if (opens) loaded <= 0;
    end
    sums_taken <= ~run & (sums_taken | (out_due & out_ready));
    t_taken <= ~run & (t_taken | (t_due & t_ready));
    out_waits <= out_valid & ~out_ready;
    t_waits <= t_valid & ~t_ready;
    was_sums <= out_sums; was_last <= out_last; was_tag <= out_tag; was_t <= t; was_t_tag <= t_tag;
    if (rst) begin
      flying <= 0; scaling <= 0; {none}scaled <= 0; sums_taken <= 0; t_taken <= 0; loaded <= 0; out_waits <= 0; t_waits <= 0; known <= 1;
    end
  end

  always @(posedge clk) if (known && !rst) begin
    // In order, LATENCY moving cycles after the transfer, once: neither lost nor doubled.
    assert (out_valid == out_due);
    if (out_valid) assert (out_last == last[LATENCY-1]);
    // What was the last of its dot product becomes t, {stages} moving cycles later.
    assert (t_valid == t_due);
{promises}
  end
endmodule
"""

_SINGLE = """\
    // One weight register: weights move only while nothing is in the array, and never in a vector's cycle.
    if (load) assert (flying[LATENCY-2:0] == 0);
    assert (!(load && take));
    // Progress: a vector waits for weights and a standing array only; weights wait for the vectors in flight only.
    if (run && !weight_valid) assert (in_ready);
    if (run && flying[LATENCY-2:0] == 0) assert (weight_ready);"""
_DOUBLE = """\
    // Two weight registers: a tile's first vector finds the tile whole; weights of a third tile wait.
    if (opens) assert (whole);
    if (load && whole) assert (opens);
    // Progress: a vector waits for its tile and a standing array{gap} only; weights wait only while a whole tile does.
    if (run && !in_first) assert (in_ready);
    if (run && in_first && whole{no_gap}) assert (in_ready);
    if (run && !whole) assert (weight_ready);"""
_STALLS = """\
    // While all stands still nothing is taken in, and what waits stays as it is.
    if (!run) assert (!in_ready && !weight_ready);
    if (out_waits) assert (out_valid && out_sums == was_sums && out_last == was_last && out_tag == was_tag);
    if (t_waits) assert (t_valid && t == was_t && t_tag == was_t_tag);
    if (out_valid) assert (out_tag == tag[LATENCY-1]);
    if (t_valid) assert (t_tag == scaled_tag);"""


_STRAIGHT = {
    "early": "",
    "none": "",
    "into": """\
      scaling <= flying[LATENCY-1] & last[LATENCY-1];
      scaling_tag <= tag[LATENCY-1];
""",
}
_EARLY = {
    "early": "  reg [{top}:0] early, early_tag;  // the {count} before them, of a pipelined array\n",
    "none": "early <= 0; ",
    "into": """\
      early <= {{early[{below}:0], flying[LATENCY-1] & last[LATENCY-1]}};
      early_tag <= {{early_tag[{below}:0], tag[LATENCY-1]}};
      scaling <= early[{top}];
      scaling_tag <= early_tag[{top}];
""",
}


def text(config: ArrayConfig) -> str:
    gap, stages = bool(config.format.cascade), output_latency(config)
    before = _STRAIGHT
    if config.pipeline:
        before = {name: part.format(top=stages - 3, below=stages - 4, count=stages - 2) for name, part in _EARLY.items()}
    if config.double_buffered:
        own = _DOUBLE.format(gap=" and for an idle cycle behind another" * gap, no_gap=" && !flying[0]" * gap)
    else:
        own = _SINGLE
    return _TEXT.format(
        name=config.label,
        rows=config.rows,
        columns=config.columns,
        sums=config.columns * config.psum_bits,
        ts=config.columns * config.t_bits,
        latency=latency(config) + config.pipeline + config.rows + config.columns - 1,
        stages=stages,
        **before,
        promises=own + ("\n" + _STALLS if config.stalls else ""),
    )


TRANSFERS = ["weight_valid", "weight_ready", "in_valid", "in_ready", "in_last", "in_first", "out_valid", "out_last", "t_valid"]
PORTS = ["clk", "rst", *TRANSFERS, "out_sums", "t"]
HELD = {"enable": "1'b1", "out_ready": "1'b1", "t_ready": "1'b1", "in_tag": "1'b0", "out_tag": "1'b0", "t_tag": "1'b0"}


def instance(config: ArrayConfig, held: bool = True) -> str:
    """The checker beside `overq_top`, in a module whose wires have the names of its ports; what is not there is tied, and without `held`
    what holds the array, too."""
    tied = {} if config.stalls and held else HELD
    tied = tied | ({} if config.double_buffered else {"in_first": "1'b0"})
    return f"overq_protocol protocol ({', '.join(f'.{name}({tied.get(name, name)})' for name in (*PORTS, *HELD))});"
