"""Energy and EDP of networks with their own values, in the formats of a study: the table of costs of docs/studies.md's fronts.

    python benchmarks/energy_networks.py cells.lib networks.py resnet18:imagenet/images:imagenet/calibration:224 … [--rows 128]

networks.py holds a factory of each name; images, images to calibrate on and the side of the crop follow (0: as they are). As
`overq cycles --liberty` makes them, one image, 128 × 128 elements, 8-bit weights, 64 bytes of DRAM a cycle, buffers of 256 kB each; one
clock for all formats of a network. First layer and classifier have 8 plain bits. Rivals are left out where a layer's input is signed: no
such element of theirs is built. OVERQ_CACHE names a folder that remembers synthesis.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import overq
from overq.eda import yosys
from overq.eda.energy import MemoryEnergy
from overq.eda.liberty import Library
from overq.errors import InputError
from overq.output import write
from overq.rtl.rivals import RIVALS
from overq.sim.memory import Memory, Plan
from overq.spec import ArrayConfig, Format
from overq.study.choices import Choice, beside
from overq.study.cycles import network_cycles, recipe
from overq.study.data import Preprocess, open_images, some_of
from overq.study.energy import priced
from overq.study.met import Met
from overq.study.models import load_model
from overq.study.version import commit, package
from overq.text import csv_text

FILE = Path(__file__).parent / "results" / "energy_networks.csv"
OURS = Format(4, 4)
FORMATS = (
    *(Format.plain(bits) for bits in (3, 4, 5, 6)),
    Format(3, 4),
    OURS,
    Format(4, 4, 1, 1),
    Format(3, 4, evict=2),
    Format(4, 4, evict=2),
)
SAMPLES = 16  # images to calibrate on


def met(spec: str, file: Path, rows: int, choices: Sequence[Choice]) -> Met:
    """The network's layers, with the values of its first image."""
    name, images, calibration, side = spec.split(":")
    preprocess = Preprocess(crop=int(side)) if int(side) else Preprocess(None, None)
    shown, seen = (open_images(Path(folder), None, preprocess, labelled=False) for folder in (images, calibration))
    quantized = overq.quantize(
        load_model(f"{file}:{name}").eval(), some_of(seen, SAMPLES).batches(SAMPLES), recipe(OURS, rows), check=False
    )
    found = Met(choices, OURS, ArrayConfig(OURS, 8, rows, rows, segments=True))
    network_cycles(quantized, shown.load(range(1)), rows=rows, columns=rows, watch=found.see)
    return found


def lines(spec: str, file: Path, rows: int, library: Library, bandwidth: float) -> list[dict[str, object]]:
    """One a format."""
    formats = [Choice(fmt) for fmt in FORMATS]
    try:
        found = met(spec, file, rows, [*formats, *beside(RIVALS, 3), *beside(RIVALS, 4)])
    except InputError as error:
        if "signed values" not in str(error):
            raise
        print(f"{spec}: without rivals: {error}")
        found = met(spec, file, rows, formats)
    memory, energies = Memory(bandwidth=bandwidth), MemoryEnergy()
    made = priced(found.designs(found.costs(memory, Plan()), library), memory, energies)
    out: list[dict[str, object]] = []
    for one in made:
        e = one.energy
        parts = {name: _short(getattr(e, name) * 1e-9) for name in ("elements", "edge", "leakage", "buffers", "dram")}
        out.append({
            "network": spec.partition(":")[0], "format": one.label, "cycles": sum(c.cycles for c, _ in one.layers),
            "area_mm2": round(one.area * 1e-6, 3), "latency_ms": _short(e.latency * 1e-6), **parts, "energy": _short(e.total * 1e-9),
            "edp": _short(e.edp * 1e-15), "clock_ns": round(one.period / 1000, 3), "array": f"{rows} × {rows}", "bandwidth": bandwidth,
            "library": one.blocks.library, "volts": one.blocks.voltage, "memories": energies.source, "yosys": yosys.version(),
            "commit": commit(package()),
        })  # fmt: skip
        print(*list(out[-1].values())[:12], flush=True)
    return out


def _short(value: float) -> float:
    """Six digits."""
    return float(f"{value:.6g}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("liberty", type=Path)
    parser.add_argument("file", type=Path)
    parser.add_argument("networks", nargs="+")
    parser.add_argument("--rows", type=int, default=128)
    parser.add_argument("--bandwidth", type=float, default=64)
    parser.add_argument("--csv", type=Path, default=FILE)
    options = parser.parse_args()
    library = Library(options.liberty)
    made = [line for spec in options.networks for line in lines(spec, options.file, options.rows, library, options.bandwidth)]
    write(options.csv, csv_text(list(made[0]), made))


if __name__ == "__main__":
    main()
