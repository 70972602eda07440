"""ProcessingElement: one weight, one multiplication a cycle (design, section 2).

    sum_out = sum_in + ((digit · (neighbour ? weight of the row before : own weight)) << (b · shift))

Weights enter through a chain: while `load` is high every element takes its upper neighbour's weight. The same wire is
the neighbour's weight that OverQ needs, so the array gains no weight wiring at all.
Double buffered, the chain runs through registers of its own, whose weights become the active ones on `swap`.
"""

from __future__ import annotations

from amaranth.hdl import C, Module, Mux, Shape, Signal, ValueLike, signed, unsigned
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Member, Out

from overq.rtl.state import RowState
from overq.spec import ArrayConfig, shift


def digit_shape(config: ArrayConfig) -> Shape:
    return signed(config.format.bits) if config.format.signed else unsigned(config.format.bits)


class ProcessingElement(wiring.Component):
    """One element of the array.

    digit_in, state_in    from the left, this cycle's vector for this row; digit_out, state_out one cycle later
    weight_in             the weight register of the row before; weight_out is this row's
    neighbour_above       bit 0 of the row before's state_out, i.e. of the same vector (rows run one cycle apart)
    sum_in → sum_out      the partial sum, one cycle
    load                  take weight_in as own weight at the next clock

    Double buffered:
    load, swap            from the left, to load_out and swap_out one cycle later
    chain_in, chain_out   the load chain; `load` takes chain_in
    weight_in, weight_out the active weights, absent in the plain array; `swap` makes chain_out the active one

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
            **self._weight_ports(),
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

    def _weight_ports(self) -> dict[str, Member]:
        weight = signed(self.config.weight_bits)
        if not self.config.double_buffered:
            return {"weight_in": In(weight), "weight_out": Out(weight)}
        ports = {"load_out": Out(1), "swap": In(1), "swap_out": Out(1), "chain_in": In(weight), "chain_out": Out(weight)}
        if self.has_state:
            ports["weight_in"] = In(weight)
        if self.state.width:
            ports["weight_out"] = Out(weight)
        return ports

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.d.sync += [self.digit_out.eq(self.digit_in), self.sum_out.eq(self.sum_in + self.addend(m))]
        if self.has_state:
            m.d.sync += self.state_out.eq(self.state_in)
        return m

    def own_weight(self, m: Module) -> Signal:
        """The weight register, and what fills it."""
        if not self.config.double_buffered:
            with m.If(self.load):
                m.d.sync += self.weight_out.eq(self.weight_in)
            return self.weight_out
        own = Signal(signed(self.config.weight_bits), name="active", reset_less=True) if not self.state.width else self.weight_out
        m.d.sync += [self.load_out.eq(self.load), self.swap_out.eq(self.swap)]
        with m.If(self.load):
            m.d.sync += self.chain_out.eq(self.chain_in)
        with m.If(self.swap):
            m.d.sync += own.eq(self.chain_out)
        return own

    def addend(self, m: Module) -> ValueLike:
        """The shifted product."""
        fmt, own = self.config.format, self.own_weight(m)
        weight = Signal(signed(self.config.weight_bits))
        product = Signal(signed(fmt.bits + self.config.weight_bits))
        m.d.comb += product.eq(self._rows(m, weight))
        if not self.has_state:
            m.d.comb += weight.eq(own)
            return product << fmt.fraction_bits
        neighbour = self.state_in[0]
        # AND-OR rather than Mux: synthesizes a little smaller (docs/hardware.md, idea 2).
        every = neighbour.replicate(self.config.weight_bits)
        m.d.comb += weight.eq((self.weight_in.as_unsigned() & every) | (own.as_unsigned() & ~every))
        second_digit = Signal()
        m.d.comb += second_digit.eq(neighbour & ~self.neighbour_above if self.state.has_moved else neighbour)
        top = max(shift(state, fmt) for state in fmt.states)
        shifted = Signal(signed(product.shape().width + top))
        if not fmt.precision_on:
            m.d.comb += shifted.eq(Mux(second_digit, product << fmt.bits, product))
        elif not fmt.range_on:
            m.d.comb += shifted.eq(Mux(second_digit, product, product << fmt.fraction_bits))
        else:
            fine, high_digit = self.state_in[1], Signal()
            m.d.comb += high_digit.eq(second_digit & ~fine)
            m.d.comb += shifted.eq(
                Mux(fine, product, Mux(high_digit, product << fmt.bits + fmt.fraction_bits, product << fmt.fraction_bits))
            )
        return shifted

    def _rows(self, m: Module, weight: Signal) -> ValueLike:
        """digit · weight as a sum of shifted weights, one for each bit of the digit: synthesizes smaller and faster than `*`, which gives
        an unsigned digit a sign of its own (docs/hardware.md, idea 12)."""
        fmt = self.config.format
        total: ValueLike = C(0)
        for i in range(fmt.bits):
            row = Signal(signed(fmt.bits + self.config.weight_bits), name=f"row_{i}")
            before, total = total, Signal(row.shape(), name=f"rows_to_{i}")
            m.d.comb += [
                row.eq((weight & self.digit_in[i].replicate(self.config.weight_bits).as_signed()) << i),
                total.eq(before - row if fmt.signed and i == fmt.bits - 1 else before + row),
            ]
        return total
