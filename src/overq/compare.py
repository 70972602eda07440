"""Two settings on the same images: one paired bootstrap for every measure, and an exact sign test (McNemar's, for right and wrong)."""

from __future__ import annotations

from dataclasses import dataclass
from math import comb

import numpy as np

from overq.errors import InputError

TOP1, SQNR, COVERAGE = "top1", "sqnr", "coverage"
PERPLEXITY, AGREEMENT, KL = "perplexity", "agreement", "kl"  # of the next token; any other measure is a function of the user's own
LOSS = "loss"  # the perplexity's logarithm, from the same columns
TEXT = (PERPLEXITY, AGREEMENT, KL)
RESAMPLES = 10_000
AT_ONCE = 2**22  # numbers of the resampled counts held at a time


def value_of(measure: str, means: np.ndarray) -> np.ndarray:
    """Column means [..., columns] -> [...]: percent for top1 and agreement, dB for sqnr (infinite where exact), nats a token for kl and
    loss, a function's mean."""
    if measure in (*TEXT, LOSS):
        mean = means[..., 0] / means[..., 1]
        return np.exp(mean) if measure == PERPLEXITY else 100 * mean if measure == AGREEMENT else mean
    if measure == TOP1:
        return 100 * means[..., 0]
    if measure == SQNR:
        with np.errstate(divide="ignore", invalid="ignore"):
            return 10 * np.log10(means[..., 0] / means[..., 1])
    return means[..., 0]


def better(measure: str, columns: np.ndarray) -> np.ndarray:
    """[images]: the more the better, image by image; for the sign test."""
    if measure in (PERPLEXITY, KL, LOSS):
        return -columns[:, 0] / columns[:, 1]
    return -columns[:, 1] if measure == SQNR else columns[:, 0]


@dataclass(frozen=True)
class Paired:
    """only_a, only_b: images where that one alone is better; difference (B - A) and its 95 % interval in the measure's unit.

    p  exact, two-sided, of the sign test
    """

    images: int
    only_a: int
    only_b: int
    difference: float
    low: float
    high: float
    p: float


def paired(a: np.ndarray, b: np.ndarray, measure: str = TOP1, seed: int = 0, resamples: int = RESAMPLES) -> Paired:
    """a, b: the measure's columns [images, columns], the same images in the same order; for top1 also bool [images].

    Images are resampled with replacement. Images with the same numbers on both sides are alike, so what is drawn is how often each kind
    comes: for right and wrong there are four kinds, whatever the number of images.
    """
    a, b = (np.asarray(side, float).reshape(len(side), -1) for side in (a, b))
    if a.shape != b.shape or not a.size:
        raise InputError(f"a paired test needs the same images on both sides, got {len(a)} and {len(b)}")
    n, width = len(a), a.shape[1]
    kinds, counts = np.unique(np.hstack([a, b]), axis=0, return_counts=True)
    rng = np.random.default_rng(seed)
    differences: list[np.ndarray] = []
    for drawn in _portions(resamples, max(1, AT_ONCE // len(kinds))):
        means = rng.multinomial(n, counts / n, drawn) @ kinds / n
        differences.append(_difference(measure, means[:, :width], means[:, width:]))
    low, high = np.percentile(np.concatenate(differences), [2.5, 97.5], method="closest_observation")
    exact = float(_difference(measure, a.mean(0), b.mean(0)))
    first, second = better(measure, a), better(measure, b)
    only_a, only_b = int((first > second).sum()), int((second > first).sum())
    return Paired(n, only_a, only_b, exact, float(low), float(high), mcnemar(only_a, only_b))


def _difference(measure: str, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):  # exact on both sides: infinite less infinite
        return np.nan_to_num(value_of(measure, b) - value_of(measure, a), nan=0.0, posinf=np.inf, neginf=-np.inf)


def _portions(total: int, most: int) -> list[int]:
    return [min(most, total - start) for start in range(0, total, most)]


def mcnemar(only_a: int, only_b: int) -> float:
    """Two-sided exact p: of n discordant pairs, as uneven a split or worse by fair coin tosses."""
    n = only_a + only_b
    tail = sum(comb(n, k) for k in range(min(only_a, only_b) + 1))
    return min(1.0, 2 * tail / 2**n)
