"""Write the tables of docs/hardware.md, language.md, cycles.md and format.md from benchmarks/results: python benchmarks/area_page.py"""

from __future__ import annotations

import csv
from collections.abc import Callable
from functools import partial
from pathlib import Path

from overq.errors import InputError

ROOT = Path(__file__).parents[1]
PAGES = tuple(ROOT / "docs" / name for name in ("hardware.md", "language.md", "cycles.md", "format.md"))
Row = dict[str, str]
NONE = "Not measured on today's element; `make area` does."


def rows(name: str, kind: str = "area_") -> list[Row]:
    path = ROOT / "benchmarks" / "results" / f"{kind}{name}.csv"
    if not path.exists():
        return []
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def one_version(found: list[Row], made: str) -> str:
    """The table with the commit that its rows are of; InputError where they are of several."""
    commits = sorted({r["commit"] for r in found if r.get("commit")})
    if len(commits) > 1:
        what = ", ".join(sorted({r.get("step", "") or "an earlier step" for r in found}))
        raise InputError(f"one table of {len(commits)} commits ({', '.join(commits)}): run {what} of benchmarks/area.py anew")
    return f"{made}\n\nCommit {commits[0]}." if commits else made


def table(head: list[str], body: list[list[str]]) -> str:
    if not body:
        return NONE
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def signed(value: str) -> str:
    return f"{float(value):+.1f} %" if value else "–"


def number(value: str) -> str:
    return f"{float(value):.0f}" if value else "–"


def elements(found: list[Row]) -> str:
    head = ["element", "sums", "bits", "flip-flops", "µm²", "ps", "over plain", "no slower than plain: µm²", "over plain"]
    body = []
    for r in found:
        cells = [f"{r['element']} W{r['weight_bits']}", r["sums"], r["sum_bits"], r["flip_flops"], number(r["area"])]
        cells += [number(r["period_ps"]), signed(r["over_plain_percent"]), number(r["no_slower_area"])]
        body.append([*cells, signed(r["no_slower_over_plain_percent"])])
    return one_version(found, table(head, body))


def a4w8() -> str:
    return elements(
        [
            r
            for r in rows("elements")
            if (r["activation_bits"], r["weight_bits"]) == ("4", "8") and r["sums"] in ("equal", "own") and nangate(r)
        ]
    )


def double() -> str:
    """A4W8 with a second weight register, both libraries."""
    found = [r for r in rows("elements") if r["sums"] == "two weights"]
    libraries = dict.fromkeys(r["library"] for r in found)
    return "\n\n".join(f"{library}:\n\n{elements([r for r in found if r['library'] == library])}" for library in libraries) or NONE


def others() -> str:
    """All other element rows: other widths, the second library."""
    own = [r for r in rows("elements") if r["sums"] in ("equal", "own")]
    rest = [r for r in own if not ((r["activation_bits"], r["weight_bits"]) == ("4", "8") and nangate(r))]
    parts = []
    for library in dict.fromkeys(r["library"] for r in rest):
        parts.append(f"{library.split('+')[0]}:\n\n{elements([r for r in rest if r['library'] == library])}")
    return "\n\n".join(parts) or NONE


def nangate(row: Row) -> bool:
    return row["library"].startswith("Nangate")


def rivals() -> str:
    found = [r for r in rows("elements") if r["sums"] == "beside A4" and r["weight_bits"] == "8"]
    head = ["element, W8, 24-bit sums", "library", "flip-flops", "µm²", "ps", "over plain A4W8"]
    keys = ("flip_flops",)
    body = []
    for r in found:
        name = r["element"] if " " in r["element"] else f"{r['element']} A{r['activation_bits']}"
        cells = [name, r["library"].split("_")[0], *(r[k] for k in keys), number(r["area"])]
        body.append([*cells, number(r["period_ps"]), signed(r["over_plain_percent"])])
    return one_version(found, table(head, body))


def clock() -> str:
    """The clocks of plain points at which the answer changes."""
    found = rows("clock")
    if not found:
        return NONE
    plain, *names = [key for key in found[0] if key not in ("period_ps", "library", "yosys", "commit", "step") and not key.endswith("%")]
    body: list[list[str]] = []
    for r in found:
        others = [f"{number(r[n])} ({signed(r[f'{n} over plain %'])})" if r[n] else "–" for n in names]
        line = [number(r[plain]), *others]
        if not body or body[-1][1:] != line:
            body.append([number(r["period_ps"]), *line])
    return one_version(found, table(["clock, ps", f"{plain} µm²", *(f"{name} µm²" for name in names)], body))


def ideas() -> str:
    head = ["idea", "what", "µm²", "ps", "more", "ordinary", "no slower", "default recipe"]
    body = []
    for r in rows("ideas"):
        cells = [r["idea"], r["what"], number(r["area"]), number(r["ps"]), signed(r["more_percent"])]
        two = r["idea"].startswith("9 ")
        ordinary = "–" if two else signed(r["more_than_ordinary_percent"])
        body.append([*cells, ordinary, signed(r["no_slower_percent"]), signed(r["default_percent"])])
    return table(head, body)


