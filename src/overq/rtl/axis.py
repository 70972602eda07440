"""overq_axis.v: the accelerator behind AXI4-Stream ports, each value in whole bytes, so that software reads and writes plain arrays.

Plain Verilog around `overq_top` (with stalls): it packs and unpacks, puts weights and vectors of a tile in their order, takes partial
sums where a vector asks for them, and hands sums or t over, whichever a vector is for.
"""

from __future__ import annotations

from overq.errors import FormatError
from overq.spec import ArrayConfig
from overq.spec.requantize import MULTIPLIER_BITS, SHIFT_BITS, bias_bits

_TEXT = """\
// overq_axis: overq_top behind AXI4-Stream ports. {name}, {rows} rows, {columns} columns.
// Values stand in whole bytes, little endian, value 0 lowest: a weight in {weight_bytes}, a t in {t_bytes}, a sum in {sum_bytes}.
// On inputs the bits above a value's own are ignored, on outputs {extended}.
`timescale 1ns/1ps
module overq_axis (
  input  wire aclk,
  input  wire aresetn,
  // Weights: {rows} transfers a tile, one row of the tile each, the last row first.
  input  wire [{w}-1:0] s_axis_weights_tdata,
  input  wire s_axis_weights_tvalid,
  output wire s_axis_weights_tready,
  // Vectors: t of each lane. A lane is on if the tkeep of its first byte is. tlast: the last vector of a tile; the tile's weights are
  // taken before its first vector. tuser[0]: the sums are then complete and leave as t, else as sums. tuser[1]: the sums start from a
  // transfer of s_axis_sums, else from 0.{starts_said}
  input  wire [{x}-1:0] s_axis_vectors_tdata,
  input  wire [{x}/8-1:0] s_axis_vectors_tkeep,
  input  wire [{user}-1:0] s_axis_vectors_tuser,
  input  wire s_axis_vectors_tlast,
  input  wire s_axis_vectors_tvalid,
  output wire s_axis_vectors_tready,
  // Partial sums, one for each column.
  input  wire [{s}-1:0] s_axis_sums_tdata,
  input  wire s_axis_sums_tvalid,
  output wire s_axis_sums_tready,
  // Sums of the vectors whose tuser[0] was low; tlast is their tlast.
  output wire [{s}-1:0] m_axis_sums_tdata,
  output wire m_axis_sums_tlast,
  output wire m_axis_sums_tvalid,
  input  wire m_axis_sums_tready,
  // t of the others.
  output wire [{y}-1:0] m_axis_t_tdata,
  output wire m_axis_t_tlast,
  output wire m_axis_t_tvalid,
  input  wire m_axis_t_tready,
  // Held still while vectors are in flight; column 0 lowest, without gaps: t = clamp((sum * multiplier + bias) >> shift).
  input  wire [{columns}*{multiplier_bits}-1:0] multipliers,
  input  wire [{columns}*{bias_bits}-1:0] biases,
  input  wire [{columns}*{shift_bits}-1:0] shifts
);
  localparam ROWS = {rows}, COLUMNS = {columns}, WB = {weight_bits}, TB = {t_bits}, SB = {sum_bits};
  localparam WB8 = {weight_bytes} * 8, TB8 = {t_bytes} * 8, SB8 = {sum_bytes} * 8;

  wire [COLUMNS*WB-1:0] weights;
  wire [ROWS*TB-1:0] in_t;
  wire [ROWS-1:0] in_enable;
  wire [COLUMNS*SB-1:0] taken_sums, out_sums;
  wire [COLUMNS*TB-1:0] t;
  genvar i;
  generate
    for (i = 0; i < COLUMNS; i = i + 1) begin : columns
      assign weights[i*WB +: WB] = s_axis_weights_tdata[i*WB8 +: WB];
      assign taken_sums[i*SB +: SB] = s_axis_sums_tdata[i*SB8 +: SB];
      assign m_axis_sums_tdata[i*SB8 +: SB8] = {{{{(SB8-SB+1){{out_sums[i*SB + SB-1]}}}}, out_sums[i*SB +: SB-1]}};
      assign m_axis_t_tdata[i*TB8 +: TB8] = {wide_t};
    end
    for (i = 0; i < ROWS; i = i + 1) begin : lanes
      assign in_t[i*TB +: TB] = s_axis_vectors_tdata[i*TB8 +: TB];
      assign in_enable[i] = s_axis_vectors_tkeep[i*{t_bytes}];
    end
  endgenerate

{order}
  wire accumulate = s_axis_vectors_tuser[1];
  wire in_ready, out_valid, out_last, weight_ready;
  wire in_valid = s_axis_vectors_tvalid & may_stream & (~accumulate | s_axis_sums_tvalid);
  assign s_axis_vectors_tready = in_ready & may_stream & (~accumulate | s_axis_sums_tvalid);
  assign s_axis_sums_tready = in_ready & in_valid & accumulate;
  assign s_axis_weights_tready = weight_ready & may_load;
  assign m_axis_sums_tvalid = out_valid & ~out_last;

  overq_top top (
    .clk(aclk), .rst(~aresetn), .enable(1'b1),
    .weight_valid(s_axis_weights_tvalid & may_load), .weight_ready(weight_ready), .weights(weights),
    .in_valid(in_valid), .in_ready(in_ready), .in_t(in_t), .in_enable(in_enable),
    .in_sums({{(COLUMNS*SB){{accumulate}}}} & taken_sums),
    .in_last(s_axis_vectors_tuser[0]), .in_tag(s_axis_vectors_tlast),{starts}{first}
    .out_valid(out_valid), .out_ready(out_last | m_axis_sums_tready), .out_sums(out_sums),
    .out_last(out_last), .out_tag(m_axis_sums_tlast),
    .multipliers(multipliers), .biases(biases), .shifts(shifts),
    .t_valid(m_axis_t_tvalid), .t_ready(m_axis_t_tready), .t(t), .t_tag(m_axis_t_tlast)
  );
endmodule
"""

