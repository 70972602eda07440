"""A study, declared: networks × settings (of methods and of recipes) × data shards. Read from TOML, or built in Python."""

from __future__ import annotations

import itertools
import json
import math
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from overq.errors import FormatError, InputError
from overq.nn.recipe import WEIGHT_BITS, Recipe, read_recipe
from overq.study.data import Preprocess
from overq.study.measure import MEASURES, check_measure
from overq.study.recipes import FILE, JSON, RECIPE, canonical, lean, recipe_of

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PLAIN_BITS = (3, 4, 5, 6, 7, 8)  # in a study that does not say otherwise, so that every plot has its baseline
CORRECTION = "bias_correction"
MOST_CELLS = 10**6
MOST = 2**63 - 1  # of a whole number in a study file; TOML itself has no limit


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

    def __post_init__(self) -> None:
        for name in ("name", "model", "images", "calibration", "weights", "labels"):
            if not isinstance(getattr(self, name), str):
                raise InputError(f"a network's {name} must be text, not {getattr(self, name)!r}")
        for name in ("resize", "crop"):
            _whole(f"a network's {name}", getattr(self, name), 0)
        _ = self.preprocess  # checks mean and std

    @property
    def preprocess(self) -> Preprocess:
        return Preprocess(self.resize or None, self.crop or None, self.mean, self.std)


@dataclass(frozen=True)
class Setting:
    """A recipe, spelled: a method, parameters (name, value) of it and of the recipe, weight bits.

    method "float" leaves the network as it is; "recipe": the parameters spell a number format.
    """

    method: str
    parameters: tuple[tuple[str, Any], ...] = ()
    weight_bits: int = 32

    def __post_init__(self) -> None:
        if self.method == "float":
            return
        low, high = WEIGHT_BITS
        if isinstance(self.weight_bits, bool) or not isinstance(self.weight_bits, int) or not low <= self.weight_bits <= high:
            raise FormatError(f"weight_bits must be whole numbers from {low} to {high}, not {self.weight_bits!r}")
        for name, value in (("method", self.method), *self.parameters):
            if not isinstance(value, (bool, int, float, str)):
                raise FormatError(f"{name} must be one value or a list of values, not {value!r}")
        _ = self.recipe()  # checks them

    def recipe(self, seed: int = 0) -> Recipe:
        """What `overq.quantize` gets; FormatError where method or parameters do not exist, InputError of float."""
        if self.method == "float":
            raise InputError("float is no recipe")
        return recipe_of(dict(self.parameters), self.weight_bits, seed, self.method)

    @property
    def family(self) -> str:
        """What a plot gives one colour: the method, or which kind of recipe."""
        if self.method != RECIPE:
            return self.method
        if "budget" in dict(self.parameters):
            return "mixed_recipe"
        fmt = self.recipe().method.step_format(False)  # type: ignore[union-attr]  # a recipe turns formats into methods
        return "rival_recipe" if fmt is None else "overq_recipe" if fmt.cascade else "plain_recipe"

    @property
    def label(self) -> str:
        """How the setting is named on the command line and in tables, e.g. overq:bits=4,cascade=2:W8."""
        if self.method == "float":
            return "float"
        return f"{self.method}:{','.join(f'{k}={_plain(v)}' for k, v in self.parameters if k != JSON)}:W{self.weight_bits}"


@dataclass(frozen=True)
class Study:
    """`limit` images (0: all), evenly spread, their batches dealt to `shards`; `samples` calibration images (0: all).

    measures  what is measured: names in `measure.MEASURES`, or file.py:function
    """

    name: str
    networks: tuple[Network, ...]
    settings: tuple[Setting, ...]
    shards: int = 1
    limit: int = 0
    samples: int = 256
    batch_size: int = 64
    seed: int = 0
    measures: tuple[str, ...] = MEASURES

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise InputError(f"a study's name must be text, not {self.name!r}")
        for name, least in (("shards", 1), ("limit", 0), ("samples", 0), ("batch_size", 1), ("seed", 0)):
            _whole(f"a study's {name}", getattr(self, name), least, 2**32 - 1 if name == "seed" else MOST)
        if not self.networks:
            raise InputError("a study needs at least one network")
        if len({n.name for n in self.networks}) < len(self.networks):
            raise InputError("two networks of a study have the same name")
        if len({s.label for s in self.settings}) < len(self.settings):
            raise InputError("two recipe files of a study have the same name")
        if not self.measures:
            raise InputError("a study needs at least one measure")
        for measure in self.measures:
            check_measure(measure)
        _few_enough(len(self.networks) * len(self.settings) * self.shards)


