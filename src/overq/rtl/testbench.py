"""A self-checking testbench in plain Verilog-2001 with its data as hex files, for any simulator and no Python."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from overq.output import write_all
from overq.rtl import protocol
from overq.rtl.vectors import LayerVectors
from overq.spec.requantize import MULTIPLIER_BITS, SHIFT_BITS, bias_bits

_TEMPLATE = """\
// Streams {source} through overq_top and compares every sum and every t.
`timescale 1ns/1ps
module testbench;
  localparam ROWS = {rows}, COLUMNS = {columns}, TILES = {tiles}, VECTORS = {vectors};
  localparam DOUBLE_BUFFERED = {double};
  localparam T_BITS = {t_bits}, WEIGHT_BITS = {weight_bits}, SUM_BITS = {sum_bits}, NEXT_BITS = {next_bits};

  reg [ROWS*T_BITS-1:0]         tile_t [0:TILES*VECTORS-1];
  reg [ROWS-1:0]                tile_enable [0:TILES-1];
  reg [ROWS-1:0]                tile_starts [0:TILES-1];
  reg [COLUMNS*WEIGHT_BITS-1:0] tile_weights [0:TILES*ROWS-1];
  reg [COLUMNS*SUM_BITS-1:0]    expected_sums [0:VECTORS-1];
  reg [COLUMNS*NEXT_BITS-1:0]   expected_t [0:VECTORS-1];
  reg [COLUMNS*SUM_BITS-1:0]    partial [0:VECTORS-1];

  reg clk, rst, weight_valid, in_valid, in_first, in_last;
  reg [COLUMNS*WEIGHT_BITS-1:0] weights;
  reg [ROWS*T_BITS-1:0] in_t;
  reg [ROWS-1:0] in_enable, in_starts;
  reg [COLUMNS*SUM_BITS-1:0] in_sums;
  wire weight_ready, in_ready, out_valid, out_last, t_valid;
  wire [COLUMNS*SUM_BITS-1:0] out_sums;
  wire [COLUMNS*NEXT_BITS-1:0] t;

  overq_top dut (
    .clk(clk), .rst(rst),
    .weight_valid(weight_valid), .weight_ready(weight_ready), .weights(weights),
    .in_valid(in_valid), .in_ready(in_ready), .in_t(in_t), .in_enable(in_enable), .in_sums(in_sums), .in_last(in_last),{first}{starts}{held}
    .out_valid(out_valid), .out_sums(out_sums), .out_last(out_last),
    .multipliers({multipliers}),
    .biases({biases}),
    .shifts({shifts}),
    .t_valid(t_valid), .t(t)
  );

`ifdef OVERQ_ASSERT  // with overq_protocol.sv, in SystemVerilog
  {protocol}
