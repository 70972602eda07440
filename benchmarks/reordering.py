"""Channel orders side by side: the network's own, one permutation for each layer, and one that the network itself carries.

    python benchmarks/reordering.py networks.py:resnet20 test5000.npz calibration1000.npz results.csv --limit 2000

Two rows for each order: with the steps that suit the network's own order, so that only the order differs, and with those that
suit it. Orders and steps come from the calibration samples; coverage and outlier rate (means over the layers that have overwrite),
top-1 and the SQNR of the class scores from the images. Range and precision overwrite, W8, first layer and classifier with 8 plain
bits, seed 0.
"""

from __future__ import annotations

import argparse
import csv
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
from torch import nn

import overq
from overq.nn import Observations, Quantized, Recipe, count_lanes, observe, quantize, reorder_network
from overq.nn.reorder import lane_order
from overq.nn.streams import Streams
from overq.spec import Format
from overq.study.data import Preprocess, open_images, some_of
from overq.study.models import load_model

ORDERS = ("own", "layer", "network")
FIELDS = ("network", "bits", "cascade", "policy", "order", "step", "layers", "coverage", "outlier_rate", "top1", "output_sqnr",
          "seconds", "images", "samples", "seed", "overq", "torch")  # fmt: skip


def ordered(model: nn.Module, seen: Observations, fmt: Format, order: str) -> tuple[nn.Module, Recipe]:
    """(float model, recipe) that bring an order about."""
    recipe = Recipe(fmt, reorder=order == "layer")
    return (reorder_network(model, seen, recipe) if order == "network" else model), recipe


def with_steps(quantized: nn.Module, steps: dict[str, float], seen: Observations, search: bool) -> nn.Module:
    """The steps of another network in this one; `search` finds each layer's order anew for them."""
    for name, layer in quantized.named_modules():
        if isinstance(layer, Quantized) and layer.format.cascade:
            layer.step = steps[name]
            if search:
                old, new = layer.lane_order, lane_order(seen.layers[name].sample, steps[name], layer.format)
                back = torch.argsort(old if old is not None else torch.arange(len(new)))
                for tensor in (layer.weight, layer.weight_integers):
                    tensor.data = tensor.data[:, back][:, new]
                layer.lane_order = new
    return quantized


def steps_of(quantized: nn.Module) -> dict[str, float]:
    return {name: layer.step for name, layer in quantized.named_modules() if isinstance(layer, Quantized) and layer.format.cascade}


def figures(quantized: nn.Module, batches: list[torch.Tensor], exact: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Coverage and outlier rate of what enters the layers with overwrite; top-1 and SQNR of the class scores."""
    with count_lanes(quantized) as counts, torch.inference_mode():
        scores = np.concatenate([quantized(x).numpy() for x in batches])
    layers = {name for name, layer in quantized.named_modules() if isinstance(layer, Quantized) and layer.format.cascade}
    mine = [c for name, c in counts.items() if name in layers]
    error = float(np.square(scores - exact).sum())
    return {
        "layers": len(mine),
        "coverage": f"{mean(c.coverage for c in mine if c.outliers):.4f}",
        "outlier_rate": f"{mean(c.outlier_rate for c in mine):.4f}",
        "top1": f"{100 * (scores.argmax(1) == labels).mean():.2f}",
        "output_sqnr": f"{10 * np.log10(float(np.square(exact).sum()) / error):.2f}",
    }


def compare(
    model: nn.Module, samples: torch.Tensor, batches: list[torch.Tensor], labels: np.ndarray, fmt: Format
) -> Iterator[dict[str, Any]]:
    seen = observe(model, samples, seed=0)
    with torch.inference_mode():
        exact = np.concatenate([model(x).numpy() for x in batches])
    own = steps_of(quantize(model, seen, Recipe(fmt)))
    for order in ORDERS:
        begin = time.perf_counter()
        arranged, recipe = ordered(model, seen, fmt, order)
        with torch.inference_mode():
            moved = np.concatenate([arranged(x).numpy() for x in batches[:1]])
        assert np.allclose(moved, exact[: len(moved)], rtol=1e-3, atol=1e-3 * np.abs(exact).max())
        again = observe(arranged, samples, seed=0) if order == "network" else seen
        best = quantize(arranged, again, recipe)
        seconds = f"{time.perf_counter() - begin:.1f}"
        fixed = with_steps(quantize(arranged, again, Recipe(fmt)), own, again, search=order == "layer")
        for step, quantized in (("own order's", fixed), ("this order's", best)):
            if order != "own" or step == "this order's":
                yield {"order": order, "step": step, "seconds": seconds, **figures(quantized, batches, exact, labels)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="as for `overq evaluate --model`")
    parser.add_argument("images", type=Path)
    parser.add_argument("calibration", type=Path)
    parser.add_argument("csv", type=Path)
    parser.add_argument("--labels", type=Path)
    parser.add_argument("--crop", type=int, default=0)
    parser.add_argument("--limit", type=int, default=0)
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--formats", nargs="+", default=["4:4:first", "3:4:first", "4:8:largest"], help="bits:cascade:policy")
    args = parser.parse_args(sys.argv[1:])
    model = load_model(args.model)
    preprocess = Preprocess(None, args.crop or None, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    images = open_images(args.images, args.labels, preprocess)
    images = some_of(images, args.limit or images.count)
    pool = some_of(open_images(args.calibration, None, preprocess, labelled=False), args.samples)
    assert images.labels is not None
    streams = Streams(model)
    print(f"classes of channels that may change places: {sorted(map(len, streams.classes()))}; in place: {streams.reasons()}")
    new = not args.csv.exists()
    with args.csv.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, FIELDS, restval="")
        if new:
            writer.writeheader()
        for text in args.formats:
            bits, cascade, policy = text.split(":")
            fmt = Format(int(bits), int(cascade), policy=policy)
            for row in compare(model, pool.load(range(pool.count)), list(images.batches(args.batch)), images.labels, fmt):
                facts = {
                    "network": args.model.rpartition(":")[2],
                    "bits": bits,
                    "cascade": cascade,
                    "policy": policy,
                    "images": images.count,
                    "samples": args.samples,
                    "seed": 0,
                    "overq": overq.__version__,
                    "torch": torch.__version__,
                }
                writer.writerow(facts | row)
                file.flush()
                print({**facts, **row}, flush=True)


if __name__ == "__main__":
    main()
