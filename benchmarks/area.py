"""The area tables of docs/hardware.md.

    python benchmarks/area.py cells.lib [more.lib first_part.lib,second_part.lib …] [--only elements --only array-64 …]

Writes under benchmarks/results: area_elements.csv (every element, by two rules), area_arrays.csv (whole accelerators by part,
16 to 128 rows), area_signed.csv (the same for signed formats, 64 rows), area_clock.csv (A4W8 at given clocks), area_encoders.csv,
area_fpga.csv and area_energy.csv. The energy is that of the layer vectors in out/layer_resnet20.json, if
`python tests/rtl/real_layer.py` has put them there, else of random ones.
OVERQ_CACHE names a folder that remembers results.
"""

from __future__ import annotations

import argparse
import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

from overq.eda import yosys
from overq.eda.fpga import FAMILIES, resources
from overq.eda.liberty import Library
from overq.eda.synth import RECIPES, Point, Recipe, mapped, smallest, synthesize
from overq.errors import InputError
from overq.output import write
from overq.rtl import OverwriteEncoder, ProcessingElement, RowState, verilog
from overq.rtl.parts import FEW, parts
from overq.rtl.rivals import RIVALS
from overq.rtl.vectors import LayerVectors
from overq.spec import ArrayConfig, Format, accumulator_bits, encode, shift
from overq.spec.array import TARGETS
from overq.study.version import commit, package

RESULTS = Path(__file__).parent / "results"
ROWS = 16
UNSIGNED = (Format.plain(4), Format.plain(5), *(Format(4, 4, r, f) for r, f in ((1, 1), (2, 1), (2, 2), (3, 3))))
# Of a language model's activations: plain, and what docs/language.md runs.
SIGNED = (*(Format.plain(bits, True) for bits in (4, 5, 6)), *(Format(4, 8, 3, 3, "largest", True, evict=evict) for evict in (0, 2)))
# All but the A4W8 elements of the first library go through the recipes that won there: a third of the time, the same for plain.
QUICK = [r for r in RECIPES if r.adders and r.script in ("resyn", "compress")]
PLAIN_CELLS = [r for r in RECIPES if not r.adders and r.script in ("resyn", "compress", "amap")]  # where no cell is a full adder


def kinds(bits: int) -> list[Format]:
    """Plain first; then range alone, and range + precision with ever longer second digits."""
    lengths = ((1, 1), (2, 1), (2, 2), (3, 3), (4, 4)) if bits == 4 else ((1, 1), (bits - 1, bits - 1))
    both = [Format(bits, 4, r, f) for r, f in lengths]
    return list(dict.fromkeys([Format.plain(bits), Format(bits, 4, 2, 0), Format(bits, 4, bits - 1, 0), *both]))


def points_of(
    fmt: Format, weight_bits: int, sum_bits: int, library: Library, double: bool = False, recipes: Sequence[Recipe] = RECIPES
) -> list[Point]:
    config = ArrayConfig(fmt, weight_bits, ROWS, sum_bits=sum_bits, double_buffered=double)
    return synthesize(*verilog.named(ProcessingElement(config=config)), library, recipes)


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


def elements(
    library: Library, bits: int, weight_bits: int, fmts: list[Format], double: bool = False, recipes: Sequence[Recipe] = RECIPES
) -> Iterable[dict[str, object]]:
    """Equal sums: every element as wide as the widest needs for 16 rows, at least 24 bits. Own sums: each as wide as it needs itself.
    Two weights: double-buffered, equal sums."""
    equal = max(24, *(accumulator_bits(fmt, weight_bits, ROWS) for fmt in fmts))
    for widths in ("two weights",) if double else ("equal", "own"):
        base: list[Point] = []
        for fmt in fmts:
            width = accumulator_bits(fmt, weight_bits, ROWS) if widths == "own" else equal
            points = points_of(fmt, weight_bits, width, library, double, recipes)
            base = base or points
            yield element_row(fmt.label, bits, weight_bits, width, widths, points, base)


