"""The built-in experiment: handwritten digits and the small residual network this project trains on them.

The 1,797 images (8x8 pixels of 0 … 16, in scikit-learn's order) are the test set of E. Alpaydin and C. Kaynak, "Optical
Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998 (CC BY 4.0). They are split by class and by a fixed seed
into two halves, `train` and `test`; `calibration` is a part of `train`. The writers of the two halves are the same people.
`scripts/train_digits.py` makes the weights; it never looks at `test` before its last line.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from overq.errors import InputError

WEIGHTS, IMAGES = (Path(__file__).with_name(f"digits.{kind}") for kind in ("safetensors", "npz"))
SPLITS = ("train", "test", "calibration")
CALIBRATION_PER_CLASS = 20
MEAN, STD = 0.306, 0.377  # of the train split's pixels, scaled to 0 … 1


class Bottleneck(nn.Module):
    """ResNet-50's block: 1x1 down to `width` channels, 3x3 (which may halve the image), 1x1 up to 4 · `width`, and a shortcut."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = 4 * width
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same else nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        return self.relu(self.bn3(self.conv3(y)) + self.shortcut(x))


class DigitsNet(nn.Module):
    """A small ResNet of bottleneck blocks: stem, one stage of `blocks` blocks per width, global pooling, classifier.

    x [N, 1, 8, 8] -> logits [N, 10]
    """

    def __init__(self, widths: tuple[int, ...] = (8, 16), blocks: int = 4) -> None:
        super().__init__()
        channels = 2 * widths[0]
        self.stem = nn.Sequential(nn.Conv2d(1, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU())
        stages: list[nn.Module] = []
        for stage, width in enumerate(widths):
            for block in range(blocks):
                stages.append(Bottleneck(channels, width, stride=2 if stage and not block else 1))
                channels = 4 * width
        self.blocks = nn.Sequential(*stages)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(channels, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.pool(self.blocks(self.stem(x))).flatten(1))


def network() -> nn.Module:
    """The trained network, in eval mode, on the CPU, float32."""
    model = DigitsNet()
    model.load_state_dict(load_file(WEIGHTS))
    return model.eval()


def images(split: str) -> tuple[Tensor, Tensor]:
    """(normalised images float32 [N, 1, 8, 8], labels int64 [N]) of "train", "test" or "calibration"."""
    with np.load(IMAGES) as file:  # uint8 pixels [1797, 64] and labels [1797]
        pixels, labels = file["pixels"], file["labels"]
    chosen = indices(split, labels)
    x = torch.from_numpy(pixels[chosen].astype(np.float32)).reshape(-1, 1, 8, 8)
    return (x / 16 - MEAN) / STD, torch.from_numpy(labels[chosen].astype(np.int64))


def indices(split: str, labels: np.ndarray) -> np.ndarray:
    """Sorted positions of a split's images; the same on every machine (NumPy freezes RandomState's stream)."""
    if split not in SPLITS:
        raise InputError(f"no split {split!r}; there are {', '.join(SPLITS)}")
    random = np.random.RandomState(1910)  # its stream is frozen, a Generator's is not
    parts = []
    for label in range(10):
        mine = random.permutation(np.flatnonzero(labels == label))
        half = len(mine) // 2
        parts.append({"test": mine[:half], "train": mine[half:], "calibration": mine[half : half + CALIBRATION_PER_CLASS]}[split])
    return np.sort(np.concatenate(parts))
