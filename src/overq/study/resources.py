"""What a cell of a network takes of a cluster's nodes, and who shares its calibration: the table [resources] of a study file. Results do
not depend on it, nor do keys."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from overq.errors import InputError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

TABLE = "resources"


@dataclass(frozen=True)
class Resources:
    """Of one cell while it runs.

    cpus    cores, and so many threads; a part of one is one thread
    gpus    graphics cards; 0.5 puts two cells on one card. With 0 the cell runs on cores, whatever the node has
    memory  10⁹ bytes that the node must still have to give; 0: does not matter
    observers  pieces into which the network's calibration images are cut, for workers to observe them together
    """

    cpus: float = 1
    gpus: float = 0
    memory: float = 0
    observers: int = 1

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
                raise InputError(f"{field.name} must be a number from 0 on, not {value!r}")
        if self.observers < 1 or self.observers != int(self.observers):
            raise InputError(f"observers must be a whole number from 1 on, not {self.observers!r}")
        for amount in (self.cpus, self.gpus):
            if amount > 1 and amount != int(amount):
                raise InputError(f"more than one core or graphics card must be a whole number, not {amount!r}")
        if not self.cpus:
            raise InputError("a cell needs cpus, or a part of one")

    @property
    def threads(self) -> int:
        return max(1, int(self.cpus))

    def fit(self, free: Mapping[str, float]) -> int:
        """How many cells find room in what a node has, by Ray's names."""
        wanted = {"CPU": self.cpus, "GPU": self.gpus, "memory": self.memory * 1e9}
        return min(int(free.get(name, 0) / amount + 1e-9) for name, amount in wanted.items() if amount)


def read_resources(path: Path, networks: tuple[str, ...]) -> dict[str, Resources]:
    """By network, of a study file that `plan.read` takes: what [resources] says for all, and [resources.NETWORK] for one."""
    table = tomllib.loads(path.read_text(encoding="utf-8")).get(TABLE, {})
    try:
        if not isinstance(table, dict):
            raise InputError(f"{TABLE} must be a table")
        return _by_network(table, networks)
    except InputError as error:
        raise InputError(f"{path}: [{TABLE}]: {error}") from error


def _by_network(table: dict[str, Any], networks: tuple[str, ...]) -> dict[str, Resources]:
    for_all = {key: value for key, value in table.items() if not isinstance(value, dict)}
    own = {key: value for key, value in table.items() if isinstance(value, dict)}
    known = [field.name for field in fields(Resources)]
    for keys in (for_all, *own.values()):
        if unknown := sorted(set(keys) - set(known)):
            raise InputError(f"no key {unknown[0]!r}; there are {', '.join(known)}")
    if unknown := sorted(set(own) - set(networks)):
        raise InputError(f"the study has no network {unknown[0]!r}, only {', '.join(networks)}")
    return {name: Resources(**(for_all | own.get(name, {}))) for name in networks}
