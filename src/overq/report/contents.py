"""What a report is made of: records, the layers behind them, and how all that came to be."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from overq.compare import paired
from overq.records import Accuracy, Evaluation, LayerCoverage, LayerInput, Record


@dataclass(frozen=True)
class Missing:
    """Cells without a result. state: failed, pending or running; reason: of a failure; count: how many cells are alike."""

    network: str
    label: str
    state: str
    reason: str = ""
    count: int = 1


@dataclass(frozen=True)
class Cycles:
    """One row for each layer on the array, columns by name, beside what was run."""

    title: str
    rows: tuple[dict[str, object], ...]


@dataclass(frozen=True)
class Contents:
    """Everything that a report shows; whatever is empty is left out, and the page says so.

    layers    (network, label, its layers) of settings that overwrite; inputs: (network, what its layers saw)
    missing   what has no result; left_out: lines about what else is not shown
    commands  that make these results again; versions: (what, which) of what made them; facts: more of the kind
    """

    title: str
    records: tuple[Record, ...] = ()
    layers: tuple[tuple[str, str, tuple[LayerCoverage, ...]], ...] = ()
    inputs: tuple[tuple[str, tuple[LayerInput, ...]], ...] = ()
    cycles: Cycles | None = None
    missing: tuple[Missing, ...] = ()
    left_out: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()
    versions: tuple[tuple[str, str], ...] = ()
    facts: tuple[tuple[str, str], ...] = ()


def versions_of(records: Iterable[Record]) -> tuple[tuple[str, str], ...]:
    """What made the records, each thing once with all its versions."""
    names = ("overq", "code", "commit", "torch", "numpy")
    found = {name: dict.fromkeys(getattr(record, name) or "not recorded" for record in records) for name in names}
    return tuple((name, ", ".join(values)) for name, values in found.items() if values)


def of_evaluation(evaluation: Evaluation, commands: tuple[str, ...] = ()) -> Contents:
    """The contents of one run of `overq evaluate`."""
    network, float_result = evaluation.model, evaluation.results[0]
    records = tuple(_record(evaluation, result, float_result) for result in evaluation.results)
    layers = tuple((network, r.label, a.layers) for r, a in zip(records, evaluation.results, strict=True) if a.layers)
    facts = {
        "images": f"{float_result.images} of {evaluation.data}",
        "calibration": f"{evaluation.calibration}, {evaluation.calibration_images} images, seed {evaluation.seed}",
        "kernels": evaluation.backend,
    }
    return Contents(
        f"{network} on {evaluation.data}",
        records,
        layers,
        ((network, evaluation.inputs),) if evaluation.inputs else (),
        commands=commands,
        versions=tuple(evaluation.versions.items()),
        facts=tuple(facts.items()),
    )


def _record(evaluation: Evaluation, result: Accuracy, base: Accuracy) -> Record:
    known = {"plain": "plain", "overq": "overq", "float": "float"}
    compared = paired(_bits(base), _bits(result)) if base.right and result.right else None
    stored = result.bits if result.stored_bits is None else result.stored_bits
    return Record(
        study="",
        network=evaluation.model,
        label=result.label,
        method=known.get(result.setting, result.setting.partition(" ")[0]),
        images=result.images,
        correct=result.correct,
        top1=result.top1,
        difference=result.top1 - base.top1,
        low=compared.low if compared else None,
        high=compared.high if compared else None,
        payload_bits=float(result.bits),
        metadata_bits=stored - result.bits,
        bits=stored,
        multiplier=float(result.bits * result.weight_bits),
        weight_bits=result.weight_bits,
        area=None,
        cycles=None,
        seed=evaluation.seed,
        seconds=result.seconds,
        overq=evaluation.versions.get("overq", ""),
        code="",
        commit="",
        torch=evaluation.versions.get("torch", ""),
        numpy=evaluation.versions.get("numpy", ""),
        samples=evaluation.calibration_images,
        coverage=result.coverage,
        expected_coverage=result.expected_coverage,
        zero_rate=result.zero_rate,
        outlier_rate=result.outlier_rate,
        right=result.right,
    )


def _bits(result: Accuracy) -> np.ndarray:
    """Bool [images]: which were right."""
    return np.unpackbits(np.frombuffer(bytes.fromhex(result.right), np.uint8), count=result.images).astype(bool)
