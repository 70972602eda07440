"""Cells of a store -> one record for each setting: all shards of one version of code and data, never mixed, beside float and costs."""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np

from overq.compare import LOSS, PERPLEXITY, Paired, paired
from overq.errors import InputError
from overq.methods import Cost
from overq.records import Record
from overq.spec import Counts
from overq.study.cell import RUN, Cell
from overq.study.element import element
from overq.study.measure import MEASURES, SQNR, TOP1, Measured, coverage
from overq.study.store import cell_of, result_of


class Costs(Protocol):
    """What a piece of hardware costs, by its name (see `element`); None where it is not known."""

    def get(self, name: str, weight_bits: int) -> float | None: ...


@dataclass(frozen=True)
class Settled:
    """A setting of which every shard is done.

    cell      its first
    found     over all shards, in the order of the images
    versions  of what made it
    """

    cell: Cell
    found: Measured
    cost: Cost
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
    networks: dict[tuple[str, str], dict[tuple[object, ...], _Version]] = {}
    for row in rows:
        cell = cell_of(row)
        what = (cell.content, cell.versions, *(getattr(cell, name) for name in RUN))
        versions = networks.setdefault((row["study"], row["network"]), {})
        versions.setdefault(what, _Version(dict(cell.versions).get("code", "unknown"))).rows.append(row)
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
    groups: dict[tuple[str, str, str], list[tuple[Cell, sqlite3.Row]]] = {}
    for row in rows:
        groups.setdefault((row["study"], row["network"], row["label"]), []).append((cell_of(row), row))
    return [
        _joined(sorted(shards, key=lambda shard: shard[0].shard))
        for shards in groups.values()
        if len(shards) == shards[0][0].shards and all(row["state"] == "done" for _, row in shards)
    ]


def _joined(shards: list[tuple[Cell, sqlite3.Row]]) -> Settled:
    parts = [result_of(row) for _, row in shards]
    count = sum(len(next(iter(found.columns.values()))) for found, _ in parts)
    order = np.argsort(np.concatenate([np.array(cell.positions(count), int) for cell, _ in shards]))
    columns = {name: np.concatenate([found.columns[name] for found, _ in parts])[order] for name in parts[0][0].columns}
    lanes: dict[str, tuple[Counts, int]] = {}
    for found, _ in parts:
        for name, (counts, cascade) in found.lanes.items():
            lanes[name] = lanes.get(name, (Counts(), cascade))[0] + counts, cascade
    made_by = [json.loads(row["made_by"]) for _, row in shards]
    commits = " ".join(dict.fromkeys(filter(None, (made.get("commit", "") for made in made_by))))
    seconds = sum(row["seconds"] for _, row in shards)
    return Settled(
        shards[0][0], replace(parts[0][0], columns=columns, lanes=lanes), parts[0][1], {**made_by[0], "commit": commits}, seconds
    )


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


def compared(rows: list[sqlite3.Row], a: str, b: str, measure: str) -> list[tuple[str, Paired]]:
    """(network, B against A on the images that both have done) for every network that has both; rows of one study and version."""
    sides: dict[str, dict[str, dict[int, np.ndarray]]] = {}
    for row in rows:
        if row["label"] in (a, b) and row["state"] == "done":
            found = result_of(row)[0].columns
            if measure not in found:
                raise InputError(f"the study did not measure {measure!r} by image; it did {', '.join(found)}")
            sides.setdefault(row["network"], {}).setdefault(row["label"], {})[cell_of(row).shard] = found[measure]
    both = {network: labels for network, labels in sides.items() if a in labels and b in labels}
    if not both:
        raise InputError(f"no network has results of both {a!r} and {b!r}; `overq study show` lists the settings")
    results = []
    for network in sorted(both):
        x, y = both[network][a], both[network][b]
        common = sorted(x.keys() & y.keys())
        if not common:
            raise InputError(f"{network}: {a!r} and {b!r} have no shard in common yet")
        first, second = (np.concatenate([side[i] for i in common]) for side in (x, y))
        results.append((network, paired(first, second, measure)))
    return results


