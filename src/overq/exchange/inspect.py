"""What a saved file holds, checked and in words: packed files and those of `overq.save`."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from overq.exchange.packed import VERSION, is_packed, read_packed
from overq.nn import files
from overq.nn.report import Summary


@dataclass(frozen=True)
class Row:
    """One layer. input: its format and step in words; bytes: of the weights; stage: whether it has an output stage, or nothing."""

    name: str
    kind: str
    shape: tuple[int, ...]
    input: str
    weight_bits: int
    bytes: int
    stage: str


@dataclass(frozen=True)
class Inspected:
    """kind: "packed" or "safetensors"; weights: of quantized layers; other: values in all other tensors; notes: in words."""

    path: Path
    kind: str
    version: int
    bytes: int
    rows: tuple[Row, ...]
    other: int
    notes: tuple[str, ...]

    @property
    def weights(self) -> int:
        return sum(int(np.prod(row.shape)) for row in self.rows)

    @property
    def widths(self) -> dict[str, int]:
        """Weights by what they are multiplied with, as in "A4 W8"."""
        found: Counter[str] = Counter()
        for row in self.rows:
            found[f"{row.input.partition(',')[0]} W{row.weight_bits}"] += int(np.prod(row.shape))
        return dict(found)


def inspect(path: str | Path) -> Inspected:
    """ModelFileError in one line for what is damaged or no file of ours."""
    path = Path(path)
    if is_packed(path):
        return _packed(path)
    manifest, tensors = files.read(path)
    facts = files.facts_of(manifest, path)
    rows = []
    for report in facts.layers:
        prefix = f"{report.name}." if report.name else ""
        weight = tensors[f"{prefix}weight_integers"]
        rows.append(Row(report.name, report.kind, tuple(weight.shape), _spelled(report.mode, report.step), report.weight_bits,
                        weight.numel() * weight.itemsize, ""))  # fmt: skip
    other = _other(tensors, [row.name for row in rows])
    return Inspected(path, "safetensors", manifest["version"], path.stat().st_size, tuple(rows), other, _notes(facts))


def _packed(path: Path) -> Inspected:
    found = read_packed(path)
    facts = files.facts_of(found.manifest, path)
    rows = tuple(
        Row(layer.name, layer.kind, layer.weights.shape, _spelled(layer.format.label, layer.step), layer.weight_bits,
            -(-layer.weights.size * layer.weight_bits // 8), "yes" if layer.stage else "no")
        for layer in found.layers
    )  # fmt: skip
    why = found.manifest.get("integer", "")
    whole = [] if found.restorable else ["made for firmware: without the tensors that Python needs to rebuild the network"]
    notes = (*_notes(facts), *([f"no output stages: {why}"] if why else []), *whole)
    return Inspected(path, "packed", VERSION, found.bytes, rows, _other(found.tensors, [row.name for row in rows]), notes)


def _spelled(label: str, step: float | None) -> str:
    return label if step is None else f"{label}, step {step:.4g}"


def _other(tensors: dict[str, Tensor], layers: list[str]) -> int:
    own = {f"{name}.weight_integers" if name else "weight_integers" for name in layers}
    return sum(tensor.numel() for name, tensor in tensors.items() if name not in own)


def _notes(facts: Summary) -> tuple[str, ...]:
    floats = [f"{name or 'the model'} stays in float: {why}" for name, why in facts.left_float]
    return (*floats, *facts.notes)
