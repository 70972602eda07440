"""A study, declared: networks × settings (of methods and of recipes) × data shards. Read from TOML, or built in Python."""

from __future__ import annotations

import itertools
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from overq.errors import FormatError, InputError
from overq.methods import METHODS
from overq.study.recipes import canonical, recipe_of

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PLAIN_BITS = (3, 4, 5, 6, 7, 8)  # always in a study, so that every plot has its baseline
CORRECTION = "bias_correction"  # a parameter that every method takes: not its own, see `nn.bias`
RECIPE = "recipe"  # in place of a method's name: the parameters are a recipe's, for `overq.quantize`


@dataclass(frozen=True)
class Network:
    """A network and its data.

    model, weights            as for `overq evaluate --model`, `--weights`
    images, labels            as there; images = "digits" are the built-in ones
    calibration               unlabelled images; "digits" for the built-in ones
    resize, crop, mean, std   preprocessing; 0 leaves the size
    """

    name: str
    model: str
    images: str
    calibration: str
    weights: str = ""
    labels: str = ""
    resize: int = 0
    crop: int = 0
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Setting:
    """A method with parameters (name, value) and its weight bits.

    method "float" leaves the network as it is, "recipe" stands for `overq.quantize` with the recipe that the parameters spell.
    """

    method: str
    parameters: tuple[tuple[str, Any], ...] = ()
    weight_bits: int = 32

    def __post_init__(self) -> None:
        if self.method == RECIPE:
            recipe_of(dict(self.parameters), self.weight_bits)
        elif self.method != "float":
            self.build()

    def build(self) -> Any:
        """The Method; FormatError where name or parameters do not exist."""
        parameters = dict(self.parameters)
        if not isinstance(parameters.pop(CORRECTION, False), bool):
            raise FormatError(f"{CORRECTION} must be true or false, not {dict(self.parameters)[CORRECTION]!r}")
        if self.method not in METHODS:
            raise FormatError(f"no method {self.method!r}; there are {', '.join(METHODS)}")
        try:
            return METHODS[self.method](**parameters)
        except TypeError as error:
            known = ", ".join([*(f.name for f in fields(METHODS[self.method])), CORRECTION])
            raise FormatError(f"method {self.method!r} has the parameters {known}: {error}") from error

    @property
    def family(self) -> str:
        """What a plot gives one colour: the method, or which kind of recipe."""
        if self.method != RECIPE:
            return self.method
        return "plain_recipe" if dict(self.parameters).get("cascade") == 0 else "overq_recipe"

    @property
    def label(self) -> str:
        """How the setting is named on the command line and in tables, e.g. overq:bits=4,cascade=2:W8."""
        if self.method == "float":
            return "float"
        return f"{self.method}:{','.join(f'{k}={_plain(v)}' for k, v in self.parameters)}:W{self.weight_bits}"


@dataclass(frozen=True)
class Study:
    """`limit` images (0: all), evenly spread, dealt to `shards`; `samples` calibration images (0: all)."""

    name: str
    networks: tuple[Network, ...]
    settings: tuple[Setting, ...]
    shards: int = 1
    limit: int = 0
    samples: int = 256
    batch_size: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("shards", 1), ("limit", 0), ("samples", 0), ("batch_size", 1), ("seed", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise InputError(f"a study's {name} must be a whole number from {least} on, not {value!r}")
        if not self.networks:
            raise InputError("a study needs at least one network")
        if len({n.name for n in self.networks}) < len(self.networks):
            raise InputError("two networks of a study have the same name")


def read(path: Path) -> Study:
    """The study of a TOML file; relative paths in it are relative to the file. InputError, FormatError in one line."""
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"{path}: not a readable TOML file: {error}") from error
    try:
        widths = data.pop("weight_bits", [8])
        tables = {name: _tables(data, name) for name in ("networks", "methods", "recipes")}
        if not tables["methods"] and not tables["recipes"]:
            raise InputError("a study needs at least one of [[methods]] or [[recipes]]")
        corrected = data.pop(CORRECTION, False)
        settings = expand(tables["methods"], tuple(widths) if isinstance(widths, list) else (widths,), tables["recipes"], corrected)
        networks = tuple(_network(entry, path.parent) for entry in tables["networks"])
        study = Study(networks=networks, settings=settings, **{"name": path.stem, **data})
    except KeyError as missing:
        raise InputError(f"{path}: a study needs {missing}") from None
    except TypeError as error:
        raise InputError(f"{path}: {_unknown_key(error)}") from error
    except (InputError, FormatError) as error:
        raise type(error)(f"{path}: {error}") from error
    return study


def expand(
    methods: list[dict[str, Any]], widths: tuple[int, ...], recipes: Sequence[dict[str, Any]] = (), corrected: bool | list[bool] = False
) -> tuple[Setting, ...]:
    """float, plain A3 … A8, then every combination of the listed values; each once, weight widths side by side.

    corrected: whether methods get bias correction where their table does not say; a list runs both.
    """
    rivals = [{**entry, CORRECTION: entry.get(CORRECTION, corrected)} for entry in ({"method": "uniform", "bits": [*PLAIN_BITS]}, *methods)]
    wanted = [*rivals, *({**entry, "method": RECIPE} for entry in recipes)]
    found = {Setting("float"): None}
    for entry in wanted:
        lists = {key: value if isinstance(value, list) else [value] for key, value in entry.items() if key != "method"}
        for *values, width in itertools.product(*lists.values(), widths):
            parameters = dict(zip(lists, values, strict=True))
            if entry["method"] == RECIPE:
                parameters = canonical(parameters)
            elif parameters[CORRECTION] is False:
                del parameters[CORRECTION]
            found[Setting(entry["method"], tuple(parameters.items()), width)] = None
    return tuple(found)


def _tables(data: dict[str, Any], name: str) -> list[dict[str, Any]]:
    tables = data.pop(name, [])
    if not isinstance(tables, list) or not all(isinstance(entry, dict) for entry in tables):
        raise InputError(f"{name} must be tables, each written below a line [[{name}]]")
    return tables


def _plain(value: Any) -> Any:
    """As TOML spells it."""
    return str(value).lower() if isinstance(value, bool) else value


def _unknown_key(error: TypeError) -> str:
    """Python's words for a keyword that a dataclass lacks, or one that it needs, in the file's."""
    return re.sub(r"(\w+)\.__init__\(\) (got an unexpected keyword argument|missing \d+ required \w+ arguments?:)", _words, str(error))


def _words(match: re.Match[str]) -> str:
    return f"a {match[1].lower()} {'has no key' if match[2].startswith('got') else 'needs the keys'}"


def _network(entry: dict[str, Any], base: Path) -> Network:
    entry = dict(entry)
    for key in ("images", "calibration", "labels", "weights"):
        if entry.get(key) and entry[key] != "digits":
            entry[key] = str((base / entry[key]).resolve())
    source, _, factory = entry["model"].rpartition(":")
    if source.endswith(".py"):
        entry["model"] = f"{(base / source).resolve()}:{factory}"
    for key in ("mean", "std"):
        if key in entry:
            entry[key] = tuple(entry[key])
    return Network(**entry)