def records(rows: Iterable[sqlite3.Row], areas: Costs | None = None, cycles: Mapping[str, Costs] | None = None) -> list[Record]:
    """A record for each setting of which every cell is done, beside float on the same images."""
    return of_settled(settled(rows), areas, cycles)


def of_settled(
    found: list[Settled], areas: Costs | None = None, cycles: Mapping[str, Costs] | None = None, arrays: Costs | None = None
) -> list[Record]:
    """The same of settings that are put together already. arrays: areas of whole arrays."""
    floats = {(s.cell.study, s.cell.network.name): s for s in found if s.cell.setting.method == "float"}
    return [_record(s, floats.get((s.cell.study, s.cell.network.name)), areas, cycles or {}, arrays) for s in found]


def _against_float(s: Settled, base: Settled | None) -> dict[str, float]:
    """Perplexity over the float network's on the same windows, with the 95 % interval of the paired bootstrap over windows."""
    if base is None or base is s or PERPLEXITY not in s.found.columns:
        return {}
    p = paired(base.found.columns[PERPLEXITY], s.found.columns[PERPLEXITY], LOSS)
    return {"ratio": math.exp(p.difference), "ratio_low": math.exp(p.low), "ratio_high": math.exp(p.high)}


def _record(s: Settled, base: Settled | None, areas: Costs | None, cycles: Mapping[str, Costs], arrays: Costs | None) -> Record:
    columns, cost, lanes = s.found.columns, s.cost, coverage(s.found.lanes)
    name, size = element(s.cell.setting), 1 + cost.extra_lanes
    right = columns[TOP1][:, 0] > 0 if TOP1 in columns else None
    against = paired(base.found.columns[TOP1], columns[TOP1]) if base and right is not None else None
    area = areas.get(name, cost.weight_bits) if areas else None
    own = {m: s.found.value(m) for m in columns if m not in MEASURES} | _against_float(s, base)
    sqnr = s.found.value(SQNR) if SQNR in columns else math.inf
    table = cycles.get(s.cell.network.name)
    return Record(
        study=s.cell.study,
        network=s.cell.network.name,
        label=s.cell.setting.label,
        method=s.cell.setting.family,
        images=len(next(iter(columns.values()))),
        correct=None if right is None else int(right.sum()),
        top1=None if right is None else s.found.value(TOP1),
        difference=against.difference if against else None,
        low=against.low if against else None,
        high=against.high if against else None,
        sqnr=sqnr if math.isfinite(sqnr) else None,
        coverage=lanes.coverage,
        expected_coverage=lanes.expected,
        zero_rate=lanes.zero_rate,
        outlier_rate=lanes.outlier_rate,
        own=own,
        payload_bits=cost.payload_bits,
        metadata_bits=cost.metadata_bits,
        bits=cost.bits,
        multiplier=cost.multiplier,
        weight_bits=cost.weight_bits,
        area=area and area * size,
        array_area=arrays.get(name, cost.weight_bits) if arrays and size == 1 else None,  # what adds lanes needs a larger array
        errors=_errors(columns[SQNR]) if SQNR in columns else "",
        element=name if size == 1 else "",
        cycles=table.get(name, cost.weight_bits) if table else None,
        seed=s.cell.seed,
        samples=s.cell.samples,
        seconds=s.seconds,
        right="" if right is None else np.packbits(right).tobytes().hex(),
        overq=s.versions.get("overq", ""),
        code=s.versions.get("code", ""),
        commit=s.versions.get("commit", ""),
        torch=s.versions.get("torch", ""),
        numpy=s.versions.get("numpy", ""),
    )


def _errors(columns: np.ndarray) -> str:
    """`Record.errors` of the columns of signal and noise; "" where all scores are exact."""
    noise = columns[:, 1]
    return (noise / noise.mean()).astype("<f2").tobytes().hex() if noise.any() else ""
