"""GPTQ: weights rounded one input after the other, each one's error carried by the inputs that are still to come.

A layer's output error on inputs X is the sum of |X (w - ŵ)|² over its outputs, w and ŵ a row of weights before and after: all that it
takes from the inputs is H = XᵀX. Rounding to nearest takes H for diagonal. With the upper Cholesky factor U of H⁻¹ the inputs are rounded
in turn, and the error of input i moves every later weight j by -(w_i - ŵ_i) · U_ij / U_ii, the change that makes up for most of it.

Source: Frantar et al. 2022, "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers" (arXiv 2210.17323),
algorithm 1: blocks of 128 inputs, 1 % of the mean of H's diagonal added to it; inputs in descending order of it ("act-order" there).
Our choices: scales per output channel as for every other weight (`methods.weights`); H is that of the float network's inputs
(`nn.grams`); an input that is always zero is rounded to nearest.
"""

from __future__ import annotations

import torch
from torch import Tensor

from overq.methods.weights import scales
from overq.nn.layers import Arrangement

DAMPING = 0.01
BLOCK = 128


def arranged(gram: Tensor, arrangement: Arrangement, channels: int) -> Tensor:
    """XᵀX of arranged inputs, from that of inputs; `channels` outer, kernel taps inner."""
    if not arrangement.moves:
        return gram
    taps = len(gram) // channels
    moved = arrangement.inputs(gram.reshape(channels, taps, channels, taps), -4)
    return arrangement.inputs(moved, -2).reshape(gram.shape)


def integers(weight: Tensor, bits: int, gram: Tensor) -> tuple[Tensor, Tensor]:
    """(int8 levels of the weight's shape [O, K, ...], float32 scales [O]) of arranged weights and inputs."""
    most = 2 ** (bits - 1) - 1
    scale = scales(weight.detach().float(), bits)
    levels = rounded(weight.detach().float().flatten(1), scale.flatten(), most, gram.to(weight.device))
    return levels.to(torch.int8).reshape(weight.shape), scale.flatten()


def rounded(weight: Tensor, scale: Tensor, most: int, gram: Tensor) -> Tensor:
    """Levels -most … most, float32 [O, N], of weights [O, N] with scales [O]; gram [N, N] is XᵀX."""
    order = gram.diagonal().argsort(descending=True, stable=True)
    left, second = weight.T[order].contiguous(), gram[order][:, order].double()
    diagonal = second.diagonal()
    never = diagonal <= 0
    diagonal[never] = 1.0
    diagonal += DAMPING * diagonal[~never].mean() if bool((~never).any()) else 0.0
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(second))
    upper = torch.linalg.cholesky(inverse, upper=True).float()
    levels = torch.empty_like(left)
    for start in range(0, len(left), BLOCK):
        block = left[start : start + BLOCK]
        u, errors = upper[start : start + BLOCK, start : start + BLOCK], torch.empty_like(block)
        for i, row in enumerate(block):
            level = (row / scale).round().clamp(-most, most)
            errors[i] = (row - level * scale) / u[i, i]
            levels[start + i] = level
            block[i + 1 :] -= u[i, i + 1 :, None] * errors[i]
        left[start + BLOCK :] -= upper[start : start + BLOCK, start + BLOCK :].T @ errors
    return levels[order.argsort()].T.contiguous()