def rivals(library: Library) -> Iterable[dict[str, object]]:
    """Other elements at the same desk, W8, 24-bit sums, over plain A4."""
    base = points_of(Format.plain(4), 8, 24, library, recipes=QUICK)
    for fmt in (*(Format.plain(bits) for bits in (5, 6, 8)), *(Format(4, 4, r, f) for r, f in ((3, 0), (1, 1), (3, 3)))):
        yield element_row(fmt.label, fmt.bits, 8, 24, "beside A4", points_of(fmt, 8, 24, library, recipes=QUICK), base)
    for name, make in RIVALS.items():
        yield element_row(name, 4, 8, 24, "beside A4", synthesize(*make(4, 8, 24), library, QUICK), base)


def clocks(library: Library) -> Iterable[dict[str, object]]:
    """The smallest A4W8 element that meets each clock, 24-bit sums: the whole trade-off and not one point of it."""
    made = {fmt.label: points_of(fmt, 8, 24, library) for fmt in kinds(4)}
    base = made[Format.plain(4).label]
    for period in sorted({p.period for p in base}, reverse=True):
        row: dict[str, object] = {"period_ps": period}
        plain = smallest(base, period)
        for name, points in made.items():
            best = smallest(points, period)
            meets = best.period <= period + 0.5
            row[name] = best.area if meets else ""
            row[f"{name} over plain %"] = round(100 * (best.area / plain.area - 1), 1) if meets else ""
        yield row


def arrays(library: Library, size: int, fmts: Iterable[Format] = UNSIGNED) -> Iterable[dict[str, object]]:
    """Whole W8 accelerators of size × size elements, by part, beside the first; own sums, of as many lanes as there are rows."""
    totals: dict[str, float] = {}
    for fmt in fmts:
        config = ArrayConfig(fmt, 8, size, size)
        made = parts(config, library, QUICK, whole=False)
        total = sum(part.total for part in made)
        totals[fmt.label] = total
        by_name = {part.name.split(",")[0]: 0.0 for part in made}
        for part in made:
            by_name[part.name.split(",")[0]] += part.total
        yield {
            "array": fmt.label,
            "size": size,
            "sum_bits": config.psum_bits,
            **{name.replace(" ", "_"): round(area) for name, area in by_name.items()},
            "all": round(total),
            "over_A4_plain_percent": round(100 * (total / next(iter(totals.values())) - 1), 1),
        }


def encoders(library: Library) -> Iterable[dict[str, object]]:
    """The encoder of 16 lanes, and what it takes where values may give way."""
    base = 0.0
    better = Format(4, 8, 3, 3, "largest")
    for fmt in (*(Format(4, 4, 3, 3, evict=evict) for evict in range(4)), better, better.with_(evict=2)):
        point = synthesize(*verilog.named(OverwriteEncoder(config=ArrayConfig(fmt, 8, ROWS, 1))), library, FEW)[0]
        base = base or point.area
        yield {
            "encoder": fmt.label,
            "lanes": ROWS,
            "area": point.area,
            "flip_flops": point.flip_flops,
            "over_first_percent": round(100 * (point.area / base - 1), 1),
        }


def fpgas() -> Iterable[dict[str, object]]:
    """A4W8 elements of 16 rows on FPGAs, written for standard cells and for the device."""
    for family in FAMILIES:
        for target in TARGETS:
            for fmt in (Format.plain(4), Format(4, 4, 3, 0), Format(4, 4, 3, 3)):
                name, text = verilog.named(ProcessingElement(config=ArrayConfig(fmt, 8, ROWS, target=target)))
                yield {"element": fmt.label, "target": target, "family": family, **asdict(resources(name, text, family))}


def stimulus(layer: LayerVectors, fmt: Format, row: int, column: int) -> list[Mapping[str, int]]:
    """What the element at (row, column) sees while the first tile of a layer streams through: one mapping per vector. t of fewer
    fraction bits is the layer's, rounded down further; a digit of more bits has a finer step."""
    config = layer.config.with_(format=fmt, sum_bits=None)
    state, tile, given_in = RowState(fmt), layer.tiles[0], layer.config.format
    drop = given_in.fraction_bits - fmt.fraction_bits - (fmt.bits - given_in.bits)
    weights = [w[column] for w in tile.weights]
    out: list[Mapping[str, int]] = [{"load": 1, "weight_in": weights[row] & 255}]
    for t in tile.t:
        lanes = encode([value >> drop for value in t], config.tile)
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
    for fmt in (Format.plain(4), Format.plain(5), Format(4, 4, 3, 0), *(Format(4, 4, r, f) for r, f in ((1, 1), (2, 1), (2, 2), (3, 3)))):
        config = ArrayConfig(fmt, 8, ROWS, sum_bits=24)
        block = ProcessingElement(config=config)
        best = smallest(synthesize(*verilog.named(block), library))
        recipe = next(r for r in RECIPES if r.name == best.recipe)
        netlist, _ = mapped("overq_element", verilog.to_verilog(block), library, recipe)
        total = sum(netlist.energy(stimulus(layer, fmt, row, column)) for row, column in places) / len(places)
        yield {"element": fmt.label, "recipe": best.recipe, "area": best.area, "fJ_per_vector": round(total, 1), "vectors": layer.source}


