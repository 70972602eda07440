"""Pictures and tables of docs/calibration.md from benchmarks/results/calibration-*.csv: python benchmarks/calibration_page.py"""

from __future__ import annotations

import csv
import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

ROOT = Path(__file__).parents[1]
RESULTS, PAGE, PICTURES = ROOT / "benchmarks" / "results", ROOT / "docs" / "calibration.md", ROOT / "docs" / "img"
NETWORKS = ("resnet20", "resnet44", "resnet18", "resnet50", "squeezenet")
PLAIN, FIRST, LARGEST = "#555555", "#0072b2", "#d55e00"
Row = dict[str, str]


@cache
def read(name: str) -> list[Row]:
    """Rows of a results file; none where it does not exist."""
    path = RESULTS / name
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def rows(network: str) -> list[Row]:
    return read(f"calibration-{network}.csv")


def find(found: list[Row], **wanted: Any) -> Row | None:
    """The row of those settings; what is not named is the plain default."""
    defaults = {"calibration": "format-mse", "sequential": 0, "reorder": 0, "equalize": 0.0, "bias_correction": 0}
    wanted = {**defaults, **wanted}
    return next((r for r in found if all(r[key] == str(value) for key, value in wanted.items())), None)


def plain(bits: int, **more: Any) -> dict[str, Any]:
    return {"bits": bits, "modes": "plain", **more}


def full(bits: int, cascade: int, policy: str, **more: Any) -> dict[str, Any]:
    return {"bits": bits, "modes": "range+precision", "cascade": cascade, "policy": policy, **more}


def right(row: Row) -> np.ndarray:
    """Bool [images]."""
    return np.unpackbits(np.frombuffer(bytes.fromhex(row["right"]), np.uint8))[: int(row["images"])].astype(bool)


def difference(a: Row, b: Row) -> str:
    """a - b in points with its 95 % interval, paired over images (bootstrap, seed 0)."""
    gain = right(a).astype(float) - right(b)
    draws = np.random.default_rng(0).integers(len(gain), size=(2000, len(gain)))
    low, high = np.percentile(gain[draws].mean(1), [2.5, 97.5])
    return f"{100 * gain.mean():+.2f} [{100 * low:+.2f}, {100 * high:+.2f}]"


