"""What each idea for a smaller element is worth: A4W8, 24-bit partial sums, the same recipes for all.

    python benchmarks/area_ideas.py cells.lib [results.csv]

Each idea is a few lines of Verilog in one frame; `plain` beside an idea means the same idea applied to the plain element, so
that nothing is credited to OverQ that the plain array could have too.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

from overq.eda import yosys
from overq.eda.liberty import Library
from overq.eda.synth import Point, smallest, synthesize

FRAME = """
module element(input clk, input load, input [3:0] digit_in, input signed [7:0] weight_in, input signed [23:0] sum_in,
    {ports} output reg [3:0] digit_out, output reg signed [7:0] weight_out, output reg signed [23:0] sum_out);
  {body}
  always @(posedge clk) begin
    digit_out <= digit_in;
    if (load) weight_out <= weight_in;
    {clocked}
  end
endmodule
"""
DIGIT = "wire signed [4:0] d = {1'b0, digit_in};"
CODE = ("input [1:0] s_in, output reg [1:0] s_out,", "s_out <= s_in;", "wire nb = s_in != 0, up = s_in == 1, down = s_in == 3;")
DERIVED = (
    "input nb, input above, output reg nb_out,",
    "nb_out <= nb;",
    "wire up = nb & ~above;",
)
DERIVED_FULL = (
    "input nb, input above, input down, output reg nb_out, output reg down_out,",
    "nb_out <= nb; down_out <= down;",
    "wire up = nb & ~above & ~down;",
)
MUX = "wire signed [7:0] w = nb ? weight_in : weight_out;"
AND_OR = "wire signed [7:0] w = ({8{nb}} & weight_in) | ({8{~nb}} & weight_out);"
PRODUCT = "wire signed [11:0] product = d * w;"
SHIFT = "wire signed [15:0] shifted = up ? product <<< 4 : product;"
SHIFT_FULL = "wire signed [19:0] shifted = up ? product <<< 8 : down ? product : product <<< 4;"
ADD = "sum_out <= sum_in + shifted;"
UNSIGNED = "wire [11:0] product = digit_in * {}; // weights carry +128, undone at the column's foot\n"


def element(state: tuple[str, str, str], body: str, add: str) -> str:
    ports, clocked, wires = state
    return FRAME.format(ports=ports, body="\n  ".join([DIGIT, wires, body]), clocked=f"{clocked} {add}")


def plain(body: str, add: str) -> str:
    return FRAME.format(ports="", body="\n  ".join([DIGIT, body]), clocked=add)


PLAIN = plain("wire signed [11:0] product = d * weight_out;", "sum_out <= sum_in + product;")
PLAIN_OFFSET = plain(UNSIGNED.format("$unsigned(weight_out)"), "sum_out <= sum_in + $signed({1'b0, product});")
PLAIN_INVERTED = plain("wire signed [11:0] product = d * weight_out;", "sum_out <= sum_in + $signed({1'b0, ~product[11], product[10:0]});")
OFFSET = "wire [7:0] w = nb ? weight_in : weight_out; wire [11:0] product = digit_in * w;"


def gated(text: str) -> str:
    """Split the weight register off to a clock of its own that is gated once per row."""
    frame = text.replace("    if (load) weight_out <= weight_in;\n", "")
    return frame.replace("endmodule", "always @(posedge load) weight_out <= weight_in;\nendmodule")


def two_columns(text: str, second_outputs: tuple[str, ...]) -> str:
    """One set of digit and state registers for two columns of weights and sums."""
    text = text.replace("input signed [7:0] weight_in,", "input signed [7:0] weight_in, weight_in2,")
    text = text.replace("input signed [23:0] sum_in,", "input signed [23:0] sum_in, sum_in2,")
    text = text.replace("output reg signed [7:0] weight_out,", "output reg signed [7:0] weight_out, weight_out2,")
    text = text.replace("output reg signed [23:0] sum_out)", "output reg signed [23:0] sum_out, sum_out2)")
    for name in second_outputs:
        found = next(line for line in text.replace(";", ";\n").splitlines() if name in line and ("wire signed" in line))
        copy = found
        for word in ("weight_in", "weight_out", "product", "shifted"):
            copy = copy.replace(word, word + "2")
        copy = copy.replace(" w ", " w2 ").replace("* w;", "* w2;")
        text = text.replace(found.strip(), found.strip() + " " + copy.strip(), 1)
    text = text.replace("weight_out <= weight_in;", "begin weight_out <= weight_in; weight_out2 <= weight_in2; end")
    add = next(part for part in text.split(";") if "sum_out <=" in part)
    second = add[add.index("sum_out <=") :].replace("sum_out", "sum_out2").replace("sum_in", "sum_in2")
    second = second.replace("shifted", "shifted2").replace("product", "product2")
    return text.replace(add + ";", add + "; " + second + ";")


def double_buffered(text: str) -> str:
    """A second weight register: the next tile loads while this one computes."""
    text = text.replace(
        "output reg signed [7:0] weight_out,", "input swap, output reg signed [7:0] chain_out, output reg signed [7:0] weight_out,"
    )
    text = text.replace("input signed [7:0] weight_in,", "input signed [7:0] chain_in, weight_in,")
    return text.replace("if (load) weight_out <= weight_in;", "if (load) chain_out <= chain_in; if (swap) weight_out <= chain_out;")


RANGE = element(DERIVED, MUX + PRODUCT + SHIFT, ADD)
FULL = element(DERIVED_FULL, MUX + PRODUCT + SHIFT_FULL, ADD)

ROWS_OF = "wire signed [11:0] product = r0 + (r1 <<< 1) + (r2 <<< 2) + (r3 <<< 3);"
INVERTED_OF = "wire signed [11:0] product = r0 + (r1 << 1) + (r2 << 2) + (r3 << 3) + 12'h880;"


def rows(weight: str) -> str:
    """The product as one shifted weight for each bit of the digit."""
    return "".join(f"wire signed [7:0] r{i} = {{8{{digit_in[{i}]}}}} & {weight}; " for i in range(4)) + ROWS_OF


def inverted_rows(weight: str) -> str:
    """The same with every row's sign bit inverted, so that no row needs a sign extension; one constant undoes it."""
    each = "wire [7:0] r{0} = {{~(digit_in[{0}] & {1}[7]), {{7{{digit_in[{0}]}}}} & {1}[6:0]}}; "
    return "".join(each.format(i, weight) for i in range(4)) + INVERTED_OF


