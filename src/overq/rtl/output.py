"""OutputStage: finished sums in, the next layer's t out, one vector a cycle, by the rule of `spec.requantize`."""

from __future__ import annotations

from amaranth.hdl import Fragment, Module, Shape, Signal, signed, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Member, Out

from overq.rtl.encoder import clamped, t_shape
from overq.rtl.holding import enable_port, held
from overq.spec import ArrayConfig
from overq.spec.requantize import MULTIPLIER_BITS, SHIFT_BITS, bias_bits, limits


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


class OutputStage(wiring.Component):
    """Two pipeline stages: s1 the products, s2 the clamped t.

    enable                        with stalls only: nothing changes while it is low
    in_valid, in_sums             finished partial sums of one vector, all columns
    multipliers, biases, shifts   t = clamp((sum · multiplier + bias) >> shift), per column; constant while vectors are in flight
    out_valid, out_t              two cycles later

    next_config: whose t comes out (default: the same); relu: clamp below at 0 even if the next format is signed.
    """

    latency = 2

    def __init__(self, *, config: ArrayConfig, next_config: ArrayConfig | None = None, relu: bool = True):
        self.config, self.next_config, self.relu = config, next_config or config, relu
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
        s1_valid = Signal(name="s1_valid")
        m.d.sync += [s1_valid.eq(self.in_valid), self.out_valid.eq(s1_valid)]
        for column in range(self.config.columns):
            s1_product = Signal(bias_shape(self.config), name=f"s1_product_{column}", reset_less=True)
            s2_t = Signal(t_shape(self.next_config), name=f"s2_t_{column}", reset_less=True)
            s1_total = Signal(signed(bias_bits(self.config.psum_bits) + 1), name=f"s1_total_{column}")
            s1_level = Signal(s1_total.shape(), name=f"s1_level_{column}")
            m.d.comb += [s1_total.eq(s1_product + self.biases[column]), s1_level.eq(s1_total >> self.shifts[column])]
            m.d.sync += [
                s1_product.eq(self.in_sums[column] * self.multipliers[column]),
                s2_t.eq(clamped(s1_level, low, high)),
            ]
            m.d.comb += self.out_t[column].eq(s2_t)
        return held(m, self.config, getattr(self, "enable", None))
