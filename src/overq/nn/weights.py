"""Weight quantization: symmetric, per output channel (design, section 1.5)."""

from __future__ import annotations

import numpy as np
import torch

from overq.methods.weights import integers


def quantize_weight(weight: torch.Tensor, bits: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(integers int8 [O, …], scale float32 [O]) with weight ≈ integers · scale, as most methods get them: `overq.methods.weights`.

    weight: [O, …], output channels first, finite.
    """
    return integers(weight.detach(), bits)


def dequantize_weight(integers: torch.Tensor, scale: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """integers · scale in float32, then cast; in float64 for float64."""
    wide = torch.promote_types(dtype, torch.float32)
    return integers.to(wide, copy=True).mul_(scale.to(wide).reshape(-1, *[1] * (integers.ndim - 1))).to(dtype)


def weight_rows(weight: torch.Tensor) -> np.ndarray:
    """Float32 [R, K] of a layer's weight [O, K, ...]: the input channels of a group last, one row for each output and kernel tap."""
    weight = weight.detach().float().cpu()
    return weight.movedim(1, -1).reshape(-1, weight.shape[1]).numpy()
