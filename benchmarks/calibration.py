"""Top-1 of a network under many calibrations, formats and transforms: one row a setting, appended as soon as it is known.

    python benchmarks/calibration.py wide networks.py:resnet20 test5000.npz calibration1000.npz results.csv --limit 2000

Grids: `short`, `narrow`, `wide` and `high` (see `grid`). Rows that the CSV holds already are not run again, so that a sweep stops and
resumes at any point. Every row keeps, image by image, whether the network was right (hexadecimal, first image first), so that any two
rows can be compared in pairs. First layer and classifier keep 8 plain bits everywhere.
"""

from __future__ import annotations

import argparse
import csv
import platform
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

import numpy as np
import torch
from torch import nn

import overq
from overq.calib import CALIBRATORS, WITH_WEIGHT
from overq.nn import Observations, Recipe, count_lanes, observe, quantize
from overq.nn.chosen import ENOUGH
from overq.nn.sequential import observe_sequentially
from overq.spec import Format, expected_coverage
from overq.study.data import Images, Preprocess, open_images, some_of
from overq.study.models import load_model

ROOT = Path(__file__).parents[1]
METHODS = (*CALIBRATORS, *WITH_WEIGHT)
FIELDS = (
    "network", "bits", "modes", "cascade", "policy", "calibration", "sequential", "reorder", "equalize", "bias_correction", "weight_bits",
    "images", "samples", "seed",
    "top1", "to_float", "same_as_float", "output_sqnr", "coverage", "expected_coverage", "zero_rate", "outlier_rate", "seconds",
    "right", "overq", "torch", "commit", "command",
)  # fmt: skip
KEY = FIELDS[:14]


@dataclass(frozen=True)
class Setting:
    """A format and how its step is found; `format` None is the float network."""

    format: Format | None
    calibration: str = "format-mse"
    sequential: bool = False
    reorder: bool = False
    equalize: float | str = 0.0
    bias_correction: bool = False

    @property
    def recipe(self) -> Recipe:
        assert self.format is not None
        transforms = {"reorder": self.reorder, "equalize": self.equalize, "bias_correction": self.bias_correction}
        return Recipe(self.format, 8, self.calibration, **transforms)

    def row(self) -> dict[str, str]:
        if self.format is None:
            return dict.fromkeys(KEY[1:11], "") | {"modes": "float"}
        values = (
            self.format.bits, "+".join(self.format.modes) or "plain", self.format.cascade,
            self.format.policy if self.format.cascade else "",
            self.calibration, int(self.sequential), int(self.reorder), self.equalize, int(self.bias_correction), 8,
        )  # fmt: skip
        return dict(zip(KEY[1:11], map(str, values), strict=True))


def grid(name: str) -> Iterator[Setting]:
    """Float; what matters most first, for a sweep that is interrupted.

    short   the least that says something
    narrow  every calibrator, cascade factor, policy, mode and transform, one at a time, at A4 and A3
    wide    more of it, and sequential calibration
    high    every calibrator at A8 to A5
    """
    yield Setting(None)
    if name == "high":
        for bits in (8, 7, 6, 5):
            for method in METHODS:
                yield Setting(Format.plain(bits), method)
                yield Setting(Format(bits, 4), method)
        return
    wide = name == "wide"
    for bits in (4, 3):
        yield Setting(Format(bits, 8, policy="largest"), reorder=True)
        yield Setting(Format.plain(bits))
        yield Setting(Format(bits, 4))
    for bits in (5, 8):
        yield Setting(Format.plain(bits))
    for bits in (4, 3):
        yield Setting(Format(bits, 8, policy="largest"), reorder=True, bias_correction=True)
        yield Setting(Format.plain(bits), bias_correction=True)
        yield Setting(Format(bits, 4), bias_correction=True)
    for bits in (5, 8):
        yield Setting(Format.plain(bits), bias_correction=True)
    if name == "short":
        return
    for bits in (4, 3):
        yield Setting(Format.plain(bits))
        for cascade, policy in ((4, "first"), (8, "largest")):
            for reorder in (False, True):
                yield Setting(Format(bits, cascade, policy=policy), reorder=reorder)
        yield Setting(Format(bits, 4, fraction_bits=0))
    for bits in (5, 8, 6):
        yield Setting(Format.plain(bits))
        yield Setting(Format(bits, 4))
    for bits in (4, 3):
        for method in METHODS:
            yield Setting(Format.plain(bits), method)
            yield Setting(Format(bits, 4), method)
        for policy in ("first", "largest"):
            yield Setting(Format(bits, 8, policy=policy), reorder=True, equalize=0.5)
        yield Setting(Format(bits, 8, policy="largest"), reorder=True, equalize="auto", bias_correction=True)
        yield Setting(Format(bits, 8, policy="largest"), "aciq-gauss", reorder=True, bias_correction=True)
        for fmt in (Format.plain(bits), Format(bits, 4)):
            yield Setting(fmt, equalize=0.5)
    for bits in (4, 3):
        for policy in ("first", "largest"):
            for precise in (True, False):
                for cascade in range(1, 9) if wide or (precise and policy == "first") else (1, 2, 4, 8):
                    fmt = Format(bits, cascade, fraction_bits=None if precise else 0, policy=policy)
                    yield Setting(fmt)
                    if cascade in (1, 2, 4, 8) and (wide or precise):
                        yield Setting(fmt, reorder=True)
    for bits in (5, 6, 8) if wide else ():
        for method in METHODS:
            yield Setting(Format.plain(bits), method)
            yield Setting(Format(bits, 4), method)
    for bits in (4, 3) if wide else ():
        for method in ("format-mse", "mse", "aciq-gauss"):
            yield Setting(Format.plain(bits), method, sequential=True)
            yield Setting(Format(bits, 4), method, sequential=True)


