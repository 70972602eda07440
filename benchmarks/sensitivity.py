"""Mixed formats under a budget against one format everywhere: sensitivity, assignment, then top-1 of the whole network.

    python benchmarks/sensitivity.py networks.py:resnet20 calibration.npz test.npz --resize 0 --crop 0 --csv results.csv --layers layers.csv

Losses are measured on the calibration images, without labels; top-1 on the scored ones. Edge layers keep 8 plain bits everywhere and count
in no average. `won` and `lost` are images that a row gets right, or wrong, unlike its budget's first row: uniform plain, or mixed plain
where no uniform format fits.
"""

from __future__ import annotations

import argparse
import csv
import json
import platform
import shlex
import subprocess
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from overq.nn import Recipe, observe, quantize
from overq.nn.assign import Assignment, best_assignment
from overq.nn.sensitivity import LOSSES, Sensitivity, sensitivity
from overq.spec import Format
from overq.study.data import Images, Preprocess, open_images, some_of
from overq.study.models import load_model

PLAIN = tuple(Format.plain(bits) for bits in (2, 3, 4, 5, 6, 7, 8))
NEIGHBOUR = tuple(Format(bits, 1, fraction_bits=0) for bits in (2, 3, 4, 5, 6))  # one state bit
BUDGETS = {"stored": (3.0, 3.5, 4.0, 4.5, 5.0), "multiplier": (24.0, 32.0)}


@dataclass(frozen=True)
class Row:
    """One setting. Losses are of the kind named: the sum of the layers' own, and the whole model's on the same images."""

    network: str
    what: str
    unit: str
    budget: float
    average: float
    loss: str
    sum_of_losses: float
    loss_of_all: float
    correct: int
    scored: int
    float_correct: int
    won: int
    lost: int
    formats: str
    layers: str


