"""ArrayConfig: what the array is, once, for the cycle model, the RTL and the reports; and what a tile of lanes means in it (design, 2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from overq.errors import FormatError
from overq.spec.dot import accumulator_bits
from overq.spec.encode import encode
from overq.spec.format import Format
from overq.spec.modes import Lane, State

MAX_ROWS = 4096
MAX_SUM_BITS = 64
TARGETS = ("asic", "fpga")
MAX_PIPELINE = 2


@dataclass(frozen=True)
class ArrayConfig:
    """A weight-stationary array of rows × columns elements and the blocks around it.

    format       the number format; its `lanes` is None or equal to `rows`
    weight_bits  two's complement weights, 2 to 8
    rows         lanes of one tile, 1 to 4096
    columns      output channels side by side, 1 to 4096
    depth        lanes of one whole dot product (all tiles that are added up), at least `rows`; None is `rows`
    sum_bits     width of every partial sum; None is the least that holds any dot product of `depth` lanes
    double_buffered   a second weight register per element: the next tile loads while vectors stream
    target       "asic": products as sums of gated weights; "fpga": as `*`, for the device's multipliers. Both compute the same
    pipeline     registers on an element's way from its lane to its sum: 0; 1 behind the product; 2 also before it, behind the choice of
                 weight and shift. Each is one cycle later, for the whole array; with any, the output stage has three stages more
    segments     a tile may hold several whole channel vectors side by side, as its segments; the encoder is told where they start
    stalls       the whole array can be held still: by a clock enable, and by whoever takes its sums and t (hardware only; counts of
                 cycles are of an array that nobody holds)
    """

    format: Format = field(default_factory=Format)
    weight_bits: int = 8
    rows: int = 16
    columns: int = 16
    depth: int | None = None
    sum_bits: int | None = None
    double_buffered: bool = False
    segments: bool = False
    target: str = "asic"
    stalls: bool = False
    pipeline: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.format, Format):
            raise FormatError(f"ArrayConfig.format must be a Format, not {self.format!r}")
        _check_integer("weight_bits", self.weight_bits, 2, 8)
        _check_integer("rows", self.rows, 1, MAX_ROWS)
        _check_integer("columns", self.columns, 1, MAX_ROWS)
        _check_integer("pipeline", self.pipeline, 0, MAX_PIPELINE)
        if self.depth is not None:
            _check_integer("depth", self.depth, self.rows, 2**31 - 1)
        for name in ("double_buffered", "segments", "stalls"):
            if not isinstance(getattr(self, name), bool):
                raise FormatError(f"ArrayConfig.{name} must be True or False, not {getattr(self, name)!r}")
        if self.target not in TARGETS:
            raise FormatError(f"ArrayConfig.target must be one of {', '.join(TARGETS)}, not {self.target!r}")
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
    def edges(self) -> bool:
        """Whether the encoder has to know where segments start: the plain format crosses no lanes anyway."""
        return self.segments and self.format.cascade > 0

    @property
    def gap(self) -> int:
        """Idle cycles between two folds' vectors when double buffered: row k still needs row k-1's old weight for the vector before."""
        return int(self.format.cascade > 0)

    def depth_bits(self, depth: int) -> int:
        """Width of a partial sum over `depth` lanes, all tiles together."""
        return self.sum_bits or accumulator_bits(self.format, self.weight_bits, depth)

    @property
    def label(self) -> str:
        """The format's name and the weights' bits: "A4 plain W8", "A4 r3+f3 c4 W8 double-buffered"."""
        return f"{self.format.label} W{self.weight_bits}{' double-buffered' * self.double_buffered}{', stalls' * self.stalls}"


def encode_tile(row: Sequence[int | None], fmt: Format, starts: Sequence[int] = ()) -> list[Lane]:
    """The lanes of one tile.

    row      t per lane; None is a lane that is switched off: digit 0, OWN, wherever it stands; it serves nobody and nothing crosses it
    starts   lanes where a segment begins (whole pixels side by side in one tile): nothing crosses from the lane before
    """
    whole = fmt.with_(lanes=None)
    lanes: list[Lane] = []
    piece: list[int] = []
    for lane, t in enumerate([*row, None]):
        if piece and (t is None or lane in starts):
            lanes += encode(piece, whole)
            piece = []
        if t is None:
            lanes.append(Lane(0, State.OWN))
        else:
            piece.append(t)
    return lanes[: len(row)]


def _check_integer(name: str, value: object, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise FormatError(f"ArrayConfig.{name} must be an integer from {low} to {high}, not {value!r}")
