"""Shift: what a layer's input vectors have in common is not quantized.

In a transformer most of the energy of what attention reads can be one vector m, the mean over tokens. x W^T = (x - m) W^T + m W^T, and the
last term is a bias: quantizing x - m in place of x leaves a smaller error for nothing but the additions. A few tokens, such as the
first, to which attention goes where it has nothing to look at, have nothing of m. So each vector says whether it is nearer to m than to 0:

    x W^T ≈ Q(x - a m) W^T + a · (m W^T),   a = 1 where 2 x·m > m·m, else 0

In hardware: K multiply-accumulates and K additions a vector where it is made, one bit beside it, and a bias that the bit switches.

Source: subtracting the channels' middles is Outlier Suppression+ (Wei et al. 2023, arXiv 2304.09145), with one shift for all tokens, from
their least and greatest values; the mean and the switch are ours.
"""

from __future__ import annotations

import numpy as np
import torch


def shifts(x: torch.Tensor, mean: torch.Tensor, dim: int) -> torch.Tensor:
    """a · m for each vector of x along `dim`, which counts from the end: x's shape and dtype."""
    mean = mean.to(x.device, x.dtype).reshape(-1, *[1] * (-dim - 1))
    nearer = 2 * (x * mean).sum(dim, keepdim=True) > mean.square().sum()
    return torch.where(nearer, mean, torch.zeros_like(mean))


def mean_of(sample: np.ndarray) -> torch.Tensor:
    """The mean m, float32 [K], of the channel vectors [M, K] that are nearer to it than to zero, after one round."""
    mean = sample.mean(axis=0, dtype=np.float64)
    nearer = 2 * (sample @ mean) > mean @ mean
    return torch.from_numpy((sample[nearer] if nearer.any() else sample).mean(axis=0, dtype=np.float64).astype(np.float32))
