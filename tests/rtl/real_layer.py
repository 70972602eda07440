"""Layer vectors from a real network: ResNet-20's first residual convolution on a CIFAR-10 image, 8-bit weights, batch norm folded.

    python tests/rtl/real_layer.py out.json [image] [bits] [cascade]

Needs the networks and images of the data folder ($OVERQ_DATA, default ../shared/data beside the repository).
"""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path

from overq.rtl.vectors import LayerVectors, Tile
from overq.spec import ArrayConfig, Format
from overq.spec.requantize import MULTIPLIER_BITS

DATA = Path(os.environ.get("OVERQ_DATA", Path(__file__).parents[3] / "shared" / "data"))


def available() -> bool:
    return (DATA / "networks.py").exists()


def layer_vectors(image: int = 0, fmt: Format | None = None, pixels: int | None = None) -> LayerVectors:
    """layer1.0.conv1 of ResNet-20: 16 channels in, 16 out, 3 × 3, 1024 pixels (or the first so many): 9 tiles of 16 lanes."""
    import torch

    sys.path.insert(0, str(DATA))
    import networks

    fmt = fmt or Format(4, 4)
    net = networks.load("cifar10/resnet20").eval()
    images = networks.images("cifar10", "test")[0][image : image + 1]
    block = net.layer1[0]
    with torch.no_grad():
        x = torch.relu(net.bn1(net.conv1(images)))
        y = torch.relu(block.bn1(block.conv1(x)))
    step, next_step = (float(torch.quantile(v[v > 0], 0.97)) / fmt.digit_max for v in (x, y))  # the largest 3 % become outliers
    scale = block.bn1.weight / torch.sqrt(block.bn1.running_var + block.bn1.eps)
    weight = (block.conv1.weight * scale[:, None, None, None]).detach()
    bias = (block.bn1.bias - block.bn1.running_mean * scale).detach()
    weight_step = weight.abs().amax((1, 2, 3)) / 127
    integer = torch.round(weight / weight_step[:, None, None, None]).to(torch.int64)

    t = torch.floor(x * torch.tensor(fmt.unit / step, dtype=torch.float32)).to(torch.int64)
    patches = torch.nn.functional.unfold(t.to(torch.float64), 3, padding=1).to(torch.int64)[0]  # [16 · 9, 1024]
    patches = patches.reshape(16, 9, -1)[:, :, :pixels]
    taps = integer.reshape(16, 16, 9)
    tiles = [Tile(patches[:, tap].T.tolist(), taps[:, :, tap].T.tolist()) for tap in range(9)]

    config = ArrayConfig(fmt, 8, rows=16, columns=16, depth=144)
    # t' = floor(y · 2^(b+1) / next_step), y = sum · step · weight_step / 2^fraction
    factors = [step * float(w) / (1 << fmt.fraction_bits) * fmt.unit / next_step for w in weight_step]
    shifts = [MULTIPLIER_BITS - 1 - math.floor(math.log2(f)) for f in factors]
    multipliers = [min(round(f * 2.0**s), (1 << MULTIPLIER_BITS) - 1) for f, s in zip(factors, shifts, strict=True)]
    biases = [round(float(b) * fmt.unit / next_step * 2.0**s) for b, s in zip(bias, shifts, strict=True)]
    return LayerVectors(
        config, tiles, multipliers, biases, shifts, f"ResNet-20 layer1.0.conv1, CIFAR-10 test image {image}, {config.label}"
    )


def main() -> None:
    out, image, bits, cascade = [*sys.argv[1:], *["", "0", "4", "4"][len(sys.argv) - 1 :]]
    layer = layer_vectors(int(image), Format(int(bits), int(cascade)))
    Path(out).write_text(layer.to_json(), encoding="utf-8")
    print(f"{out}: {layer.source}, {len(layer.tiles)} tiles, {layer.vectors} vectors")


if __name__ == "__main__":
    main()
