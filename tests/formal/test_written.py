"""The Verilog that we write is, register by register, the RTLIL that Amaranth itself writes: proven with Yosys' equivalence checker."""

import pytest

pytest.importorskip("amaranth", reason="the rtl extra (amaranth) is not installed")

from amaranth.back import rtlil
from amaranth.hdl import ClockDomain, Fragment, Value

from overq.eda import yosys
from overq.errors import ToolError
from overq.rtl import BLOCKS, verilog
from overq.spec import ArrayConfig, Format

pytestmark = pytest.mark.yosys

CONFIGS = {
    "plain": ArrayConfig(Format.plain(4), 3, 3, 1),
    "r3 f3": ArrayConfig(Format(4, 4, 3, 3), 3, 3, 1, segments=True),
    "full": ArrayConfig(Format(3, 2, 3, 3, "largest"), 3, 3, 1),
    "signed": ArrayConfig(Format(4, 3, 3, 2, signed=True), 3, 3, 1, double_buffered=True),
    "signed largest": ArrayConfig(Format(3, 3, 2, 2, "largest", True, evict=2), 3, 3, 1),
    "range, fpga": ArrayConfig(Format(3, 2, 2, 0), 3, 3, 1, target="fpga"),
}
SCRIPT = """
read_rtlil gold.il
rename {module} gold
read_verilog gate.v
rename {module} gate
proc
opt_clean
equiv_make gold gate equiv
hierarchy -top equiv
equiv_simple -undef -seq 2
equiv_induct -undef -seq 4
equiv_status -assert
"""


def of_amaranth(block):
    fragment = Fragment.get(block, None)
    domain = ClockDomain("sync", reset_less=not isinstance(block, verilog.HAS_RESET))
    fragment.add_domains(domain)
    ports = {name: (Value.cast(getattr(block, name)), None) for name in block.signature.members}
    clocks = {"clk": (domain.clk, None)} | ({} if domain.rst is None else {"rst": (domain.rst, None)})
    return rtlil.convert(fragment, name=verilog.module_name(block), ports=clocks | ports, emit_src=False)


def prove(make, change=lambda text: text):
    name, text = verilog.named(make())
    yosys.run(SCRIPT.format(module=name), {"gold.il": of_amaranth(make()), "gate.v": change(text)})


@pytest.mark.parametrize("block", ["element", "encoder", "output"])
@pytest.mark.parametrize("name", CONFIGS)
def test_what_is_written_is_what_amaranth_means(name, block):
    """Every register and every output, for all inputs and all states."""
    prove(lambda: BLOCKS[block](config=CONFIGS[name]))


def test_the_checker_notices_a_lost_sign():
    with pytest.raises(ToolError, match="unproven"):
        prove(
            lambda: BLOCKS["element"](config=CONFIGS["signed"]),
            lambda text: text.replace("wire signed [6:0] product", "wire [6:0] product"),
        )
