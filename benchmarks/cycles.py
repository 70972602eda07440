"""Cycles and traffic of one network in several formats, with the time and memory the model takes.

    python benchmarks/cycles.py networks.py:resnet50 images calibration [--rows 128] [--columns 128] [--csv file]

networks.py:resnet50 as in `overq cycles --model`; one image of `images` is run, the first 64 of `calibration` are calibrated on.
"""

from __future__ import annotations

import argparse
import csv
import resource
import sys
import time
from pathlib import Path

import overq
from overq.nn import observe
from overq.sim import total_cycles
from overq.spec import ArrayConfig, Format
from overq.study.cycles import NetworkCycles, network_cycles, recipe
from overq.study.data import Preprocess, open_images, some_of
from overq.study.models import load_model

FORMATS = (
    *(Format.plain(bits) for bits in (4, 5, 6, 8)),
    *(Format(4, 4, r, f) for r, f in ((2, 0), (3, 0), (1, 1), (2, 2), (3, 3), (4, 4))),
)


def double_buffered(run: NetworkCycles, fmt: Format) -> int:
    """Cycles with a second weight register, from the same folds; the 8-bit edge layers are plain."""
    total = 0
    for layer in run.layers:
        used = fmt if layer.state_bits else Format.plain(layer.bits)
        total += total_cycles(ArrayConfig(used, layer.weight_bits, run.rows, run.columns, double_buffered=True), layer.vectors, layer.folds)
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("images", type=Path)
    parser.add_argument("calibration", type=Path)
    parser.add_argument("--rows", type=int, default=128)
    parser.add_argument("--columns", type=int, default=128)
    parser.add_argument("--csv", type=Path)
    options = parser.parse_args()
    model, preprocess = load_model(options.model), Preprocess()
    calibration = some_of(open_images(options.calibration, None, preprocess, labelled=False), 64)
    x = open_images(options.images, None, preprocess, labelled=False).load([0])
    seen = observe(model, calibration.batches(32))
    rows = []
    for fmt in FORMATS:
        quantized = overq.quantize(model, seen, recipe(fmt, options.rows))
        start = time.perf_counter()
        run = network_cycles(quantized, x, rows=options.rows, columns=options.columns)
        moved = {key: run.total(key) / 8000 for key in ("array_digits", "array_states", "array_weights", "array_sums")}
        memory = run.total("memory_digits") + run.total("memory_states"), run.total("memory_unencoded"), run.total("memory_weights")
        rows.append(
            {
                "format": fmt.label,
                "cycles": run.total("cycles"),
                "double_buffered": double_buffered(run, fmt),
                "utilization": round(run.utilization, 4),
            }
            | {f"{key}_kB": round(value) for key, value in moved.items()}
            | dict(zip(("memory_on_write_kB", "memory_on_read_kB", "memory_weights_kB"), (round(m / 8000) for m in memory), strict=True))
            | {"seconds": round(time.perf_counter() - start, 1)}
            | {"peak_MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024}
        )
        print(rows[-1], flush=True)
    with options.csv.open("w", newline="") if options.csv else sys.stdout as out:
        writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
