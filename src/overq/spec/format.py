"""Format: every choice that fixes what one row of activations looks like on the lanes (design, section 1)."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from overq.errors import FormatError
from overq.spec.modes import MODES, State

POLICIES = ("first", "largest")
FULL = {"range_overwrite": "range_bits", "precision_overwrite": "fraction_bits"}  # old switches: True meant all b bits


@dataclass(frozen=True, init=False)
class Format:
    """The OverQ number format of one activation tensor.

    bits           b, bits of one digit, 2 to 8
    cascade        c, how many lanes before a zero it may serve, 0 to 16; 0 is plain quantization
    range_bits     r, bits of the high digit that an outlier may put on a zero's lane, 0 (never) to b; signed: 0 or 2 to b
    fraction_bits  f, bits of the fraction that a normal value may put there, 0 (never) to b
    policy         which value a zero serves: "first" (farthest outlier) or "largest" (worst represented)
    signed         digits -2^(b-1) … 2^(b-1)-1 instead of 0 … 2^b-1
    lanes          rows of one tile; None is the whole channel vector
    evict          greatest level |n| of a normal value that gives way to an outlier which no zero serves, 0 (none) to 3

    Left out, r and f are `second_bits(bits, signed)`; with cascade = 0 both are 0. Fields hold what is in force, so formats that
    mean the same are equal, however they were written.
    """

    bits: int
    cascade: int
    range_bits: int
    fraction_bits: int
    policy: str
    signed: bool
    lanes: int | None
    evict: int = 0

    def __init__(
        self,
        bits: int = 4,
        cascade: int = 4,
        range_bits: int | None = None,
        fraction_bits: int | None = None,
        policy: str = "first",
        signed: bool = False,
        lanes: int | None = None,
        evict: int = 0,
        **old: bool,
    ) -> None:
        seconds = {"range_bits": range_bits, "fraction_bits": fraction_bits}
        if old or any(isinstance(value, bool) for value in seconds.values()):
            seconds = _from_switches(bits, seconds, old)
        _check_integer("bits", bits, 2, 8)
        _check_integer("cascade", cascade, 0, 16)
        if not isinstance(signed, bool):
            raise FormatError(f"Format.signed must be True or False, not {signed!r}")
        if policy not in POLICIES:
            raise FormatError(f"Format.policy must be one of {', '.join(POLICIES)}, not {policy!r}")
        if lanes is not None:
            _check_integer("lanes", lanes, 1, 2**31 - 1)
        _check_integer("evict", evict, 0, 3)
        for name, value in seconds.items():
            if value is not None:
                _check_integer(name, value, 0, bits)
        if signed and seconds["range_bits"] == 1:
            raise FormatError("Format.range_bits is 1 but signed: a high digit of one bit has no positive value; use 0, or 2 or more")
        ready = {name: second_bits(bits, signed) if value is None else value for name, value in seconds.items()}
        if not cascade:
            ready = dict.fromkeys(ready, 0)
        elif not any(ready.values()):
            raise FormatError(
                f"Format.cascade is {cascade} but range_bits and fraction_bits are both 0: "
                "give one of them bits, or use cascade=0 for plain quantization"
            )
        elif lanes == 1:
            raise FormatError(
                f"Format.lanes is 1 but cascade is {cascade}: a one-lane tile has no neighbour to overwrite; use cascade=0 or more lanes"
            )
        if not ready["range_bits"]:
            evict = 0  # nothing to give way to
        values: dict[str, Any] = {
            "bits": bits,
            "cascade": cascade,
            **ready,
            "policy": policy,
            "signed": signed,
            "lanes": lanes,
            "evict": evict,
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)

    @classmethod
    def plain(cls, bits: int, signed: bool = False) -> Format:
        """Ordinary uniform quantization: nothing is ever overwritten."""
        return cls(bits, cascade=0, signed=signed)

    def with_(self, **changes: Any) -> Format:
        """A copy with some fields changed, checked again.

        What a changed field would make illegal or pointless follows it, unless it is named too: with other `bits`, a second digit
        keeps as many bits fewer than b as it had (but one, signed range two, at least); `signed` makes a high digit of one bit two
        wide; cascading switched on gives a plain format the second digits that it has by default.
        """
        values: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)} | changes
        old = FULL.keys() & changes.keys()
        named = changes.keys() | {FULL[name] for name in old}
        for name in ("range_bits", "fraction_bits"):
            if name in named:
                if name not in changes:
                    values[name] = None  # an old switch says it
            elif not self.cascade:
                values[name] = None
            elif getattr(self, name):
                least = 2 if name == "range_bits" and values["signed"] is True else 1
                spare = self.bits - getattr(self, name)
                if isinstance(values["bits"], int):
                    values[name] = max(least, values["bits"] - spare)
        return Format(**values)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; `evict` only where it is on, as formats were written before there was one."""
        values = asdict(self)
        return values if self.evict else {name: value for name, value in values.items() if name != "evict"}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Format:
        """The inverse of `to_json`; also reads what was written before r and f: switches, where True meant all b bits.

        Unknown or missing fields are refused."""
        wanted = [f.name for f in fields(cls)]
        if not isinstance(data, Mapping):
            raise FormatError(f"a Format needs the fields {wanted}, got {data!r}")
        values = dict(data)
        if FULL.keys() <= values.keys():
            for old, new in FULL.items():
                switch = values.pop(old)
                if not isinstance(switch, bool):
                    raise FormatError(f"Format.{old} must be True or False, not {switch!r}")
                values[new] = values.get("bits", 0) if switch else 0
        values.setdefault("evict", 0)
        if values.keys() != set(wanted):
            raise FormatError(f"a Format needs exactly the fields {sorted(wanted)}, got {sorted(data)}")
        return cls(**values)

    # What can happen ---------------------------------------------------------------------------------

    @property
    def range_on(self) -> bool:
        """Whether an outlier can be served at all."""
        return self.range_bits > 0

    @property
    def precision_on(self) -> bool:
        """Whether fraction digits can occur."""
        return self.fraction_bits > 0

    @property
    def modes(self) -> tuple[str, ...]:
        """Names in `MODES` that this format uses."""
        used = {"range": self.range_on, "precision": self.precision_on}
        return tuple(name for name in MODES if used[name])

    @property
    def states(self) -> tuple[State, ...]:
        """The states that can occur, lowest code first."""
        possible = {State.OWN} | {MODES[name].state for name in self.modes}
        # Precision under `first` serves only the lane next door; every other case moves lanes once c > 1.
        if self.cascade > 1 and (self.range_on or self.policy == "largest"):
            possible.add(State.MOVED)
        return tuple(sorted(possible))

    @property
    def kind(self) -> str:
        """Where a second digit's kind stands: "known" (at most one mode is on), "digit" (its top bit), "pair" (a bit for two lanes)."""
        if not (self.range_on and self.precision_on):
            return "known"
        return "digit" if self.range_bits < self.bits and self.fraction_bits < self.bits else "pair"

    @property
    def state_bits(self) -> float:
        """Bits a lane stores and moves beside its digit: 0 (plain), 1, or 1.5 where each pair of lanes needs a kind bit (section 1.4)."""
        return 0 if not self.cascade else 1.5 if self.kind == "pair" else 1

    @property
    def label(self) -> str:
        """The one name of a format: "A4 plain", "A4 r3+f3 c4", "A4s r4 c8 largest tile16", "A4s r3+f3 c8 evict2"."""
        name = f"A{self.bits}{'s' * self.signed}"
        seconds = [f"{letter}{bits}" for letter, bits in (("r", self.range_bits), ("f", self.fraction_bits)) if bits]
        parts = [name, "+".join(seconds), f"c{self.cascade}"] if seconds else [name, "plain"]
        parts += ["largest"] * (self.policy == "largest" and self.cascade > 0) + [f"evict{self.evict}"] * (self.evict > 0)
        return " ".join([*parts, *([] if self.lanes is None else [f"tile{self.lanes}"])])

    # Numbers -----------------------------------------------------------------------------------------

    @property
    def base(self) -> int:
        """2^b, the weight of a high digit and the number of digits."""
        return 1 << self.bits

    @property
    def unit(self) -> int:
        """2^(f+1): the step in units of t."""
        return 2 << self.fraction_bits

    @property
    def digit_min(self) -> int:
        return -(self.base // 2) if self.signed else 0

    @property
    def digit_max(self) -> int:
        return self.digit_min + self.base - 1

    @property
    def wide_min(self) -> int:
        """W_min, the least level: low and high digit least."""
        return self.digit_min + (_payload(self.range_bits, self.signed)[0] << self.bits)

    @property
    def wide_max(self) -> int:
        """W_max: low and high digit greatest."""
        return self.digit_max + (_payload(self.range_bits, self.signed)[1] << self.bits)

    @property
    def fine_min(self) -> int:
        """The least that a whole and a fraction digit spell, in units of step / 2^f."""
        return (self.digit_min << self.fraction_bits) + _payload(self.fraction_bits, self.signed)[0]

    @property
    def fine_max(self) -> int:
        """The greatest."""
        return (self.digit_max << self.fraction_bits) + _payload(self.fraction_bits, self.signed)[1]

    @property
    def t_min(self) -> int:
        """Least input of the encoder; t has f+1 fraction bits."""
        return self.wide_min * self.unit

    @property
    def t_max(self) -> int:
        """Greatest input of the encoder."""
        return self.wide_max * self.unit


def second_bits(bits: int, signed: bool) -> int:
    """r and f where nobody says otherwise: one bit less than a digit, so that the state is one bit. Against full digits that loses
    little (docs/format.md). A signed high digit needs two bits."""
    return max(bits - 1, 1 + signed)


def _payload(bits: int, signed: bool) -> tuple[int, int]:
    """Least and greatest number of that many bits; two's complement where signed. Of no bits: 0."""
    if not bits:
        return 0, 0
    low = -(1 << bits - 1) if signed else 0
    return low, low + (1 << bits) - 1


def _from_switches(bits: int, seconds: dict[str, Any], old: Mapping[str, Any]) -> dict[str, Any]:
    """r and f from the switches that were there before them: True is all b bits, False none, and nothing said was True."""
    unknown = sorted(old.keys() - FULL.keys())
    if unknown:
        raise TypeError(f"Format has no field {unknown[0]!r}; there are {', '.join(f.name for f in fields(Format))}")
    warnings.warn(
        "Format's range_overwrite and precision_overwrite are now range_bits and fraction_bits: bits of a second digit, 0 is off",
        DeprecationWarning,
        stacklevel=3,
    )
    found = {}
    for switch, name in FULL.items():
        given, value = old.get(switch), seconds[name]
        if switch in old and value is not None:
            raise FormatError(f"Format.{name} and its old name {switch} are both given: leave out {switch}")
        if switch in old and not isinstance(given, bool):
            raise FormatError(f"Format.{switch} must be True or False, not {given!r}")
        on = value if isinstance(value, bool) else given
        found[name] = value if value is not None and not isinstance(value, bool) else bits if on is not False else 0
    return found


def _check_integer(name: str, value: object, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise FormatError(f"Format.{name} must be an integer from {low} to {high}, not {value!r}")
