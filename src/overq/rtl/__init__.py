"""The array in gates: Amaranth components, Verilog, and Yosys around them. Needs the extra `overq[rtl]`."""

from overq.rtl.array import SystolicArray
from overq.rtl.config import ArrayConfig, RowState
from overq.rtl.encoder import OverwriteEncoder
from overq.rtl.output import OutputStage, requantize
from overq.rtl.pe import ProcessingElement
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
    "ArrayConfig",
    "OutputStage",
    "OverwriteEncoder",
    "ProcessingElement",
    "RowState",
    "SystolicArray",
    "requantize",
]
