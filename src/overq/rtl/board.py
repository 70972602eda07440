"""A board that tests itself: the accelerator, a layer's vectors and the sums and t that must come out, in one bitstream.

`overq_board` loads the layer's weights, streams its vectors, compares every sum and every t, and says so with its lamps: led[0] all are
equal, led[1] one is not, led[7] blinks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from overq.errors import InputError
from overq.rtl import testbench
from overq.rtl.vectors import LayerVectors


@dataclass(frozen=True)
class Board:
    """device: a name of eda.fpga; clock: its pin and MHz; lamps: the pins of led[0], led[1], …"""

    device: str
    clock: str
    megahertz: int
    lamps: tuple[str, ...]

    @property
    def constraints(self) -> str:
        """Lattice's preference file."""
        pins = {"clk": self.clock} | {f"led[{i}]": pin for i, pin in enumerate(self.lamps)}
        lines = [f'LOCATE COMP "{port}" SITE "{pin}";\nIOBUF PORT "{port}" IO_TYPE=LVCMOS33;' for port, pin in pins.items()]
        return "\n".join([*lines, f'FREQUENCY PORT "clk" {self.megahertz} MHZ;', ""])


BOARDS = {"ulx3s-12f": Board("ecp5-12k", "G2", 25, ("B2", "C2", "C1", "D2", "D1", "E2", "E1", "H3"))}

_BOARD = """\
// overq_board: {source} through overq_top; led[0] all sums and t are right, led[1] one is wrong, led[7] blinks.
`timescale 1ns/1ps
module overq_board (input wire clk, output wire [7:0] led);
  localparam ROWS = {rows}, TILES = {tiles}, VECTORS = {vectors};
  localparam LOAD = 0, STREAM = 1, DRAIN = 2, DONE = 3;

{memories}
  reg [{sums}-1:0] partial [0:VECTORS-1];

  reg [4:0] boot = 0;  // a reset of 16 cycles after configuration
  reg [23:0] beat = 0;
  reg [1:0] phase;
  reg [15:0] row, tile, vector, received, checked;
  reg wrong;
  wire rst = ~boot[4];
  wire weight_ready, in_ready, out_valid, out_last, t_valid;
  wire [{sums}-1:0] out_sums;
  wire [{ts}-1:0] t;
  wire last = (tile == TILES - 1);
  wire done = (checked == VECTORS);

  overq_top top (
    .clk(clk), .rst(rst),
    .weight_valid(phase == LOAD), .weight_ready(weight_ready), .weights(weights[tile*ROWS + ROWS-1 - row]),
    .in_valid(phase == STREAM), .in_ready(in_ready), .in_t(given[tile*VECTORS + vector]), .in_enable(enable[tile]),
    .in_sums(tile == 0 ? {sums}'b0 : partial[vector]), .in_last(last),{starts}
    .out_valid(out_valid), .out_sums(out_sums), .out_last(out_last),
    .multipliers({multipliers}),
    .biases({biases}),
    .shifts({shifts}),
    .t_valid(t_valid), .t(t)
  );

  always @(posedge clk) begin
    if (rst) boot <= boot + 1;
    beat <= beat + 1;
    if (rst) begin
      phase <= LOAD; row <= 0; tile <= 0; vector <= 0; received <= 0; checked <= 0; wrong <= 0;
    end else begin
      if (phase == LOAD && weight_ready) begin
        row <= (row == ROWS - 1) ? 0 : row + 1;
        if (row == ROWS - 1) phase <= STREAM;
      end
      if (phase == STREAM && in_ready) begin
        vector <= (vector == VECTORS - 1) ? 0 : vector + 1;
        if (vector == VECTORS - 1) phase <= DRAIN;
      end
      if (out_valid) begin
        partial[received] <= out_sums;
        received <= received + 1;
        if (out_last && out_sums != expected[received]) wrong <= 1;
      end
      if (phase == DRAIN && received == VECTORS) begin
        received <= 0;
        tile <= last ? tile : tile + 1;
        phase <= last ? DONE : LOAD;
      end
      if (t_valid) begin
        checked <= checked + 1;
        if (t != expected_t[checked]) wrong <= 1;
      end
    end
  end
  assign led = {{beat[23], 5'b0, wrong, done & ~wrong}};
endmodule
"""

_TEST = """\
// Runs overq_board until a lamp tells.
`timescale 1ns/1ps
module testbench;
  reg clk = 0;
  wire [7:0] led;
  integer cycles = 0;
  overq_board board (.clk(clk), .led(led));
  always #5 clk = ~clk;
  always @(negedge clk) begin
    cycles = cycles + 1;
    if (led[0] === 1'b1 && led[1] === 1'b0) begin $display("PASS: led[0] is lit after %0d cycles", cycles); $finish; end
    if (led[1] === 1'b1) begin $display("FAIL: led[1] is lit after %0d cycles", cycles); $finish; end
    if (cycles > {limit}) begin $display("FAIL: no lamp after %0d cycles", cycles); $finish; end
  end
endmodule
"""


def files(layer: LayerVectors, *, relu: bool = True) -> dict[str, str]:
    """board.v and a testbench.v for it: name -> text. The accelerator's own files come beside them."""
    config = layer.config
    if config.double_buffered or config.stalls:
        raise InputError("the board's test is of an array with one weight register that nothing holds")
    data = {name: text.split() for name, text in testbench.files(layer, relu=relu).items() if name.endswith(".hex")}
    sums, ts = config.columns * config.psum_bits, config.columns * config.t_bits
    memories = [
        _memory("given", config.rows * config.t_bits, data["t.hex"]),
        _memory("enable", config.rows, data["enable.hex"]),
        *([_memory("starts", config.rows, data["starts.hex"])] if config.edges else []),
        _memory("weights", config.columns * config.weight_bits, data["weights.hex"]),
        _memory("expected", sums, data["sums.hex"]),
        _memory("expected_t", ts, data["next_t.hex"]),
    ]
    board = _BOARD.format(
        **testbench.filling(layer),
        sums=sums,
        ts=ts,
        memories="\n".join(memories),
        starts="\n    .in_starts(starts[tile])," if config.edges else "",
    )
    limit = 1000 + 4 * len(layer.tiles) * (layer.vectors + 3 * config.rows + config.columns)
    return {"board.v": board, "testbench.v": _TEST.format(limit=limit)}


def _memory(name: str, bits: int, words: Sequence[str]) -> str:
    lines = [f"  reg [{bits}-1:0] {name} [0:{len(words) - 1}];", "  initial begin"]
    return "\n".join([*lines, *(f"    {name}[{i}] = {bits}'h{word};" for i, word in enumerate(words)), "  end"])
