"""The whole accelerator: its protocol by induction, and small ones against the definition, from reset on."""

import pytest

pytest.importorskip("amaranth", reason="the rtl extra (amaranth) is not installed")

from amaranth.hdl import Shape

from overq.eda import yosys
from overq.errors import ToolError
from overq.rtl import Accelerator, protocol, verilog
from overq.rtl.encoder import latency
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
    late = latency(config) + config.rows + config.columns - 1
    pairs = {"top.flying": "flying", "top.output_stage.s1_valid": "scaling", "top.output_stage.out_valid": "scaled"}
    pairs[_delays("last", late)] = "last"
    if config.stalls:
        pairs |= {"top.sums_taken": "sums_taken", "top.t_taken": "t_taken"}
        pairs |= {_delays("tag", late): "tag", "top.t_tag_d1": "scaling_tag", "top.t_tag_d2": "scaled_tag"}
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
