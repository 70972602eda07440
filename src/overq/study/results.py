"""Cells of a store -> settings with all their shards, of one version of code and data each, never mixed."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from overq.errors import InputError
from overq.study.store import bits

RUN = ("shards", "limit", "samples", "batch_size", "seed")


@dataclass(frozen=True)
class Settled:
    """A setting of which every shard is done.

    correct   bool [images], shard after shard
    cost      bits of a value, as `overq.methods.Cost`
    versions  of the code and the libraries that made it
    """

    study: str
    network: str
    label: str
    method: str
    task: dict[str, Any]
    correct: np.ndarray
    cost: dict[str, float]
    versions: dict[str, str]
    seconds: float


@dataclass
class _Version:
    """Cells of one network that the same code made, or is to make, from the same data."""

    code: str
    rows: list[sqlite3.Row] = field(default_factory=list)

    def count(self, *states: str) -> int:
        return sum(row["state"] in states for row in self.rows)

    @property
    def rank(self) -> tuple[bool, bool]:
        """One that has nothing left to run goes before one that has, one without any result last."""
        return bool(self.count("done")), not self.count("pending", "running")


def of_one_version(rows: Iterable[sqlite3.Row]) -> tuple[list[sqlite3.Row], list[str]]:
    """For each study and network the cells of its newest complete version, and a line for each network that has others.

    Complete: nothing pending or running, something done. If none is complete, it is the newest that has a result.
    rows: as `Store.rows` gives them, oldest first.
    """
    networks: dict[tuple[str, str], dict[str, _Version]] = {}
    for row in rows:
        task, made = json.loads(row["task"]), json.loads(row["versions"] or "{}")
        made = task.get("versions") or made
        made = {name: version for name, version in made.items() if name != "commit"}
        what = json.dumps([task.get("content"), made, [task[name] for name in RUN]], sort_keys=True)
        versions = networks.setdefault((row["study"], row["network"]), {})
        versions.setdefault(what, _Version(made.get("code", "unknown"))).rows.append(row)
    kept: list[sqlite3.Row] = []
    lines = []
    for (study, network), versions in networks.items():
        newest_first = list(versions.values())[::-1]
        best = max(newest_first, key=lambda version: version.rank)
        kept += best.rows
        others = [f"code {v.code} with {v.count('done')} of {len(v.rows)} cells done" for v in newest_first if v is not best]
        if others:
            why = "newest complete" if best.rank == (True, True) else "newest with results, none is complete"
            lines.append(
                f"{study}, {network}: shown is code {best.code} ({why}); other code, data or sizes are left out: {'; '.join(others)}"
            )
    return kept, lines


def settled(rows: Iterable[sqlite3.Row]) -> list[Settled]:
    """Settings of which every shard is done; rows of one version."""
    groups: dict[tuple[str, str, str], dict[int, sqlite3.Row]] = {}
    for row in rows:
        groups.setdefault((row["study"], row["network"], row["label"]), {})[row["shard"]] = row
    found = []
    for (study, network, label), shards in groups.items():
        if any(row["state"] != "done" for row in shards.values()):
            continue
        cells = [shards[i] for i in sorted(shards)]
        cost, made, task = (json.loads(cells[0][name]) for name in ("cost", "versions", "task"))
        commits = dict.fromkeys(json.loads(row["versions"]).get("commit", "") for row in cells)
        found.append(Settled(
            study, network, label, cells[0]["method"], task, np.concatenate([bits(row) for row in cells]), cost,
            {**made, "commit": " ".join(filter(None, commits))}, sum(row["seconds"] for row in cells),
        ))  # fmt: skip
    return found


def one_study(rows: list[sqlite3.Row], name: str | None) -> str:
    """The study that is meant: the one named, or the only one there is. InputError where that is none or several."""
    there = list(dict.fromkeys(row["study"] for row in rows))
    if name is None and len(there) == 1:
        return there[0]
    if name is None:
        raise InputError(f"the store holds {', '.join(there) or 'no study'}" + (": choose one with --study" if there else ""))
    if name not in there:
        raise InputError(f"no study {name!r} in the store; there are {', '.join(there) or 'none'}")
    return name
