"""The array in gates: Amaranth components, Verilog, and Yosys around them. Needs the extra `overq[rtl]`."""

from overq.rtl.array import SystolicArray
from overq.rtl.encoder import OverwriteEncoder
from overq.rtl.output import OutputStage
from overq.rtl.pe import ProcessingElement
from overq.rtl.state import RowState
from overq.rtl.top import Accelerator

BLOCKS = {
    "element": ProcessingElement,
    "array": SystolicArray,
    "encoder": OverwriteEncoder,
    "output": OutputStage,
    "top": Accelerator,
}

__all__ = [
    "BLOCKS",
    "Accelerator",
    "OutputStage",
    "OverwriteEncoder",
    "ProcessingElement",
    "RowState",
    "SystolicArray",
]
