"""What bias correction is worth: uncorrected, means only, means and spreads; one row a setting, appended to the CSV.

    python benchmarks/bias.py networks.py:resnet18 images calibration bias.csv --labels labels.csv --crop 224 --samples 64 --limit 260

`spread` is the least ratio, over the layers, of an output's standard deviations to the float layer's: they shrink from layer to layer.
"""

from __future__ import annotations

import argparse
import csv

import torch
from calibration import arguments, commit, logits, opened, sqnr
from torch import nn

import overq
from overq.nn import Recipe, bias, observe, quantize
from overq.spec import Format

FIELDS = ("network", "weight_bits", "format", "corrected", "top1", "to_float", "output_sqnr", "spread", "images", "samples", "seed",
          "overq", "torch", "commit")  # fmt: skip
FORMATS = {"A8 plain": Format.plain(8), "A4 plain": Format.plain(4), "A4 c = 4": Format(4, 4)}
GAINS = {"no": None, "mean": (1.0, 1.0), "mean and spread": bias.GAINS}


def least_spread(model: nn.Module, quantized: nn.Module, samples: torch.Tensor) -> float:
    exact, got = (bias.observe_outputs(net, [samples]).moments for net in (model, quantized))
    return min(float(got[name].std.norm() / exact[name].std.norm()) for name in got)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments(parser)
    args = parser.parse_args()
    model, images, samples = opened(args)
    samples = samples[: bias.ENOUGH]
    seen, exact = observe(model, samples, seed=0), logits(model, images, args.batch)
    new = not args.csv.exists()
    with args.csv.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
        if new:
            writer.writeheader()
        for weight_bits in (8, 4):
            for name, fmt in FORMATS.items():
                for corrected, gains in GAINS.items():
                    if gains:
                        bias.GAINS = gains
                    quantized = quantize(model, [samples], Recipe(fmt, weight_bits, bias_correction=gains is not None), seen=seen)
                    scores = logits(quantized, images, args.batch)
                    right = [(s.argmax(1) == images.labels).mean() for s in (scores, exact)]
                    row = {
                        "network": args.model.rpartition(":")[2], "weight_bits": weight_bits, "format": name, "corrected": corrected,
                        "top1": f"{100 * right[0]:.2f}", "to_float": f"{100 * (right[0] - right[1]):.2f}",
                        "output_sqnr": sqnr(scores, exact),
                        "spread": f"{least_spread(model, quantized, samples):.3f}", "images": images.count, "samples": len(samples),
                        "seed": 0, "overq": overq.__version__, "torch": torch.__version__, "commit": commit(),
                    }  # fmt: skip
                    writer.writerow(row)
                    file.flush()
                    print(row, flush=True)


if __name__ == "__main__":
    main()