class Bench:
    """One network with its images."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.model, self.name = load_model(options.model), options.model.rpartition(":")[2]
        size = Preprocess(options.resize or None, options.crop or None)
        calibration = some_of(open_images(options.calibration, None, size, labelled=False), options.samples)
        self.samples = list(calibration.batches(options.batch))
        self.scored: Images = some_of(open_images(options.images, options.labels, size), options.score)
        self.batch = options.batch
        cascading = tuple(Format(bits, int(cascade)) for cascade in options.cascades.split(",") for bits in (2, 3, 4, 5))  # two state bits
        self.sets = {"plain": PLAIN, "plain + OverQ": PLAIN + NEIGHBOUR + cascading}
        self.formats = self.sets["plain + OverQ"]
        self.seen = observe(self.model, self.samples, seed=options.seed)
        self.recipe = Recipe(calibration=options.calibration_method, seed=options.seed)
        assert self.scored.labels is not None
        self.right_float = self.logits(self.model).argmax(1).numpy() == self.scored.labels
        self.loss, (self.sum, self.scale) = options.loss, LOSSES[options.loss]
        with torch.no_grad():
            self.wanted = torch.cat([self.model(x) for x in self.samples])

    def logits(self, model: Any) -> torch.Tensor:
        with torch.no_grad():
            return torch.cat([model(x) for x in self.scored.batches(self.batch)])

    def measure(self, recipe: Recipe) -> tuple[np.ndarray, float]:
        """(which scored images are right, loss on the calibration images)."""
        model = quantize(self.model, self.seen, recipe)
        with torch.no_grad():
            got = torch.cat([model(x) for x in self.samples])
        return self.logits(model).argmax(1).numpy() == self.scored.labels, self.sum(self.wanted, got) / self.scale(self.wanted)


def restricted(table: Sensitivity, formats: tuple[Format, ...]) -> Sensitivity:
    """The trials of some candidates only."""
    layers = tuple(
        type(layer)(layer.name, layer.kind, layer.values, layer.macs, tuple(t for t in layer.trials if t.candidate in formats))
        for layer in table.layers
    )
    return Sensitivity(table.loss, table.recipe, layers)


def rows_of(bench: Bench, table: Sensitivity) -> list[Row]:
    results: dict[Recipe, tuple[np.ndarray, float]] = {}
    rows: list[Row] = []
    references: dict[tuple[str, float], np.ndarray] = {}

    def row(what: str, unit: str, budget: float, found: Assignment) -> None:
        if found.recipe not in results:
            results[found.recipe] = bench.measure(found.recipe)
        right, loss = results[found.recipe]
        reference = references.setdefault((unit, budget), right)  # plain comes first
        chosen = [(name, trial.label) for name, trial in found.chosen]
        counts = Counter(label for _, label in chosen).most_common()
        rows.append(
            Row(
                bench.name, what, unit, budget, found.average, bench.loss, found.loss, loss,
                int(right.sum()), len(right), int(bench.right_float.sum()),
                int((right & ~reference).sum()), int((reference & ~right).sum()),
                "; ".join(f"{count} × {label}" for label, count in counts), "; ".join(f"{name}={label}" for name, label in chosen),
            )
        )  # fmt: skip
        sums = f"{bench.loss} {found.loss:.5f} -> {loss:.5f}"
        print(f"{what:30s} {unit} {budget:5.2f} {found.average:6.3f} {sums} top-1 {100 * right.mean():.2f}", flush=True)

    for unit, budgets in BUDGETS.items():
        for budget in budgets:
            for fmt in bench.formats:
                found = best_assignment(restricted(table, (fmt,)), np.inf, unit)
                if found.average == budget:
                    row(f"uniform {found.chosen[0][1].label}", unit, budget, found)
            for name, formats in bench.sets.items():
                row(f"mixed {name}", unit, budget, best_assignment(restricted(table, formats), budget, unit))
    return rows


def write(path: Path, rows: list[dict[str, Any]], facts: dict[str, Any]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [*rows[0], *facts], lineterminator="\n")
        writer.writeheader()
        writer.writerows(row | facts for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("calibration", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("--labels", type=Path)
    parser.add_argument("--resize", type=int, default=256)
    parser.add_argument("--crop", type=int, default=224)
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--score", type=int, default=5000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--cascades", default="2,4,8")
    parser.add_argument("--loss", choices=sorted(LOSSES), default="kl")
    parser.add_argument("--calibration-method", default="format-mse")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--table", type=Path, help="JSON file that keeps the sensitivity between runs")
    parser.add_argument("--csv", type=Path, required=True)
    parser.add_argument("--layers", type=Path, required=True)
    options = parser.parse_args()
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    shown = [Path(word).name if "/" in word and ":" not in word else word.rpartition("/")[2] for word in sys.argv[1:]]
    facts = {
        "seed": options.seed, "calibration": options.calibration_method, "calibration_images": options.samples, "commit": commit,
        "torch": torch.__version__, "numpy": np.__version__, "python": platform.python_version(),
        "command": shlex.join(["python", "benchmarks/sensitivity.py", *shown]),
    }  # fmt: skip
    bench = Bench(options)
    print(f"{bench.name}: float {100 * bench.right_float.mean():.2f}", flush=True)
    start = time.perf_counter()
    if options.table and options.table.exists():
        table = Sensitivity.from_json(json.loads(options.table.read_text()))
    else:
        table = sensitivity(bench.model, bench.samples, bench.formats, recipe=bench.recipe, seen=bench.seen, loss=bench.loss)
        print(f"sensitivity: {time.perf_counter() - start:.0f} s for {len(table.layers)} layers × {len(bench.formats)} formats", flush=True)
        if options.table:
            options.table.write_text(json.dumps(table.to_json()))
    write(options.layers, [{"network": bench.name, **record} for record in table.records()], facts)
    write(options.csv, [asdict(row) for row in rows_of(bench, table)], facts)


if __name__ == "__main__":
    main()