def gated_rows() -> str:
    """Each row chooses its weight by its own pair of gated digit bits."""
    each = "wire signed [7:0] r{0} = ({{8{{a[{0}]}}}} & weight_out) | ({{8{{c[{0}]}}}} & weight_in); "
    return "wire [3:0] a = digit_in & {4{~nb}}, c = digit_in & {4{nb}}; " + "".join(each.format(i) for i in range(4)) + ROWS_OF


def in_two_cycles(text: str) -> str:
    """A register between product and sum; the states that shift it wait beside it."""
    text = text.replace("wire signed [11:0] product = ", "reg signed [11:0] product; wire signed [11:0] early = ")
    held = "product <= early; "
    for name in ("up", "down"):
        if f" {name} ?" in text:
            text = text.replace(f" {name} ?", f" late_{name} ?")
            text = text.replace("reg signed [11:0] product;", f"reg late_{name}; reg signed [11:0] product;")
            held += f"late_{name} <= {name}; "
    return text.replace("sum_out <= sum_in", held + "sum_out <= sum_in")


ONE_BIT = ("input nb, input above, output reg nb_out,", "nb_out <= nb;", "wire second = nb & ~above;")
ONE_BIT_AND_KIND = ("input nb, input above, input fine, output reg nb_out, output reg fine_out,", "nb_out <= nb; fine_out <= fine;", "")
IN_THE_DIGIT = (
    "wire fine = second & digit_in[3]; wire up = second & ~digit_in[3]; wire [3:0] payload = {digit_in[3] & ~second, digit_in[2:0]}; "
)
BESIDE_IT = "wire second = nb & ~above; wire up = second & ~fine; wire [3:0] payload = digit_in; "


