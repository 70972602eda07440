"""Cycles of several networks on the plain and on OverQ's array: whether one is ever slower than the other.

    python benchmarks/cycles_networks.py networks.py squeezenet:224 resnet20:32 --csv benchmarks/results/cycles_networks.csv

networks.py holds a factory of each name; the number is the side of its images. Cycles follow from shapes, so the image is noise.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

import overq
from overq.nn import observe
from overq.output import write
from overq.spec import Format
from overq.study.cycles import network_cycles, recipe
from overq.study.models import load_model
from overq.text import csv_text

FORMATS = Format.plain(4), Format(4, 4)  # how many bits a digit has makes no difference


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("networks", nargs="+")
    parser.add_argument("--rows", type=int, nargs="+", default=[64, 128])
    parser.add_argument("--csv", type=Path)
    options = parser.parse_args()
    lines = []
    for name, _, side in (network.partition(":") for network in options.networks):
        model = load_model(f"{options.file}:{name}").eval()
        x = torch.rand(1, 3, int(side), int(side), generator=torch.Generator().manual_seed(0))
        seen = observe(model, [x])
        for rows in options.rows:
            for fmt in FORMATS:
                run = network_cycles(overq.quantize(model, seen, recipe(fmt, rows)), x, rows=rows, columns=rows)
                lines.append({"network": name, "rows": rows, "format": fmt.label, "cycles": run.total("cycles")})
                print(*lines[-1].values(), flush=True)
    write(options.csv or Path("-"), csv_text(list(lines[0]), lines))


if __name__ == "__main__":
    main()
