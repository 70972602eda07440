"""A testbench of `overq_axis` with the hex files of `testbench`: sources that pause, sinks that are not always ready."""

from __future__ import annotations

from overq.rtl import axis
from overq.rtl.testbench import filling
from overq.rtl.vectors import LayerVectors

_TEXT = """\
// Streams {source} through overq_axis, twice: once for the sums, once for t. All six streams pause at random.
`timescale 1ns/1ps
module testbench_axis;
  localparam ROWS = {rows}, COLUMNS = {columns}, TILES = {tiles}, VECTORS = {vectors}, PASSES = 2;
  localparam WB = {weight_bits}, TB = {t_bits}, SB = {sum_bits}, WB8 = {w8}, TB8 = {t8}, SB8 = {s8};

  reg [ROWS*TB-1:0] tile_t [0:TILES*VECTORS-1];
  reg [ROWS-1:0]    tile_enable [0:TILES-1];
  reg [ROWS-1:0]    tile_starts [0:TILES-1];
  reg [COLUMNS*WB-1:0] tile_weights [0:TILES*ROWS-1];
  reg [COLUMNS*SB-1:0] expected_sums [0:VECTORS-1];
  reg [COLUMNS*TB-1:0] expected_t [0:VECTORS-1];
  reg [COLUMNS*SB8-1:0] partial [0:VECTORS-1];

  reg aclk, aresetn, w_valid, x_valid, x_last, s_valid, sums_ready, t_ready;
  reg [COLUMNS*WB8-1:0] w_data;
  reg [ROWS*TB8-1:0] x_data;
  reg [ROWS*TB8/8-1:0] x_keep;
  reg [{user}-1:0] x_user;
  reg [COLUMNS*SB8-1:0] s_data;
  wire w_ready, x_ready, s_ready, sums_valid, sums_last, t_valid, t_last;
  wire [COLUMNS*SB8-1:0] sums_data;
  wire [COLUMNS*TB8-1:0] t_data;

  overq_axis dut (
    .aclk(aclk), .aresetn(aresetn),
    .s_axis_weights_tdata(w_data), .s_axis_weights_tvalid(w_valid), .s_axis_weights_tready(w_ready),
    .s_axis_vectors_tdata(x_data), .s_axis_vectors_tkeep(x_keep), .s_axis_vectors_tuser(x_user), .s_axis_vectors_tlast(x_last),
    .s_axis_vectors_tvalid(x_valid), .s_axis_vectors_tready(x_ready),
    .s_axis_sums_tdata(s_data), .s_axis_sums_tvalid(s_valid), .s_axis_sums_tready(s_ready),
    .m_axis_sums_tdata(sums_data), .m_axis_sums_tlast(sums_last), .m_axis_sums_tvalid(sums_valid), .m_axis_sums_tready(sums_ready),
    .m_axis_t_tdata(t_data), .m_axis_t_tlast(t_last), .m_axis_t_tvalid(t_valid), .m_axis_t_tready(t_ready),
    .multipliers({multipliers}),
    .biases({biases}),
    .shifts({shifts})
  );

  integer errors, weight, vector, taken, received, received_t, seed, i, j;
  reg paused;

  initial begin
    $readmemh("t.hex", tile_t);
    $readmemh("enable.hex", tile_enable);
    $readmemh("starts.hex", tile_starts);
    $readmemh("weights.hex", tile_weights);
    $readmemh("sums.hex", expected_sums);
    $readmemh("next_t.hex", expected_t);
    aclk = 0; aresetn = 0; w_valid = 0; x_valid = 0; x_last = 0; s_valid = 0; sums_ready = 0; t_ready = 0;
    w_data = 0; x_data = 0; x_keep = 0; x_user = 0; s_data = 0;
    errors = 0; weight = 0; vector = 0; taken = 0; received = 0; received_t = 0; seed = 1;
    repeat (4) @(negedge aclk);
    #1 aresetn = 1;
  end

  always #5 aclk = ~aclk;

  // Before each clock all ports are looked at; behind it they change. A valid that was raised stays until its transfer.
  reg w_moved, x_moved, s_moved, sums_moved, t_moved;
  always @(negedge aclk) if (aresetn) begin
    #4;
    w_moved = w_valid & w_ready; x_moved = x_valid & x_ready; s_moved = s_valid & s_ready;
    sums_moved = sums_valid & sums_ready; t_moved = t_valid & t_ready;
    if (sums_moved) begin
      // The first pass sends the sums of every tile, the second those of all but the last one.
      i = received < TILES*VECTORS ? received : received - TILES*VECTORS;
      partial[i % VECTORS] = sums_data;
      if (sums_last !== (i % VECTORS == VECTORS - 1)) errors = errors + 1;
      if (received < TILES*VECTORS && i >= (TILES-1)*VECTORS)
        for (j = 0; j < COLUMNS; j = j + 1)
          if ($signed(sums_data[j*SB8 +: SB8]) !== $signed(expected_sums[i % VECTORS][j*SB +: SB])) begin
            errors = errors + 1;
            $display("vector %0d, column %0d: sum %0d", i % VECTORS, j, $signed(sums_data[j*SB8 +: SB8]));
          end
      received = received + 1;
    end
    if (t_moved) begin
      if (t_last !== (received_t == VECTORS - 1)) errors = errors + 1;
      for (j = 0; j < COLUMNS; j = j + 1)
        if ({sign}(t_data[j*TB8 +: TB8]) !== {sign}(expected_t[received_t][j*TB +: TB])) begin
          errors = errors + 1;
          $display("vector %0d, column %0d: t %0d", received_t, j, {sign}(t_data[j*TB8 +: TB8]));
        end
      received_t = received_t + 1;
    end
    if (w_moved) weight = weight + 1;
    if (x_moved) vector = vector + 1;
    if (s_moved) taken = taken + 1;
    #2;
    if (w_moved | ~w_valid) begin
      w_valid = weight < PASSES*TILES*ROWS && $random(seed) % 3 != 0;
      for (j = 0; j < COLUMNS; j = j + 1)  // a tile's rows from the last to the first
        w_data[j*WB8 +: WB8] = tile_weights[(weight / ROWS % TILES)*ROWS + ROWS - 1 - weight % ROWS][j*WB +: WB];
    end
    if (x_moved | ~x_valid) begin
      i = vector % (TILES*VECTORS);
      x_valid = vector < PASSES*TILES*VECTORS && $random(seed) % 4 != 0;
      for (j = 0; j < ROWS; j = j + 1) begin
        x_data[j*TB8 +: TB8] = tile_t[i][j*TB +: TB];
        x_keep[j*TB8/8 +: TB8/8] = {{(TB8/8){{tile_enable[i / VECTORS][j]}}}};
      end
      x_user = {{{starts}i >= VECTORS, vector >= TILES*VECTORS && i >= (TILES-1)*VECTORS}};
      x_last = i % VECTORS == VECTORS - 1;
    end
    if (s_moved | ~s_valid) begin
      // Partial sums go back in once they have come out: those of the tile before.
      i = taken / ((TILES-1)*VECTORS + (TILES == 1));
      s_valid = TILES > 1 && i < PASSES && received > i*TILES*VECTORS + taken - i*(TILES-1)*VECTORS && $random(seed) % 3 != 0;
      s_data = partial[taken % VECTORS];
    end
    sums_ready = $random(seed) % 3 != 0;
    t_ready = $random(seed) % 2 != 0;
    if (received_t == VECTORS) begin
      if (errors == 0 && received == (PASSES*TILES-1)*VECTORS)
        $display("PASS: %0d sums and %0d t equal", VECTORS * COLUMNS, VECTORS * COLUMNS);
      else $display("FAIL: %0d errors, %0d transfers of sums", errors, received);
      $finish;
    end
  end

  initial begin
    #(1000 * (TILES * (ROWS + VECTORS) + 100));
    $display("FAIL: stuck after %0d weights, %0d vectors, %0d sums, %0d t", weight, vector, received, received_t);
    $finish;
  end
endmodule
"""


def text(layer: LayerVectors) -> str:
    """testbench_axis.v; it reads the hex files that `testbench.files` makes of the same layer."""
    config, size = layer.config, axis.sizes(layer.config)
    return _TEXT.format(
        **filling(layer),
        w8=8 * size["weight"],
        t8=8 * size["t"],
        s8=8 * size["sum"],
        user=2 + (config.rows if config.edges else 0),
        starts="tile_starts[i / VECTORS], " if config.edges else "",
        sign="$signed" if config.format.signed else "$unsigned",
    )
