"""Cycles, area, energy and EDP of a topology in several formats: the table of docs/cycles.md, and a table of costs for studies.

    python benchmarks/energy.py cells.lib [--topology benchmarks/resnet50.csv] [--rows 128] [--bandwidth 64] [--csv file]

As `overq shapes --liberty` makes them; one clock for all formats, the slowest element's. 128 × 128 elements, 8-bit weights, buffers of
256 kB each, half the values zeros, 2 % above what a digit of 4 bits holds. OVERQ_CACHE names a folder that remembers synthesis.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from overq.eda import yosys
from overq.eda.energy import MemoryEnergy
from overq.eda.liberty import Library
from overq.output import write
from overq.rtl.rivals import RIVALS
from overq.sim.memory import Memory, cost
from overq.sim.rates import shares
from overq.sim.workload import topology
from overq.spec import ArrayConfig, Format
from overq.study.choices import Choice, beside
from overq.study.energy import designs_at_rates, priced
from overq.study.version import commit, package
from overq.text import csv_text

HERE = Path(__file__).parent
FORMATS = (*(Format.plain(bits) for bits in (4, 5, 6, 8)), Format(4, 4, 1, 1), Format(4, 4, 2, 1), Format(4, 4, 3, 3))
ZEROS, OUTLIERS, BITS = 0.5, 0.02, 4


def table(library: Library, shapes: Path, size: int, bandwidth: float, formats: Sequence[Format] = FORMATS) -> list[dict[str, object]]:
    """One line a format."""
    work = topology(shapes)
    depth = max(layer.layer().depth for layer in work)
    config = ArrayConfig(Format(), 8, size, size, max(depth, size), segments=True)
    memory, energies = Memory(bandwidth=bandwidth), MemoryEnergy()
    machines = {choice: choice.on(config) for choice in [*map(Choice, formats), *beside(RIVALS, BITS)]}
    none = shares(Format.plain(4), ZEROS, OUTLIERS, 64)  # what compression would save stands nowhere here
    found = {choice: [cost(layer, machine, memory, none, code=choice.code) for layer in work] for choice, machine in machines.items()}
    made = priced(designs_at_rates(found, machines, library, (ZEROS, OUTLIERS, BITS)), memory, energies)
    lines = []
    for one in made:
        e, layers = one.energy, [layer for layer, _ in one.layers]
        moved = {name: round(getattr(e, name) * 1e-9, 4) for name in ("elements", "edge", "leakage", "buffers", "dram")}
        lines.append({
            "format": one.label, "cycles": sum(c.cycles * c.repeat for c in layers), "stalls": sum(c.stalls * c.repeat for c in layers),
            "area_mm2": round(one.area * 1e-6, 3), "latency_ms": round(e.latency * 1e-6, 4), **moved, "energy": round(e.total * 1e-9, 4),
            "edp": round(e.edp * 1e-15, 4), "clock_ns": round(one.period / 1000, 3), "topology": shapes.stem, "array": f"{size} × {size}",
            "bandwidth": bandwidth, "library": one.blocks.library, "volts": one.blocks.voltage, "memories": energies.source,
            "yosys": yosys.version(), "commit": commit(package()),
        })  # fmt: skip
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("liberty", type=Path)
    parser.add_argument("--topology", type=Path, default=HERE / "resnet50.csv")
    parser.add_argument("--rows", type=int, default=128)
    parser.add_argument("--bandwidth", type=float, default=64)
    parser.add_argument("--csv", type=Path, default=HERE / "results" / "energy_resnet50.csv")
    options = parser.parse_args()
    lines = table(Library(options.liberty), options.topology, options.rows, options.bandwidth)
    write(options.csv, csv_text(list(lines[0]), lines))
    for line in lines:
        print(*list(line.values())[:12])


if __name__ == "__main__":
    main()
