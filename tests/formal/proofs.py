"""Verilog models written from the design page, and the SAT runs that compare the emitted blocks with them.

The models share no code with the generator: they are the page's tables and sentences as behavioural Verilog.
"""

from __future__ import annotations

from overq.eda import yosys
from overq.errors import ToolError
from overq.rtl import OutputStage, OverwriteEncoder, ProcessingElement, RowState, verilog
from overq.rtl.encoder import latency
from overq.rtl.output import output_latency
from overq.spec import ArrayConfig, State, shift
from overq.spec.requantize import MULTIPLIER_BITS, SHIFT_BITS, bias_bits, limits

OWN, RANGE, MOVED, PRECISION = State


def prove(harness: str, design: str, steps: str, timeout: int = 600) -> None:
    """Raise ToolError with the counterexample's assertion unless the solver proves every assertion of `proof`."""
    script = f"""
read_verilog design.v
read_verilog -formal -sv harness.v
hierarchy -top proof
proc
flatten
memory -nomap
opt -full
chformal -lower
sat -prove-asserts -set-assumes -verify -timeout {timeout} {steps} proof
"""
    yosys.run(script, {"design.v": design, "harness.v": harness})


def disproved(harness: str, design: str, steps: str) -> bool:
    """Whether the solver finds a counterexample."""
    try:
        prove(harness, design, steps)
    except ToolError as error:
        if "proof did fail" in str(error):
            return True
        raise
    return False


def element_harness(config: ArrayConfig) -> str:
    """sum_out is always sum_in + digit << shift(state) · weight of the right row, for every input and every weight; the digit came as
    many cycles before sum_in as the element has registers inside (`pipeline`)."""
    fmt, state = config.format, RowState(config.format)
    b, w, s = fmt.bits, config.weight_bits, config.psum_bits
    double = config.double_buffered
    sign = "signed" if fmt.signed else ""
    digit = "$signed(digit)" if fmt.signed else "$signed({1'b0, digit})"
    cases, legal = [], []
    for code in fmt.states:
        left = shift(code, fmt)
        weight = "own_weight" if code == OWN else "weight_in"
        cases.append(f"      {int(code)}: addend_0 = ({s}'sd0 + {digit} * {weight}) <<< {left};")
        legal.append(f"code == {int(code)}")
    # What the page says of the wires: a bit for all but OWN; a kind bit beside it, or in the top bit of a second digit that leaves it free.
    # Range alone, and second digits of one bit: the high digit in the digit's top bits, the fraction in its lowest.
    bits = f"{{code == {int(PRECISION)}, code != 0}}" if fmt.kind == "pair" else "code != 0"
    field = "digit"
    if fmt.range_on and (not fmt.precision_on or (fmt.range_bits == fmt.fraction_bits == 1 and not fmt.signed)):
        field = f"code == {int(RANGE)} ? digit << {b - fmt.range_bits} : digit"
    elif fmt.kind == "digit":
        field = f"(code == {int(RANGE)} || code == {int(PRECISION)}) ? {{code == {int(PRECISION)}, digit[{b - 2}:0]}} : digit"
    for code, width in ((RANGE, fmt.range_bits), (PRECISION, fmt.fraction_bits)):
        low = -(1 << width >> 1) if fmt.signed else 0
        legal.append(f"(code != {int(code)} || ($signed({digit}) >= {low} && $signed({digit}) <= {low + (1 << width) - 1}))")
    payloads = " && ".join(legal[-2:])
    del legal[-2:]
    ports = ""
    if state.width:
        ports += f", .state_in({bits})"
        if state.has_moved:
            ports += ", .neighbour_above(above)"
    if double:
        ports += ", .swap(swap), .chain_in(chain_in), .chain_out(chain_out)"
    ports += ", .weight_in(weight_in)" if state.width or not double else ""
    ports += ", .weight_out(weight_out)" if state.width or not double else ""
    # A second digit stands below an OWN lane, a moved value below a second digit or a moved value.
    follow = f"(code == {int(MOVED)}) == above" if state.has_moved else "1"
    filled = "if (load) loaded <= chain_in; if (swap) own_weight <= loaded;" if double else "if (load) own_weight <= weight_in;"
    held = "always @* assert (weight_out == own_weight);" if state.width or not double else ""
    held += " always @* assert (chain_out == loaded);" if double else ""
    return f"""
module proof(input clk, input load, input swap, input [1:0] code, input above, input {sign} [{b - 1}:0] digit,
             input signed [{w - 1}:0] chain_in, weight_in, input signed [{s - 1}:0] sum_in);
  reg signed [{w - 1}:0] own_weight, loaded;
  reg signed [{s - 1}:0] expected, addend_0, addend_1, addend_2;
  wire signed [{w - 1}:0] weight_out, chain_out;
  wire signed [{s - 1}:0] sum_out;
  overq_element dut(.clk(clk), .load(load), .digit_in({field}), .sum_in(sum_in), .sum_out(sum_out){ports});
  always @* assume ({" || ".join(legal)});
  always @* assume ({payloads});
  always @* assume (code == 0 || ({follow}));
  always @*
    case (code)
{chr(10).join(cases)}
      default: addend_0 = 0;
    endcase
  always @(posedge clk) begin
    {filled}
    addend_1 <= addend_0;
    addend_2 <= addend_1;
    expected <= sum_in + addend_{config.pipeline};
  end
  {held}
  always @* assert (sum_out == expected);
endmodule
"""


