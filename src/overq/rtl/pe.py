"""ProcessingElement: one weight, one multiplication a cycle (design, section 2).

    sum_out = sum_in + ((digit · (previous ? weight of the row before : own weight)) << shift)      shift: 0, f or f + b
                                                                       (f + r where the digit's top r bits hold a high digit)

Weights enter through a chain: while `load` is high every element takes its upper neighbour's weight. The same wire is
the neighbour's weight that OverQ needs, so the array gains no weight wiring at all.
Double buffered, the chain runs through registers of its own, whose weights become the active ones on `swap`.
"""

from __future__ import annotations

import functools
import operator

from amaranth.hdl import C, Cat, Fragment, Module, Mux, Shape, Signal, Value, ValueLike, signed, unsigned
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Member, Out

from overq.rtl.holding import enable_port, held, registered
from overq.rtl.state import RowState
from overq.spec import ArrayConfig
from overq.spec.array import MAX_PIPELINE


def digit_shape(config: ArrayConfig) -> Shape:
    return signed(config.format.bits) if config.format.signed else unsigned(config.format.bits)


class ProcessingElement(wiring.Component):
    """One element of the array.

    digit_in              the lane's digit of this cycle's vector, from the left
    state_in              bit 0: use the row before's weight; bit 1, where there is one: a second digit is a fraction
    digit_out, state_out  the same a cycle later, to the right
    weight_in             the weight register of the row before
    weight_out            this row's weight register
    neighbour_above       bit 0 of the row before's state_out, i.e. of the same vector (rows run one cycle apart)
    sum_in                the partial sum from above
    sum_out               it and the shifted product, a cycle later; with `pipeline` that of the lane so many cycles before
    enable                with stalls only: nothing changes while it is low
    load                  take the weight of the row before as own at the next clock

    Double buffered, weight_in and weight_out are the active weights (absent in the plain array), and beside them:
    swap                  make the loaded weight the active one
    load_out, swap_out    load and swap a cycle later, to the right
    chain_in              the loaded weight of the row before, which `load` takes
    chain_out             this row's loaded weight

    first=True is the element of row 0: it has no neighbour, so it has neither state nor choice.
    With the plain format there is no state either, and first makes no difference.
    """

    def __init__(self, *, config: ArrayConfig, first: bool = False):
        self.config, self.first = config, first
        self.state = RowState(config.format)
        ports = {
            **enable_port(config),
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

    def elaborate(self, platform: object) -> Module | Fragment:
        m = Module()
        addend: ValueLike = self.addend(m)
        if self.config.pipeline:
            addend = registered(m, Value.cast(addend), "p_addend")
        m.d.sync += [self.digit_out.eq(self.digit_in), self.sum_out.eq(self.sum_in + addend)]
        if self.has_state:
            m.d.sync += self.state_out.eq(self.state_in)
        return held(m, getattr(self, "enable", None))

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
        if not self.has_state:
            m.d.comb += weight.eq(own)
            return self._product(m, *self._operands(m, weight, self.digit_in)) << fmt.fraction_bits
        previous, second = self.state_in[0], Signal(name="second_digit")
        # AND-OR rather than Mux, here and for the shift: synthesizes a little smaller (docs/hardware.md, ideas 2 and 16).
        every = previous.replicate(self.config.weight_bits)
        m.d.comb += [
            weight.eq((self.weight_in.as_unsigned() & every) | (own.as_unsigned() & ~every)),
            second.eq(previous & ~self.neighbour_above if self.state.has_moved else previous),
        ]
        digit = Signal(digit_shape(self.config), name="payload")
        m.d.comb += digit.eq(self._payload(second))
        if self.state.one_bit:
            return self._product_of_placed_bits(m, weight, digit, second)
        shifts = self._shifts(second)
        if self.config.target == "fpga":  # the few bits before the multiplier, whose width costs nothing, not the many behind it
            return self._product(m, *self._operands(m, weight, self._place(m, digit, shifts)))
        weight, digit = self._operands(m, weight, digit)
        shifts = {left: self._later(m, here, f"shift_{left}") for left, here in shifts.items()}
        return self._place(m, self._product(m, weight, digit), shifts)

    def _later(self, m: Module, value: Value, name: str) -> Value:
        """A control of the shift, behind a register where the pipeline has one before the product."""
        return value if self.config.pipeline < MAX_PIPELINE else registered(m, value, f"p_{name}")

    def _operands(self, m: Module, weight: Signal, digit: Signal) -> tuple[Signal, Signal]:
        """What is multiplied, behind a register where the pipeline has one there."""
        if self.config.pipeline < MAX_PIPELINE:
            return weight, digit
        return registered(m, weight, "p_weight"), registered(m, digit, "p_digit")

    def _payload(self, second: Value) -> Value:
        """The digit without the kind bit that a second digit's top bit may be."""
        fmt, top = self.config.format, self.digit_in[-1]
        if fmt.kind != "digit" or self.state.placed:
            return self.digit_in
        rest = self.digit_in[:-1]
        return Cat(rest, Mux(second, rest[-1], top)).as_signed() if fmt.signed else Cat(rest, top & ~second)

    def _shifts(self, second: Value) -> dict[int, Value]:
        """By how much the state shifts: 0, f or f + b -> whether; r alone where the digit's top r bits hold the high digit."""
        fmt = self.config.format
        fine: Value = second if fmt.precision_on else C(0, 1)
        if fmt.kind == "digit":
            fine = second & self.digit_in[-1]
        elif fmt.kind == "pair":
            fine = self.state_in[1]
        if self.state.placed:
            return {0: ~second, fmt.range_bits: second}
        wanted: dict[int, Value] = {0: fine, fmt.fraction_bits + fmt.bits: second & ~fine} if fmt.range_on and fmt.precision_on else {}
        if not wanted:
            wanted = {0: second} if fmt.precision_on else {fmt.bits: second}
        wanted[fmt.fraction_bits] = ~second
        return wanted

    def _place(self, m: Module, value: Signal, wanted: dict[int, Value]) -> Signal:
        """`value` shifted as `_shifts` says."""
        shape = Shape.cast(value.shape())
        placed = Signal(Shape(shape.width + max(wanted), shape.signed), name=f"placed_{value.name}")
        parts = []
        for left, here in wanted.items():
            part = Signal(placed.shape(), name=f"by_{left}")
            m.d.comb += part.eq(value << left)
            free = self._free if left == 0 else 0
            parts.append(part.as_unsigned() & Cat(C((1 << free) - 1, free), here.replicate(placed.shape().width - free)))
        m.d.comb += placed.eq(functools.reduce(operator.or_, parts))
        return placed

    @property
    def _free(self) -> int:
        """How many of the lowest bits need no gate to be placed unshifted: those that a high digit at the digit's top leaves 0."""
        fmt = self.config.format
        return fmt.bits - fmt.range_bits if self.state.placed else 0

    def _product_of_placed_bits(self, m: Module, weight: Signal, digit: Signal, second: Value) -> Signal:
        """digit · weight where second digits are one bit each: nothing is shifted behind the product."""
        if self.config.target == "fpga":
            places = functools.reduce(operator.or_, self._places(digit, second))
            bits = Signal(len(places), name="placed_digit")
            m.d.comb += bits.eq(Cat(places[i] for i in range(len(places))))
            return self._product(m, *self._operands(m, weight, bits))
        weight, digit = self._operands(m, weight, digit)
        rows = self._places(digit, self._later(m, second, "second"))
        return self._rows(m, weight, rows, max(rows[-1]) + 1)

    def _places(self, digit: Value, second: Value) -> list[dict[int, Value]]:
        """What each bit of the digit counts for, place -> whether: in a second digit the lowest bit half, the top bit twice."""
        fmt = self.config.format
        places: list[dict[int, Value]] = [{fmt.fraction_bits + i: bit} for i, bit in enumerate(digit)]
        for on, i, place in ((fmt.precision_on, 0, 0), (fmt.range_on, -1, fmt.fraction_bits + fmt.bits)):
            if on:
                ((own, bit),) = places[i].items()
                places[i] = {own: bit & ~second, place: bit & second}
        return places

    def _product(self, m: Module, weight: Signal, digit: Value) -> Signal:
        """digit · weight. For an FPGA a `*`, which takes one of its multipliers; else a sum of shifted weights, one for each bit of the
        digit: synthesizes smaller and faster than `*`, which gives an unsigned digit a sign of its own (docs/hardware.md, idea 12)."""
        shape = Shape.cast(digit.shape())
        if self.config.target == "fpga":
            product = Signal(signed(shape.width + self.config.weight_bits), name="product")
            m.d.comb += product.eq(digit * weight)
            return product
        return self._rows(m, weight, [{i: digit[i]} for i in range(shape.width)], shape.width, shape.signed)

    def _rows(self, m: Module, weight: Signal, rows: list[dict[int, Value]], digit_bits: int, top_is_negative: bool = False) -> Signal:
        """The sum of the rows; each is the weight at one of the row's places, place -> whether, or nothing."""
        product = Signal(signed(digit_bits + self.config.weight_bits), name="product")
        total: Value | None = None
        for i, places in enumerate(rows):
            row = Signal(product.shape(), name=f"row_{i}")
            parts = [(weight & here.replicate(self.config.weight_bits).as_signed()) << place for place, here in places.items()]
            m.d.comb += row.eq(functools.reduce(operator.or_, parts))
            if total is None:
                total = row
                continue
            before, total = total, Signal(row.shape(), name=f"rows_to_{i}")
            m.d.comb += total.eq(before - row if top_is_negative and i == len(rows) - 1 else before + row)
        m.d.comb += product.eq(total)
        return product