def short(n: int, how: str, state: tuple[str, str, str] = ONE_BIT) -> str:
    """Second digits of r = f = n < 4 bits: shift by 0, n or n + 4. `how`: which value is shifted, and by what gates."""
    gates = " + ".join(f"($signed({{8{{payload[{i}]}}}} & w) <<< {i})" for i in range(4))
    low = " + ".join(f"($signed({{8{{digit_in[{i}]}}}} & w) <<< {i})" for i in range(n))
    high = "".join(f" + ($signed({{8{{digit_in[{i}]}}}} & w) <<< {i})" for i in range(n, 4))
    kind = IN_THE_DIGIT if state is ONE_BIT else BESIDE_IT
    wide = 16 + n
    small = f"wire signed [{7 + n}:0] small = {low}; wire signed [11:0] product = small{high}; "
    whole = f"wire signed [11:0] product = {gates}; "
    chosen = {
        "mux": whole + f"wire signed [{wide - 1}:0] shifted = fine ? product : up ? product <<< {n + 4} : product <<< {n};",
        "two steps": whole
        + f"wire signed [{11 + n}:0] one = fine ? product : product <<< {n}; wire signed [{wide - 1}:0] shifted = up ? one <<< 4 : one;",
        "and-or": whole
        + f"wire signed [{wide - 1}:0] a = product, b = product <<< {n}, c = product <<< {n + 4}; "
        + f"wire signed [{wide - 1}:0] shifted = ({{{wide}{{fine}}}} & a) | ({{{wide}{{~second}}}} & b) | ({{{wide}{{up}}}} & c);",
        "first rows": small
        + f"wire signed [{wide - 1}:0] a = small, b = product <<< {n}, c = small <<< {n + 4}; "
        + f"wire signed [{wide - 1}:0] shifted = ({{{wide}{{fine}}}} & a) | ({{{wide}{{~second}}}} & b) | ({{{wide}{{up}}}} & c);",
        "second last": small
        + f"wire signed [{wide - 1}:0] a = up ? small <<< {n + 4} : small, b = product <<< {n}, shifted = second ? a : b;",
    }[how]
    return element(state, AND_OR + kind + chosen, ADD)


def placed_rows(r: int, f: int) -> str:
    """Second digits stand where their bits count: the digit's top r rows are placed r higher there, its lowest f rows f lower."""
    wide, parts, names = 12 + r + f, "wire [3:0] own = digit_in & {4{~second}}, other = digit_in & {4{second}}; ", []
    for i in range(4):
        there = i + f + r if i >= 4 - r else i if i < f else None
        places = [("digit_in", i + f)] if there is None else [("own", i + f), ("other", there)]
        for k, (gate, place) in enumerate(places):
            parts += f"wire signed [7:0] g{i}{k} = {{8{{{gate}[{i}]}}}} & w; wire signed [{wide - 1}:0] p{i}{k} = g{i}{k} <<< {place}; "
        parts += f"wire signed [{wide - 1}:0] r{i} = {' | '.join(f'p{i}{k}' for k in range(len(places)))}; "
        names.append(f"r{i}")
    product = f"wire signed [{wide - 1}:0] product = {' + '.join(names)};"
    return element(ONE_BIT, AND_OR + parts + product, "sum_out <= sum_in + product;")