ELEMENT_STEPS = "-tempinduct -set-init-zero"


def element_design(config: ArrayConfig) -> str:
    return verilog.to_verilog(ProcessingElement(config=config))


def output_harness(config: ArrayConfig, relu: bool) -> str:
    """t is clamp((sum · multiplier + bias) >>> shift), as many cycles later as the stage takes, for every sum, bias and shift. Of
    multipliers the small ones alone: no solver compares products of many bits that are put together in two ways."""
    fmt, s, stages = config.format, config.psum_bits, output_latency(config)
    wide = bias_bits(s) + 1
    low, high = limits(fmt, relu)
    later = "".join(f"    due_{i} <= due_{i - 1};\n" for i in range(1, stages))
    return f"""
module proof(input clk, input rst, input in_valid, input signed [{s - 1}:0] sum, input [{MULTIPLIER_BITS - 1}:0] multiplier,
             input signed [{wide - 2}:0] bias, input [{SHIFT_BITS - 1}:0] shift);
  reg [{MULTIPLIER_BITS + SHIFT_BITS + wide - 2}:0] was;
  reg [2:0] age = 0;
  reg signed [{wide - 1}:0] {", ".join(f"due_{i}" for i in range(stages))};
  wire {"signed" if fmt.signed else ""} [{config.t_bits - 1}:0] t;
  overq_output dut(.clk(clk), .rst(rst), .in_valid(in_valid), .in_sums(sum), .multipliers(multiplier), .biases(bias), .shifts(shift),
                   .out_t(t));
  wire signed [{wide - 1}:0] total = sum * $signed({{1'b0, multiplier}}) + bias;
  wire signed [{wide - 1}:0] level = total >>> shift;
  always @(posedge clk) begin
    was <= {{multiplier, bias, shift}};
    due_0 <= level > {high} ? {high} : level < {low} ? {low} : level;
{later}    if (age < {stages}) age <= age + 1;
  end
  always @* assume (multiplier < 4 && (age == 0 || was == {{multiplier, bias, shift}}));
  always @* assert (age < {stages} || t == due_{stages - 1});
endmodule
"""


def output_design(config: ArrayConfig, relu: bool) -> str:
    return verilog.to_verilog(OutputStage(config=config, relu=relu))


