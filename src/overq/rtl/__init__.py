"""The array in gates: Amaranth components, Verilog, and Yosys around them. Needs the extra `overq[rtl]`."""

from overq.rtl.array import SystolicArray
from overq.rtl.config import ArrayConfig, RowState
from overq.rtl.pe import ProcessingElement

__all__ = ["ArrayConfig", "ProcessingElement", "RowState", "SystolicArray"]