def table(head: list[str], body: list[list[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cell(row: Row | None, key: str = "to_float") -> str:
    return "" if row is None else f"{float(row[key]):+.2f}" if key == "to_float" else row[key]


def joined(found: list[Row | None], key: str, digits: int) -> str:
    """One figure of several rows in one cell."""
    return " / ".join(f"{float(r[key]):.{digits}f}" if r else "" for r in found)


def default(bits: int, **more: Any) -> dict[str, Any]:
    return full(bits, 4, "first", **more)


SHOWN = {
    "plain": plain,
    "c = 4, first": default,
    "c = 8, largest, reordered": lambda b, **more: full(b, 8, "largest", reorder=1, **more),
}


def distance_to_float(corrected: int) -> str:
    """corrected: with bias correction (1) or without (0)."""
    body = []
    for network in NETWORKS:
        found = rows(network)
        exact = next((r for r in found if r["modes"] == "float"), None)
        if exact is None:
            continue
        line = [network, exact["images"], exact["top1"], *(cell(find(found, **plain(b, bias_correction=corrected))) for b in (8, 5))]
        body.append(line + [cell(find(found, **setting(b, bias_correction=corrected))) for b in (4, 3) for setting in SHOWN.values()])
    head = ["network", "images", "float", "A8 plain", "A5 plain", *(f"A{b} {name}" for b in (4, 3) for name in SHOWN)]
    return table(head, body)


def corrected_minus_not() -> str:
    """What bias correction adds to the same setting."""
    body = []
    for network in NETWORKS:
        found, line = rows(network), [network]
        for bits in (4, 3):
            for setting in SHOWN.values():
                pair = [find(found, **setting(bits, bias_correction=flag)) for flag in (1, 0)]
                line.append(difference(pair[0], pair[1]) if all(pair) else "")  # type: ignore[arg-type]
        if any(line[1:]):
            body.append(line)
    return table(["network", *(f"A{b} {name}" for b in (4, 3) for name in SHOWN)], body)


def paired() -> str:
    """OverQ at its most, with bias correction, against plain with it."""
    body, corrected = [], {"bias_correction": 1}
    for network in NETWORKS:
        found = rows(network)
        for bits in (4, 3):
            best = max(
                (r for r in found if (r["modes"], r["bits"]) == ("plain", str(bits))),
                key=lambda r: float(r["top1"]),
                default=None,
            )
            ours, same = find(found, **full(bits, 8, "largest", reorder=1, **corrected)), find(found, **plain(bits, **corrected))
            wider = find(found, **plain(bits + 1, **corrected))
            if ours and same and best:
                name = best["calibration"] + (", corrected" if best["bias_correction"] == "1" else "")
                name += ", equalized" if best["equalize"] != "0.0" else ""
                line = [network, f"A{bits}", difference(ours, same), f"{difference(ours, best)} ({name})"]
                body.append([*line, difference(ours, wider) if wider else ""])
    return table(
        ["network", "bits", "over plain, its format-mse step", "over the best plain of all that ran", "over plain with a bit more"], body
    )


def by_method(network: str) -> str:
    found, body = rows(network), []
    for method in methods():
        line = [method]
        for bits in (4, 3):
            ours, theirs = find(found, **full(bits, 4, "first", calibration=method)), find(found, **plain(bits, calibration=method))
            line += [cell(theirs), cell(ours), difference(ours, theirs) if ours and theirs else ""]
        if any(line[1:]):
            body.append(line)
    return table(["step", *(h for b in (4, 3) for h in (f"A{b} plain", f"A{b} OverQ c = 4", "gain"))], body)


def gains() -> str:
    """OverQ c = 4, first, over plain with the same calibrator, and the best of one over the best of the other, network by network."""
    found = {network: rows(network) for network in NETWORKS}
    columns = [(network, bits) for network in NETWORKS for bits in (4, 3)]
    lines: dict[str, list[str]] = {method: [method] for method in methods()}
    summary = ["**best against best**"]
    for network, bits in columns:
        pairs = {}
        for method in lines:
            pair = [find(found[network], **setting, calibration=method) for setting in (default(bits), plain(bits))]
            lines[method].append(f"{float(pair[0]['top1']) - float(pair[1]['top1']):+.2f}" if all(pair) else "")  # type: ignore[index]
            pairs[method] = pair
        ours, theirs = (max((pair[i] for pair in pairs.values() if pair[i]), key=lambda r: float(r["top1"])) for i in (0, 1))
        summary.append(f"{difference(ours, theirs)} ({ours['calibration']}, {theirs['calibration']})")
    return table(["step", *(f"{network} A{bits}" for network, bits in columns)], [*lines.values(), summary])


def coverage() -> str:
    """Outliers served, A4 / A3, and what independent zeros would give, by cascade factor."""
    body, factors = [], (1, 2, 4, 8)
    kinds = [(policy, reorder) for policy in ("first", "largest") for reorder in (0, 1)]
    lines = [(f"{policy}{', reordered' if reorder else ''}", policy, reorder, "coverage") for policy, reorder in kinds]
    for network in NETWORKS:
        for name, policy, reorder, key in [*lines, ("1 − (1−p)^c", "first", 0, "expected_coverage")]:
            pairs = [[find(rows(network), **full(bits, c, policy, reorder=reorder)) for bits in (4, 3)] for c in factors]
            body.append([f"{network}, {name}", *(joined(pair, key, 3) for pair in pairs)])
    return table(["A4 / A3", *(f"c = {c}" for c in factors)], body)


def methods() -> list[str]:
    """Every calibrator that ran."""
    return list(dict.fromkeys(r["calibration"] for r in rows("resnet20") if r["calibration"]))


def sqnr_of(settings: dict[str, Any], widths: tuple[int, ...] = (4, 3), grid: str = "") -> str:
    """SQNR of the class scores at some bit widths, of settings (name -> function of the bits), on every network.

    grid  "" or a prefix of the network's name in the results files
    """
    found = {network: rows(grid + network) for network in NETWORKS}
    body = []
    for name, setting in settings.items():
        cells = [[find(found[network], **setting(bits)) for bits in widths] for network in NETWORKS]
        body.append([name, *(joined(cell, "output_sqnr", 1) for cell in cells)])
    return table([" / ".join(f"A{bits}" for bits in widths) + ", dB", *NETWORKS], body)


def transforms() -> str:
    return sqnr_of({
        "plain": plain,
        "plain, equalized": lambda b: plain(b, equalize=0.5),
        "range only, c = 4, first": lambda b: full(b, 4, "first", modes="range"),
        "range only, c = 4, largest": lambda b: full(b, 4, "largest", modes="range"),
        "c = 1": lambda b: full(b, 1, "first"),
        "c = 1, reordered": lambda b: full(b, 1, "first", reorder=1),
        "c = 4, first": lambda b: full(b, 4, "first"),
        "c = 4, first, equalized": lambda b: full(b, 4, "first", equalize=0.5),
        "c = 4, first, reordered": lambda b: full(b, 4, "first", reorder=1),
        "c = 4, largest": lambda b: full(b, 4, "largest"),
        "c = 8, largest": lambda b: full(b, 8, "largest"),
        "c = 4, largest, reordered": lambda b: full(b, 4, "largest", reorder=1),
        "c = 8, largest, reordered": lambda b: full(b, 8, "largest", reorder=1),
        "c = 8, largest, reordered, corrected": lambda b: full(b, 8, "largest", reorder=1, bias_correction=1),
        "c = 8, largest, reordered, equalized": lambda b: full(b, 8, "largest", reorder=1, equalize=0.5),
    })  # fmt: skip


def calibrators(widths: tuple[int, ...], grid: str = "") -> str:
    return sqnr_of({
        f"{method}, {name}": lambda b, method=method, setting=setting: setting(b, calibration=method)
        for method in methods() for name, setting in (("plain", plain), ("c = 4", default))
    }, widths, grid)  # fmt: skip


def bias() -> str:
    """Uncorrected, means corrected, means and spreads."""
    found, body = read("bias.csv"), []
    for network in dict.fromkeys(r["network"] for r in found):
        for weight_bits in ("8", "4"):
            for name in dict.fromkeys(r["format"] for r in found):
                three = [r for r in found if (r["network"], r["weight_bits"], r["format"]) == (network, weight_bits, name)]
                body.append([f"{network}, W{weight_bits} {name}", *(f"{float(r['to_float']):+.2f}, {r['output_sqnr']}" for r in three)])
                body[-1].append(f"{three[0]['spread']}, {three[1]['spread']}")
    head = [
        "points to float, SQNR in dB",
        "uncorrected",
        "means corrected",
        "means and spreads",
        "least spread without, with means corrected",
    ]
    return table(head, body)


def sequential(network: str) -> str:
    found, body = rows(network), []
    for method in ("format-mse", "mse", "aciq-gauss"):
        for name, setting in (("plain", plain), ("OverQ c = 4", default)):
            line = [f"{method}, {name}"]
            for bits in (4, 3):
                pair = [find(found, **setting(bits, calibration=method, sequential=flag)) for flag in (0, 1)]
                if all(pair):
                    line += [cell(pair[0]), cell(pair[1]), difference(pair[1], pair[0])]  # type: ignore[arg-type]
            if len(line) == 7:
                body.append(line)
    return table(["step", *(h for b in (4, 3) for h in (f"A{b} parallel", f"A{b} sequential", "difference"))], body)


def orders() -> str:
    """Own order, per layer, carried by the network; each at the own order's step and at its own."""
    names = {"own": "as it is", "layer": "each layer its own", "network": "carried by the network"}
    body = []
    for r in read("reordering.csv"):
        what = f"A{r['bits']}, c = {r['cascade']}, {r['policy']}"
        line = [f"{r['network']}, {r['images']} images", what, names[r["order"]], r["step"], r["coverage"][:5]]
        line.append(f"{100 * float(r['outlier_rate']):.2f} %")
        body.append([*line, r["output_sqnr"], r["top1"]])
    head = ["network", "format", "order", "step that suits", "coverage", "outliers", "SQNR of the scores, dB", "top-1"]
    return table(head, body)


def panels(height: float) -> tuple[Figure, Any]:
    """A4 above A3, a column for each network: (figure, [(axes, rows, bits, title)])."""
    figure = Figure(figsize=(2.9 * len(NETWORKS), height), layout="constrained")
    grid = figure.subplots(2, len(NETWORKS))
    return figure, [(grid[i][j], rows(n), bits, f"{n}, A{bits}") for i, bits in enumerate((4, 3)) for j, n in enumerate(NETWORKS)]


def picture_methods(name: str) -> None:
    figure, shown = panels(6)
    for axes, found, bits, title in shown:
        pairs = [[find(found, **s, calibration=m) for s in (plain(bits), default(bits))] for m in methods()]
        values = [[float(r["output_sqnr"]) if r else np.nan for r in pair] for pair in pairs]
        at = range(len(values))
        axes.hlines(at, *zip(*values, strict=True), color="0.8", linewidth=2)
        for i, color, label in ((0, PLAIN, "plain"), (1, FIRST, "OverQ, c = 4")):
            axes.plot([v[i] for v in values], at, "o", color=color, markersize=5, label=label)
        axes.set_yticks(at, methods() if axes.get_subplotspec().is_first_col() else [""] * len(values), fontsize=8)
        axes.invert_yaxis()
        axes.set_title(title, fontsize=10)
        axes.grid(axis="x", alpha=0.25)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=5, fontsize=9)
    figure.supxlabel("SQNR of the class scores, dB: more is better", fontsize=10)
    figure.savefig(PICTURES / name, dpi=110)


def picture_cascade(name: str, key: str, label: str) -> None:
    """key: what is shown against the cascade factor; coverage comes with what independent zeros would give."""
    figure, shown = panels(5)
    factors = range(1, 9)
    for axes, found, bits, title in shown:
        for policy, color in (("first", FIRST), ("largest", LARGEST)):
            for reorder, line in ((0, "-"), (1, "--")):
                points = [find(found, **full(bits, c, policy, reorder=reorder)) for c in factors]
                _line(axes, points, key, color, line, f"{policy}{', reordered' if reorder else ''}")
        if key == "coverage":
            _line(axes, [find(found, **full(bits, c, "first")) for c in factors], "expected_coverage", "0.5", ":", "1 - (1-p)^c")
        axes.set_xticks(factors)
        axes.set_title(title, fontsize=10)
        axes.grid(alpha=0.25)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=5, fontsize=9)
    figure.supxlabel("cascade factor", fontsize=10)
    figure.supylabel(label, fontsize=10)
    figure.savefig(PICTURES / name, dpi=110)


def _line(axes: Axes, points: list[Row | None], key: str, color: str, style: str, label: str) -> None:
    there = [(c, float(r[key])) for c, r in zip(range(1, 9), points, strict=True) if r]
    axes.plot([c for c, _ in there], [v for _, v in there], color=color, linestyle=style, marker="o", markersize=3, label=label)


def picture_layers(evaluation: Path, name: str) -> None:
    """Zero and outlier rates and coverage, layer by layer, of A4 range + precision c = 4."""
    result = next(
        r for r in json.loads(evaluation.read_text())["results"] if (r["bits"], r["mode"], r["cascade"]) == (4, "range+precision", 4)
    )
    layers = result["layers"]
    figure = Figure(figsize=(11, 5), layout="constrained")
    rates, covered = figure.subplots(2, 1, sharex=True)
    at = range(len(layers))
    rates.bar(at, [x["zero_rate"] for x in layers], color="#56b4e9", label="zeros")
    rates.bar(at, [10 * x["outlier_rate"] for x in layers], color=LARGEST, label="outliers × 10")
    covered.plot(at, [x["expected_coverage"] for x in layers], ":", color="0.5", label="1 - (1-p)^c")
    covered.plot(at, [np.nan if x["coverage"] is None else x["coverage"] for x in layers], "o-", color=FIRST, markersize=4, label="served")
    covered.axhline(0.9, color="0.8", linewidth=1)
    covered.set_xticks(at, [x["name"] for x in layers], rotation=90, fontsize=6)
    rates.set(ylabel="share of values", title="ImageNet ResNet-50, A4 range + precision, c = 4, first")
    covered.set(ylabel="share of outliers")
    for axes in (rates, covered):
        axes.legend(fontsize=8)
    figure.savefig(PICTURES / name, dpi=110)


def main() -> None:
    tables = {
        "distance": distance_to_float(0),
        "corrected": distance_to_float(1),
        "gained": corrected_minus_not(),
        "bias": bias(),
        "paired": paired(),
        "methods-resnet20": by_method("resnet20"),
        "gains": gains(),
        "coverage": coverage(),
        "sequential": sequential("resnet20"),
        "transforms": transforms(),
        "calibrators": calibrators((4, 3)),
        "high": calibrators((8, 7, 6, 5), "high-"),
        "orders": orders(),
    }
    text = PAGE.read_text(encoding="utf-8")
    for name, body in tables.items():
        text, times = re.subn(rf"(<!-- {name} -->\n).*?(<!-- end -->)", lambda m, body=body: f"{m[1]}{body}\n{m[2]}", text, flags=re.DOTALL)
        if times != 1:
            raise SystemExit(f"{PAGE}: the marks <!-- {name} --> … <!-- end --> must be there once")
    PAGE.write_text(text, encoding="utf-8")
    picture_methods("calibration-methods.png")
    picture_cascade("calibration-coverage.png", "coverage", "outliers served, mean over layers")
    picture_cascade("calibration-cascade.png", "output_sqnr", "SQNR of the class scores, dB")
    picture_layers(ROOT / "docs" / "results" / "imagenet-resnet50.json", "calibration-layers.png")


if __name__ == "__main__":
    main()
