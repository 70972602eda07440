"""SystolicArray: rows × columns elements, digits moving right, partial sums moving down."""

from __future__ import annotations

from collections.abc import Callable

from amaranth.hdl import Elaboratable, Module, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from overq.rtl.holding import enable_port
from overq.rtl.pe import ProcessingElement, digit_shape
from overq.rtl.state import RowState
from overq.spec import ArrayConfig

Place = Callable[[Module, str, wiring.Component], wiring.Component | Elaboratable]


def place_inline(m: Module, name: str, block: wiring.Component) -> wiring.Component:
    """Put a block into the module as it is; Verilog emission puts an instance of the block's own module there."""
    m.submodules[name] = block
    return block


class SystolicArray(wiring.Component):
    """The grid alone: no skew. Row k's digit for a vector is due k cycles after row 0's.

    enable        with stalls only: nothing changes while it is low
    load          shift the weight chain down one row; `weights` enters row 0, so the last row's weights go in first
    weights       one weight per column; double buffered, column j's is due j cycles late
    digits        one digit per row
    states        one RowState per row (absent in the plain array); row 0's is ignored
    sums_in       per column, the partial sum that enters row 0
    sums_out      per column; a vector whose row 0 digit is in cycle T leaves column j after the clock of cycle T + rows − 1 + j
                  (with `pipeline` so many later; sums_in are then due as many cycles later, too)

    Double buffered, `load` and `swap` have one bit per row, and move right like digits.
    load          row k's bit: all transfers of a tile but the first k, which do not reach it; until then it keeps the tile before
    swap          the loaded weights become the active ones: row k's bit k cycles after row 0's, which is due one cycle before the
                  first vector that is to meet them. Overwriting formats need an idle cycle before that vector: row k still uses row
                  k−1's old weight for the vector before.
    """

    def __init__(self, *, config: ArrayConfig, place: Place = place_inline):
        self.config, self.place = config, place
        self.state = RowState(config.format)
        ports = {
            **enable_port(config),
            "load": In(config.rows if config.double_buffered else 1),
            "weights": In(data.ArrayLayout(signed(config.weight_bits), config.columns)),
            "digits": In(data.ArrayLayout(digit_shape(config), config.rows)),
            "sums_in": In(data.ArrayLayout(signed(config.psum_bits), config.columns)),
            "sums_out": Out(data.ArrayLayout(signed(config.psum_bits), config.columns)),
        }
        if config.double_buffered:
            ports["swap"] = In(config.rows)
        if self.state.width:
            ports["states"] = In(data.ArrayLayout(self.state.width, config.rows))
        super().__init__(ports)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self.config
        above: list[wiring.Component] = []
        for row in range(config.rows):
            here: list[wiring.Component] = []
            for column in range(config.columns):
                element = self.place(m, f"element_{row}_{column}", ProcessingElement(config=config, first=row == 0))
                left = here[-1] if here else None
                up = above[column] if above else None
                m.d.comb += [
                    element.digit_in.eq(left.digit_out if left else self.digits[row]),
                    element.sum_in.eq(up.sum_out if up else self.sums_in[column]),
                ]
                if config.stalls:
                    m.d.comb += element.enable.eq(self.enable)
                if config.double_buffered:
                    m.d.comb += [
                        element.load.eq(left.load_out if left else self.load[row]),
                        element.swap.eq(left.swap_out if left else self.swap[row]),
                        element.chain_in.eq(up.chain_out if up else self.weights[column]),
                    ]
                    if element.has_state and up:
                        m.d.comb += element.weight_in.eq(up.weight_out)
                else:
                    m.d.comb += [element.load.eq(self.load), element.weight_in.eq(up.weight_out if up else self.weights[column])]
                if element.has_state:
                    m.d.comb += element.state_in.eq(left.state_out if left else self.states[row])
                    if self.state.has_moved and up is not None and row > 1:
                        m.d.comb += element.neighbour_above.eq(up.state_out[0])
                here.append(element)
            above = here
        for column, element in enumerate(above):
            m.d.comb += self.sums_out[column].eq(element.sum_out)
        return m
