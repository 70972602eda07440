"""Two settings on the same images: McNemar's exact test and a bootstrap interval of the difference."""

from __future__ import annotations

from dataclasses import dataclass
from math import comb

import numpy as np

from overq.errors import InputError

RESAMPLES = 10_000


@dataclass(frozen=True)
class Paired:
    """only_a, only_b: images that one alone gets right; difference (B - A) and its 95 % interval in points; p: exact, two-sided."""

    images: int
    only_a: int
    only_b: int
    difference: float
    low: float
    high: float
    p: float


def paired(a: np.ndarray, b: np.ndarray, seed: int = 0) -> Paired:
    """a, b: bool [images], the same images in the same order.

    Resampling images with replacement and counting the discordant ones is a multinomial draw, which is what is done.
    """
    if a.shape != b.shape or not a.size:
        raise InputError(f"a paired test needs the same images on both sides, got {a.size} and {b.size}")
    n, only_a, only_b = a.size, int((a & ~b).sum()), int((b & ~a).sum())
    draws = np.random.default_rng(seed).multinomial(n, [only_a / n, only_b / n, 1 - (only_a + only_b) / n], RESAMPLES)
    low, high = np.percentile((draws[:, 1] - draws[:, 0]) * (100 / n), [2.5, 97.5])
    return Paired(n, only_a, only_b, 100 * (only_b - only_a) / n, float(low), float(high), mcnemar(only_a, only_b))


def mcnemar(only_a: int, only_b: int) -> float:
    """Two-sided exact p: of n discordant pairs, as uneven a split or worse by fair coin tosses."""
    n = only_a + only_b
    tail = sum(comb(n, k) for k in range(min(only_a, only_b) + 1))
    return min(1.0, 2 * tail / 2**n)