def placed_top(r: int) -> str:
    """Range alone, the high digit in the digit's top r bits: the product is shifted by r, and its lowest bits, 0 there, need no gate."""
    low = ", ".join(f"product[{i}]" if i < 4 - r else f"product[{i}] & ~second" for i in reversed(range(r)))
    high = f"wire signed [11:0] down = product >>> {r}, high = ({{12{{second}}}} & product) | ({{12{{~second}}}} & down); "
    return element(ONE_BIT, AND_OR + rows("w") + high + f"wire signed [{11 + r}:0] shifted = {{high, {low}}};", ADD)


def placed_fraction(r: int) -> str:
    """A fraction of one bit in the digit's lowest, a high digit in its top r bits: the fraction's row joins behind the shift by r."""
    gated = "wire signed [7:0] r0 = {8{digit_in[0] & ~second}} & w, half = {8{digit_in[0] & second}} & w; "
    gated += " ".join(f"wire signed [7:0] r{i} = {{8{{digit_in[{i}]}}}} & w;" for i in (1, 2, 3)) + ROWS_OF
    wide = 13 + r
    gated += f"wire signed [{wide - 1}:0] own = product <<< 1, up = product <<< {r + 1}, low = half; "
    gated += f"wire signed [{wide - 1}:0] shifted = (({{{wide}{{second}}}} & up) | ({{{wide}{{~second}}}} & own)) | low;"
    return element(ONE_BIT, AND_OR + gated, ADD)


PLAIN_ROWS = plain(rows("weight_out"), "sum_out <= sum_in + product;")
RANGE_ROWS = element(DERIVED, AND_OR + rows("w") + SHIFT, ADD)
FULL_ROWS = element(DERIVED_FULL, AND_OR + rows("w") + SHIFT_FULL, ADD)
PLAIN_INVERTED_ROWS = plain(inverted_rows("weight_out"), "sum_out <= sum_in + product;")

