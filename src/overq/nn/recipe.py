"""Recipe: how a whole model is quantized; a frozen value that goes to JSON and back."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from fnmatch import fnmatchcase
from typing import Any

from overq import calib
from overq.errors import FormatError
from overq.spec import Format

WEIGHT_BITS = (4, 8)


@dataclass(frozen=True)
class LayerRule:
    """What one layer gets. `format.signed` is decided in calibration; `skip` leaves the layer in float; the rest as in `Recipe`."""

    format: Format = Format()
    weight_bits: int = 8
    calibration: str = "format-mse"
    skip: bool = False
    reorder: bool = False
    equalize: float | str = 0.0

    def __post_init__(self) -> None:
        if not isinstance(self.format, Format):
            raise FormatError(f"a rule's format must be a Format, not {self.format!r}")
        low, high = WEIGHT_BITS
        if isinstance(self.weight_bits, bool) or not isinstance(self.weight_bits, int) or not low <= self.weight_bits <= high:
            raise FormatError(f"weight_bits must be an integer from {low} to {high}, not {self.weight_bits!r}")
        if not isinstance(self.reorder, bool):
            raise FormatError(f"reorder must be True or False, not {self.reorder!r}")
        exponent = self.equalize if self.equalize != "auto" else 0
        if isinstance(exponent, (bool, str)) or not isinstance(exponent, (int, float)) or not 0 <= exponent <= 1:
            raise FormatError(f'equalize must be an exponent from 0 (off) to 1 or "auto", not {self.equalize!r}')
        calib.get(self.calibration)


EDGE = LayerRule(Format.plain(8), calibration="max")  # the design's rule for the first layer and the classifier


@dataclass(frozen=True)
class Recipe:
    """How `quantize` treats a model.

    format       of every layer's input, but for the rules below
    weight_bits  4 to 8, symmetric, per output channel
    calibration  how a layer's step is chosen: a name in `overq.calib.CALIBRATORS`
    first, last  rule for the first and the last layer reached (the classifier); None treats them like the others
    overrides    (pattern, rule) pairs: layers whose dotted name matches the shell-style pattern get that rule; the last
                 match wins, also over `first` and `last`
    seed         of the calibration sample
    reorder      lay each layer's input channels on the lanes in an order that raises coverage (see `nn.reorder`)
    equalize     exponent 0 to 1 of per-channel input scales folded into the weights, 0 is off; "auto": each layer's best (`nn.equalize`)
    bias_correction  give every quantized layer's output, edges too, the float layer's mean and spread (see `nn.bias`)
    """

    format: Format = Format()
    weight_bits: int = 8
    calibration: str = "format-mse"
    first: LayerRule | None = EDGE
    last: LayerRule | None = EDGE
    overrides: tuple[tuple[str, LayerRule], ...] = ()
    seed: int = 0
    reorder: bool = False
    equalize: float | str = 0.0
    bias_correction: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.overrides, list | tuple) or not all(isinstance(p, list | tuple) and len(p) == 2 for p in self.overrides):
            raise FormatError(f"Recipe.overrides holds (name pattern, LayerRule) pairs, not {self.overrides!r}")
        object.__setattr__(self, "overrides", tuple((pattern, rule) for pattern, rule in self.overrides))
        for edge in (self.first, self.last):
            if edge is not None and not isinstance(edge, LayerRule):
                raise FormatError(f"Recipe.first and Recipe.last are LayerRules or None, not {edge!r}")
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or not 0 <= self.seed < 2**32:
            raise FormatError(f"seed must be a whole number from 0 to 2**32 - 1, not {self.seed!r}")
        for pattern, rule in self.overrides:
            if not isinstance(pattern, str) or not isinstance(rule, LayerRule):
                raise FormatError(f"Recipe.overrides holds (name pattern, LayerRule) pairs, not {(pattern, rule)!r}")
        if not isinstance(self.bias_correction, bool):
            raise FormatError(f"bias_correction must be True or False, not {self.bias_correction!r}")
        _ = self.default  # a LayerRule checks the fields it shares

    @property
    def default(self) -> LayerRule:
        return LayerRule(self.format, self.weight_bits, self.calibration, reorder=self.reorder, equalize=self.equalize)

    def rule(self, name: str, *, first: bool = False, last: bool = False) -> LayerRule:
        """The rule of the layer with that dotted name."""
        rule = self.default
        if first and self.first is not None:
            rule = self.first
        elif last and self.last is not None:
            rule = self.last
        for pattern, override in self.overrides:
            if fnmatchcase(name, pattern):
                rule = override
        return rule

    def unmatched(self, names: list[str]) -> list[str]:
        """Override patterns that match none of `names`: most likely a misspelling."""
        return [pattern for pattern, _ in self.overrides if not any(fnmatchcase(name, pattern) for name in names)]

    def with_(self, **changes: Any) -> Recipe:
        """A copy with some fields changed, checked again."""
        return replace(self, **changes)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Recipe:
        """The inverse of `to_json`; unknown or missing fields are refused."""
        values = dict(_checked(cls, data))
        values["format"] = Format.from_json(values["format"])
        for edge in ("first", "last"):
            values[edge] = None if values[edge] is None else _rule(values[edge])
        try:
            values["overrides"] = tuple((pattern, _rule(rule)) for pattern, rule in values["overrides"])
        except (TypeError, ValueError) as error:
            if isinstance(error, FormatError):
                raise
            raise FormatError(f"Recipe.overrides holds (name pattern, rule) pairs, not {values['overrides']!r}") from None
        return cls(**values)


def _rule(data: dict[str, Any]) -> LayerRule:
    values = dict(_checked(LayerRule, data))
    return LayerRule(**{**values, "format": Format.from_json(values["format"])})


def _checked(cls: type, data: dict[str, Any]) -> dict[str, Any]:
    wanted = {f.name for f in fields(cls)}
    if not isinstance(data, dict) or set(data) != wanted:
        got = sorted(data) if isinstance(data, dict) else data
        raise FormatError(f"{cls.__name__} needs exactly the fields {sorted(wanted)}, got {got}")
    return data
