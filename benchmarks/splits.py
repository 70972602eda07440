"""How many bits a second digit needs: SQNR of the class scores over r, f, policy and cascade. One CSV row a format.

    python benchmarks/splits.py networks.py:resnet20 calibration1000.npz test5000.npz benchmarks/results/splits.csv
    python benchmarks/splits.py --table benchmarks/results/splits.csv

Steps are calibrated (format-mse, 8-bit weights, first layer and classifier 8 plain bits) on `--calibrate` images of the first set, evenly
spread; `sqnr` is 10·log10(Σ y² / Σ (y − ŷ)²) in dB of the class scores on `--images` of the second, against the float network.
Rows that the CSV holds already are not run again.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

import overq
from overq.nn import Recipe, observe, quantize, summary
from overq.spec import Format
from overq.study.data import Preprocess, open_images, some_of
from overq.study.models import load_model
from overq.study.version import commit, package

FIELDS = ("network", "format", "bits", "range_bits", "fraction_bits", "cascade", "policy", "stored_bits", "sqnr", "coverage",
          "calibrated_on",
          "images", "overq", "torch", "commit")  # fmt: skip
BATCH = 32


def formats(everything: bool) -> Iterator[Format]:
    """The two forms that the default was chosen from; with `everything`, all widths of A3, A4 and A5."""
    for bits in (3, 4, 5) if everything else (3, 4):
        yield Format.plain(bits)
        yield Format.plain(bits + 1)
        for policy in ("first", "largest"):
            yield Format(bits, 4, bits, bits, policy)
            yield Format(bits, 4, bits - 1, bits - 1, policy)
        if everything:
            for r, f in ((bits - 1, bits - 2), (bits - 2, bits - 1), (bits - 2, bits - 2), (1, 1), (bits - 1, 0), (0, bits - 1)):
                yield Format(bits, 4, r, f, "largest")
            yield Format(bits, 8, bits, bits, "largest")
            yield Format(bits, 8, bits - 1, bits - 1, "largest")


def scores(model: nn.Module, x: Tensor) -> Tensor:
    with torch.inference_mode():
        return torch.cat([model(part) for part in x.split(BATCH)]).double()


def run(options: argparse.Namespace) -> None:
    name, out = options.model.rpartition(":")[2], Path(options.results)
    done = {(row["network"], row["format"]) for row in _read(out)}
    model = load_model(options.model).eval()
    preprocess = Preprocess(resize=None, crop=options.crop)
    calibration, test = (_batch(path, preprocess, count) for path, count in
                         ((options.calibration, options.calibrate), (options.test, options.images)))  # fmt: skip
    seen, expected = observe(model, calibration), scores(model, test)
    for fmt in dict.fromkeys(formats(options.everything)):
        if (name, fmt.label) in done:
            continue
        quantized = quantize(model, calibration, Recipe(fmt), seen=seen)
        error = expected - scores(quantized, test)
        counts = [layer.counts for layer in summary(quantized)]
        outliers = sum(c.outliers for c in counts)
        row = {
            "network": name, "format": fmt.label, "bits": fmt.bits, "range_bits": fmt.range_bits, "fraction_bits": fmt.fraction_bits,
            "cascade": fmt.cascade, "policy": fmt.policy, "stored_bits": fmt.bits + fmt.state_bits,
            "sqnr": f"{10 * torch.log10(expected.square().sum() / error.square().sum()).item():.2f}",
            "coverage": f"{sum(c.served for c in counts) / outliers if outliers else 0:.3f}",
            "calibrated_on": len(calibration), "images": len(test),
            "overq": overq.__version__, "torch": torch.__version__, "commit": commit(package()),
        }  # fmt: skip
        new = not out.exists()
        with out.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, FIELDS)
            if new:
                writer.writeheader()
            writer.writerow(row)
        print(f"{name:14} {fmt.label:24} {row['stored_bits']:>4g} bits {row['sqnr']:>6} dB, coverage {row['coverage']}", flush=True)


def _batch(path: str, preprocess: Preprocess, count: int) -> Tensor:
    images = some_of(open_images(Path(path), None, preprocess, labelled=False), count)
    return torch.cat(list(images.batches(BATCH)))


def table(rows: list[dict[str, str]]) -> str:
    """Markdown: for each digit width and policy, full second digits and one bit less on every network, and the mean difference."""
    networks = list(dict.fromkeys(row["network"] for row in rows))
    found = {(row["network"], row["format"]): float(row["sqnr"]) for row in rows}
    lines = ["| format | stored bits | " + " | ".join(networks) + " | mean |", "| --- " * (len(networks) + 3) + "|"]
    for label, stored in dict.fromkeys((row["format"], row["stored_bits"]) for row in rows):
        values = [found.get((network, label)) for network in networks]
        whole = [value for value in values if value is not None]
        cells = ["" if value is None else f"{value:.1f}" for value in values]
        mean = f"{statistics.fmean(whole):.2f}" if len(whole) == len(networks) else ""
        lines.append(f"| {label} | {float(stored):g} | " + " | ".join(cells) + f" | {mean} |")
    return "\n".join(lines)


def _read(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def main() -> None:
    if sys.argv[1:2] == ["--table"]:
        print(table(_read(Path(sys.argv[2]))))
        return
    parser = argparse.ArgumentParser(description="SQNR of the class scores over widths of second digits.")
    for name in ("model", "calibration", "test", "results"):
        parser.add_argument(name)
    parser.add_argument("--calibrate", type=int, default=32)
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--crop", type=int, default=None, help="middle square of each image, for files of other sizes")
    parser.add_argument("--everything", action="store_true", help="all widths of A3, A4, A5, not only the two of the default's choice")
    run(parser.parse_args())


if __name__ == "__main__":
    main()