_SINGLE = """\
  // One weight register: a tile's weights, then its vectors.
  reg streaming;
  reg [{count}-1:0] loaded;
  wire may_load = ~streaming, may_stream = streaming;
  always @(posedge aclk)
    if (!aresetn) begin
      streaming <= 0;
      loaded <= 0;
    end else if (s_axis_weights_tvalid & s_axis_weights_tready) begin
      streaming <= loaded == ROWS - 1;
      loaded <= loaded == ROWS - 1 ? 0 : loaded + 1;
    end else if (s_axis_vectors_tvalid & s_axis_vectors_tready & s_axis_vectors_tlast)
      streaming <= 0;
"""
_DOUBLE = """\
  // Two weight registers: overq_top waits for a whole tile before its first vector, and holds weights back.
  reg first;
  wire may_load = 1'b1, may_stream = 1'b1;
  always @(posedge aclk)
    if (!aresetn) first <= 1;
    else if (s_axis_vectors_tvalid & s_axis_vectors_tready) first <= s_axis_vectors_tlast;
"""


def sizes(config: ArrayConfig) -> dict[str, int]:
    """Bytes of one weight, one t and one sum: 1, 2, 4 or 8."""
    return {name: _bytes(bits) for name, bits in (("weight", config.weight_bits), ("t", config.t_bits), ("sum", config.psum_bits))}


def text(config: ArrayConfig) -> str:
    if not config.stalls:
        raise FormatError("an AXI-Stream wrapper needs an array that can be held: ArrayConfig(stalls=True)")
    size, rows, columns = sizes(config), config.rows, config.columns
    return _TEXT.format(
        name=config.label,
        rows=rows,
        columns=columns,
        **{f"{name}_bytes": count for name, count in size.items()},
        weight_bits=config.weight_bits,
        t_bits=config.t_bits,
        sum_bits=config.psum_bits,
        multiplier_bits=MULTIPLIER_BITS,
        bias_bits=bias_bits(config.psum_bits),
        shift_bits=SHIFT_BITS,
        w=columns * size["weight"] * 8,
        x=rows * size["t"] * 8,
        s=columns * size["sum"] * 8,
        y=columns * size["t"] * 8,
        user=2 + (rows if config.edges else 0),
        extended="sums and t repeat its sign" if config.format.signed else "sums repeat the sign, t has zeros",
        wide_t="{{(TB8-TB+1){t[i*TB + TB-1]}}, t[i*TB +: TB-1]}" if config.format.signed else "t[i*TB +: TB]",
        starts_said=" tuser[2+k]: another vector's lanes begin at lane k." if config.edges else "",
        starts=" .in_starts(s_axis_vectors_tuser[2 +: ROWS])," if config.edges else "",
        first=" .in_first(first)," if config.double_buffered else "",
        order=_DOUBLE if config.double_buffered else _SINGLE.format(count=max(1, (rows - 1).bit_length())),
    )


def _bytes(bits: int) -> int:
    return next(count for count in (1, 2, 4, 8) if bits <= 8 * count)