def _whole(what: str, value: Any, least: int, most: int = MOST) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise InputError(f"{what} must be a whole number from {least} on, not {value!r}"[:300])


def _few_enough(cells: int) -> None:
    if cells > MOST_CELLS:
        raise InputError(f"a study may have {MOST_CELLS:,} cells, networks × settings × shards; this one would have {cells:,} or more")


def read(path: Path) -> Study:
    """The study of a TOML file; relative paths in it are relative to the file. InputError, FormatError in one line."""
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"{path}: not a readable TOML file: {error}") from error
    try:
        widths = data.pop("weight_bits", [8])
        tables = {name: _tables(data, name) for name in ("networks", "methods", "recipes")}
        tables["recipes"] = [each for entry in tables["recipes"] for each in _of_files(entry, path.parent)]
        if not tables["methods"] and not tables["recipes"]:
            raise InputError("a study needs at least one of [[methods]] or [[recipes]]")
        corrected, plain = data.pop(CORRECTION, False), data.pop("plain", list(PLAIN_BITS))
        if not isinstance(plain, list):
            raise InputError(f"plain is a list of the widths of plain activations that every study runs, not {plain!r}")
        data.pop("resources", None)  # of the engine: see `resources`
        if "measures" in data:
            listed = data["measures"] if isinstance(data["measures"], list) else [data["measures"]]
            data["measures"] = tuple(_beside(path.parent, measure) for measure in listed)
        weights = tuple(widths) if isinstance(widths, list) else (widths,)
        settings = expand(tables["methods"], weights, tables["recipes"], corrected, plain)
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
    methods: list[dict[str, Any]],
    widths: tuple[int, ...],
    recipes: Sequence[dict[str, Any]] = (),
    corrected: bool | list[bool] = False,
    plain: Sequence[int] = PLAIN_BITS,
) -> tuple[Setting, ...]:
    """float, plain at the widths `plain`, then every combination of the listed values; each once, weight widths side by side.

    corrected: whether methods get bias correction where their table does not say; a list runs both.
    """
    baseline = {"method": "uniform", "bits": [*plain]}
    rivals = [{**entry, CORRECTION: entry.get(CORRECTION, corrected)} for entry in (baseline, *methods)]
    wanted = [*rivals, *({**entry, "method": RECIPE} for entry in recipes)]
    listed = [
        (entry["method"], {key: value if isinstance(value, list) else [value] for key, value in entry.items() if key != "method"})
        for entry in wanted
    ]
    _few_enough(sum(math.prod(map(len, lists.values())) for _, lists in listed) * len(widths))  # before any of them is made
    found = {Setting("float"): None}
    for method, lists in listed:
        for *values, width in itertools.product(*lists.values(), widths):
            parameters = dict(zip(lists, values, strict=True))
            if JSON in parameters:
                width = json.loads(parameters[JSON])["weight_bits"]
            parameters = canonical(parameters) if method == RECIPE else lean(parameters)
            found[Setting(method, tuple(parameters.items()), width)] = None
    return tuple(found)


def _of_files(entry: dict[str, Any], base: Path) -> list[dict[str, Any]]:
    """A table of recipes, with what its files hold in place of where they lie; without files, as it is."""
    if FILE not in entry:
        return [entry]
    files = entry[FILE] if isinstance(entry[FILE], list) else [entry[FILE]]
    if not all(isinstance(file, str) for file in files):
        raise InputError(f"a recipe's file must be a path, not {entry[FILE]!r}")
    return [{**entry, FILE: Path(file).stem, JSON: json.dumps(read_recipe(base / file).to_json(), sort_keys=True)} for file in files]


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
            if not isinstance(entry[key], str):
                raise InputError(f"a network's {key} must be text, not {entry[key]!r}")
            entry[key] = _beside(base, entry[key]) if ".py:" in entry[key] else str((base / entry[key]).resolve())
    entry["model"] = _beside(base, entry["model"])
    for key in ("mean", "std"):
        if key in entry:
            if not isinstance(entry[key], list):
                raise InputError(f"a network's {key} must be a list of numbers, not {entry[key]!r}")
            entry[key] = tuple(entry[key])
    return Network(**entry)


def _beside(base: Path, name: Any) -> Any:
    """file.py:function with the file relative to `base`; anything else as it is."""
    source, _, function = name.rpartition(":") if isinstance(name, str) else ("", "", "")
    return f"{(base / source).resolve()}:{function}" if source.endswith(".py") else name
