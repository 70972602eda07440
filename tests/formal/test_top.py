"""The whole accelerator: its protocol by induction, and small ones against the definition, from reset on."""

import pytest

pytest.importorskip("amaranth", reason="the rtl extra (amaranth) is not installed")

from amaranth.hdl import Shape

from overq.eda import yosys
from overq.errors import ToolError
from overq.rtl import Accelerator, protocol, verilog
from overq.rtl.encoder import latency
from overq.rtl.output import output_latency
from overq.spec import ArrayConfig, Format

pytestmark = pytest.mark.yosys

ONE_BIT, FULL = Format(2, 2, 1, 1), Format(2, 1, 2, 2)
PROTOCOLS = {
    "plain": ArrayConfig(Format.plain(2), 2, 2, 2),
    "one register": ArrayConfig(ONE_BIT, 2, 3, 2),
    "one register, stalls": ArrayConfig(ONE_BIT, 2, 3, 2, stalls=True),
    "two registers": ArrayConfig(ONE_BIT, 2, 3, 2, double_buffered=True),
    "two registers, stalls": ArrayConfig(ONE_BIT, 2, 3, 2, double_buffered=True, stalls=True),
    "two registers, plain": ArrayConfig(Format.plain(2), 2, 2, 3, double_buffered=True, stalls=True),
    "pipeline 1": ArrayConfig(ONE_BIT, 2, 2, 2, pipeline=1),
    "pipeline 2, stalls": ArrayConfig(ONE_BIT, 2, 2, 2, stalls=True, target="fpga", pipeline=2),
    "pipeline 2, two registers": ArrayConfig(ONE_BIT, 2, 2, 2, double_buffered=True, target="fpga", pipeline=2),
}


def ports(config):
    """(inputs, outputs) of overq_top as Verilog declarations: name -> width."""
    top = Accelerator(config=config)
    top._MustUse__silence = True
    widths = {name: (member.flow.name, Shape.cast(member.shape).width) for name, member in top.signature.members.items()}
    return {n: w for n, (flow, w) in widths.items() if flow == "In"}, {n: w for n, (flow, w) in widths.items() if flow == "Out"}


def harness(config, inside):
    """Free inputs, a reset in the first cycle, the design `top` and the assertions of `inside`."""
    given, made = ports(config)
    inputs = "".join(f", input [{width - 1}:0] {name}" for name, width in given.items())
    wires = "\n".join(f"  wire [{width - 1}:0] {name};" for name, width in made.items())
    joined = ", ".join(f".{name}({name})" for name in (*given, *made))
    return f"""
module proof(input clk, input rst{inputs});
{wires}
  overq_top top (.clk(clk), .rst(rst), {joined});
{inside}
endmodule
"""


def run(config, text, commands, change=lambda text: text):
    files = {f"{name}.v": change(body) for name, body in verilog.design(config).items()}
    read = "\n".join(f"read_verilog {name}" for name in files)
    script = f"""
{read}
read_verilog -formal -sv proof.sv
hierarchy -top proof
proc
flatten
memory -nomap
async2sync
opt -full
chformal -lower
{commands}
"""
    yosys.run(script, files | {"proof.sv": text})


def prove_protocol(config, change=lambda text: text):
    """By induction: the checker's books are the design's registers. They begin as whatever those hold before the first reset."""
    late, stages = latency(config) + config.pipeline + config.rows + config.columns - 1, output_latency(config)
    pairs = {"top.flying": "flying", f"top.output_stage.s{stages - 1}_valid": "scaling", "top.output_stage.out_valid": "scaled"}
    pairs[_delays("last", late)] = "last"
    if config.pipeline:
        pairs[",".join(f"top.output_stage.s{i}_valid" for i in range(stages - 2, 0, -1))] = "early"
    if config.stalls:
        pairs |= {"top.sums_taken": "sums_taken", "top.t_taken": "t_taken"}
        pairs |= {_delays("tag", late): "tag", f"top.t_tag_d{stages - 1}": "scaling_tag", f"top.t_tag_d{stages}": "scaled_tag"}
        pairs |= {_delays("t_tag", stages - 2): "early_tag"} if config.pipeline else {}
    if config.double_buffered:
        pairs |= {"top.moved": "loaded"}
    same = [f"{ours} protocol.{theirs}" for ours, theirs in pairs.items()]
    begin, always = (" ".join(f"{word} {pair}" for pair in same) for word in ("-set-at 1", "-prove"))
    text = harness(config, f"  {protocol.instance(config)}\n") + protocol.text(config)
    run(
        config,
        text,
        f"sat -tempinduct -verify -timeout 600 -seq 1 -set-at 1 rst 1 {begin} -prove-asserts -set-assumes {always} proof",
        change,
    )


def _delays(name, cycles):
    return ",".join(f"top.{name}_d{i}" for i in range(cycles, 0, -1))


@pytest.mark.parametrize("name", PROTOCOLS)
def test_the_ports_keep_their_promises(name):
    """overq_protocol.sv for all inputs and all times: nothing lost, doubled or out of order, and nothing waits without a reason."""
    prove_protocol(PROTOCOLS[name])


