"""Tables of what hardware costs: the area of elements, the cycles of a network, joined to the results of a study by name."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from overq.errors import InputError
from overq.records import Record


@dataclass(frozen=True)
class CostTable:
    """values: (name of the element in lower case, weight bits or None where the table does not tell) -> cost.

    source: what a plot says of it.
    elements: of elements alone, which do not change where values give way: that is the encoder's
    """

    source: str
    values: dict[tuple[str, int | None], float]
    elements: bool = False

    def get(self, name: str, weight_bits: int) -> float | None:
        """None where the table has no such element."""
        if self.elements:
            name = re.sub(r" evict\d+$", "", name)
        return self.values.get((name.lower(), weight_bits), self.values.get((name.lower(), None)))


def read_areas(path: Path) -> CostTable:
    """A CSV as `make area` writes it: columns element, activation_bits, weight_bits, area, and, where present, sums and library.

    element is a format's label (A4 plain, A4 r3+f3 c4), or a method's name (SPARQ) whose bits stand beside it. Elements with sums of
    their own width ("own") are left out, of several others the smallest counts; of several libraries the first.
    """
    rows = _rows(path, ("element", "activation_bits", "weight_bits", "area"))
    library = rows[0].get("library", "")
    values: dict[tuple[str, int | None], float] = {}
    for row in rows:
        if row.get("sums") == "own" or row.get("library", "") != library:
            continue
        labelled = re.match(r"A\d", row["element"])
        name = (row["element"] if labelled else f"A{row['activation_bits']} {row['element']}").lower()
        try:
            key, area = (name, int(row["weight_bits"])), _cost(row["area"])
        except ValueError as error:
            raise InputError(f"{path}: not a number: {error}") from error
        values[key] = min(area, values.get(key, area))
    return CostTable(library or path.name, values, elements=True)


def read_arrays(path: Path, size: int, weight_bits: int = 8) -> CostTable:
    """A CSV of whole arrays as `make area` writes it: columns array (a label), size (rows), all (area) and, where present, library.

    Its arrays have 8-bit weights; of several libraries the first counts.
    """
    rows = _rows(path, ("array", "size", "all"))
    library = rows[0].get("library", "")
    values: dict[tuple[str, int | None], float] = {}
    try:
        for row in rows:
            if int(row["size"]) == size and row.get("library", "") == library:
                values[row["array"].lower(), weight_bits] = _cost(row["all"])
    except ValueError as error:
        raise InputError(f"{path}: not a number: {error}") from error
    if not values:
        sizes = ", ".join(dict.fromkeys(row["size"] for row in rows))
        raise InputError(f"{path}: no array of {size} rows; there are {sizes}")
    return CostTable(library or path.name, values)


def read_cycles(path: Path, networks: Iterable[str]) -> dict[str, CostTable]:
    """A CSV with the columns format (labels: A4 plain, A4 r3+f3 c4, …), cycles and, for several networks, network."""
    rows = _rows(path, ("format", "cycles"))
    tables = {name: CostTable(path.name, {}) for name in networks}
    if len(tables) > 1 and "network" not in rows[0]:
        raise InputError(f"{path}: a study of {len(tables)} networks needs the column 'network' in a table of cycles")
    for row in rows:
        for name, table in tables.items():
            if row.get("network", name) == name:
                try:
                    table.values[row["format"].lower(), None] = _cost(row["cycles"])
                except ValueError as error:
                    raise InputError(f"{path}: not a number: {error}") from error
    return tables


def with_energies(records: Sequence[Record], path: Path) -> list[Record]:
    """The records with energy and EDP of one image, by element, from a CSV as benchmarks/energy.py writes it: columns format (a label),
    energy, edp and, where present, network (needed for several), weight_bits (else 8). Others stay without."""
    rows = _rows(path, ("format", "energy", "edp"))
    networks = {record.network for record in records}
    if len(networks) > 1 and "network" not in rows[0]:
        raise InputError(f"{path}: a study of {len(networks)} networks needs the column 'network' in a table of energies")
    try:
        known = {
            (row.get("network", ""), row["format"].lower(), int(row.get("weight_bits") or 8)): (_cost(row["energy"]), _cost(row["edp"]))
            for row in rows
        }
    except ValueError as error:
        raise InputError(f"{path}: not a number: {error}") from error
    out = []
    for record in records:
        network = record.network if "network" in rows[0] else ""
        energy, edp = known.get((network, record.element.lower(), record.weight_bits), (None, None))
        out.append(replace(record, energy=energy, edp=edp))
    return out


def read_cycles_of_arrays(path: Path, size: int) -> dict[tuple[str, bool], float]:
    """A CSV as benchmarks/cycles_networks.py writes it: (network, whether on OverQ's array) -> cycles, on arrays of `size` rows.

    How many bits a digit has makes no difference to them.
    """
    rows = _rows(path, ("network", "rows", "format", "cycles"))
    try:
        return {(r["network"], "plain" not in r["format"]): _cost(r["cycles"]) for r in rows if int(r["rows"]) == size}
    except ValueError as error:
        raise InputError(f"{path}: not a number: {error}") from error


def _cost(text: str) -> float:
    value = float(text)
    if not 0 <= value < math.inf:
        raise ValueError(f"{text!r} is no cost")
    return value


def _rows(path: Path, needed: tuple[str, ...]) -> list[dict[str, str]]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file, restval=""))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: not a readable CSV file ({type(error).__name__})") from error
    missing = [name for name in needed if not rows or name not in rows[0]]
    if missing:
        raise InputError(f"{path}: no column {missing[0]!r}, or no line below the heading; it needs {', '.join(needed)}")
    return rows
