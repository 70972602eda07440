"""What a report shows, gathered from where results lie: a study's store, an exported CSV, the JSON of `overq evaluate`."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from overq.cli.report import facts, this_command
from overq.errors import InputError
from overq.records import Accuracy, Evaluation, LayerCoverage, LayerInput
from overq.report.contents import Contents, Missing, of_evaluation, versions_of

if TYPE_CHECKING:
    from overq.study.table import Settled


def contents_of(source: Path, study: str | None, areas: Path | None, arrays: Path | None, size: int, cycles: Path | None) -> Contents:
    """InputError where the file is none of the three, or where costs are given that it cannot be joined to."""
    if not source.is_file():
        raise InputError(f"{source}: no such file; give a study's store, an exported CSV or the JSON of `overq evaluate`")
    if source.suffix in (".csv", ".json"):
        if study or areas or arrays or cycles:
            raise InputError(f"--study, --areas, --arrays and --cycles go with a store; {source} has its results as they are")
        return _of_csv(source) if source.suffix == ".csv" else of_evaluation(_evaluation(source), (f"overq report {source}",))
    return _of_store(source, study, areas, arrays, size, cycles)


def _of_csv(path: Path) -> Contents:
    from overq.report.records import read_csv

    records = tuple(read_csv(path))
    if not records:
        raise InputError(f"{path}: no record in it")
    studies = ", ".join(dict.fromkeys(r.study for r in records))
    left_out = ("layers: an exported table holds none; the report of the store has them",)
    return Contents(
        f"Study {studies}", records, left_out=left_out, commands=this_command(), versions=versions_of(records), facts=_facts(records)
    )


def _of_store(source: Path, study: str | None, areas: Path | None, arrays: Path | None, size: int, cycles: Path | None) -> Contents:
    from overq.report.costs import read_areas, read_arrays, read_cycles
    from overq.study.store import Store
    from overq.study.table import of_one_version, of_settled, one_study, settled

    store = Store(source, read_only=True)
    rows = store.rows()
    store.close()
    if study is not None:
        name = one_study(rows, study)
        rows = [row for row in rows if row["study"] == name]
    if not rows:
        raise InputError(f"{source}: the store holds no cell yet; `overq study run` puts some there")
    kept, lines = of_one_version(rows)
    found = settled(kept)
    networks = list(dict.fromkeys(row["network"] for row in kept))
    records = tuple(of_settled(
        found, read_areas(areas) if areas else None, read_cycles(cycles, networks) if cycles else None,
        read_arrays(arrays, size) if arrays else None,
    ))  # fmt: skip
    layers = tuple((s.cell.network.name, s.cell.setting.label, s.found.layers()) for s in found if s.found.lanes)
    alike = Counter((row["network"], row["label"], row["state"], row["reason"] or "") for row in kept if row["state"] != "done")
    waits = _incomplete(kept, found)
    studies = ", ".join(dict.fromkeys(row["study"] for row in kept))
    return Contents(
        f"Study {studies}: {', '.join(networks)}",
        records,
        layers,
        tuple((s.cell.network.name, s.found.inputs) for s in found if s.found.inputs),
        missing=tuple(Missing(*key, count) for key, count in alike.items()),
        left_out=(*lines, *waits),
        commands=(f"overq study run STUDY.toml --store {source}  # the study file that these cells are of", *this_command()),
        versions=versions_of(records),
        facts=_facts(records) + _network_facts(found),
    )


def _incomplete(rows: list[Any], found: list[Settled]) -> list[str]:
    """Settings of which some shards are done and some are not."""
    complete = {(s.cell.network.name, s.cell.setting.label) for s in found}
    begun = {(row["network"], row["label"]) for row in rows if row["state"] == "done"} - complete
    return [f"{len(begun)} settings of which not every shard is done"] if begun else []


def _facts(records: tuple[Any, ...]) -> tuple[tuple[str, str], ...]:
    images = {r.network: r.images for r in records}
    seeds = ", ".join(dict.fromkeys(str(r.seed) for r in records))
    samples = ", ".join(dict.fromkeys("all" if not r.samples else str(r.samples) for r in records))
    times = sum(r.seconds for r in records)
    return facts({
        "images": ", ".join(f"{network} {count:,}" for network, count in images.items()), "calibration images": samples, "seed": seeds,
        "settings": len(records), "time of all cells": f"{times:,.0f} s",
    })  # fmt: skip


def _network_facts(found: list[Settled]) -> tuple[tuple[str, str], ...]:
    networks = {s.cell.network.name: s.cell.network for s in found}
    return facts({name: f"model {n.model}, images {n.images}, calibration {n.calibration}" for name, n in networks.items()})


def _evaluation(path: Path) -> Evaluation:
    """The inverse of `Evaluation.to_json`."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        results = []
        for entry in data["results"]:
            layers = tuple(LayerCoverage(**_of(LayerCoverage, layer)) for layer in entry["layers"])
            results.append(Accuracy(**{**_of(Accuracy, entry), "layers": layers}))
        inputs = tuple(map(LayerInput.from_json, data.get("inputs", ())))
        found = Evaluation(**{**_of(Evaluation, data), "results": tuple(results), "inputs": inputs})
        if not found.results or any(r.images < 1 for r in found.results):
            raise ValueError("it has no results")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: not the JSON of `overq evaluate --json` ({type(error).__name__}: {error})") from error
    return found


def _of(cls: type, data: Mapping[str, Any]) -> dict[str, Any]:
    return {f.name: data[f.name] for f in fields(cls) if f.name in data}
