"""Accelerator: weight load, encoder, skew, array, deskew and output stage behind streaming ports."""

from __future__ import annotations

from collections.abc import Sequence

from amaranth.hdl import Cat, Fragment, Module, Mux, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from overq.rtl.array import Place, SystolicArray, place_inline
from overq.rtl.encoder import OverwriteEncoder, latency, t_shape
from overq.rtl.holding import enable_port, held, registered
from overq.rtl.output import OutputStage, output_latency, scale_ports
from overq.rtl.pe import digit_shape
from overq.rtl.state import RowState
from overq.spec import ArrayConfig, State


def delayed(m: Module, value: Value, cycles: int, name: str) -> Value:
    """`value`, so many cycles later."""
    for i in range(cycles):
        value = registered(m, value, f"{name}_d{i + 1}")
    return value


def _moving(run: Value | None, ready: Value) -> Value:
    return ready if run is None else run & ready


class Accelerator(wiring.Component):
    """One tile of weights at a time; vectors stream through.

    enable                                with stalls only: while it is low nothing moves and no weight and no vector is taken
    weights                               one row of a tile per transfer; `rows` of them load it, the last row first
    weight_valid                          there is one
    weight_ready                          it is taken: while nothing is in the array. Double buffered: unless a whole tile waits for its
                                          first vector
    in_first                              double buffered only: this vector is the first that meets the waiting tile. Refused until that
                                          is whole and, in overwriting formats, in the cycle right after another vector
    in_valid                              there is a tile of one vector
    in_ready                              it is taken at this clock
    in_t                                  t per lane: the value with its fraction bits; beyond what two digits spell it saturates
    in_enable                             one bit per lane; a lane that is switched off is digit 0, OWN, and nothing crosses it
    in_starts                             one bit per lane: another vector's lanes begin here, nothing crosses from the lane before
    in_sums                               per column, what the sum starts from: 0, or the partial sums of the tiles before
    in_tag                                with stalls only: a bit that comes out again beside the vector's sums and its t
    in_last                               the sums are then complete and go through the output stage
    out_valid, out_sums                   the sums, `latency` cycles after the transfer, in order
    out_ready                             with stalls only: they are taken at this clock; until then all stands still. Else they never wait
    out_tag, t_tag                        in_tag of the same vector
    out_last                              in_last of the same vector
    multipliers, biases, shifts           t = clamp((sum · multiplier + bias) >> shift), per column; constant while vectors are in flight
    t_ready                               with stalls only: t is taken at this clock; until then all stands still
    t_valid, t                            the output stage's latency after an out_valid with out_last: the next layer's input
    """

    def __init__(self, *, config: ArrayConfig, next_config: ArrayConfig | None = None, relu: bool = True, place: Place = place_inline):
        self.config, self.next_config, self.relu, self.place = config, next_config or config, relu, place
        sums = data.ArrayLayout(signed(config.psum_bits), config.columns)
        super().__init__(
            {
                **enable_port(config),
                "weight_valid": In(1),
                "weight_ready": Out(1),
                "weights": In(data.ArrayLayout(signed(config.weight_bits), config.columns)),
                "in_valid": In(1),
                "in_ready": Out(1),
                "in_t": In(data.ArrayLayout(t_shape(config), config.rows)),
                "in_enable": In(config.rows),
                **({"in_starts": In(config.rows)} if config.edges else {}),
                "in_sums": In(sums),
                "in_last": In(1),
                **({"in_tag": In(1)} if config.stalls else {}),
                **({"in_first": In(1)} if config.double_buffered else {}),
                "out_valid": Out(1),
                **({"out_ready": In(1)} if config.stalls else {}),
                "out_sums": Out(sums),
                "out_last": Out(1),
                **({"out_tag": Out(1)} if config.stalls else {}),
                **scale_ports(config),
                "t_valid": Out(1),
                "t": Out(data.ArrayLayout(t_shape(self.next_config), config.columns)),
                **({"t_ready": In(1), "t_tag": Out(1)} if config.stalls else {}),
            }
        )

    @property
    def latency(self) -> int:
        """Cycles from the transfer of a tile to its sums."""
        return latency(self.config) + self.config.pipeline + self.config.rows + self.config.columns - 1

    def elaborate(self, platform: object) -> Module | Fragment:
        m = Module()
        config = self.config
        run = Signal(name="run") if config.stalls else None  # whether anything moves at this clock
        encoder = self.place(m, "encoder", OverwriteEncoder(config=config))
        array = self.place(m, "array", SystolicArray(config=config, place=self.place))
        output = self.place(m, "output_stage", OutputStage(config=config, next_config=self.next_config, relu=self.relu))

        flying = Signal(self.latency)
        accept = Signal(name="accept")
        m.d.comb += accept.eq(self.in_valid & self.in_ready)
        m.d.sync += flying.eq(accept | flying << 1)
        m.d.comb += [
            encoder.in_valid.eq(accept),
            Value.cast(encoder.in_t).eq(Value.cast(self.in_t)),
            encoder.in_enable.eq(self.in_enable),
            encoder.out_ready.eq(1),
        ]
        if config.edges:
            m.d.comb += encoder.in_starts.eq(self.in_starts)
        if config.double_buffered:
            self._load_beside(m, array, accept, flying[0], run)
        else:
            m.d.comb += [
                self.weight_ready.eq(_moving(run, ~flying[:-1].any())),
                self.in_ready.eq(_moving(run, ~self.weight_valid)),
                array.load.eq(self.weight_valid & self.weight_ready),
                Value.cast(array.weights).eq(Value.cast(self.weights)),
            ]
        self._skew(m, encoder, array)
        spread = config.columns - 1
        for column in range(config.columns):
            start = delayed(m, self.in_sums[column], encoder.latency + config.pipeline + column, f"start_{column}")
            total = delayed(m, array.sums_out[column], spread - column, f"total_{column}")
            m.d.comb += [array.sums_in[column].eq(start), self.out_sums[column].eq(total)]
        m.d.comb += [
            self.out_last.eq(delayed(m, self.in_last, self.latency, "last")),
            output.in_valid.eq(flying[-1] & self.out_last),
            Value.cast(output.in_sums).eq(Value.cast(self.out_sums)),
            Value.cast(self.t).eq(Value.cast(output.out_t)),
        ]
        for name in ("multipliers", "biases", "shifts"):
            m.d.comb += Value.cast(getattr(output, name)).eq(Value.cast(getattr(self, name)))
        if run is None:
            m.d.comb += [self.out_valid.eq(flying[-1]), self.t_valid.eq(output.out_valid)]
            return m
        return self._holding(m, (encoder, array, output), run, flying[-1], output.out_valid)

    def _holding(self, m: Module, blocks: Sequence[wiring.Component], run: Value, sums: Value, t: Value) -> Module | Fragment:
        """All stands still while sums or t are not taken. Each is handed over once: what is taken while the other still waits is marked."""
        m.d.comb += [block.enable.eq(run) for block in blocks]
        m.d.comb += self.out_tag.eq(delayed(m, self.in_tag, self.latency, "tag"))
        m.d.comb += self.t_tag.eq(delayed(m, self.out_tag, output_latency(self.config), "t_tag"))
        sums_taken, t_taken = Signal(name="sums_taken"), Signal(name="t_taken")
        m.d.comb += [
            self.out_valid.eq(sums & ~sums_taken),
            self.t_valid.eq(t & ~t_taken),
            run.eq(self.enable & (~self.out_valid | self.out_ready) & (~self.t_valid | self.t_ready)),
        ]
        whole = Fragment.get(held(m, run), None)
        whole.add_statements("sync", sums_taken.eq(~run & (sums_taken | (self.out_valid & self.out_ready))))
        whole.add_statements("sync", t_taken.eq(~run & (t_taken | (self.t_valid & self.t_ready))))
        return whole

    def _load_beside(self, m: Module, array: SystolicArray, accept: Value, just_before: Value, run: Value | None) -> None:
        """Weights of the next tile while vectors stream: they enter two cycles late, so that a tile's first transfer can be in the cycle
        in which the first vector of the tile before is accepted (its digits reach row 0 after three cycles)."""
        rows, columns, late = self.config.rows, self.config.columns, latency(self.config) - 1
        # moved[k]: more than k transfers of the tile are done
        moved, opens, advance = Signal(rows, name="moved"), Signal(name="opens_tile"), Signal(name="advance")
        free = ~just_before if self.config.format.cascade else 1
        joined = Cat(1, moved[:-1] & ~opens.replicate(rows - 1))
        m.d.comb += [
            self.in_ready.eq(_moving(run, ~self.in_first | (moved[-1] & free))),
            opens.eq(accept & self.in_first),
            self.weight_ready.eq(_moving(run, ~moved[-1] | opens)),
            advance.eq(self.weight_valid & self.weight_ready),
        ]
        m.d.sync += moved.eq(Mux(advance, joined, Mux(opens, 0, moved)))
        for row in range(rows):
            m.d.comb += [
                array.load[row].eq(delayed(m, advance & joined[row], late, f"load_{row}")),
                array.swap[row].eq(delayed(m, opens, late + row, f"swap_{row}")),
            ]
        for column in range(columns):
            m.d.comb += array.weights[column].eq(delayed(m, self.weights[column], late + column, f"weight_{column}"))

    def _skew(self, m: Module, encoder: OverwriteEncoder, array: SystolicArray) -> None:
        """Row k enters k cycles late; digit and state code become the bits that travel along the row."""
        state = RowState(self.config.format)
        for row in range(self.config.rows):
            field = Signal(digit_shape(self.config), name=f"field_{row}")
            m.d.comb += [
                field.eq(encoder.out_digits[row]),
                array.digits[row].eq(delayed(m, field, row, f"digit_{row}")),
            ]
            if state.width:
                code = encoder.out_states[row]
                if state.placed:
                    with m.If(code == State.RANGE):
                        m.d.comb += field.eq(encoder.out_digits[row] << (self.config.format.bits - self.config.format.range_bits))
                elif self.config.format.kind == "digit":
                    with m.If((code == State.RANGE) | (code == State.PRECISION)):
                        m.d.comb += field[-1].eq(code == State.PRECISION)
                bits = Signal(state.width, name=f"state_{row}")
                m.d.comb += bits[0].eq(code != State.OWN)
                if state.has_fine:
                    m.d.comb += bits[1].eq(code == State.PRECISION)
                m.d.comb += array.states[row].eq(delayed(m, bits, row, f"state_{row}"))