`endif

  integer tile, vector, row, loading, loaded, sent, received, checked_t, errors, cycles;

  initial begin
    $readmemh("t.hex", tile_t);
    $readmemh("enable.hex", tile_enable);
    $readmemh("starts.hex", tile_starts);
    $readmemh("weights.hex", tile_weights);
    $readmemh("sums.hex", expected_sums);
    $readmemh("next_t.hex", expected_t);
    clk = 0; rst = 1; weight_valid = 0; in_valid = 0; in_first = 0; in_last = 0;
    weights = 0; in_t = 0; in_enable = 0; in_starts = 0; in_sums = 0;
    loaded = 0; sent = 0; received = 0; checked_t = 0; errors = 0; cycles = 0;
    repeat (4) @(negedge clk);
    #1 rst = 0;
  end

  always #5 clk = ~clk;

  // Outputs are looked at in the middle of a cycle, inputs change 1 ns later; whether a transfer takes place is looked at before its clock.
  always @(negedge clk) begin
    if (!rst && (weight_valid || loaded > 0) && received < TILES * VECTORS) cycles = cycles + 1;
    if (!rst && out_valid) begin
      partial[received % VECTORS] = out_sums;
      if (out_last !== (received >= (TILES - 1) * VECTORS)) errors = errors + 1;
      if (out_last && out_sums !== expected_sums[received % VECTORS]) begin
        errors = errors + 1;
        $display("vector %0d: sums %h, expected %h", received % VECTORS, out_sums, expected_sums[received % VECTORS]);
      end
      received = received + 1;
    end
    if (!rst && t_valid) begin
      if (t !== expected_t[checked_t]) begin
        errors = errors + 1;
        $display("vector %0d: t %h, expected %h", checked_t, t, expected_t[checked_t]);
      end
      checked_t = checked_t + 1;
    end
  end

  // Weights: with one register each when the tile before has been sent, with two as soon as they are taken.
  initial begin
    wait (!rst);
    for (loading = 0; loading < TILES; loading = loading + 1) begin
      while (!DOUBLE_BUFFERED && sent < loading * VECTORS) begin @(negedge clk); #1; end
      for (row = ROWS - 1; row >= 0; row = row - 1) begin
        weights = tile_weights[loading*ROWS + row];
        weight_valid = 1;
        #3 while (!weight_ready) #10;
        @(negedge clk); #1;
      end
      weight_valid = 0;
      loaded = loaded + 1;
    end
  end

  // Vectors: each after its tile's weights (with two registers in_ready sees to that), and after its sums of the tile before.
  initial begin
    wait (!rst);
    for (tile = 0; tile < TILES; tile = tile + 1)
      for (vector = 0; vector < VECTORS; vector = vector + 1) begin
        #1 while ((!DOUBLE_BUFFERED && loaded <= tile) || (tile > 0 && received <= (tile - 1) * VECTORS + vector)) begin
          in_valid = 0;
          @(negedge clk); #2;
        end
        in_t = tile_t[tile*VECTORS + vector];
        in_enable = tile_enable[tile];
        in_starts = tile_starts[tile];
        if (tile == 0) in_sums = 0; else in_sums = partial[vector];
        in_first = (vector == 0);
        in_last = (tile == TILES - 1);
        in_valid = 1;
        #2 while (!in_ready) #10;
        sent = sent + 1;
        @(negedge clk); #1;
        in_valid = 0;
      end
    while (received < TILES * VECTORS) @(negedge clk);
    repeat (4) @(negedge clk);
    if (errors == 0 && received == TILES * VECTORS && checked_t == VECTORS)
      $display("PASS: %0d sums and %0d t equal, %0d cycles", VECTORS * COLUMNS, checked_t * COLUMNS, cycles);
    else
      $display("FAIL: %0d errors, %0d of %0d vectors of sums, %0d of t", errors, received, TILES * VECTORS, checked_t);
    $finish;
  end
endmodule
"""


def packed(values: Iterable[int], bits: int) -> int:
    """Lane 0 in the least significant bits."""
    return sum((value & ((1 << bits) - 1)) << (i * bits) for i, value in enumerate(values))


def _hex(rows: Iterable[Sequence[int]], bits: int) -> str:
    return "".join(f"{packed(row, bits):x}\n" for row in rows)


def literal(values: Sequence[int], bits: int) -> str:
    return f"{len(values) * bits}'h{packed(values, bits):x}"


def filling(layer: LayerVectors) -> dict[str, str | int]:
    """What the texts about a layer's vectors, here and in `axis_bench` and `board`, have in their blanks alike."""
    config = layer.config
    return {
        "source": layer.source.replace("\n", " "),
        "rows": config.rows,
        "columns": config.columns,
        "tiles": len(layer.tiles),
        "vectors": layer.vectors,
        "t_bits": config.t_bits,
        "weight_bits": config.weight_bits,
        "sum_bits": config.psum_bits,
        "multipliers": literal(layer.multipliers, MULTIPLIER_BITS),
        "biases": literal(layer.biases, bias_bits(config.psum_bits)),
        "shifts": literal(layer.shifts, SHIFT_BITS),
    }


def write(layer: LayerVectors, folder: Path, *, relu: bool = True) -> list[Path]:
    """testbench.v and its hex files under `folder`, all or none."""
    return write_all(folder, files(layer, relu=relu))


def files(layer: LayerVectors, *, relu: bool = True) -> dict[str, str]:
    """testbench.v and its hex files: name -> text."""
    config = layer.config
    rows, columns = config.rows, config.columns
    text = _TEMPLATE.format(
        **filling(layer),
        double=int(config.double_buffered),
        starts="\n    .in_starts(in_starts)," if config.edges else "",
        held="\n    .enable(1'b1), .out_ready(1'b1), .t_ready(1'b1), .in_tag(1'b0)," if config.stalls else "",
        first="\n    .in_first(in_first)," if config.double_buffered else "",
        protocol=protocol.instance(config, held=False),
        next_bits=config.t_bits,
    )
    blank = [0] * columns
    weights = [row for tile in layer.tiles for row in [*tile.weights, *[blank] * (rows - tile.lanes)]]
    return {
        "testbench.v": text,
        "t.hex": _hex((row for tile in layer.saturated() for row in tile), config.t_bits),
        "enable.hex": _hex(([tile.enabled] for tile in layer.tiles), rows),
        "starts.hex": _hex(([sum(1 << lane for lane in tile.starts)] for tile in layer.tiles), rows),
        "weights.hex": _hex(weights, config.weight_bits),
        "sums.hex": _hex(layer.sums(), config.psum_bits),
        "next_t.hex": _hex(layer.next_t(relu), config.t_bits),
    }
