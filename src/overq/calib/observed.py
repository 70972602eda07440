"""Observed: what one layer's input was like, in bounded memory, streamed over batches and mergeable.

Three things are kept: the exact extremes, a histogram of single values, and a bounded uniform sample of whole channel
vectors, because overwrite depends on neighbours and a histogram of single values cannot tell (see `format_mse`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np

BINS = 8192  # on each side of zero
SAMPLE_VALUES = 1 << 19  # values kept in whole vectors: 2 MiB a layer
_SMALLEST_LIMIT = 2.0**-40
DECAY = 0.9  # of the moving average of each batch's extremes


@dataclass
class Observed:
    """Accumulated observation of one tensor.

    low, high   least and greatest value seen
    values      how many were seen
    limit       the histogram covers [-limit, limit); a power of two, so that growing it merges bins exactly
    histogram   int64 [2·BINS]
    sample      float32 [M, K]: a uniform sample of the channel vectors seen, M·K ≤ SAMPLE_VALUES (at least 64 vectors)
    keys        float64 [M]: the random key of each sampled vector; the smallest keys stay
    batches     how many batches were counted
    moving      (low, high): exponential moving averages of each batch's extremes, from a start at 0
    trail       the extremes of each batch, for whoever merges this one to the last bit; None: not kept
    """

    low: float = float("inf")
    high: float = float("-inf")
    values: int = 0
    limit: float = _SMALLEST_LIMIT
    histogram: np.ndarray = field(default_factory=lambda: np.zeros(2 * BINS, np.int64))
    sample: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    keys: np.ndarray = field(default_factory=lambda: np.zeros(0))
    batches: int = 0
    moving: tuple[float, float] = (0.0, 0.0)
    trail: list[tuple[float, float]] | None = None

    @property
    def signed(self) -> bool:
        """Whether a negative value was seen."""
        return self.low < 0

    @property
    def largest(self) -> float:
        """Greatest magnitude seen; 0 before anything was."""
        return max(abs(self.low), abs(self.high)) if self.values else 0.0

    @property
    def centers(self) -> np.ndarray:
        """Float64 [2·BINS]: the middle of each bin."""
        return (np.arange(-BINS, BINS) + 0.5) * (self.limit / BINS)

    @property
    def moving_extremes(self) -> tuple[float, float]:
        """Moving averages of the least and greatest value of a batch, corrected for the start at 0; zeros before anything was seen."""
        share = 1 - DECAY**self.batches
        return (self.moving[0] / share, self.moving[1] / share) if self.batches else (0.0, 0.0)

    def add_values(self, values: np.ndarray, extremes: tuple[float, float] | None = None) -> None:
        """Count a batch of finite float32 values, any shape. extremes: the least and the greatest of them, where they are known."""
        from overq.kernels.histogram import count  # Numba is loaded where something is observed

        if values.size:
            self.add_counted(values.size, extremes or (float(values.min()), float(values.max())), partial(count, values))

    def add_counted(self, size: int, extremes: tuple[float, float], count: Callable[[np.float32, int], np.ndarray]) -> None:
        """Count a batch of `size` values that may lie anywhere.

        count  (factor, bins) -> int64 [bins]: how many have floor(value · factor) = i - bins / 2, the product in float32
        """
        low, high = extremes
        self.low, self.high = min(self.low, low), max(self.high, high)
        self.values += size
        self.batches += 1
        self._move(low, high)
        if self.trail is not None:
            self.trail.append((low, high))
        self._grow(self.largest)
        # limit / BINS is a power of two, so product and floor are exact.
        self.histogram += count(np.float32(BINS / self.limit), 2 * BINS)

    def room(self, lanes: int) -> int:
        """How many vectors of `lanes` values the sample holds at most."""
        return max(64, SAMPLE_VALUES // lanes)

    def wanted(self, keys: np.ndarray, lanes: int) -> np.ndarray:
        """Indices of the vectors, by their random keys, that may enter the sample: fetch only these."""
        room = self.room(lanes)
        bar = np.inf if self.keys.size < room else self.keys.max()
        chosen = np.flatnonzero(keys < bar)
        if chosen.size > room:
            chosen = np.sort(chosen[np.argpartition(keys[chosen], room)[:room]])
        return chosen

    def add_sample(self, vectors: np.ndarray, keys: np.ndarray) -> None:
        """Offer whole channel vectors (float32 [m, K]) with their random keys."""
        if not self.keys.size:
            self.sample = np.zeros((0, vectors.shape[1]), np.float32)
        self.sample = np.concatenate([self.sample, vectors.astype(np.float32, copy=False)])
        self.keys = np.concatenate([self.keys, keys])
        room = self.room(self.sample.shape[1])
        if self.keys.size > room:
            stay = np.sort(np.argpartition(self.keys, room)[:room])
            self.sample, self.keys = self.sample[stay], self.keys[stay]

    def merge(self, other: Observed) -> Observed:
        """What one observer of both streams would have seen: first this one, then the other (only the moving average asks which).

        The moving average is exact where the other one kept its trail, else but for rounding.
        """
        merged = Observed(min(self.low, other.low), max(self.high, other.high), self.values + other.values)
        merged._grow(max(self.limit, other.limit) / 2)
        merged.batches, fade = self.batches + other.batches, DECAY**other.batches
        if other.trail is None:
            merged.moving = (fade * self.moving[0] + other.moving[0], fade * self.moving[1] + other.moving[1])
        else:
            merged.moving = self.moving
            for low, high in other.trail:
                merged._move(low, high)
        for part in (self, other):
            merged.histogram += _coarser(part.histogram, round(np.log2(merged.limit / part.limit)))
            if part.keys.size:
                merged.add_sample(part.sample, part.keys)
        return merged

    def _move(self, low: float, high: float) -> None:
        self.moving = (DECAY * self.moving[0] + (1 - DECAY) * low, DECAY * self.moving[1] + (1 - DECAY) * high)

    def _grow(self, largest: float) -> None:
        while self.limit <= largest:
            self.limit *= 2
            self.histogram = _coarser(self.histogram, 1)


def _coarser(histogram: np.ndarray, doublings: int) -> np.ndarray:
    """The histogram over a range 2^doublings times as wide: pairs of bins fall together, the rest is empty."""
    for _ in range(doublings):
        pairs = histogram.reshape(-1, 2).sum(axis=1)
        histogram = np.zeros_like(histogram)
        histogram[BINS // 2 : BINS // 2 + BINS] = pairs
    return histogram


def thinned(sample: np.ndarray, rows: int) -> np.ndarray:
    """At most `rows` of the sampled vectors, from all of the stream: a sample is in the order in which its vectors were seen."""
    return sample[:: max(1, -(-len(sample) // rows))]
