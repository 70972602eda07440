"""ProcessingElement: one weight, one multiplication a cycle (design, section 2).

    sum_out = sum_in + ((digit · (neighbour ? weight of the row before : own weight)) << (b · shift))

Weights enter through a chain: while `load` is high every element takes its upper neighbour's weight. The same wire is
the neighbour's weight that OverQ needs, so the array gains no weight wiring at all.
"""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Shape, Signal, ValueLike, signed, unsigned
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from overq.rtl.config import ArrayConfig, RowState, exponent
from overq.spec import fraction_bits


def digit_shape(config: ArrayConfig) -> Shape:
    return signed(config.format.bits) if config.format.signed else unsigned(config.format.bits)


class ProcessingElement(wiring.Component):
    """One element of the array.

    digit_in, state_in    from the left, this cycle's vector for this row; digit_out, state_out one cycle later
    weight_in             the weight register of the row before; weight_out is this row's
    neighbour_above       bit 0 of the row before's state_out, i.e. of the same vector (rows run one cycle apart)
    sum_in → sum_out      the partial sum, one cycle
    load                  take weight_in as own weight at the next clock

    first=True is the element of row 0: it has no neighbour, so it has neither state nor choice.
    With the plain format there is no state either, and first makes no difference.
    """

    def __init__(self, *, config: ArrayConfig, first: bool = False):
        self.config, self.first = config, first
        self.state = RowState(config.format)
        ports = {
            "load": In(1),
            "digit_in": In(digit_shape(config)),
            "digit_out": Out(digit_shape(config)),
            "weight_in": In(signed(config.weight_bits)),
            "weight_out": Out(signed(config.weight_bits)),
            "sum_in": In(signed(config.psum_bits)),
            "sum_out": Out(signed(config.psum_bits)),
        }
        if self.has_state:
            ports |= {"state_in": In(self.state.width), "state_out": Out(self.state.width)}
            if self.state.has_moved:
                ports["neighbour_above"] = In(1)
        super().__init__(ports)

    @property
    def has_state(self) -> bool:
        return self.state.width > 0 and not self.first

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.d.sync += [self.digit_out.eq(self.digit_in), self.sum_out.eq(self.sum_in + self.addend(m))]
        with m.If(self.load):
            m.d.sync += self.weight_out.eq(self.weight_in)
        if self.has_state:
            m.d.sync += self.state_out.eq(self.state_in)
        return m

    def addend(self, m: Module) -> ValueLike:
        """The shifted product."""
        fmt = self.config.format
        weight = Signal(signed(self.config.weight_bits))
        product = Signal(signed(fmt.bits + self.config.weight_bits))
        m.d.comb += product.eq(self.digit_in * weight)
        if not self.has_state:
            m.d.comb += weight.eq(self.weight_out)
            return product << fraction_bits(fmt)
        neighbour = self.state_in[0]
        # AND-OR rather than Mux: synthesizes a little smaller (docs/hardware.md, idea 2).
        every = neighbour.replicate(self.config.weight_bits)
        m.d.comb += weight.eq((self.weight_in.as_unsigned() & every) | (self.weight_out.as_unsigned() & ~every))
        second_digit = Signal()
        m.d.comb += second_digit.eq(neighbour & ~self.neighbour_above if self.state.has_moved else neighbour)
        top = max(exponent(state, fmt) for state in fmt.states)
        shifted = Signal(signed(product.shape().width + top))
        if not fmt.precision_on:
            m.d.comb += shifted.eq(Mux(second_digit, product << fmt.bits, product))
        elif not fmt.range_on:
            m.d.comb += shifted.eq(Mux(second_digit, product, product << fmt.bits))
        else:
            fine, high_digit = self.state_in[1], Signal()
            m.d.comb += high_digit.eq(second_digit & ~fine)
            m.d.comb += shifted.eq(Mux(fine, product, Mux(high_digit, product << 2 * fmt.bits, product << fmt.bits)))
        return shifted
