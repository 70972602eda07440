"""OverwriteEncoder: one tile of t in, digits and states out, every cycle (design, sections 1.1 and 1.2).

Only the three valid bits are reset; what a lane holds means nothing until they say so.
Three stages, and one before them where values may give way, named in the signals:
    s0  t, 0 where a lane gives way to an outlier (only with `Format.evict`: `giveway`)
    s1  what each lane is: level, zero, outlier, its one digit, its two digits, how badly one digit represents it
    s2  what each zero lane does: its reach, the lane it serves, range or precision
    s3  what then stands on each lane
"""

from __future__ import annotations

from dataclasses import dataclass, field

from amaranth.hdl import Cat, Fragment, Module, Mux, Shape, ShapeLike, Signal, Value, signed, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from overq.rtl.giveway import leaving
from overq.rtl.holding import enable_port, held
from overq.rtl.pe import digit_shape
from overq.spec import ArrayConfig, State


def t_shape(config: ArrayConfig) -> Shape:
    return signed(config.t_bits) if config.format.signed else unsigned(config.t_bits)


def clamped(value: Value, low: int, high: int) -> Value:
    """An unsigned value has no lower limit to pass: its formats have 0 there."""
    return Mux(value > high, high, Mux(value < low, low, value) if value.shape().signed else value)


@dataclass
class Candidate:
    """One lane that a zero might serve. Combining two keeps the better one."""

    valid: Value
    error: Value
    distance: int | Value

    def or_closer(self, closer: Candidate) -> Candidate:
        """`closer` stands nearer to the zero, so it must be strictly worse represented to win (ties: the lower lane)."""
        take = closer.valid & (~self.valid | (closer.error > self.error))
        return Candidate(self.valid | closer.valid, Mux(take, closer.error, self.error), Mux(take, closer.distance, self.distance))


def best(candidates: list[Candidate]) -> Candidate:
    """A balanced tree; candidates come farthest first."""
    while len(candidates) > 1:
        pairs = [candidates[i].or_closer(candidates[i + 1]) for i in range(0, len(candidates) - 1, 2)]
        candidates = pairs + candidates[len(candidates) & ~1 :]
    return candidates[0]


@dataclass
class _Lane:
    """Signals of one lane after a stage's register."""

    zero: Signal
    joined: Signal  # the lane before is on, not zero, and of the same segment: a zero's reach may go on there
    outlier: Signal
    error: Signal
    one: Signal
    first: dict[State, Signal] = field(default_factory=dict)
    second: dict[State, Signal] = field(default_factory=dict)


def latency(config: ArrayConfig) -> int:
    """Cycles from a tile's t to its digits and states."""
    return 3 + (config.format.evict > 0)


