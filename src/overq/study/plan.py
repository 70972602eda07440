"""A study, declared: networks × methods × settings × data shards. Read from TOML, or built in Python from the same dataclasses."""

from __future__ import annotations

import itertools
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from overq.errors import FormatError, InputError
from overq.methods import METHODS

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PLAIN_BITS = (3, 4, 5, 6, 7, 8)  # always in a study, so that every plot has its baseline


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
    """A method with parameters (name, value) and its weight bits; method "float" leaves the network as it is."""

    method: str
    parameters: tuple[tuple[str, Any], ...] = ()
    weight_bits: int = 32

    def __post_init__(self) -> None:
        if self.method != "float":
            self.build()

    def build(self) -> Any:
        """The Method; FormatError where name or parameters do not exist."""
        if self.method not in METHODS:
            raise FormatError(f"no method {self.method!r}; there are {', '.join(METHODS)}")
        try:
            return METHODS[self.method](**dict(self.parameters))
        except TypeError as error:
            known = ", ".join(f.name for f in fields(METHODS[self.method]))
            raise FormatError(f"method {self.method!r} has the parameters {known}: {error}") from error

    @property
    def label(self) -> str:
        """How the setting is named on the command line and in tables, e.g. overq:bits=4,cascade=2:W8."""
        if self.method == "float":
            return "float"
        return f"{self.method}:{','.join(f'{k}={v}' for k, v in self.parameters)}:W{self.weight_bits}"


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


def read(path: Path) -> Study:
    """The study of a TOML file; relative paths in it are relative to the file. InputError, FormatError in one line."""
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"{path}: not a readable TOML file: {error}") from error
    try:
        widths = tuple(data.pop("weight_bits", [8]))
        settings = expand(data.pop("methods"), widths)
        networks = tuple(_network(entry, path.parent) for entry in data.pop("networks"))
        study = Study(networks=networks, settings=settings, **{"name": path.stem, **data})
    except KeyError as missing:
        raise InputError(f"{path}: a study needs {missing}") from None
    except TypeError as error:
        raise InputError(f"{path}: {str(error).replace('__init__() got an', 'has an')}") from error
    if not networks or study.shards < 1:
        raise InputError(f"{path}: a study needs at least one network and one shard")
    return study


def expand(methods: list[dict[str, Any]], widths: tuple[int, ...]) -> tuple[Setting, ...]:
    """float, plain A3 … A8, then every combination of the listed values; each once."""
    wanted = [{"method": "uniform", "bits": list(PLAIN_BITS)}, *methods]
    found = {Setting("float"): None}
    for entry, width in itertools.product(wanted, widths):
        lists = {key: value if isinstance(value, list) else [value] for key, value in entry.items() if key != "method"}
        for values in itertools.product(*lists.values()):
            found[Setting(entry["method"], tuple(zip(lists, values, strict=True)), width)] = None
    return tuple(found)


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