def save(name: str, step: str, rows: Iterable[dict[str, object]], library: Library | None = None) -> None:
    """Each row as soon as it is there: the whole takes an hour. The first replaces what an earlier run of the step left."""
    path, kept = RESULTS / name, []
    RESULTS.mkdir(parents=True, exist_ok=True)
    if path.exists():
        with path.open(newline="", encoding="utf-8") as file:
            kept = [row for row in csv.DictReader(file) if row.get("step") != step]
    for row in rows:
        full = row | ({"library": library.name} if library else {}) | {"yosys": yosys.version(), "commit": commit(package()), "step": step}
        kept.append({key: str(value) for key, value in full.items()})
        text = io.StringIO()
        writer = csv.DictWriter(text, list(dict.fromkeys(key for one in kept for key in one)), lineterminator="\n")
        writer.writeheader()
        writer.writerows(kept)
        write(path, text.getvalue())
        print(*row.values(), flush=True)


def steps(libraries: list[Library]) -> dict[str, tuple[str, Callable[[], Iterable[dict[str, object]]], Library | None]]:
    """Name of a step -> (file of results, its rows, the library that they are of)."""
    first, *others = libraries
    few = [Format.plain(4), *(Format(4, 4, r, f) for r, f in ((1, 1), (2, 1), (3, 3)))]
    given = Path(__file__).parents[1] / "out" / "layer_resnet20.json"
    layer = LayerVectors.load(given) if given.exists() else LayerVectors.random(ArrayConfig(Format(4, 4, 3, 3), depth=32), vectors=300)
    made: dict[str, tuple[str, Callable[[], Iterable[dict[str, object]]], Library | None]] = {
        "fpga": ("area_fpga.csv", fpgas, None),
        "elements": ("area_elements.csv", lambda: elements(first, 4, 8, kinds(4)), first),
        **{f"array-{size}": ("area_arrays.csv", partial(arrays, first, size), first) for size in (64, 16, 128, 32)},
        "clock": ("area_clock.csv", lambda: clocks(first), first),
        "rivals": ("area_elements.csv", lambda: rivals(first), first),
        "double": ("area_elements.csv", lambda: elements(first, 4, 8, few, double=True, recipes=QUICK), first),
        "energy": ("area_energy.csv", lambda: energy(first, layer), first),
        "encoders": ("area_encoders.csv", lambda: encoders(first), first),
        "signed": ("area_signed.csv", partial(arrays, first, 64, SIGNED), first),
    }
    for bits, weight_bits in ((3, 8), (5, 8), (4, 4)):
        fmts = kinds(bits) if bits != 4 else few
        made[f"A{bits}W{weight_bits}"] = ("area_elements.csv", partial(elements, first, bits, weight_bits, fmts, recipes=QUICK), first)
    for library in others:
        made[f"elements-{library.name}"] = (
            "area_elements.csv",
            partial(elements, library, 4, 8, few, recipes=QUICK if library.full_adder else PLAIN_CELLS),
            library,
        )
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("liberty", nargs="+", help="a library each; files of one library with commas between")
    parser.add_argument("--only", action="append", help="a step of those that a first run names; its rows replace those of its last run")
    options = parser.parse_args()
    todo = steps([Library([Path(name) for name in names.split(",")]) for names in options.liberty])
    unknown = set(options.only or []) - set(todo)
    if unknown:
        raise InputError(f"no step {min(unknown)}; there are {', '.join(todo)}")
    for step in options.only or todo:
        name, rows, library = todo[step]
        print(f"{step}:", flush=True)
        save(name, step, rows(), library)


if __name__ == "__main__":
    main()