# name -> (what, plain to compare with, the element)
IDEAS: dict[str, tuple[str, str, str]] = {
    "0 sketch, range": ("state code, multiplexer, shift after the product", PLAIN, element(CODE, MUX + PRODUCT + SHIFT, ADD)),
    "0 sketch, full": ("the same", PLAIN, element(CODE, MUX + PRODUCT + SHIFT_FULL, ADD)),
    "1 derived MOVED, range": ("MOVED told by the row above: one register less", PLAIN, RANGE),
    "1 derived MOVED, full": ("the same; `down` is a register by itself", PLAIN, FULL),
    "2 and-or choice, range": ("weights chosen by AND-OR instead of a multiplexer", PLAIN, element(DERIVED, AND_OR + PRODUCT + SHIFT, ADD)),
    "2 and-or choice, full": ("the same", PLAIN, element(DERIVED_FULL, AND_OR + PRODUCT + SHIFT_FULL, ADD)),
    "3 shifted digit, range": (
        "the digit is shifted before the multiplication: an 8 × 8 product",
        PLAIN,
        element(
            DERIVED, MUX + "wire signed [8:0] e = up ? d <<< 4 : d; wire signed [15:0] product = e * w;", "sum_out <= sum_in + product;"
        ),
    ),
    "4 two gated products, range": (
        "own and neighbour's weight multiplied by a gated digit each, no choice of weights",
        PLAIN,
        element(
            DERIVED,
            "wire signed [4:0] a = nb ? 0 : d, c = nb ? d : 0; wire signed [11:0] product = a * weight_out + c * weight_in;" + SHIFT,
            ADD,
        ),
    ),
    "5 shifted weight, range": (
        "the weight is shifted before the multiplication: choice and shift in one multiplexer",
        PLAIN,
        element(
            DERIVED,
            "wire signed [11:0] w = up ? weight_in <<< 4 : nb ? weight_in : weight_out; wire signed [15:0] product = d * w;",
            "sum_out <= sum_in + product;",
        ),
    ),
    "6 split adder, range": (
        "the low four bits of the sum have an adder of their own",
        PLAIN,
        element(
            DERIVED,
            MUX
            + PRODUCT
            + "wire [4:0] low = sum_in[3:0] + (up ? 4'd0 : product[3:0]);"
            + "wire signed [11:0] high = up ? product : product >>> 4;"
            + "wire signed [19:0] rest = $signed(sum_in[23:4]) + high + $signed({1'b0, low[4]});",
            "sum_out <= {rest, low[3:0]};",
        ),
    ),
    "7 offset weights, range": (
        "weights + 128, so everything is unsigned; undone once per vector at the foot of the columns",
        PLAIN_OFFSET,
        element(DERIVED, OFFSET + "wire [15:0] shifted = up ? product << 4 : product;", "sum_out <= sum_in + $signed({1'b0, shifted});"),
    ),
    "7 offset weights, full": (
        "the same",
        PLAIN_OFFSET,
        element(
            DERIVED_FULL,
            OFFSET + "wire [19:0] shifted = up ? product << 8 : down ? product : product << 4;",
            "sum_out <= sum_in + $signed({1'b0, shifted});",
        ),
    ),
    "8 offset product, range": (
        "the product + 2^15 is unsigned whatever the state; one constant per column undoes it",
        PLAIN_INVERTED,
        element(DERIVED, AND_OR + PRODUCT + SHIFT, "sum_out <= sum_in + $signed({1'b0, ~shifted[15], shifted[14:0]});"),
    ),
    "8 offset product, full": (
        "the same with 2^19",
        PLAIN_INVERTED,
        element(DERIVED_FULL, AND_OR + PRODUCT + SHIFT_FULL, "sum_out <= sum_in + $signed({1'b0, ~shifted[19], shifted[18:0]});"),
    ),
    "9 two columns share digit and state, range": (
        "registers of digit and state once per two columns, in both arrays (area of two elements)",
        two_columns(PLAIN, ("product",)),
        two_columns(RANGE, ("weight_in", "product", "shifted")),
    ),
    "9 two columns share digit and state, full": (
        "the same",
        two_columns(PLAIN, ("product",)),
        two_columns(FULL, ("weight_in", "product", "shifted")),
    ),
    "10 double-buffered weights, range": ("a second weight register in both arrays", double_buffered(PLAIN), double_buffered(RANGE)),
    "10 double-buffered weights, full": ("the same", double_buffered(PLAIN), double_buffered(FULL)),
    "11 gated clock for weights, range": ("no enable multiplexer in either array", gated(PLAIN), gated(RANGE)),
    "11 gated clock for weights, full": ("the same", gated(PLAIN), gated(FULL)),
    "12 product as rows, range": ("a sum of shifted weights, one per digit bit, instead of `*`", PLAIN_ROWS, RANGE_ROWS),
    "12 product as rows, full": ("the same", PLAIN_ROWS, FULL_ROWS),
    "13 choice in the rows, range": (
        "each row chooses its weight by gated digit bits: one gate less on the path",
        PLAIN_ROWS,
        element(DERIVED, gated_rows() + SHIFT, ADD),
    ),
    "13 choice in the rows, full": ("the same", PLAIN_ROWS, element(DERIVED_FULL, gated_rows() + SHIFT_FULL, ADD)),
    "14 rows with inverted signs, range": (
        "no sign extension of rows, one constant",
        PLAIN_INVERTED_ROWS,
        element(DERIVED, AND_OR + inverted_rows("w") + SHIFT, ADD),
    ),
    "14 rows with inverted signs, full": (
        "the same",
        PLAIN_INVERTED_ROWS,
        element(DERIVED_FULL, AND_OR + inverted_rows("w") + SHIFT_FULL, ADD),
    ),
    "15 product register, range": (
        "rows; choice and product in one cycle, shift and sum in the next",
        in_two_cycles(PLAIN_ROWS),
        in_two_cycles(RANGE_ROWS),
    ),
    "15 product register, full": ("the same", in_two_cycles(PLAIN_ROWS), in_two_cycles(FULL_ROWS)),
    "16 kind bit beside the digit, r = f = 3": (
        "short second digits, a register for the kind",
        PLAIN_ROWS,
        short(3, "mux", ONE_BIT_AND_KIND),
    ),
    "17 kind in the digit, r = f = 3": ("the kind in the digit's free bit, read in the element", PLAIN_ROWS, short(3, "mux")),
    "18 shift in two steps, r = f = 3": ("by f, then by b", PLAIN_ROWS, short(3, "two steps")),
    **{f"19 and-or shift, r = f = {n}": ("three gated places instead of multiplexers", PLAIN_ROWS, short(n, "and-or")) for n in (1, 2, 3)},
    **{
        f"20 second digits from the first rows, r = f = {n}": ("not gated, not of the whole product", PLAIN_ROWS, short(n, "first rows"))
        for n in (1, 2, 3)
    },
    **{f"21 second digits last, r = f = {n}": ("they join in a last multiplexer", PLAIN_ROWS, short(n, "second last")) for n in (1, 2)},
    "28 second digits placed by row, r = f = 1": ("the top row counts twice, the lowest half; no shift", PLAIN_ROWS, placed_rows(1, 1)),
    "28 the same, r = 1": ("range alone", PLAIN_ROWS, placed_rows(1, 0)),
    "28 the same, r = 2, f = 1": ("", PLAIN_ROWS, placed_rows(2, 1)),
    "28 the same, r = f = 2": ("", PLAIN_ROWS, placed_rows(2, 2)),
    **{f"29 high digit in the top bits, r = {r}": ("range alone, shift by r", PLAIN_ROWS, placed_top(r)) for r in (2, 3)},
    "30 fraction's row joins behind the shift, r = 2, f = 1": ("", PLAIN_ROWS, placed_fraction(2)),
}