def arrays(name: str) -> str:
    """Thousands of µm² by part."""
    head = ["array, W8", "size", "sum bits", "elements", "encoder", "output stages", "skew, control", "all", "over A4 plain"]
    body = []
    found = rows(name)
    for r in sorted(found, key=lambda r: int(r["size"])):
        areas = [f"{float(r[key]) / 1000:.0f}" for key in ("element", "encoder", "output_stage", "skew_and_control", "all")]
        body.append([r["array"], f"{r['size']} × {r['size']}", r["sum_bits"], *areas, signed(r["over_A4_plain_percent"])])
    return one_version(found, table(head, body))


def energy() -> str:
    head = ["element A4W8, 24-bit sums", "library", "fJ per vector", "vectors"]
    found = rows("energy")
    return one_version(
        found, table(head, [[r["element"], r["library"].split("_")[0], number(r["fJ_per_vector"]), r["vectors"]] for r in found])
    )


def encoders() -> str:
    head = ["encoder, 16 lanes", "flip-flops", "µm²", "over the first"]
    found = rows("encoders")
    body = [[r["encoder"], r["flip_flops"], number(r["area"]), signed(r["over_first_percent"])] for r in found]
    return one_version(found, table(head, body))


def giving_way() -> str:
    """Coverage and decibels by rule; the last column is what no rule can pass."""
    found = rows("giving_way", kind="")
    networks = list(dict.fromkeys(r["network"] for r in found))
    by = {(r["network"], r["cascade"], r["rule"]): r for r in found}
    body = []
    for cascade, rule in dict.fromkeys((r["cascade"], r["rule"]) for r in found):
        name = {"gain": "any level up to what is clipped", "any": "whatever is next"}.get(rule, f"`evict={rule}`")
        some = [by[network, cascade, rule] for network in networks]
        body.append([cascade, name, *(f"{r['coverage']} of {r['at_most']}, {float(r['decibels']):.1f} dB" for r in some)])
    return one_version(found, table(["c", "who gives way", *networks], body))


def fpga() -> str:
    head = ["element, W8", "family", "asic: LUTs", "carries", "multipliers", "fpga: LUTs", "carries", "multipliers"]
    found = {(r["element"], r["family"], r["target"]): [r[k] for k in ("luts", "carries", "multipliers")] for r in rows("fpga")}
    pairs = dict.fromkeys((element, family) for element, family, _ in found)
    return table(head, [[*pair, *found[(*pair, "asic")], *found[(*pair, "fpga")]] for pair in pairs])


def placed() -> str:
    head = ["format, W8", "array", "pipeline", "LUTs", "flip-flops", "multipliers", "MHz, median", "least … most", "seeds", "device"]
    found = rows("placed", "fpga_")
    body = []
    for r in found:
        clocks = [r["fmax_median"], f"{r['fmax_least']} … {r['fmax_most']}"] if int(r["seeds"]) else ["mapped alone", ""]
        body.append(
            [*(r[key] for key in ("format", "array", "pipeline", "luts", "flip_flops", "multipliers")), *clocks, r["seeds"], r["device"]]
        )
    return one_version(found, table(head, body))


def energies() -> str:
    """Of ResNet-50's shapes; the last column is over the first line."""
    found = rows("resnet50", "energy_")
    head = ["format, W8", "mm²", "cycles", "ms", "elements", "edge", "leakage", "buffers", "DRAM", "all", "mJ · ms", "energy over A4"]
    keys = ("format", "area_mm2", "cycles", "latency_ms", "elements", "edge", "leakage", "buffers", "dram", "energy", "edp")
    body = [[*(r[key] for key in keys), signed(str(100 * (float(r["energy"]) / float(found[0]["energy"]) - 1)))] for r in found]
    if not found:
        return table(head, body)
    first = found[0]
    return table(head, body) + f"\n\n{first['library']}, {first['volts']} V, clock {first['clock_ns']} ns; commit {first['commit']}"


TABLES: dict[str, Callable[[], str]] = {
    "elements": a4w8,
    "double": double,
    "others": others,
    "clock": clock,
    "rivals": rivals,
    "ideas": ideas,
    "arrays": partial(arrays, "arrays"),
    "signed": partial(arrays, "signed"),
    "energy": energy,
    "encoders": encoders,
    "giving-way": giving_way,
    "fpga": fpga,
    "placed": placed,
    "energies": energies,
}


def made(text: str) -> str:
    """The page with its tables made anew."""
    for name, make in TABLES.items():
        before, begin, rest = text.partition(f"<!-- begin {name} -->")
        _, end, after = rest.partition(f"<!-- end {name} -->")
        text = f"{before}{begin}\n{make()}\n{end}{after}" if end else text
    return text


def main() -> None:
    for page in PAGES:
        page.write_text(made(page.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
