"""ArrayConfig: everything that fixes one piece of hardware, checked before anything is built."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from overq.errors import FormatError
from overq.spec import Format, State, accumulator_bits, fraction_bits

MAX_ROWS = 1024
MAX_SUM_BITS = 64


@dataclass(frozen=True)
class ArrayConfig:
    """A weight-stationary array of rows × columns elements and the blocks around it.

    format       the number format; its `lanes` is None or equal to `rows`
    weight_bits  two's complement weights, 2 to 8
    rows         lanes of one tile, 1 to 1024
    columns      output channels side by side, 1 to 1024
    depth        lanes of one whole dot product (all tiles that are added up), at least `rows`; None is `rows`
    sum_bits     width of every partial sum; None is the least that holds any dot product of `depth` lanes
    double_buffered   a second weight register per element: the next tile loads while vectors stream
    """

    format: Format = field(default_factory=Format)
    weight_bits: int = 8
    rows: int = 16
    columns: int = 16
    depth: int | None = None
    sum_bits: int | None = None
    double_buffered: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.format, Format):
            raise FormatError(f"ArrayConfig.format must be a Format, not {self.format!r}")
        _check_integer("weight_bits", self.weight_bits, 2, 8)
        _check_integer("rows", self.rows, 1, MAX_ROWS)
        _check_integer("columns", self.columns, 1, MAX_ROWS)
        if self.depth is not None:
            _check_integer("depth", self.depth, self.rows, 2**31 - 1)
        if not isinstance(self.double_buffered, bool):
            raise FormatError(f"ArrayConfig.double_buffered must be True or False, not {self.double_buffered!r}")
        if self.format.lanes not in (None, self.rows):
            raise FormatError(f"Format.lanes is {self.format.lanes} but the array has {self.rows} rows: one tile is one column of rows")
        if self.format.cascade and self.rows < 2:
            raise FormatError("ArrayConfig.rows is 1 but the format overwrites neighbours: use at least 2 rows or cascade=0")
        needed = accumulator_bits(self.format, self.weight_bits, self.dot_depth)
        if self.sum_bits is not None:  # without it no configuration above needs more than 62 bits
            _check_integer("sum_bits", self.sum_bits, 2, MAX_SUM_BITS)
            if self.sum_bits < needed:
                raise FormatError(f"ArrayConfig.sum_bits is {self.sum_bits}, but {self.dot_depth} lanes can need {needed} bits")

    def with_(self, **changes: object) -> ArrayConfig:
        """A copy with some fields changed, checked again."""
        return replace(self, **changes)  # type: ignore[arg-type]

    @property
    def dot_depth(self) -> int:
        return self.rows if self.depth is None else self.depth

    @property
    def psum_bits(self) -> int:
        """Bits of a partial sum, fraction bits included."""
        return self.sum_bits or accumulator_bits(self.format, self.weight_bits, self.dot_depth)

    @property
    def t_bits(self) -> int:
        """Bits of the encoder's input t: the least two's complement (signed) or plain width for t_min … t_max."""
        fmt = self.format
        return (max(-fmt.t_min - 1, fmt.t_max)).bit_length() + 1 if fmt.signed else fmt.t_max.bit_length()

    @property
    def tile(self) -> Format:
        """The format with its tile length made explicit, as the encoder uses it."""
        return self.format.with_(lanes=self.rows)

    @property
    def name(self) -> str:
        """A short file-safe name: a4w8_plain, a4w8_range_c1, a4w8_full_c4, …"""
        fmt = self.format
        kind = {
            (): "plain",
            ("range",): f"range_c{fmt.cascade}",
            ("precision",): f"precision_c{fmt.cascade}",
            ("range", "precision"): f"full_c{fmt.cascade}",
        }[fmt.modes]
        policy = "_largest" if fmt.cascade and fmt.policy == "largest" else ""
        return f"a{fmt.bits}{'s' if fmt.signed else ''}w{self.weight_bits}_{kind}{policy}{'_double' * self.double_buffered}"


@dataclass(frozen=True)
class RowState:
    """How a lane's state travels along an array row: fewer wires than the state code, because the rows know each other.

    bit 0  neighbour  the element uses the weight of the row before (any state but OWN)
    bit 1  fine       PRECISION; present only where a RANGE digit could stand there too

    A second digit always follows an OWN lane and a MOVED one never does, so MOVED is `neighbour` here and `neighbour`
    in the row before: the third state costs no register, only a wire from the element above.
    """

    format: Format

    @property
    def width(self) -> int:
        return (self.format.cascade > 0) + self.has_fine

    @property
    def has_fine(self) -> bool:
        return self.format.range_on and self.format.precision_on

    @property
    def has_moved(self) -> bool:
        return State.MOVED in self.format.states

    def bits(self, state: State) -> int:
        """The row bits of a state."""
        if state == State.OWN:
            return 0
        return 1 | (2 if self.has_fine and state == State.PRECISION else 0)

    def state(self, bits: int, neighbour_above: int) -> State:
        """The state that the bits mean below a row whose neighbour bit is `neighbour_above`."""
        if not bits & 1:
            return State.OWN
        if self.has_moved and neighbour_above:
            return State.MOVED
        if self.has_fine:
            return State.PRECISION if bits & 2 else State.RANGE
        return State.RANGE if self.format.range_on else State.PRECISION


def exponent(state: State, fmt: Format) -> int:
    """Left shift of the product in the partial sum, in bits (design, section 2)."""
    place = {State.PRECISION: -1, State.OWN: 0, State.MOVED: 0, State.RANGE: 1}[state]
    return fmt.bits * place + fraction_bits(fmt)


def _check_integer(name: str, value: object, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise FormatError(f"ArrayConfig.{name} must be an integer from {low} to {high}, not {value!r}")
