"""The area tables of docs/hardware.md.

    python benchmarks/area.py cells.lib [more.lib …]

Writes under benchmarks/results: area_elements.csv (every element, by two rules), area_parts.csv (whole accelerators by part),
area_clock.csv (A4W8 at given clocks) and area_energy.csv. The energy is that of the layer vectors in out/layer_resnet20.json, if
`python tests/rtl/real_layer.py` has put them there, else of random ones. OVERQ_CACHE names a folder that remembers results.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from overq.eda import yosys
from overq.eda.liberty import Library
from overq.eda.synth import RECIPES, Point, mapped, smallest, synthesize
from overq.errors import InputError
from overq.output import write
from overq.rtl import ProcessingElement, RowState, verilog
from overq.rtl.parts import parts, to_csv
from overq.rtl.rivals import RIVALS
from overq.rtl.vectors import LayerVectors
from overq.spec import ArrayConfig, Format, accumulator_bits, encode, shift

RESULTS = Path(__file__).parent / "results"
ROWS = 16


def kinds(bits: int) -> dict[str, Format]:
    return {
        "plain": Format.plain(bits),
        "range c=1": Format(bits, 1, fraction_bits=0),
        "range c=4": Format(bits, 4, fraction_bits=0),
        "full c=4": Format(bits, 4),
    }


def points_of(fmt: Format, weight_bits: int, sum_bits: int, library: Library, double: bool = False) -> list[Point]:
    config = ArrayConfig(fmt, weight_bits, ROWS, sum_bits=sum_bits, double_buffered=double)
    return synthesize(*verilog.named(ProcessingElement(config=config)), library)


def element_row(
    name: str, bits: int, weights: int, sum_bits: int, widths: str, points: list[Point], base: list[Point]
) -> dict[str, object]:
    """Smallest of all; smallest that is no slower than the smallest plain; fastest."""
    best, plain = smallest(points), smallest(base)
    same = smallest(points, plain.period)
    quick = min(points, key=lambda p: p.period)
    return {
        "element": name,
        "activation_bits": bits,
        "weight_bits": weights,
        "sums": widths,
        "sum_bits": sum_bits,
        "flip_flops": best.flip_flops,
        "area": best.area,
        "period_ps": best.period,
        "depth": best.depth,
        "recipe": best.recipe,
        "over_plain_percent": round(100 * (best.area / plain.area - 1), 1),
        "no_slower_area": same.area if same.period <= plain.period + 0.5 else "",
        "no_slower_period_ps": same.period,
        "no_slower_over_plain_percent": round(100 * (same.area / plain.area - 1), 1) if same.period <= plain.period + 0.5 else "",
        "fastest_area": quick.area,
        "fastest_period_ps": quick.period,
    }


def elements(library: Library, all_of_them: bool) -> Iterable[dict[str, object]]:
    """Equal sums: every element of one row of the table as wide as its full OverQ element needs, at least 24 bits.
    Own sums: each as wide as 16 rows need. Two weights: double-buffered, A4W8 with equal sums."""
    for weight_bits in (8, 4) if all_of_them else (8,):
        for bits in (3, 4, 5) if all_of_them else (4,):
            equal = max(24, accumulator_bits(Format(bits, 4), weight_bits, ROWS))
            for widths in ("equal", "own"):
                base: list[Point] = []
                for name, fmt in kinds(bits).items():
                    width = equal if widths == "equal" else accumulator_bits(fmt, weight_bits, ROWS)
                    points = points_of(fmt, weight_bits, width, library)
                    base = base or points
                    yield element_row(name, bits, weight_bits, width, widths, points, base)
        base = []
        for name, fmt in kinds(4).items() if weight_bits == 8 else ():
            points = points_of(fmt, 8, 24, library, double=True)
            base = base or points
            yield element_row(name, 4, 8, 24, "two weights", points, base)
        base = points_of(Format.plain(4), weight_bits, 24, library)
        for bits in (5, 6, 7, 8):
            yield element_row("plain", bits, weight_bits, 24, "beside A4", points_of(Format.plain(bits), weight_bits, 24, library), base)
        for name, make in RIVALS.items():
            yield element_row(name, 4, weight_bits, 24, "beside A4", synthesize(*make(4, weight_bits, 24), library), base)


def clocks(library: Library) -> Iterable[dict[str, object]]:
    """The smallest A4W8 element that meets each clock, 24-bit sums: the whole trade-off and not one point of it."""
    made = {name: points_of(fmt, 8, 24, library) for name, fmt in kinds(4).items()}
    for period in sorted({p.period for p in made["plain"]}, reverse=True):
        row: dict[str, object] = {"period_ps": period}
        plain = smallest(made["plain"], period)
        for name, points in made.items():
            best = smallest(points, period)
            meets = best.period <= period + 0.5
            row[name] = best.area if meets else ""
            row[f"{name} over plain %"] = round(100 * (best.area / plain.area - 1), 1) if meets else ""
        yield row


def stimulus(layer: LayerVectors, fmt: Format, row: int, column: int) -> list[Mapping[str, int]]:
    """What the element at (row, column) sees while the first tile of a layer streams through: one mapping per vector."""
    config = layer.config.with_(format=fmt, sum_bits=None)
    state, tile = RowState(fmt), layer.tiles[0]
    weights = [w[column] for w in tile.weights]
    out: list[Mapping[str, int]] = [{"load": 1, "weight_in": weights[row] & 255}]
    for t in tile.t:
        lanes = encode(t, config.tile)
        partial = 0
        for k in range(row):
            digit, code = lanes[k]
            partial += digit * weights[k - (code != 0)] << shift(code, fmt)
        given = {"load": 0, "digit_in": lanes[row].digit, "weight_in": weights[row - 1] & 255, "sum_in": partial & ((1 << 24) - 1)}
        if state.width:
            given["digit_in"], given["state_in"] = state.wires(lanes[row])
            if state.has_moved:
                given["neighbour_above"] = int(lanes[row - 1].state != 0)
        out.append(given)
    return out


def energy(library: Library, layer: LayerVectors) -> Iterable[dict[str, object]]:
    """fJ per element and vector, mean over eight elements, each in the netlist that its smallest point names."""
    places = [(row, column) for row in (2, 5, 9, 14) for column in (1, 10)]
    for name, fmt in kinds(4).items():
        config = ArrayConfig(fmt, 8, ROWS, sum_bits=24)
        block = ProcessingElement(config=config)
        best = smallest(synthesize(*verilog.named(block), library))
        recipe = next(r for r in RECIPES if r.name == best.recipe)
        netlist, _ = mapped("overq_element", verilog.to_verilog(block), library, recipe)
        total = sum(netlist.energy(stimulus(layer, fmt, row, column)) for row, column in places) / len(places)
        yield {"element": name, "recipe": best.recipe, "area": best.area, "fJ_per_vector": round(total, 1), "vectors": layer.source}


def save(name: str, rows: list[dict[str, object]], library: Library) -> None:
    RESULTS.mkdir(parents=True, exist_ok=True)
    with (RESULTS / name).open("a" if (RESULTS / name).exists() else "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*rows[0], "library", "yosys"])
        if file.tell() == 0:
            writer.writeheader()
        writer.writerows(row | {"library": library.name, "yosys": yosys.version()} for row in rows)
    for row in rows:
        print(*row.values(), flush=True)


def main() -> None:
    if len(sys.argv) < 2:
        raise InputError("give at least one Liberty file")
    for name in ("area_elements.csv", "area_energy.csv", "area_clock.csv"):
        (RESULTS / name).unlink(missing_ok=True)
    for i, path in enumerate(sys.argv[1:]):
        library = Library(Path(path))
        save("area_elements.csv", list(elements(library, all_of_them=i == 0)), library)
        save("area_clock.csv", list(clocks(library)), library)
        given = Path(__file__).parents[1] / "out" / "layer_resnet20.json"
        layer = LayerVectors.load(given) if given.exists() else LayerVectors.random(ArrayConfig(Format(4, 4), depth=32), vectors=300)
        save("area_energy.csv", list(energy(library, layer)), library)
    library = Library(Path(sys.argv[1]))
    designs = {}
    for size in (8, 16):
        for fmt in (Format.plain(4), Format(4, 4, fraction_bits=0), Format(4, 4)):
            config = ArrayConfig(fmt, 8, size, size, sum_bits=24)
            designs[f"{config.name}_{size}x{size}"] = parts(config, library)
    write(RESULTS / "area_parts.csv", to_csv(designs, "µm²", library.name))


if __name__ == "__main__":
    main()