def row(name: str, what: str, base: list[Point], points: list[Point], ordinary: Point) -> dict[str, object]:
    """The smallest of both; the smallest that is no slower than the smallest plain; and Yosys' default recipe."""
    plain_best, best = smallest(base), smallest(points)
    no_slower = smallest(points, plain_best.period)
    fast_plain, fast = (next(p for p in ps if p.recipe == "default-apart") for ps in (base, points))
    return {
        "idea": name,
        "what": what,
        "plain_area": plain_best.area,
        "plain_ps": plain_best.period,
        "area": best.area,
        "ps": best.period,
        "more_percent": round(100 * (best.area / plain_best.area - 1), 1),
        "more_than_ordinary_percent": round(100 * (best.area / ordinary.area - 1), 1),
        "no_slower_area": no_slower.area,
        "no_slower_ps": no_slower.period,
        "no_slower_percent": round(100 * (no_slower.area / plain_best.area - 1), 1),
        "default_plain_area": fast_plain.area,
        "default_plain_ps": fast_plain.period,
        "default_area": fast.area,
        "default_ps": fast.period,
        "default_percent": round(100 * (fast.area / fast_plain.area - 1), 1),
    }


def main() -> None:
    library = Library(Path(sys.argv[1]))
    results = Path(sys.argv[2]) if len(sys.argv) > 2 else Path(__file__).parent / "results" / "area_ideas.csv"
    rows = []
    done: dict[str, list[Point]] = {}
    for name, (what, base, text) in IDEAS.items():
        for source in (base, text):
            if source not in done:
                done[source] = synthesize("element", source, library)
        rows.append(row(name, what, done[base], done[text], smallest(done[PLAIN])) | {"library": library.name, "yosys": yosys.version()})
        print(*(f"{k}={v}" for k, v in rows[-1].items() if k not in ("what", "library", "yosys")), flush=True)
    results.parent.mkdir(parents=True, exist_ok=True)
    with results.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
