"""Cell: a network under one setting on one shard of its images; frozen, goes to JSON and back, and has the key of its result."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import Any

from overq.errors import FormatError, InputError, ToolError
from overq.nn.recipe import Recipe
from overq.study.fingerprint import fingerprint
from overq.study.measure import MEASURES
from overq.study.plan import Network, Setting, Study
from overq.study.recipes import RECIPE
from overq.study.version import versions

ABSENT = "absent:"  # how the key of a cell begins whose network could not be opened
RUN = ("shards", "limit", "samples", "batch_size", "seed", "measures")  # what a cell takes from its study


@dataclass(frozen=True)
class Cell:
    """All that a result depends on. As JSON it also holds the whole recipe that its setting spells.

    study     its name; like the network's it is a part of the key, so that a store tells whose a cell is
    shard     0 … shards - 1: every shards-th batch of the images
    content   fingerprint of network, weights, images and preprocessing; "" where they could not be opened
    versions  of code and libraries, as (name, version) pairs
    further fields as in `Study`
    """

    study: str
    network: Network
    setting: Setting
    shard: int
    content: str
    versions: tuple[tuple[str, str], ...]
    shards: int = 1
    limit: int = 0
    samples: int = 256
    batch_size: int = 64
    seed: int = 0
    measures: tuple[str, ...] = MEASURES

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        plain = asdict(self) | {"versions": dict(self.versions)}
        plain["setting"]["parameters"] = dict(self.setting.parameters)
        plain["recipe"] = None if self.setting.method == "float" else self.setting.recipe(self.seed).to_json()
        return plain

    @classmethod
    def from_json(cls, data: Any) -> Cell:
        """The inverse of `to_json`; InputError where anything is missing, unknown or senseless. Nothing is imported or opened."""
        try:
            values = dict(_exactly(cls, data, "recipe"))
            recipe = values.pop("recipe")
            network = dict(_exactly(Network, values["network"]))
            network |= {key: tuple(network[key]) for key in ("mean", "std")}
            setting = dict(_exactly(Setting, values["setting"]))
            setting["parameters"] = tuple(setting["parameters"].items())
            values |= {"network": Network(**network), "setting": Setting(**setting)}
            values["versions"] = tuple((name, str(version)) for name, version in values["versions"].items())
            values["measures"] = tuple(values["measures"])
            cell = cls(**values)
            Study(cell.study, (cell.network,), (cell.setting,), **{name: values[name] for name in RUN})  # checks them
        except (TypeError, AttributeError, FormatError) as error:
            raise InputError(f"not a cell of a study: {error}") from error
        if not _spells(cell, recipe):
            raise InputError("not a cell of a study: its recipe is not what its setting spells")
        if not isinstance(cell.shard, int) or not 0 <= cell.shard < cell.shards or not isinstance(cell.content, str):
            raise InputError(f"not a cell of a study: shard {cell.shard!r} of {cell.shards}")
        return cell

    def positions(self, count: int) -> list[int]:
        """Which of `count` images are the shard's: the batches that one cell for all would run, dealt in turn, so that scores do not
        depend on how many shards there are; smaller batches where there are fewer than shards.
        """
        size = min(self.batch_size, max(1, count // self.shards))
        begins = range(self.shard * size, count, self.shards * size)
        return [i for begin in begins for i in range(begin, min(begin + size, count))]

    @cached_property
    def key(self) -> str:
        """Where the files lie does not matter, what they hold does."""
        return key_of(self.to_json())


def key_of(plain: dict[str, Any]) -> str:
    """The key of a cell as JSON, also of one that an earlier version wrote, whose recipe has fewer fields."""
    short = {"network": plain["network"]["name"], "measures": [name.rpartition("/")[2] for name in plain["measures"]]}
    digest = hashlib.sha256(json.dumps({**plain, **short}, sort_keys=True).encode()).hexdigest()
    return digest if plain["content"] else ABSENT + digest


def _spells(cell: Cell, recipe: Any) -> bool:
    """Whether the recipe, as JSON, is what the cell's setting spells; what it leaves out is what an earlier version did not know."""
    if recipe is None or cell.setting.method == "float":
        return recipe is None and cell.setting.method == "float"
    spelled = cell.setting.recipe(cell.seed)
    earlier = {"source": spelled.source, **recipe}
    if cell.setting.method != RECIPE and recipe.get("calibration") == "least-error":  # which was a method's own, unless it said otherwise
        earlier["calibration"] = spelled.calibration
    return Recipe.from_json(earlier) == spelled


def cells_of(study: Study) -> tuple[list[Cell], dict[str, str]]:
    """The study's cells, shards of one setting together; and, by network, why the files of some could not be opened."""
    made, reasons = tuple(versions().items()), {}
    cells: list[Cell] = []
    for network in study.networks:
        content = ""
        try:
            content = fingerprint(network, study.measures)
        except (InputError, ToolError) as error:
            reasons[network.name] = str(error)
        cells += _cells(study, network, content, made)
    return cells, reasons


def _cells(study: Study, network: Network, content: str, made: tuple[tuple[str, str], ...]) -> Iterator[Cell]:
    run = {name: getattr(study, name) for name in RUN}
    for setting in study.settings:
        for shard in range(study.shards):
            yield Cell(study.name, network, setting, shard, content, made, **run)


def _exactly(cls: type, data: Any, *more: str) -> dict[str, Any]:
    wanted = {*(f.name for f in fields(cls)), *more}
    if not isinstance(data, dict) or set(data) != wanted:
        got = sorted(map(str, data)) if isinstance(data, dict) else type(data).__name__
        raise InputError(f"a {cls.__name__.lower()} has the fields {', '.join(sorted(wanted))}, not {got}")
    return data