def encoder_harness(config: ArrayConfig, equal: bool = True, contract: bool = False) -> str:
    """The encoder's lanes, three cycles later (four where values may give way), are those of a left-to-right reading of the definition.

    equal     asserts that; a variable of the reading is as wide as its values need, which halves the time a proof takes
    contract  asserts in words
      - every channel's digits spell its rounded value, its value to f fraction bits, or (not served) its clipped value;
      - a second digit stands behind an OWN lane, a moved value behind a second digit or a moved value, lane 0 is OWN;
      - a lane that is switched off is digit 0, OWN; a lane where a segment starts is OWN.
    """
    fmt = config.format
    b, n, tb, c = fmt.bits, config.rows, config.t_bits, fmt.cascade
    f, half = fmt.fraction_bits, 1 << fmt.fraction_bits
    dmin, dmax = fmt.digit_min, fmt.digit_max
    # What the page says two digits spell: a low digit and one of r bits, a whole digit and a fraction of f bits.
    high_min = -(1 << fmt.range_bits >> 1) if fmt.signed else 0
    part = -(half >> 1) if fmt.signed else 0
    wmin, wmax = dmin + (high_min << b), dmax + (high_min + (1 << fmt.range_bits) - 1 << b)
    fmin, fmax = (dmin << f) + part, (dmax << f) + part + half - 1
    largest = int(fmt.policy == "largest")
    pad = "" if fmt.signed else "1'b0, "
    # Behind an outlier, up to the first lane that is no normal value: nothing if that is a zero, else the first that suits gives way.
    give_way = f"""
    for (i = 0; i < {n}; i = i + 1) gone[i] = 0;
    for (z = 0; z < {n}; z = z + 1) if (d3_on[z] && (level[z] > {dmax} || level[z] < {dmin})) begin
      worst = level[z] > {dmax} ? level[z] - {dmax} : {dmin} - level[z];
      if (worst > {fmt.evict}) worst = {fmt.evict};
      chosen = 0; kind = 0; inside = 1;
      for (d = 1; d <= {c}; d = d + 1) if (z + d < {n}) begin
        if (!d3_on[z+d] || d3_start[z+d] || level[z+d] > {dmax} || level[z+d] < {dmin}) inside = 0;
        if (inside && level[z+d] == 0) begin inside = 0; kind = 1; end
        if (inside && chosen == 0 && level[z+d] <= worst && level[z+d] >= -worst) chosen = d;
      end
      for (d = 1; d <= {c}; d = d + 1) if (chosen == d && kind == 0 && z + d < {n}) gone[z+d] = 1;
    end
    for (i = 0; i < {n}; i = i + 1) if (gone[i]) begin
      t[i] = 0; level[i] = 0; clipped[i] = 0; error[i] = 0; digit[i] = 0;
    end
""" * (fmt.evict > 0)

    model = f"""
  integer i, z, d;
  reg signed [{tb + 3}:0] chosen, kind, worst, value, low;
  reg gone [0:{n - 1}];
  reg signed [{tb + 3}:0] t [0:{n - 1}], level [0:{n - 1}], clipped [0:{n - 1}], error [0:{n - 1}];
  reg signed [{tb + 3}:0] digit [0:{n - 1}], state [0:{n - 1}];
  reg inside;
  always @* begin
    for (i = 0; i < {n}; i = i + 1) begin
      t[i] = $signed({{{pad}d3_t[i*{tb} +: {tb}]}});
      if (t[i] > {wmax << f + 1}) t[i] = {wmax << f + 1};
      if (t[i] < {wmin << f + 1}) t[i] = {wmin << f + 1};
      level[i] = (t[i] + {half}) >>> {f + 1};
      clipped[i] = !d3_on[i] ? 0 : level[i] > {dmax} ? {dmax} : level[i] < {dmin} ? {dmin} : level[i];
      error[i] = t[i] - clipped[i] * {1 << (f + 1)};
      if (error[i] < 0) error[i] = -error[i];
      digit[i] = clipped[i];
      state[i] = 0;
    end{give_way}
    for (z = 0; z < {n}; z = z + 1) if (d3_on[z] && level[z] == 0) begin
      chosen = 0; kind = 0; worst = -1; inside = 1;
      // Walk away from the zero: later candidates are farther, and win ties.
      for (d = 1; d <= {c}; d = d + 1) if (z - d >= 0) begin
        if (!d3_on[z-d] || d3_start[z-d+1] || level[z-d] == 0) inside = 0;
        if (inside && {int(fmt.range_on)} && level[z-d] != clipped[z-d] && (!{largest} || error[z-d] >= worst)) begin
          chosen = d; kind = 1; worst = error[z-d];
        end
      end
      inside = 1;
      if (kind == 0 && {int(fmt.precision_on)})
        for (d = 1; d <= {c if largest else min(c, 1)}; d = d + 1) if (z - d >= 0) begin
          if (!d3_on[z-d] || d3_start[z-d+1] || level[z-d] == 0) inside = 0;
          if (inside && level[z-d] == clipped[z-d] && error[z-d] >= worst) begin
            chosen = d; kind = 3; worst = error[z-d];
          end
        end
      // Make room from the zero downwards, then write the two digits.
      for (d = 0; d < {c} - 1; d = d + 1) if (d + 1 < chosen) begin
        digit[z-d] = clipped[z-d-1];
        state[z-d] = 2;
      end
      for (d = 1; d <= {c}; d = d + 1) if (chosen == d && z - d >= 0) begin
        if (kind == 1) begin
          value = level[z-d] > {wmax} ? {wmax} : level[z-d] < {wmin} ? {wmin} : level[z-d];
          low = ((value - {dmin}) & {fmt.base - 1}) + {dmin};
          digit[z-d] = low;
          digit[z-d+1] = (value - low) >>> {b};
        end else begin
          value = (t[z-d] + 1) >>> 1;
          value = value > {fmax} ? {fmax} : value < {fmin} ? {fmin} : value;
          low = ((value - {part}) & {(1 << f) - 1}) + {part};
          digit[z-d] = (value - low) >>> {f};
          digit[z-d+1] = low;
        end
        state[z-d+1] = kind;
      end
    end
  end
"""
    body = ""
    if equal:
        checks = []
        for i in range(n):
            checks.append(f"  always @* assert (digit[{i}] == $signed({{{pad}digits[{i * b} +: {b}]}}));")
            if c:
                checks.append(f"  always @* assert (state[{i}] == states[{2 * i} +: 2]);")
        body = "\n".join(checks)
    if contract:
        checks = []
        for i in range(n):
            share = (
                f"out_state[{i}] == 1 ? out_digit[{i}] * {1 << b + f} : out_state[{i}] == 3 ? out_digit[{i}] : out_digit[{i}] * {1 << f}"
            )
            checks.append(
                f"    out_digit[{i}] = $signed({{{pad}digits[{i * b} +: {b}]}}); out_state[{i}] = {f'states[{2 * i} +: 2]' if c else 0};"
            )
            checks.append(f"    share[{i}] = {share};")
        lines = []
        for i in range(n):
            effective = f"(out_state[{i}] == 0 ? share[{i}] : 0)" + (
                f" + (out_state[{i + 1}] != 0 ? share[{i + 1}] : 0)" if i + 1 < n else ""
            )
            wide = f"(level[{i}] > {wmax} ? {wmax} : level[{i}] < {wmin} ? {wmin} : level[{i}]) * {1 << f}"
            fine = f"((t[{i}] + 1) >>> 1)"
            precise = f"({fine} > {fmax} ? {fmax} : {fine} < {fmin} ? {fmin} : {fine})"
            lines.append(f"  always @* effective[{i}] = {effective};")
            lines.append(f"  always @* assert (d3_on[{i}] || (out_digit[{i}] == 0 && out_state[{i}] == 0));")
            if i:
                lines.append(f"  always @* assert (!d3_start[{i}] || out_state[{i}] == 0);")
            by_range = f"{int(fmt.range_on)} && effective[{i}] == {wide}"
            by_precision = f"{int(fmt.precision_on)} && level[{i}] == clipped[{i}] && level[{i}] != 0 && effective[{i}] == {precise}"
            lines.append(
                f"  always @* assert (effective[{i}] == clipped[{i}] * {1 << f} || (d3_on[{i}] && ({by_range} || {by_precision})));"
            )
            previous = f"out_state[{i - 1}]" if i else None
            if previous is None:
                lines.append("  always @* assert (out_state[0] == 0);")
            else:
                lines.append(f"  always @* assert (!(out_state[{i}] & 1) || {previous} == 0);")
                lines.append(f"  always @* assert (out_state[{i}] != 2 || {previous} != 0);")
                legal = " || ".join(f"out_state[{i}] == {int(code)}" for code in fmt.states)
                lines.append(f"  always @* assert ({legal});")
        width = f"reg signed [{tb + b + 3}:0]"
        body += (
            f"\n  {width} out_digit [0:{n - 1}], out_state [0:{n - 1}], share [0:{n - 1}], effective [0:{n - 1}];\n"
            f"  always @* begin\n{chr(10).join(checks)}\n  end\n" + "\n".join(lines)
        )
    first = "d0" if fmt.evict else "in"  # a register more
    states = f"wire [{2 * n - 1}:0] states;" if c else ""
    port = (", .out_states(states)" if c else "") + (", .in_starts(in_start)" if config.edges else "")
    return f"""
module proof(input clk, input [{n * tb - 1}:0] in_t, input [{n - 1}:0] in_on, in_start);
  reg [{n * tb - 1}:0] d1_t, d2_t, d3_t;
  reg [{n - 1}:0] d1_on, d2_on, d3_on, d1_start, d2_start, d3_start;
  {"" if config.edges else f"always @* assume (in_start == {n}'d0);"}
  reg [{n * tb - 1}:0] d0_t;
  reg [{n - 1}:0] d0_on, d0_start;
  always @(posedge clk) begin
    d0_t <= in_t; d1_t <= {first}_t; d2_t <= d1_t; d3_t <= d2_t;
    d0_on <= in_on; d1_on <= {first}_on; d2_on <= d1_on; d3_on <= d2_on;
    d0_start <= in_start; d1_start <= {first}_start; d2_start <= d1_start; d3_start <= d2_start;
  end
  wire [{n * b - 1}:0] digits;
  wire out_valid, in_ready;
  {states}
  overq_encoder dut(.clk(clk), .rst(1'b0), .in_valid(1'b1), .in_ready(in_ready), .in_t(in_t), .in_enable(in_on),
                    .out_valid(out_valid), .out_ready(1'b1), .out_digits(digits){port});
{model}
{body}
endmodule
"""


def encoder_steps(config: ArrayConfig) -> str:
    """From the cycle in which the first tile's lanes are out."""
    late = latency(config)
    return f"-seq {late + 1} -prove-skip {late}"


def encoder_design(config: ArrayConfig) -> str:
    return verilog.to_verilog(OverwriteEncoder(config=config))
