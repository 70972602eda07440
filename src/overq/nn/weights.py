"""Weight quantization: symmetric, per output channel (design, section 1.5)."""

from __future__ import annotations

import numpy as np
import torch

from overq.methods.weights import scales


def quantize_weight(weight: torch.Tensor, bits: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(integers int8 [O, …], scale float32 [O]) with weight ≈ integers · scale.

    weight: [O, …], output channels first, finite. Scales as every method gets them: see `overq.methods.weights`.
    """
    weight, largest = weight.detach().float(), 2 ** (bits - 1) - 1
    scale = scales(weight, bits)
    integers = torch.round(weight / scale).clamp(-largest, largest)
    return integers.to(torch.int8), scale.flatten()


def dequantize_weight(integers: torch.Tensor, scale: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """integers · scale in float32, then cast."""
    return (integers.float() * scale.reshape(-1, *[1] * (integers.ndim - 1))).to(dtype)


def weight_rows(weight: torch.Tensor) -> np.ndarray:
    """Float32 [R, K] of a layer's weight [O, K, ...]: the input channels of a group last, one row for each output and kernel tap."""
    weight = weight.detach().float().cpu()
    return weight.movedim(1, -1).reshape(-1, weight.shape[1]).numpy()
