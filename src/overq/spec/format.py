"""Format: every choice that fixes what one row of activations looks like on the lanes (design, section 1)."""

from __future__ import annotations

from dataclasses import dataclass, replace

from overq.errors import FormatError
from overq.spec.modes import MODES, State

POLICIES = ("first", "largest")


@dataclass(frozen=True)
class Format:
    """The OverQ number format of one activation tensor.

    bits                b, bits of one digit, 2 to 8
    cascade             c, how many lanes before a zero it may serve, 0 to 16; 0 is plain quantization
    range_overwrite     an outlier may take a zero's lane as its high digit
    precision_overwrite a normal value may take a zero's lane as its fraction digit
    policy              which value a zero serves: "first" (farthest outlier) or "largest" (worst represented)
    signed              digits -2^(b-1) … 2^(b-1)-1 instead of 0 … 2^b-1
    lanes               rows of one tile; None is the whole channel vector
    """

    bits: int = 4
    cascade: int = 4
    range_overwrite: bool = True
    precision_overwrite: bool = True
    policy: str = "first"
    signed: bool = False
    lanes: int | None = None

    def __post_init__(self) -> None:
        _check_integer("bits", self.bits, 2, 8)
        _check_integer("cascade", self.cascade, 0, 16)
        for name in ("range_overwrite", "precision_overwrite", "signed"):
            if not isinstance(getattr(self, name), bool):
                raise FormatError(f"Format.{name} must be True or False, not {getattr(self, name)!r}")
        if self.policy not in POLICIES:
            raise FormatError(f"Format.policy must be one of {', '.join(POLICIES)}, not {self.policy!r}")
        if self.lanes is not None:
            _check_integer("lanes", self.lanes, 1, 2**31 - 1)
        if self.cascade and not self.modes:
            raise FormatError(
                f"Format.cascade is {self.cascade} but range_overwrite and precision_overwrite are both off: "
                "turn one on, or use cascade=0 for plain quantization"
            )
        if self.cascade and self.lanes == 1:
            raise FormatError(
                f"Format.lanes is 1 but cascade is {self.cascade}: a one-lane tile has no neighbour to overwrite; "
                "use cascade=0 or more lanes"
            )

    @classmethod
    def plain(cls, bits: int, signed: bool = False) -> Format:
        """Ordinary uniform quantization: nothing is ever overwritten."""
        return cls(bits, cascade=0, range_overwrite=False, precision_overwrite=False, signed=signed)

    def with_(self, **changes: object) -> Format:
        """A copy with some fields changed, checked again."""
        return replace(self, **changes)  # type: ignore[arg-type]

    # What can happen ---------------------------------------------------------------------------------

    @property
    def range_on(self) -> bool:
        """Whether an outlier can be served at all."""
        return self.cascade > 0 and self.range_overwrite

    @property
    def precision_on(self) -> bool:
        """Whether fraction digits can occur; the accumulator then carries b fraction bits."""
        return self.cascade > 0 and self.precision_overwrite

    @property
    def modes(self) -> tuple[str, ...]:
        """Names in `MODES` that this format uses."""
        used = {"range": self.range_overwrite, "precision": self.precision_overwrite}
        return tuple(name for name in MODES if self.cascade > 0 and used[name])

    @property
    def states(self) -> tuple[State, ...]:
        """The states that can occur, lowest code first; their number fixes the state bits on the bus."""
        possible = {State.OWN} | {MODES[name].state for name in self.modes}
        # Precision under `first` serves only the lane next door; every other case moves lanes once c > 1.
        if self.cascade > 1 and (self.range_on or self.policy == "largest"):
            possible.add(State.MOVED)
        return tuple(sorted(possible))

    @property
    def state_bits(self) -> int:
        """0 for plain, 1 where a lane is either its own or one other thing, else 2."""
        return (len(self.states) - 1).bit_length()

    # Numbers -----------------------------------------------------------------------------------------

    @property
    def base(self) -> int:
        """2^b, the weight of a high digit and the number of digits."""
        return 1 << self.bits

    @property
    def digit_min(self) -> int:
        return -(self.base // 2) if self.signed else 0

    @property
    def digit_max(self) -> int:
        return self.digit_min + self.base - 1

    @property
    def wide_min(self) -> int:
        """W_min: both digits least."""
        return self.digit_min * (self.base + 1)

    @property
    def wide_max(self) -> int:
        """W_max: both digits greatest."""
        return self.digit_max * (self.base + 1)

    @property
    def t_min(self) -> int:
        """Least input of the encoder; t has b+1 fraction bits."""
        return self.wide_min << (self.bits + 1)

    @property
    def t_max(self) -> int:
        """Greatest input of the encoder."""
        return self.wide_max << (self.bits + 1)


def _check_integer(name: str, value: object, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise FormatError(f"Format.{name} must be an integer from {low} to {high}, not {value!r}")
