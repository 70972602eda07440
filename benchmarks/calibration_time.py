"""Time and memory of calibrating a network: observing, steps that suit the format, and the search for channel orders.

    python benchmarks/calibration_time.py networks.py:resnet50 calibration --crop 224 --samples 64

Two threads; the peak is of the whole process, the network and the samples included.
"""

from __future__ import annotations

import argparse
import os
import resource
import time
from pathlib import Path

os.environ |= {"OMP_WAIT_POLICY": "PASSIVE", "MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1)}  # as the command line does

import torch

from overq.nn import Recipe, observe, quantize
from overq.spec import Format
from overq.study.data import Batches, Preprocess, open_images, some_of
from overq.study.models import load_model

RECIPES = {
    "format-mse, c = 4": Recipe(Format(4, 4)),
    "format-mse, c = 4, reordered": Recipe(Format(4, 4), reorder=True),
    "format-mse, c = 8, largest, reordered": Recipe(Format(4, 8, policy="largest"), reorder=True),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="as for `overq evaluate --model`")
    parser.add_argument("calibration", type=Path)
    parser.add_argument("--crop", type=int, default=0)
    parser.add_argument("--samples", type=int, default=64)
    options = parser.parse_args()
    torch.set_num_threads(2)
    model = load_model(options.model)
    pool = open_images(options.calibration, None, Preprocess(None, options.crop or None), labelled=False)
    begin = time.perf_counter()
    seen = observe(model, Batches(some_of(pool, options.samples), 16))
    report("observing", begin)
    for name, recipe in RECIPES.items():
        begin = time.perf_counter()
        quantize(model, seen, recipe)
        report(name, begin)


def report(what: str, begin: float) -> None:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{what}: {time.perf_counter() - begin:.1f} s, peak so far {peak:.2f} GiB", flush=True)


if __name__ == "__main__":
    main()
