"""Recipe: how a whole model is quantized; a frozen value that goes to JSON and back."""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass, fields, replace
from fnmatch import fnmatchcase
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

from overq import calib
from overq.errors import FormatError, InputError
from overq.methods import Dynamic, Method, OverQ, Uniform, method_from_json, method_of, method_to_json
from overq.spec import Format

WEIGHT_BITS = (4, 8)
NEAREST, GPTQ = WEIGHT_ROUNDING = ("nearest", "gptq")
WIDEST = 4  # dead zone, in units of the rms
SOURCES = ("images", "statistics", "distilled")  # of steps: samples; or none: batch norm statistics, or images made from them


def check_calibration(method: Any, calibration: str) -> None:
    """FormatError where the method has no number format that the calibration could reach a clip point of."""
    if method.step_format(False) is None and calibration not in ("format-mse", "least-error"):
        raise FormatError(
            f'{method.describe()} finds its step by the least squared error of what it decodes (calibration "format-mse"); '
            f"{calibration!r} is for overq and uniform"
        )
    if isinstance(method, Dynamic) and method.group is not None and calibration in calib.WITH_WEIGHT:
        raise FormatError(f"calibration {calibration!r} weighs whole vectors by the weights that read them, not {method.rule}")


def _method(given: Any) -> Method:
    if isinstance(given, Format):
        return method_of(given)
    if not isinstance(given, Method):
        raise FormatError(f"a rule's method must be a Method or a Format, not {given!r}")
    return given


def _format(method: Any) -> Format:
    fmt = method.format(False)
    if fmt is None:
        raise FormatError(f"{method.describe()} has no number format of `overq.spec`")
    return fmt


Configured = TypeVar("Configured", bound=type)


def _old_keyword(cls: Configured) -> Configured:
    """`format=`, which `method` was called until version 0.1, works one release more."""
    made: Any = cls.__init__  # type: ignore[misc]

    @wraps(made)
    def init(self: Any, *args: Any, **named: Any) -> None:
        if "format" in named:
            if args or "method" in named:
                raise FormatError(f"{cls.__name__}: format is the old name of method; give one of them")
            warnings.warn(f"{cls.__name__}(format=…) is {cls.__name__}(method=…) now", DeprecationWarning, stacklevel=2)
            named["method"] = named.pop("format")
        made(self, *args, **named)

    cls.__init__ = init  # type: ignore[misc]
    return cls


@_old_keyword
@dataclass(frozen=True)
class LayerRule:
    """What one layer gets. A `Format` as method means the method of that format; `signed` is decided in calibration; `skip` leaves
    the layer in float; the rest as in `Recipe`."""

    method: Method | Format = OverQ()
    weight_bits: int = 8
    calibration: str = "format-mse"
    skip: bool = False
    reorder: bool = False
    equalize: float | str = 0.0
    rotate: bool = False
    range_bits: str | None = None
    weight_rounding: str = NEAREST
    shift: bool = False
    dead_zone: float | str = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "method", _method(self.method))
        if self.weight_rounding not in WEIGHT_ROUNDING:
            raise FormatError(f"weight_rounding must be {' or '.join(WEIGHT_ROUNDING)}, not {self.weight_rounding!r}")
        if self.range_bits not in (None, "auto"):
            raise FormatError(f'range_bits must be "auto", or None for those of the format, not {self.range_bits!r}')
        static = self.method.of if isinstance(self.method, Dynamic) else self.method
        if self.range_bits and not (isinstance(static, OverQ) and static.cascade):
            raise FormatError(f'range_bits="auto" chooses second digits, and {static.describe()} has none')  # type: ignore[union-attr]
        low, high = WEIGHT_BITS
        if isinstance(self.weight_bits, bool) or not isinstance(self.weight_bits, int) or not low <= self.weight_bits <= high:
            raise FormatError(f"weight_bits must be an integer from {low} to {high}, not {self.weight_bits!r}")
        for name in ("skip", "reorder", "rotate", "shift"):
            if not isinstance(getattr(self, name), bool):
                raise FormatError(f"{name} must be True or False, not {getattr(self, name)!r}")
        exponent = self.equalize if self.equalize not in ("auto", "smooth", "balanced") else 0
        if isinstance(exponent, (bool, str)) or not isinstance(exponent, (int, float)) or not 0 <= exponent <= 1:
            raise FormatError(f'equalize must be an exponent from 0 (off) to 1, "auto", "smooth" or "balanced", not {self.equalize!r}')
        width = self.dead_zone if self.dead_zone != "auto" else 0
        if isinstance(width, (bool, str)) or not isinstance(width, (int, float)) or not 0 <= width <= WIDEST:
            raise FormatError(f'dead_zone must be a part of the rms from 0 (off) to {WIDEST}, or "auto", not {self.dead_zone!r}')
        if not isinstance(self.calibration, str):
            raise FormatError(f"calibration must be a name, not {self.calibration!r}")
        calib.get(self.calibration)
        check_calibration(self.method, self.calibration)

    @property
    def format(self) -> Format:
        """The number format of the method, unsigned. FormatError where it has none."""
        return _format(self.method)

    @property
    def of_input(self) -> LayerRule:
        """What it says of the layer's input: layers that read one tensor have that in common."""
        return replace(self, weight_bits=8, weight_rounding=NEAREST)

    @property
    def untransformed(self) -> LayerRule:
        """As far as a product has it that is no layer: the values that its lanes get stay as they are."""
        return replace(self, reorder=False, equalize=0.0, rotate=False, shift=False, dead_zone=0.0)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**{f.name: getattr(self, f.name) for f in fields(self)}, "method": method_to_json(self.method)}  # type: ignore[arg-type]

    @classmethod
    def from_json(cls, data: Any) -> LayerRule:
        """The inverse of `to_json`; what is left out has its default, what is unknown is refused."""
        return cls(**_values(cls, data))


