"""OutputStage: finished sums in, the next layer's t out, one vector a cycle, by the rule of `spec.requantize`."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Fragment, Module, Mux, Shape, Signal, Value, signed, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Member, Out

from overq.rtl.encoder import clamped, t_shape
from overq.rtl.holding import enable_port, held, registered
from overq.spec import ArrayConfig
from overq.spec.requantize import MULTIPLIER_BITS, SHIFT_BITS, bias_bits, limits

LOW_BITS = 17  # of a sum, in its first product: with a sign bit what the multipliers of common FPGAs take


def bias_shape(config: ArrayConfig) -> Shape:
    return signed(bias_bits(config.psum_bits))


def scale_ports(config: ArrayConfig) -> dict[str, Member]:
    """The constants of the requantization, one of each per column."""
    columns = config.columns
    return {
        "multipliers": In(data.ArrayLayout(unsigned(MULTIPLIER_BITS), columns)),
        "biases": In(data.ArrayLayout(bias_shape(config), columns)),
        "shifts": In(data.ArrayLayout(unsigned(SHIFT_BITS), columns)),
    }


def output_latency(config: ArrayConfig) -> int:
    """Cycles from finished sums to the next layer's t."""
    return 5 if config.pipeline else 2


class OutputStage(wiring.Component):
    """Two pipeline stages: s1 the products, s2 the clamped t; in an array with `pipeline` five: products of the sum's low and high
    bits, products, totals, levels, clamped t.

    enable                        with stalls only: nothing changes while it is low
    in_valid, in_sums             finished partial sums of one vector, all columns
    multipliers, biases, shifts   t = clamp((sum · multiplier + bias) >> shift), per column; constant while vectors are in flight
    out_valid, out_t              `latency` cycles later

    next_config: whose t comes out (default: the same); relu: clamp below at 0 even if the next format is signed.
    """

    def __init__(self, *, config: ArrayConfig, next_config: ArrayConfig | None = None, relu: bool = True):
        self.config, self.next_config, self.relu = config, next_config or config, relu
        self.latency = output_latency(config)
        columns = config.columns
        super().__init__(
            {
                **enable_port(config),
                "in_valid": In(1),
                "in_sums": In(data.ArrayLayout(signed(config.psum_bits), columns)),
                **scale_ports(config),
                "out_valid": Out(1),
                "out_t": Out(data.ArrayLayout(t_shape(self.next_config), columns)),
            }
        )

    def elaborate(self, platform: object) -> Module | Fragment:
        m = Module()
        low, high = limits(self.next_config.format, self.relu)
        valid: Value = self.in_valid
        for stage in range(1, self.latency):
            later = Signal(name=f"s{stage}_valid")
            m.d.sync += later.eq(valid)
            valid = later
        m.d.sync += self.out_valid.eq(valid)
        staged = m.d.sync if self.config.pipeline else m.d.comb
        for column in range(self.config.columns):
            s1_product = Signal(bias_shape(self.config), name=f"s1_product_{column}", reset_less=True)
            out_t = Signal(t_shape(self.next_config), name=f"s{self.latency}_t_{column}", reset_less=True)
            total = Signal(signed(bias_bits(self.config.psum_bits) + 1), name=f"total_{column}", reset_less=True)
            shifted, beyond = _shifted(total, self.shifts[column], max(Const(limit).shape().width + 1 for limit in (low, high)))
            level = Signal(shifted.shape(), name=f"level_{column}", reset_less=True)
            saturates, negative = (Signal(name=f"{name}_{column}", reset_less=True) for name in ("saturates", "negative"))
            staged += [total.eq(s1_product + self.biases[column]), level.eq(shifted), saturates.eq(beyond), negative.eq(total[-1])]
            clamped_t = Mux(saturates, Mux(negative, low, high), clamped(level, low, high))
            m.d.sync += [s1_product.eq(self._product(m, column)), out_t.eq(clamped_t)]
            m.d.comb += self.out_t[column].eq(out_t)
        return held(m, getattr(self, "enable", None))

    def _product(self, m: Module, column: int) -> Value:
        """Of a sum and its multiplier; with `pipeline` of its low bits and of its high bits, each behind a register."""
        total, factor = self.in_sums[column], self.multipliers[column]
        if not self.config.pipeline:
            return total * factor
        parts = [(0, total)]
        if self.config.psum_bits > LOW_BITS + 1:
            parts = [(0, total[:LOW_BITS]), (LOW_BITS, total[LOW_BITS:].as_signed())]
        products = [registered(m, part * factor, f"s0_product_{column}_{place}") << place for place, part in parts]
        return sum(products[1:], start=products[0])


def _shifted(value: Value, shift: Value, bits: int) -> tuple[Value, Value]:
    """(value >> shift in so many signed bits, whether it does not fit there): each step keeps what later ones can bring that far down."""
    negative, beyond = value[-1], []
    for step in reversed(range(len(shift))):
        value, kept = Mux(shift[step], value >> (1 << step), value), (1 << step) - 1 + bits
        if kept < len(value):
            dropped = value[kept - 1 :]
            beyond.append(dropped != negative.replicate(len(dropped)))
            value = value[:kept].as_signed()
    return value, Cat(beyond).any()
