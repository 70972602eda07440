"""Elements of published rivals, one lane and one weight each, in the frame of our own: to be synthesized by the same flow.

Both hold what a weight-stationary array needs per lane: the weight register with its load chain, the lane's registers and the
partial sum. Decoders at the array's edge are left out, as our encoder is. The product is a sum of rows and a weight is chosen by AND-OR,
as in our element, so that none is smaller for how it is written.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from overq.eda.liberty import Library
from overq.eda.synth import FAST
from overq.errors import InputError
from overq.rtl.parts import Job, Part, flip_flop_area, output_job, skew_flip_flops
from overq.spec import ArrayConfig

PLACES = 3  # wires of `shift_in`
BESIDE = {"SPARQ": PLACES + 1, "OliVe": 0}  # wires beside a digit through the skew; OliVe's are decoded behind it


class RivalLane(NamedTuple):
    """What stands on a lane: digit << shift, times the lane's own weight or that of the pair's other lane."""

    digit: int
    shift: int
    other: int = 0


_FRAME = """\
// {what}
module {name}(input clk, input load, input [{bits}-1:0] digit_in, output reg [{bits}-1:0] digit_out, input [2:0] shift_in,
    output reg [2:0] shift_out, input signed [{weight_bits}-1:0] weight_in, output reg signed [{weight_bits}-1:0] weight_out,
    {ports}input signed [{sum_bits}-1:0] sum_in, output reg signed [{sum_bits}-1:0] sum_out);
  {weight}
  wire signed [{bits}+{weight_bits}-1:0] product = {rows};
  wire signed [{bits}+{weight_bits}+{most}-1:0] shifted = product <<< shift_in;
  always @(posedge clk) begin
    digit_out <= digit_in;
    shift_out <= shift_in;
    {clocked}
    if (load) weight_out <= weight_in;
    sum_out <= sum_in + shifted;
  end
endmodule
"""


def _rows(bits: int, weight_bits: int) -> str:
    """digit_in · weight, one shifted weight for each bit of the digit."""
    return " + ".join(f"($signed({{{weight_bits}{{digit_in[{i}]}}}} & weight) <<< {i})" for i in range(bits))


def sparq_element(bits: int = 4, weight_bits: int = 8, sum_bits: int = 24) -> tuple[str, str]:
    """SPARQ (arXiv 2105.11010): a window of `bits` bits of an 8-bit value, shifted by 0 … 8 − bits, 3 bits of placement;
    beside a zero the other lane of the pair serves too, with the partner's weight (one bit, and the partner's weight as a wire)."""
    text = _FRAME.format(
        what="SPARQ: window with its placement; `other` multiplies with the weight of the pair's other lane",
        name="sparq_element",
        bits=bits,
        weight_bits=weight_bits,
        sum_bits=sum_bits,
        rows=_rows(bits, weight_bits),
        most=8 - bits,
        ports=f"input other_in, output reg other_out, input signed [{weight_bits}-1:0] partner_weight, ",
        weight=f"wire signed [{weight_bits}-1:0] weight = ({{{weight_bits}{{other_in}}}} & partner_weight)"
        f" | ({{{weight_bits}{{~other_in}}}} & weight_out);",
        clocked="other_out <= other_in;",
    )
    return "sparq_element", text


def olive_element(bits: int = 4, weight_bits: int = 8, sum_bits: int = 24) -> tuple[str, str]:
    """OliVe (arXiv 2304.07493): integer times weight, shifted by the outlier's exponent. Unsigned 4-bit abfloat is
    (4 + m) << (2 … 5), normals have shift 0; the decoder at the edge makes 3 bits of shift of both."""
    text = _FRAME.format(
        what="OliVe: integer with the exponent of an outlier, 0 for normals; the victim arrives as digit 0",
        name="olive_element",
        bits=bits,
        weight_bits=weight_bits,
        sum_bits=sum_bits,
        rows=_rows(bits, weight_bits),
        most=5,
        ports="",
        weight=f"wire signed [{weight_bits}-1:0] weight = weight_out;",
        clocked="",
    )
    return "olive_element", text


RIVALS: dict[str, Callable[[int, int, int], tuple[str, str]]] = {"SPARQ": sparq_element, "OliVe": olive_element}


def rival_parts(name: str, bits: int, config: ArrayConfig, library: Library) -> list[Part]:
    """Elements, output stage and registers that skew, as `parts.compared` makes them of our arrays without encoder.

    config   plain, of the widest value that its lanes spell: its sums are as wide as they have to be
    """
    if name not in RIVALS:
        raise InputError(f"no element of {name!r} is built; there are {' and '.join(RIVALS)}")
    element = RIVALS[name](bits, config.weight_bits, config.psum_bits)[1]
    text = element[element.index("module ") :]
    made = [job.done(library) for job in (Job("element", config.rows * config.columns, text, FAST), output_job(config))]
    count = skew_flip_flops(config, bits + BESIDE[name])
    return [*made, Part("skew and control, flip-flops", count, flip_flop_area(library), 1, 0.0, 0)]