def test_the_solver_rejects_weights_that_do_not_wait():
    """Weights taken while vectors are in flight break a promise: the proof is not empty."""
    wrong = ("assign weight_ready = ~(|flying[5:0]);", "assign weight_ready = 1'b1;")
    with pytest.raises(ToolError, match="proof did fail"):
        prove_protocol(PROTOCOLS["one register"], lambda text: text.replace(*wrong))


def definition(config):
    """What leaves a 2-row accelerator with one weight register, written from the page: two lanes, of which the second, if it is a zero,
    serves the first. What each vector must give waits as long as the accelerator takes."""
    fmt, tb, wb, sb, columns = config.format, config.t_bits, config.weight_bits, config.psum_bits, config.columns
    f, late = fmt.fraction_bits, latency(config) + config.pipeline + config.rows + config.columns - 1
    read = "$signed" if fmt.signed else "$unsigned"
    sums = []
    for j in range(columns):
        product = " + ".join(f"E{k} * $signed(w{k}[{j * wb} +: {wb}])" for k in (0, 1))
        sums.append(f"    due_0[{j * sb} +: {sb}] <= $signed(in_sums[{j * sb} +: {sb}]) + {product};")
    later = [f"    due_{i} <= due_{i - 1};" for i in range(1, late)]
    queue = "".join(f"  reg [{columns * sb - 1}:0] due_{i};\n" for i in range(late))
    return f"""
  function integer level(input integer t); level = (t + {fmt.unit // 2}) >>> {f + 1}; endfunction
  function integer clamp(input integer v, input integer low, input integer high); clamp = v > high ? high : v < low ? low : v; endfunction
  wire signed [31:0] t0 = clamp({read}(in_t[0 +: {tb}]), {fmt.t_min}, {fmt.t_max});
  wire signed [31:0] t1 = clamp({read}(in_t[{tb} +: {tb}]), {fmt.t_min}, {fmt.t_max});
  wire signed [31:0] n0 = level(t0), n1 = level(t1);
  wire serves = in_enable[0] & in_enable[1] & (n1 == 0) & (n0 != 0);
  wire outlier = (n0 > {fmt.digit_max}) | (n0 < {fmt.digit_min});
  wire signed [31:0] wide = clamp(n0, {fmt.wide_min}, {fmt.wide_max}) <<< {f};
  wire signed [31:0] fine = clamp((t0 + 1) >>> 1, {fmt.fine_min}, {fmt.fine_max});
  wire signed [31:0] one = clamp(n0, {fmt.digit_min}, {fmt.digit_max}) <<< {f};
  wire signed [31:0] E0 = !in_enable[0] ? 0 : (serves & outlier & {int(fmt.range_on)}) ? wide
    : (serves & !outlier & {int(fmt.precision_on)}) ? fine : one;
  wire signed [31:0] E1 = !in_enable[1] ? 0 : clamp(n1, {fmt.digit_min}, {fmt.digit_max}) <<< {f};
  reg [{columns * wb - 1}:0] w0, w1;
  reg [{late - 1}:0] sent;
{queue}  always @(posedge clk) begin
    if (weight_valid & weight_ready) begin w0 <= weights; w1 <= w0; end
    sent <= rst ? 0 : {{sent[{late - 2}:0], in_valid & in_ready}};
{chr(10).join([*sums, *later])}
  end
  always @* assert (out_valid == sent[{late - 1}]);
  always @* assert (!out_valid || out_sums == due_{late - 1});
"""


WHOLE = {
    "plain": ArrayConfig(Format.plain(2), 2, 2, 2),
    "r1 f1": ArrayConfig(ONE_BIT, 2, 2, 2),
    "full": ArrayConfig(FULL, 2, 2, 2),
    "range, signed": ArrayConfig(Format(2, 1, 2, 0, signed=True), 2, 2, 1),
    "r1 f1, pipeline 1": ArrayConfig(ONE_BIT, 2, 2, 1, pipeline=1),
    "r1 f1, pipeline 2": ArrayConfig(ONE_BIT, 2, 2, 1, target="fpga", pipeline=2),
}


def prove_sums(config, change=lambda text: text):
    """By induction over as many cycles as a vector takes; the weights' books are the design's registers."""
    same = ["sent top.flying"]
    same += [f"w{k} " + ",".join(f"top.array.element_{k}_{j}.weight_out" for j in reversed(range(config.columns))) for k in (0, 1)]
    begin, always = (" ".join(f"{word} {pair}" for pair in same) for word in ("-set-at 1", "-prove"))
    options = f"-tempinduct -verify -timeout 600 -seq 1 -set-at 1 rst 1 {begin} -prove-asserts -set-assumes {always}"
    run(config, harness(config, definition(config)), f"sat {options} proof", change)


@pytest.mark.slow
@pytest.mark.parametrize("name", WHOLE)
def test_every_sum_is_the_definition_s(name):
    """2 × 2, two bits: for all inputs, weights and times, partial sums in, holes between vectors, lanes on and off."""
    prove_sums(WHOLE[name])


@pytest.mark.slow
def test_the_solver_rejects_a_row_that_comes_too_early():
    with pytest.raises(ToolError, match="proof did fail"):
        prove_sums(WHOLE["r1 f1"], lambda text: text.replace(".digits(array_digits)", ".digits({field_1, array_digits[1:0]})"))
