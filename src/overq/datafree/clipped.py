"""Clipped: one channel's values as a clipped bell curve, and what sums and pools do to it. Float64 arrays over channels.

A value is clip(mean + std · s · z, low, high) with z standard normal and s one of the law's `scales`, equally likely, mean of
s² = 1. One scale of 1 is the Gaussian; [low, high] = [0, ∞) its rectified form. A mixture of scales keeps mean and variance and
makes the tails heavier: batch norms of trained networks give kurtoses of 3.4 to 7, where a Gaussian has 3.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch

from overq.errors import FormatError

MIXTURE = 8
_TINY = 1e-30  # a standard deviation that stands for none
_ROWS = 256  # edges looked at together: bounds the memory


@dataclass(frozen=True)
class Clipped:
    """mean, std of the curve before clipping, low and high of the clip: float64 [C] each; scales: the law."""

    mean: np.ndarray
    std: np.ndarray
    low: np.ndarray
    high: np.ndarray
    scales: tuple[float, ...] = (1.0,)

    @classmethod
    def free(cls, mean: np.ndarray, std: np.ndarray, scales: tuple[float, ...] = (1.0,)) -> Clipped:
        """Not clipped."""
        return cls(mean, std, np.full(len(mean), -np.inf), np.full(len(mean), np.inf), scales)

    @property
    def channels(self) -> int:
        return len(self.mean)

    def clip(self, low: float, high: float) -> Clipped:
        """The values after ReLU (0, ∞), ReLU6 (0, 6) and the like: exact."""
        return replace(self, low=np.clip(self.low, low, high), high=np.clip(self.high, low, high))

    def scaled(self, factor: float, offset: float) -> Clipped:
        """The values times `factor` plus `offset`: exact."""
        ends = [self.low * factor + offset, self.high * factor + offset] if factor else [np.full(self.channels, offset)] * 2
        low, high = ends if factor >= 0 else ends[::-1]
        return replace(self, mean=self.mean * factor + offset, std=self.std * abs(factor), low=low, high=high)

    def taken(self, index: np.ndarray) -> Clipped:
        """The channels at int64 `index`, in that order."""
        return replace(self, mean=self.mean[index], std=self.std[index], low=self.low[index], high=self.high[index])

    def moments(self) -> tuple[np.ndarray, np.ndarray]:
        """(mean, variance) after clipping, float64 [C]; exact."""
        parts = [_clipped_moments(self.mean, np.maximum(self.std * s, _TINY), self.low, self.high) for s in self.scales]
        first, second = (np.mean(part, axis=0) for part in zip(*parts, strict=True))
        return first, np.maximum(second - first**2, 0.0)

    def plus(self, other: Clipped, correlation: float = 0.0) -> Clipped:
        """The sum: mean and variance exact where the summands' correlation is the one given; the curve of the sum is assumed.

        Scales are this one's: the sum of two independent heavy-tailed values is somewhat less heavy-tailed.
        """
        (mean, variance), (other_mean, other_variance) = self.moments(), other.moments()
        total = variance + other_variance + 2 * correlation * np.sqrt(variance * other_variance)
        return Clipped.free(mean + other_mean, np.sqrt(total), max(self.scales, other.scales, key=len))

    def greatest(self, count: int) -> Clipped:
        """The maximum of `count` values, as for independent Gaussians; rising functions such as ReLU commute with it.

        Neighbouring pixels are positively correlated, so the mean is an upper bound (Slepian's inequality).
        """
        shift, spread = _normal_maximum(count)
        return replace(self, mean=self.mean + shift * self.std, std=self.std * spread)

    def repeated(self, times: int) -> Clipped:
        """Every channel `times` times in a row: what flatten does to the pixels of a channel; once is itself."""
        if times == 1:
            return self
        mean, std, low, high = (np.repeat(a, times) for a in (self.mean, self.std, self.low, self.high))
        return Clipped(mean, std, low, high, self.scales)

    def padded(self, before: int, after: int) -> Clipped:
        """With channels of constant zero around."""
        return joined([_zeros(before), self, _zeros(after)])

    def below(self, edges: np.ndarray) -> np.ndarray:
        """Float64 [E]: the share of values, over all channels, that lie below each edge; exact."""
        share = np.where(edges[:, None] > self.high, 1.0, 0.0).mean(axis=1)
        inside = (edges > self.low.min()) & (edges <= self.high.max())
        share[inside] = np.concatenate([self._below(part) for part in np.array_split(edges[inside], 1 + len(edges) // _ROWS)])
        return share

    def _below(self, edges: np.ndarray) -> np.ndarray:
        distance = (edges[:, None] - self.mean) / np.maximum(self.std, _TINY)
        curve = sum(_cdf(distance / s) for s in self.scales) / len(self.scales)
        return np.where(edges[:, None] <= self.low, 0.0, np.where(edges[:, None] > self.high, 1.0, curve)).mean(axis=1)

    def draw(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """Float64 [count, C]: channel vectors, all their values independent of each other."""
        z = rng.standard_normal((count, self.channels)) * rng.choice(np.array(self.scales), (count, self.channels))
        return np.clip(self.mean + self.std * z, self.low, self.high)


def joined(parts: list[Clipped]) -> Clipped:
    """The channels of all parts, one after the other."""
    arrays = {name: np.concatenate([getattr(p, name) for p in parts]) for name in ("mean", "std", "low", "high")}
    return Clipped(**arrays, scales=max((p.scales for p in parts), key=len))


def law(name: str) -> tuple[float, ...]:
    """Scales of "gauss" or of "laplace".

    A Laplacian is a Gaussian whose variance is exponentially distributed; here that variance takes the means of `MIXTURE` equally
    likely slices of the exponential distribution, which cuts the far tail (kurtosis 5.3 instead of 6).
    """
    if name == "gauss":
        return (1.0,)
    if name != "laplace":
        raise FormatError(f"no law {name!r} of batch norm outputs; there are gauss, laplace")
    kept = 1 - np.arange(MIXTURE + 1) / MIXTURE  # survival at the slices' edges; ∫ x e^-x from x to ∞ is (x + 1) e^-x
    tail = np.array([(1 - math.log(p)) * p if p else 0.0 for p in kept])
    return tuple(np.sqrt(MIXTURE * (tail[:-1] - tail[1:])).tolist())


def _zeros(channels: int) -> Clipped:
    return Clipped.free(np.zeros(channels), np.zeros(channels))


def _cdf(z: np.ndarray) -> np.ndarray:
    return torch.special.ndtr(torch.from_numpy(np.asarray(z, np.float64))).numpy()


def _density(z: np.ndarray) -> np.ndarray:
    return np.exp(-0.5 * np.square(z)) / math.sqrt(2 * math.pi)


def _clipped_moments(mean: np.ndarray, std: np.ndarray, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First and second moment of clip(mean + std · z, low, high), by parts of ∫ (mean + std z)^k φ(z) dz between the clip points."""
    a, b = np.clip((low - mean) / std, -1e6, 1e6), np.clip((high - mean) / std, -1e6, 1e6)  # beyond 40, φ is 0 anyway
    under, over, fa, fb = _cdf(a), _cdf(-b), _density(a), _density(b)
    inside = 1 - under - over
    at_low, at_high = np.where(np.isinf(low), 0.0, low), np.where(np.isinf(high), 0.0, high)
    first = at_low * under + at_high * over + mean * inside + std * (fa - fb)
    second = at_low**2 * under + at_high**2 * over + (mean**2 + std**2) * inside + std**2 * (a * fa - b * fb) + 2 * mean * std * (fa - fb)
    return first, second


def _normal_maximum(count: int) -> tuple[float, float]:
    """(mean, standard deviation) of the greatest of `count` independent standard normal values, by integration over its density."""
    z = np.linspace(-10, 10, 20001)
    weight = count * _cdf(z) ** (count - 1) * _density(z) * (z[1] - z[0])
    mean = float(weight @ z)
    return mean, math.sqrt(float(weight @ z**2) - mean**2)
