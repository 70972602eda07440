"""What modules take of an FPGA, and that the FPGA's element keeps its multiplier."""

import pytest

pytest.importorskip("amaranth", reason="the rtl extra (amaranth) is not installed")

from overq.eda.fpga import FAMILIES, resources
from overq.errors import InputError
from overq.rtl import ProcessingElement, verilog
from overq.spec import ArrayConfig, Format

pytestmark = pytest.mark.yosys

STAR = """
module plain_star(input clk, input load, input [3:0] digit_in, output reg [3:0] digit_out, input signed [7:0] weight_in,
                  output reg signed [7:0] weight_out, input signed [17:0] sum_in, output reg signed [17:0] sum_out);
  always @(posedge clk) begin
    if (load) weight_out <= weight_in;
    digit_out <= digit_in;
    sum_out <= sum_in + $signed({1'b0, digit_in}) * weight_out;
  end
endmodule
"""


@pytest.mark.parametrize("family", FAMILIES)
def test_a_product_written_as_one_takes_one_multiplier(family):
    found = resources("plain_star", STAR, family)
    assert (found.multipliers, found.luts) in ((1, 0), (1, 1))


@pytest.mark.parametrize("fmt", [Format.plain(4), Format(4, 4, 3, 3), Format(4, 4, signed=True)], ids=lambda fmt: fmt.label)
def test_the_fpga_target_keeps_the_multiplier(fmt):
    asic, fpga = (resources(*verilog.named(ProcessingElement(config=ArrayConfig(fmt, target=t)))) for t in ("asic", "fpga"))
    assert (asic.multipliers, fpga.multipliers) == (0, 1)
    assert fpga.luts < asic.luts / 2
    if not fmt.cascade:
        assert fpga.luts == 0


def test_unknown_families_are_refused():
    with pytest.raises(InputError, match=r"^no FPGA family 'abacus'; known: ecp5, xilinx, ice40, gowin$"):
        resources("x", "module x; endmodule", "abacus")