EDGE = LayerRule(Uniform(8), calibration="max")  # the design's rule for the first layer and the classifier


@_old_keyword
@dataclass(frozen=True)
class Recipe:
    """How `quantize` treats a model.

    method       of every layer's input, but for the rules below: one of `overq.methods`, or a Format for the method of that format
    weight_bits  4 to 8, symmetric, per output channel
    calibration  how a layer's step is chosen: a name in `overq.calib`. Methods without a number format find it with the least squared
                 error of what they decode, which is "least-error", and "format-mse" of a method that is no format
    first, last  rule for the first and the last layer reached (the classifier); None treats them like the others. The default's steps
                 are dynamic where the method's are, and by the same statistic
    overrides    (pattern, rule) pairs: layers whose dotted name matches the shell-style pattern get that rule; the last
                 match wins, also over `first` and `last`
    seed         of the calibration sample
    reorder      lay each layer's input channels on the lanes in an order that the method errs less on (see `nn.reorder`)
    equalize     exponent 0 to 1 of per-channel input scales folded into the weights, 0 is off; "auto": each layer's best, "smooth": as
                 SmoothQuant has it, "balanced": by rms values (`nn.equalize`)
    rotate       rotate each layer's input channels at run time, and its weights (see `nn.rotation`); edges as their rules say
    bias_correction  give every quantized layer's output, edges too, the float layer's mean and spread (see `nn.bias`)
    sequential   observe each layer behind the layers already quantized (see `nn.sequential`)
    products     rule for both factors of products of two activations, such as attention's (see `nn.sites`): their names are
                 "<module>.<product><n>.<factor>", for overrides. None leaves them float; weight_bits, range_bits, transforms: no effect
    range_bits   "auto": each layer takes the range_bits and fraction_bits of least output error of all that the array of the method's
                 format can hold: no more bits stored, no wider sums (see `nn.splits`); the edges keep their own
    weight_rounding  "nearest", or "gptq": each weight's error is made up for by weights still to be rounded (`nn.gptq`)
    shift        quantize vectors without the mean of all where that is nearer than zero, and where it makes the error of the layers'
                 outputs smaller (`nn.shift`); not in front of convolutions that pad or have groups
    dead_zone    make zeros of values below this part of the rms: of each vector where the method's steps are dynamic or by blocks, else of
                 the sample; "auto": the part of least error of the layers' outputs, often 0 (`nn.dead_zone`)
    source       "images": the samples that `quantize` gets; "statistics" or "distilled": what `overq.datafree.seen` gives without any
    """

    method: Method | Format = OverQ()
    weight_bits: int = 8
    calibration: str = "format-mse"
    first: LayerRule | None = EDGE
    last: LayerRule | None = EDGE
    overrides: tuple[tuple[str, LayerRule], ...] = ()
    seed: int = 0
    reorder: bool = False
    equalize: float | str = 0.0
    bias_correction: bool = False
    sequential: bool = False
    rotate: bool = False
    source: str = "images"
    products: LayerRule | None = None
    range_bits: str | None = None
    weight_rounding: str = NEAREST
    shift: bool = False
    dead_zone: float | str = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "method", _method(self.method))
        if self.source not in SOURCES:
            raise FormatError(f"a recipe's source must be one of {', '.join(SOURCES)}, not {self.source!r}")
        if not isinstance(self.overrides, list | tuple) or not all(isinstance(p, list | tuple) and len(p) == 2 for p in self.overrides):
            raise FormatError(f"Recipe.overrides holds (name pattern, LayerRule) pairs, not {self.overrides!r}")
        object.__setattr__(self, "overrides", tuple(tuple(pair) for pair in self.overrides))
        for pair in self.overrides:
            if not isinstance(pair[0], str) or not isinstance(pair[1], LayerRule):
                raise FormatError(f"Recipe.overrides holds (name pattern, LayerRule) pairs, not {pair!r}")
        for name in ("first", "last", "products"):
            if not isinstance(getattr(self, name), (LayerRule, type(None))):
                raise FormatError(f"Recipe.{name} must be a LayerRule or None, not {getattr(self, name)!r}")
            if name != "products" and isinstance(self.method, Dynamic) and getattr(self, name) == EDGE:
                object.__setattr__(self, name, replace(EDGE, method=Dynamic(Uniform(8), self.method.by, self.method.group)))
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or not 0 <= self.seed < 2**32:
            raise FormatError(f"seed must be a whole number from 0 to 2**32 - 1, not {self.seed!r}")
        for name in ("bias_correction", "sequential"):
            if not isinstance(getattr(self, name), bool):
                raise FormatError(f"{name} must be True or False, not {getattr(self, name)!r}")
        if self.sequential and GPTQ in (self.weight_rounding, *(rule.weight_rounding for _, rule in self.overrides)):
            raise FormatError("weight_rounding gptq takes the float network's inputs, so it does not go with sequential observation")
        if self.source == "statistics" and (self.sequential or self.bias_correction):
            raise FormatError('a recipe with source = "statistics" has no images, which sequential and bias_correction need')
        _ = self.default  # a LayerRule checks the fields it shares

    @property
    def default(self) -> LayerRule:
        shared = ("reorder", "equalize", "rotate", "range_bits", "weight_rounding", "shift", "dead_zone")
        return LayerRule(self.method, self.weight_bits, self.calibration, **{name: getattr(self, name) for name in shared})

    @property
    def format(self) -> Format:
        """The number format of the method, unsigned. FormatError where it has none."""
        return _format(self.method)

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

    def of_product(self, name: str) -> LayerRule:
        """The rule of a factor of a product of two activations. FormatError where its calibration needs weights."""
        assert self.products is not None
        rule = self.products
        for pattern, override in self.overrides:
            if fnmatchcase(name, pattern):
                rule = override
        if rule.calibration in calib.WITH_WEIGHT:
            raise FormatError(f"{name!r} is multiplied with activations, and calibration {rule.calibration!r} needs weights")
        return replace(rule.untransformed, weight_bits=8, range_bits=None, weight_rounding=NEAREST)

    def rules(self, names: list[str]) -> dict[str, LayerRule]:
        """The rule of each of the layers reached, given in the order in which they run."""
        return {name: self.rule(name, first=name == names[0], last=name == names[-1]) for name in names}

    def unmatched(self, names: list[str]) -> list[str]:
        """Override patterns that match none of `names`: most likely a misspelling."""
        return [pattern for pattern, _ in self.overrides if not any(fnmatchcase(name, pattern) for name in names)]

    def with_(self, **changes: Any) -> Recipe:
        """A copy with some fields changed, checked again."""
        return type(self)(
            **{**{f.name: getattr(self, f.name) for f in fields(self) if f.name != "method" or "format" not in changes}, **changes}
        )

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        edges = {edge: None if (rule := getattr(self, edge)) is None else rule.to_json() for edge in ("first", "last", "products")}
        method, rules = method_to_json(self.method), [[pattern, rule.to_json()] for pattern, rule in self.overrides]  # type: ignore[arg-type]
        return {**{f.name: getattr(self, f.name) for f in fields(self)}, "method": method, **edges, "overrides": rules}

    @classmethod
    def from_json(cls, data: Any) -> Recipe:
        """The inverse of `to_json`; what is left out has its default, what is unknown is refused (FormatError)."""
        values = _values(cls, data)
        for edge in ("first", "last", "products"):
            if values.get(edge) is not None:
                values[edge] = LayerRule.from_json(values[edge])
        overrides = values.get("overrides", [])
        if not isinstance(overrides, (list, tuple)) or not all(isinstance(pair, (list, tuple)) and len(pair) == 2 for pair in overrides):
            raise FormatError(f"a recipe's overrides are a list of [name pattern, rule] pairs, not {overrides!r}")
        values["overrides"] = tuple((pattern, LayerRule.from_json(rule)) for pattern, rule in overrides)
        return cls(**values)


def read_recipe(path: Path) -> Recipe:
    """The recipe of a JSON file. InputError, FormatError in one line."""
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: not a readable JSON file: {error}") from error
    try:
        return Recipe.from_json(data)
    except FormatError as error:
        raise FormatError(f"{path}: {error}") from error


def _values(cls: type, data: Any) -> dict[str, Any]:
    """Keywords for the dataclass; `format`, as recipes had it before they held a method, counts as the method of that format."""
    if not isinstance(data, dict):
        raise FormatError(f"a {cls.__name__} is an object with keys, not {data!r}")
    values = dict(data)
    known = [f.name for f in fields(cls)]
    if "format" in values and "method" not in values:
        values["method"] = method_of(Format.from_json(values.pop("format")))
    elif "method" in values:
        values["method"] = method_from_json(values["method"])
    if odd := sorted(values.keys() - set(known)):
        raise FormatError(f"a {cls.__name__} has no key {odd[0]!r}; there are {', '.join(known)}")
    return values
