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
import time
from collections.abc import Iterator
from statistics import mean
from typing import Any

import numpy as np
import torch
from calibration import arguments, logits, opened, sqnr
from torch import nn

import overq
from overq.nn import Quantized, Recipe, count_lanes, observe, quantize, reorder_network
from overq.nn.reorder import lane_order
from overq.nn.streams import Streams
from overq.spec import Format
from overq.study.data import Images

ORDERS = ("own", "layer", "network")
FIELDS = ("network", "bits", "cascade", "policy", "order", "step", "layers", "coverage", "outlier_rate", "top1", "output_sqnr",
          "seconds", "images", "samples", "seed", "overq", "torch")  # fmt: skip


def overwriting(quantized: nn.Module) -> dict[str, Quantized]:
    return {name: layer for name, layer in quantized.named_modules() if isinstance(layer, Quantized) and layer.format.cascade}


def figures(quantized: nn.Module, images: Images, batch: int, exact: np.ndarray) -> dict[str, Any]:
    """Coverage and outlier rate of what enters the layers with overwrite; top-1 and SQNR of the class scores."""
    with count_lanes(quantized) as counts:
        scores = logits(quantized, images, batch)
    return {
        "layers": len(counts),
        "coverage": f"{mean(c.coverage for c in counts.values() if c.outliers):.4f}",
        "outlier_rate": f"{mean(c.outlier_rate for c in counts.values()):.4f}",
        "top1": f"{100 * (scores.argmax(1) == images.labels).mean():.2f}",
        "output_sqnr": sqnr(scores, exact),
    }


def compare(model: nn.Module, samples: torch.Tensor, images: Images, batch: int, fmt: Format) -> Iterator[dict[str, Any]]:
    seen, exact, recipe = observe(model, samples, seed=0), logits(model, images, batch), Recipe(fmt)
    steps: dict[str, float] = {}
    for order in ORDERS:
        begin = time.perf_counter()
        arranged, again = model, seen
        if order == "network":
            arranged = reorder_network(model, seen, recipe)
            again = observe(arranged, samples, seed=0)
        best = quantize(arranged, again, recipe.with_(reorder=order == "layer"))
        row = {"order": order, "seconds": f"{time.perf_counter() - begin:.1f}"}
        if order == "own":
            steps = {name: layer.step for name, layer in overwriting(best).items()}
        else:
            fixed = quantize(arranged, again, recipe)
            for name, layer in overwriting(fixed).items():
                layer.step = steps[name]
                if order == "layer":
                    layer.lane_order = lane_order(again.layers[name].sample, layer.step, layer.format)
                    layer.weight.data = layer.weight.data[:, layer.lane_order]
            yield row | {"step": "own order's"} | figures(fixed, images, batch, exact)
        if order == "network":
            moved = logits(arranged, images, batch)
            assert np.allclose(moved, exact, rtol=1e-3, atol=1e-3 * np.abs(exact).max())
        yield row | {"step": "this order's"} | figures(best, images, batch, exact)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments(parser)
    parser.add_argument("--formats", nargs="+", default=["4:4:first", "3:4:first", "4:8:largest"], help="bits:cascade:policy")
    args = parser.parse_args()
    model, images, samples = opened(args)
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
            for row in compare(model, samples, images, args.batch, fmt):
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