class OverwriteEncoder(wiring.Component):
    """Lanes of one tile; valid/ready on both sides, `latency` cycles, one tile a cycle while `out_ready` is high.

    enable        with stalls only: nothing changes while it is low
    in_valid      there is a tile
    in_ready      it is taken at this clock
    out_valid     there are digits
    out_ready     they are taken at this clock
    in_t          t per lane; values beyond what two digits spell saturate
    in_enable     one bit per lane: a lane that is switched off, wherever it stands and whatever its t, holds no value, is no zero
                  lane, leaves as digit 0, OWN, and nothing crosses it (a vector whose length is no multiple of the lanes)
    in_starts     one bit per lane: a segment begins here, nothing crosses from the lane before (several whole vectors in one tile);
                  only with `segments`
    out_digits    digit per lane
    out_states    the state code of `spec.State` per lane (absent for the plain format)
    """

    def __init__(self, *, config: ArrayConfig):
        self.config = config
        self.latency = latency(config)
        lanes = config.rows
        ports = {
            **enable_port(config),
            "in_valid": In(1),
            "in_ready": Out(1),
            "in_t": In(data.ArrayLayout(t_shape(config), lanes)),
            "in_enable": In(lanes),
            "out_valid": Out(1),
            "out_ready": In(1),
            "out_digits": Out(data.ArrayLayout(digit_shape(config), lanes)),
        }
        if config.format.cascade:
            ports["out_states"] = Out(data.ArrayLayout(2, lanes))
        if config.edges:
            ports["in_starts"] = In(lanes)
        super().__init__(ports)

    @property
    def serving(self) -> list[State]:
        """The kinds of second digit this format can make."""
        fmt = self.config.format
        return [State.RANGE] * fmt.range_on + [State.PRECISION] * fmt.precision_on

    def elaborate(self, platform: object) -> Module | Fragment:
        m = Module()
        self._zeros = [Signal(name=f"s0_zero_{lane}") for lane in range(self.config.rows)]
        s1_valid, s2_valid, advance = Signal(name="s1_valid"), Signal(name="s2_valid"), Signal(name="advance")
        m.d.comb += advance.eq(~self.out_valid | self.out_ready)
        m.d.comb += self.in_ready.eq(advance & self.enable if self.config.stalls else advance)
        valid = self._give_way(m, advance)
        with m.If(advance):
            m.d.sync += [s1_valid.eq(valid), s2_valid.eq(s1_valid), self.out_valid.eq(s2_valid)]
        s1 = [self._classify(m, advance, lane) for lane in range(self.config.rows)]
        for lane in range(1, self.config.rows) if self.config.format.cascade else ():
            joined = self._on[lane - 1] & ~self._zeros[lane - 1]
            with m.If(advance):
                m.d.sync += s1[lane].joined.eq(joined if self._starts is None else joined & ~self._starts[lane])
        s2 = [self._delay(m, advance, lane, signals) for lane, signals in enumerate(s1)]
        serve = self._choose(m, advance, s1) if self.config.format.cascade else {}
        self._place(m, advance, s2, serve)
        return held(m, getattr(self, "enable", None))

    # Stage 0 -----------------------------------------------------------------------------------------

    def _give_way(self, m: Module, advance: Signal) -> Signal:
        """The tile as stage 1 takes it: as it came, or a cycle later with what gives way; returns whether it is one."""
        config = self.config
        self._t: list[Value] = [self.in_t[lane] for lane in range(config.rows)]
        self._on: Value = self.in_enable
        self._starts: Value | None = self.in_starts if config.edges else None
        if not config.format.evict:
            return self.in_valid
        gone = leaving(m, config, self._t, self._on, self._starts)
        valid, on, starts = Signal(name="s0_valid"), _register(config.rows, "s0_enable"), _register(config.rows, "s0_starts")
        later = [_register(t_shape(config), f"s0_given_{lane}") for lane in range(config.rows)]
        with m.If(advance):
            m.d.sync += [valid.eq(self.in_valid), on.eq(self._on)]
            m.d.sync += [after.eq(Mux(gone[lane], 0, self._t[lane])) for lane, after in enumerate(later)]
            if self._starts is not None:
                m.d.sync += starts.eq(self._starts)
        self._t, self._on, self._starts = list(later), on, starts
        return valid

    # Stage 1 -----------------------------------------------------------------------------------------

    def _classify(self, m: Module, advance: Signal, lane: int) -> _Lane:
        config, fmt = self.config, self.config.format
        b, t, on = fmt.bits, Signal(t_shape(config), name=f"s0_t_{lane}"), self._on[lane]
        rounded = (t + fmt.unit // 2) >> (fmt.fraction_bits + 1)
        level = Signal(rounded.shape(), name=f"s0_level_{lane}")
        one = Signal(digit_shape(config), name=f"s0_one_{lane}")
        m.d.comb += [
            t.eq(clamped(self._t[lane], fmt.t_min, fmt.t_max)),
            level.eq(rounded),
            one.eq(clamped(level, fmt.digit_min, fmt.digit_max)),
        ]
        high = level > fmt.digit_max
        outlier = high | (level < fmt.digit_min) if fmt.signed else high
        out = _Lane(
            zero=_register(1, f"s1_zero_{lane}"),
            joined=_register(1, f"s1_joined_{lane}"),
            outlier=_register(1, f"s1_outlier_{lane}"),
            error=_register(config.t_bits, f"s1_error_{lane}"),
            one=_register(digit_shape(config), f"s1_one_{lane}"),
        )
        residue = Signal(signed(config.t_bits + 1), name=f"s0_residue_{lane}")
        m.d.comb += [residue.eq(t - (one << (fmt.fraction_bits + 1))), self._zeros[lane].eq(level == 0)]
        with m.If(advance):
            m.d.sync += [
                out.zero.eq(self._zeros[lane] & on),
                out.outlier.eq(outlier & on),
                out.error.eq(Mux(residue < 0, -residue, residue)),
                out.one.eq(Mux(on, one, 0)),
            ]
        for state in self.serving:
            name = state.name.lower()
            value = level if state == State.RANGE else Signal(Shape(config.t_bits, fmt.signed), name=f"s0_fine_{lane}")
            if state == State.PRECISION:
                m.d.comb += value.eq((t + 1) >> 1)
            least, greatest = (fmt.wide_min, fmt.wide_max) if state == State.RANGE else (fmt.fine_min, fmt.fine_max)
            low_bits = b if state == State.RANGE else fmt.fraction_bits
            wide = Signal(signed(2 * b + 2), name=f"s0_{name}_value_{lane}")
            m.d.comb += wide.eq(clamped(value, least, greatest))
            # Balanced digits: the low digit is the low bits read as a digit; what remains is the high digit.
            low_digit = wide[:low_bits].as_signed() if fmt.signed else wide[:low_bits]
            high_digit = (wide - low_digit) >> low_bits
            first, second = (low_digit, high_digit) if state == State.RANGE else (high_digit, low_digit)
            out.first[state] = _register(digit_shape(config), f"s1_{name}_first_{lane}")
            out.second[state] = _register(digit_shape(config), f"s1_{name}_second_{lane}")
            with m.If(advance):
                m.d.sync += [out.first[state].eq(first), out.second[state].eq(second)]
        return out

    # Stage 2 -----------------------------------------------------------------------------------------

    def _delay(self, m: Module, advance: Signal, lane: int, s1: _Lane) -> _Lane:
        def held(signal: Signal) -> Signal:
            later = _register(signal.shape(), signal.name.replace("s1_", "s2_", 1))
            with m.If(advance):
                m.d.sync += later.eq(signal)
            return later

        s2 = _Lane(s1.zero, s1.joined, s1.outlier, s1.error, held(s1.one))
        s2.first = {state: held(signal) for state, signal in s1.first.items()}
        s2.second = {state: held(signal) for state, signal in s1.second.items()}
        return s2

    def _choose(self, m: Module, advance: Signal, s1: list[_Lane]) -> dict[tuple[State, int, int], Signal]:
        """(state, zero, distance) -> the zero lane serves the lane that far before it."""
        fmt, serve = self.config.format, {}
        for zero in range(1, len(s1)):
            near = list(range(1, min(fmt.cascade, zero) + 1))
            reach, inside = {}, s1[zero].zero
            for distance in near:
                inside = inside & s1[zero - distance + 1].joined
                reach[distance] = Signal(name=f"s1_reach_{zero}_{distance}")
                m.d.comb += reach[distance].eq(inside)
            outliers = {d: reach[d] & s1[zero - d].outlier for d in near}
            normals = {d: reach[d] & ~s1[zero - d].outlier for d in near}
            wishes: dict[State, dict[int, Value]] = {}
            if fmt.range_on:
                wishes[State.RANGE] = self._pick(outliers, s1, zero)
            if fmt.precision_on:
                picked = self._pick(normals, s1, zero) if fmt.policy == "largest" else {1: normals[1]}
                blocked = Cat(*outliers.values()).any() if fmt.range_on else 0
                wishes[State.PRECISION] = {d: wish & ~blocked for d, wish in picked.items()} if fmt.range_on else picked
            for state, by_distance in wishes.items():
                for distance, wish in by_distance.items():
                    chosen = _register(1, f"s2_{state.name.lower()}_{zero}_{distance}")
                    with m.If(advance):
                        m.d.sync += chosen.eq(wish)
                    serve[state, zero, distance] = chosen
        return serve

    def _pick(self, candidates: dict[int, Value], s1: list[_Lane], zero: int) -> dict[int, Value]:
        """One-hot by distance: which candidate the policy serves."""
        if self.config.format.policy == "largest":
            farthest_first = [Candidate(valid, s1[zero - d].error, d) for d, valid in sorted(candidates.items(), reverse=True)]
            winner = best(farthest_first)
            return {d: winner.valid & (winner.distance == d) for d in candidates}
        picked: dict[int, Value] = {}
        for d, valid in candidates.items():
            farther = [other for e, other in candidates.items() if e > d]
            picked[d] = valid & ~Cat(*farther).any() if farther else valid
        return picked

    # Stage 3 -----------------------------------------------------------------------------------------

    def _place(self, m: Module, advance: Signal, s2: list[_Lane], serve: dict[tuple[State, int, int], Signal]) -> None:
        for lane, own in enumerate(s2):
            digit: Value = own.one
            code: Value | int = int(State.OWN)
            moved = [s for (_, z, d), s in serve.items() if z - d + 2 <= lane <= z]
            if moved:
                here = Cat(*moved).any()
                digit, code = Mux(here, s2[lane - 1].one, digit), Mux(here, int(State.MOVED), code)
            for state in self.serving:
                starts = [s for (kind, z, d), s in serve.items() if kind == state and z - d == lane]
                if starts:
                    digit = Mux(Cat(*starts).any(), own.first[state], digit)
                seconds = [s for (kind, z, d), s in serve.items() if kind == state and z - d == lane - 1]
                if seconds:
                    here = Cat(*seconds).any()
                    digit, code = Mux(here, s2[lane - 1].second[state], digit), Mux(here, int(state), code)
            s3_digit, s3_state = _register(digit_shape(self.config), f"s3_digit_{lane}"), _register(2, f"s3_state_{lane}")
            with m.If(advance):
                m.d.sync += [s3_digit.eq(digit), s3_state.eq(code)]
            m.d.comb += self.out_digits[lane].eq(s3_digit)
            if self.config.format.cascade:
                m.d.comb += self.out_states[lane].eq(s3_state)


def _register(shape: ShapeLike, name: str) -> Signal:
    return Signal(shape, name=name, reset_less=True)
