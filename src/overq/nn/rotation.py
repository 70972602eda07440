"""Rotation: an orthogonal change of a layer's input channels that spreads outliers over all of them, undone in the weights.

x W^T = (x Q)(W Q)^T for every orthogonal Q, so a layer that gets its input rotated and has its weights rotated computes what it did. The
rotated values are nearly Gaussian: no outliers, and no zeros either. At run time it costs K log K additions a vector (and hardware for
them), but for tensors whose Q can be folded into the weights that made them (`nn.folding`).

Q is a Hadamard matrix with random signs, as in QuIP# (Tseng et al. 2024, arXiv 2402.04396) and QuaRot (Ashkboos et al. 2024, arXiv
2404.00456): Q = diag(signs) (C_m ⊗ H_2^n) / sqrt(2^n) for K = m · 2^n lanes, m odd. Those papers use known Hadamard matrices for some m;
here C_m is the orthonormal cosine transform, which mixes m lanes just so and exists for every m.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

AT_ONCE = 64  # of a factor's size: a product of small matrices in place of one large


def rotated(x: Tensor, seed: int, dim: int = -1) -> Tensor:
    """x Q along `dim`: float, any shape; computed in float32 (float64 stays), given back in x's dtype."""
    lanes, given = x.shape[dim], x.dtype
    y = x.movedim(dim, -1).to(torch.promote_types(given, torch.float32))
    shape = y.shape
    y = (y * signs(lanes, seed).to(y)).reshape(-1, lanes)
    for factor in factors(lanes):  # each pass mixes the innermost factor and turns it outward; after all, lanes lie as before
        y = (y.reshape(-1, lanes // factor, factor) @ mixing(factor).to(y)).transpose(1, 2).reshape(-1, lanes)
    return y.reshape(shape).movedim(-1, dim).to(given)


def matrix(lanes: int, seed: int) -> Tensor:
    """Q, float64 [lanes, lanes]."""
    return rotated(torch.eye(lanes, dtype=torch.float64), seed)


@lru_cache(64)
def signs(lanes: int, seed: int) -> Tensor:
    """±1, float32 [lanes]; the same on every machine."""
    return torch.from_numpy(np.random.default_rng([seed, lanes]).integers(0, 2, lanes).astype(np.float32) * 2 - 1)


@lru_cache(256)
def factors(lanes: int) -> tuple[int, ...]:
    """Their product is `lanes`: powers of two up to AT_ONCE, and the odd rest."""
    power = lanes & -lanes
    found = []
    while power > 1:
        found.append(min(power, AT_ONCE))
        power //= found[-1]
    odd = lanes // (lanes & -lanes)
    return (*found, odd) if odd > 1 else tuple(found)


@lru_cache(64)
def mixing(size: int) -> Tensor:
    """Orthogonal, float64 [size, size]: Hadamard of a power of two, else the orthonormal cosine transform (DCT-II)."""
    if size & (size - 1) == 0:
        made = torch.ones(1, 1, dtype=torch.float64)
        while len(made) < size:
            made = torch.cat([torch.cat([made, made], 1), torch.cat([made, -made], 1)])
        return made / math.sqrt(size)
    k, i = np.arange(size)[:, None], np.arange(size)
    waves = np.cos(np.pi * (2 * i + 1) * k / (2 * size)) * math.sqrt(2 / size)
    waves[0] /= math.sqrt(2)
    return torch.from_numpy(waves.T.copy())
