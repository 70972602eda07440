"""Accelerators placed and routed on FPGAs: the table of docs/hardware.md.

    python benchmarks/fpga.py [--only "ecp5 4x4" …] [--format "A4 plain" …] [--pipeline 2 …] [--seeds 3]

Writes benchmarks/results/fpga_placed.csv, all of it anew: the whole accelerator (encoder, skew, array, output stage) with 8-bit weights and
sums as wide as a dot product of 4,608 lanes (ResNet-50's deepest) needs in each format, alone on the device. Median of the seeds. Designs
of no seeds are mapped and not placed: no device holds them. OVERQ_CACHE names a folder that remembers results.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from pathlib import Path

from overq.eda import yosys
from overq.eda.fpga import device_of, place, version
from overq.output import write
from overq.rtl import verilog
from overq.spec import ArrayConfig, Format
from overq.study.version import commit, package
from overq.text import csv_text

FILE = Path(__file__).parent / "results" / "fpga_placed.csv"
DEPTH = 4608
FORMATS = (Format.plain(4), Format(4, 4, 1, 1), Format(4, 4, 3, 3), Format.plain(5), Format.plain(8))
FEW = (*FORMATS[:2], FORMATS[3])


@dataclass(frozen=True)
class Run:
    """Designs of one size on one device, with so many registers in each element (`pipelines`)."""

    rows: int
    columns: int
    device: str
    pipelines: tuple[int, ...]
    seeds: int
    formats: tuple[Format, ...]


RUNS = {
    "ecp5 4x4": Run(4, 4, "ecp5-25k", (2,), 11, FORMATS),
    "ecp5 4x4 unpipelined": Run(4, 4, "ecp5-25k", (0,), 5, FEW),
    "ecp5 8x8": Run(8, 8, "ecp5-85k", (2,), 5, FEW),
    "ecp5 16x16": Run(16, 16, "ecp5-85k", (2,), 0, FEW),
    "gowin 4x4": Run(4, 4, "gowin-gw2a-18", (2,), 5, FEW),
    "ice40 4x2": Run(4, 2, "ice40-hx8k", (2,), 5, FEW),
}


def row(fmt: Format, run: Run, pipeline: int) -> dict[str, object]:
    """One line of the file."""
    device = device_of(run.device)
    target = "fpga" if device.multipliers else "asic"
    config = ArrayConfig(fmt, 8, run.rows, run.columns, DEPTH, target=target, pipeline=pipeline)
    text = "\n".join(verilog.design(config).values())
    found = place("overq_top", text, run.device, range(1, run.seeds + 1)).row()
    return {
        "format": fmt.label,
        "array": f"{run.rows} × {run.columns}",
        "pipeline": pipeline,
        "sum_bits": config.psum_bits,
        **found,
        "device": run.device,
        "yosys": yosys.version(),
        "nextpnr": version(device.family),
        "commit": commit(package()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=RUNS, help="runs; default: all")
    parser.add_argument("--format", action="append", choices=[fmt.label for fmt in FORMATS], help="formats; default: all")
    parser.add_argument("--pipeline", type=int, action="append", help="registers inside an element; default: all of the run")
    parser.add_argument("--seeds", type=int, help="fewer placements than the run has")
    parser.add_argument("--csv", type=Path, default=FILE)
    args = parser.parse_args()
    made = []
    for run in (RUNS[name] for name in args.only or RUNS):
        for pipeline in (p for p in run.pipelines if p in (args.pipeline or run.pipelines)):
            for fmt in run.formats:
                if not args.format or fmt.label in args.format:
                    made.append(row(fmt, replace(run, seeds=min(run.seeds, args.seeds or run.seeds)), pipeline))
                    print(*made[-1].values(), flush=True)
    write(args.csv, csv_text(list(made[0]), made))


if __name__ == "__main__":
    main()