def logits(model: nn.Module, images: Images, batch: int) -> np.ndarray:
    with torch.inference_mode():
        return np.concatenate([model(x).numpy() for x in images.batches(batch)])


def sqnr(scores: np.ndarray, exact: np.ndarray) -> str:
    """Signal to noise of class scores in dB; empty where they are exact."""
    error = float(np.square(scores - exact).sum())
    return f"{10 * np.log10(float(np.square(exact).sum()) / error):.2f}" if error else ""


def evaluate(
    model: nn.Module, seen: Observations, samples: torch.Tensor, images: Images, setting: Setting, batch: int
) -> tuple[np.ndarray, dict]:
    """(class scores [images, classes], lane figures as means over layers)."""
    if setting.format is None:
        return logits(model, images, batch), {}
    if setting.sequential:
        seen = observe_sequentially(model, samples, setting.recipe)
    quantized = quantize(model, [samples[:: -(-len(samples) // ENOUGH)]], setting.recipe, seen=seen)
    with count_lanes(quantized) as counts:
        scores = logits(quantized, images, batch)
    if not counts:
        return scores, {}
    covered = [c for c in counts.values() if c.outliers]
    figures = {
        "coverage": mean(c.coverage for c in covered) if covered and setting.format.range_on else None,
        "expected_coverage": mean(expected_coverage(c.zero_rate, setting.format.cascade) for c in covered) if covered else None,
        "zero_rate": mean(c.zero_rate for c in counts.values()),
        "outlier_rate": mean(c.outlier_rate for c in counts.values()),
    }
    return scores, {key: "" if value is None else f"{value:.4f}" for key, value in figures.items()}


def bits_of(right: np.ndarray) -> str:
    """Bool [images] as hexadecimal digits, the first image in the highest bit of the first digit."""
    return np.packbits(right).tobytes().hex()


def commit() -> str:
    """The checkout's commit, marked where src/ has changes that it does not hold."""

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()

    return git("rev-parse", "--short", "HEAD") + ("+changes" if git("status", "--porcelain", "--", "src") else "")


def opened(args: argparse.Namespace) -> tuple[nn.Module, Images, torch.Tensor]:
    """(network, scored images, calibration samples) that the arguments of `arguments` name."""
    preprocess = Preprocess(None, args.crop or None, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    images = open_images(args.images, args.labels, preprocess)
    pool = some_of(open_images(args.calibration, None, preprocess, labelled=False), args.samples)
    return load_model(args.model), some_of(images, args.limit or images.count), pool.load(range(pool.count))


def sweep(args: argparse.Namespace) -> None:
    model, images, samples = opened(args)
    model = model.to(memory_format=torch.channels_last)
    network = args.model.rpartition(":")[2]
    known = set()
    if args.csv.exists():
        with args.csv.open(newline="") as file:
            known = {tuple(row[key] for key in KEY) for row in csv.DictReader(file)}
    else:
        args.csv.write_text(",".join(FIELDS) + "\n")
    facts = {"network": network, "images": str(images.count), "samples": str(args.samples), "seed": "0"}
    todo = [s for s in grid(args.grid) if tuple((facts | s.row())[key] for key in KEY) not in known]
    todo.sort(key=lambda setting: setting.reorder)  # the search for orders takes longer than all else: last
    seen = observe(model, samples, seed=0)
    exact = logits(model, images, args.batch)
    for setting in dict.fromkeys(todo):
        begin = time.perf_counter()
        scores, figures = evaluate(model, seen, samples, images, setting, args.batch)
        right = scores.argmax(1) == images.labels
        row = facts | setting.row() | figures | {
            "top1": f"{100 * right.mean():.2f}", "to_float": f"{100 * (right.mean() - (exact.argmax(1) == images.labels).mean()):.2f}",
            "same_as_float": f"{100 * (scores.argmax(1) == exact.argmax(1)).mean():.2f}",
            "output_sqnr": sqnr(scores, exact),
            "seconds": f"{time.perf_counter() - begin:.1f}", "right": bits_of(right),
            "overq": overq.__version__, "torch": torch.__version__,
            "commit": commit(), "command": f"python {platform.python_version()}: benchmarks/calibration.py {args.grid} {network}",
        }  # fmt: skip
        with args.csv.open("a", newline="") as file:
            csv.DictWriter(file, FIELDS, restval="").writerow(row)
        print({key: row.get(key, "") for key in (*FIELDS[1:10], *FIELDS[14:19], "seconds")}, flush=True)


def arguments(parser: argparse.ArgumentParser) -> None:
    """A network, its data, and the CSV that rows are appended to."""
    parser.add_argument("model", help="as for `overq evaluate --model`")
    parser.add_argument("images", type=Path)
    parser.add_argument("calibration", type=Path)
    parser.add_argument("csv", type=Path)
    parser.add_argument("--labels", type=Path)
    parser.add_argument("--crop", type=int, default=0)
    parser.add_argument("--limit", type=int, default=0)
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--batch", type=int, default=50)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("grid", choices=("wide", "narrow", "short", "high"))
    arguments(parser)
    sweep(parser.parse_args())


if __name__ == "__main__":
    main()
