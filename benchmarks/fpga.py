"""Accelerators placed and routed on FPGAs: the table of docs/hardware.md.

    python benchmarks/fpga.py [--only 4x4 --only 8x8 …] [--pipeline 2] [--seeds 5]

Writes benchmarks/results/fpga_placed.csv: the whole accelerator (encoder, skew, array, output stage) with 8-bit weights and sums as wide
as a dot product of 4,608 lanes (ResNet-50's deepest) needs in each format, alone on the smallest ECP5 that holds it. Median of the seeds.
OVERQ_CACHE names a folder that remembers results.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

from overq.eda import yosys
from overq.eda.fpga import place, version
from overq.rtl import verilog
from overq.spec import ArrayConfig, Format
from overq.study.version import commit, package

FILE = Path(__file__).parent / "results" / "fpga_placed.csv"
DEPTH = 4608
SIZES = {"4x4": (4, 4, "ecp5-25k"), "8x8": (8, 8, "ecp5-85k"), "16x8": (16, 8, "ecp5-85k")}
FORMATS = (Format.plain(4), Format(4, 4, 1, 1), Format(4, 4, 3, 3), Format.plain(5), Format.plain(8))


def row(fmt: Format, size: str, pipeline: int, seeds: int) -> dict[str, object]:
    """One line of the file."""
    rows, columns, device = SIZES[size]
    config = ArrayConfig(fmt, 8, rows, columns, DEPTH, target="fpga", pipeline=pipeline)
    found = place("overq_top", "\n".join(verilog.design(config).values()), device, range(1, seeds + 1))
    return {
        "format": fmt.label,
        "array": f"{rows} × {columns}",
        "pipeline": pipeline,
        "sum_bits": config.psum_bits,
        **found.row(),
        "device": device,
        "yosys": yosys.version(),
        "nextpnr": version("ecp5"),
        "commit": commit(package()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=SIZES, help="sizes; default: all")
    parser.add_argument("--format", action="append", choices=[fmt.label for fmt in FORMATS], help="formats; default: all")
    parser.add_argument("--pipeline", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=5)
    args = parser.parse_args()
    for size in args.only or SIZES:
        for fmt in FORMATS:
            if args.format and fmt.label not in args.format:
                continue
            made = row(fmt, size, args.pipeline, args.seeds)
            with FILE.open("a", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, list(made), lineterminator="\n")
                if file.tell() == 0:
                    writer.writeheader()
                writer.writerow(made)
            print(*made.values(), flush=True)


if __name__ == "__main__":
    main()
