"""Channel reordering: an order of input channels in which outliers meet zeros.

An outlier is served if a zero follows within `cascade` lanes, so outlier-prone channels belong directly before zero-prone ones. Which
channels are zero *while* another is an outlier is a joint matter: the search swaps channels and lets the real kernel decide, on a sample
of whole channel vectors, how much squared error second digits save (`kernels.rearranged`). A swap touches few lanes, so only windows
around them are computed; what they add up to is the exact change.

The same search serves one layer (`lane_order`) and channels that several layers read (`tune.reorder_network`): *channels* are swapped, and
each `Reader` knows on which lane it meets a channel.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from overq import calib
from overq.calib.least_error import squared_error
from overq.kernels import rearranged
from overq.methods import Fitted
from overq.spec import Format

ROWS = 8192  # sampled vectors looked at: an order fitted on 2048 fits them better than the layer
WORK = 1 << 30  # values that one search may decide anew: 0.3 to 2 seconds of one core
APART = 8  # batch: one swap for each APART · cascade channels, so that few get in each other's way
MOST_FOUND = 1024  # orders remembered: a few networks' layers in a few formats
TRIES = 24  # swaps tried for each channel, if WORK allows: with 64 the error falls by another 3 %, in three times the time

_found: dict[Any, torch.Tensor] = {}


@dataclass
class Window:
    """A stretch of lanes around a swap: `low` to `high` is looked at, `begin` to `end` gets `saved`."""

    low: int
    high: int
    begin: int
    end: int
    saved: np.ndarray = field(default_factory=lambda: np.zeros(0))


@dataclass
class Swap:
    """Lanes a and b exchange what they carry; `change` of the reader's weighted error."""

    a: int
    b: int
    windows: list[Window]
    change: float = 0.0


class Reader:
    """One layer's view of the channels: its sample, the present order, and the squared error (in squared steps) saved on each lane.

    sample    float32 [M, K]: channel vectors in the layer's own order
    channels  names of the channels in that order
    weight    factor of its error in sums over several readers
    """

    def __init__(self, sample: np.ndarray, step: float, fmt: Format, channels: Sequence[int], weight: float = 1.0) -> None:
        self.channels = rearranged.staged(calib.thinned(sample, ROWS).T, step, fmt)
        self.format, self.weight = fmt, weight
        self.row_of = {channel: row for row, channel in enumerate(channels)}
        self.tile = fmt.lanes or len(channels)
        self.place(np.arange(len(channels)))
        self.work = 0  # values that went through the kernel

    @property
    def error(self) -> float:
        """Weighted squared error of the decoded sample."""
        return self.weight * float(self.channels.error.sum() - self.saved.sum())

    def place(self, order: np.ndarray) -> None:
        """Take an order: order[lane] is the channel's place in the layer's own order."""
        self.order = order
        self.lane = np.argsort(order)
        self.saved = rearranged.saved(self.channels, order[None], self.tile)[0]

    def lane_of(self, channel: int) -> int:
        """Where the channel is now."""
        return int(self.lane[self.row_of[channel]])

    def swapped(self, pairs: Sequence[tuple[int, int]]) -> list[Swap]:
        """What would come of each exchange, on its own: of what lanes a and b carry, for (a, b) in pairs."""
        swaps = [Swap(a, b, self._windows(a, b)) for a, b in pairs]
        alike: dict[int, list[tuple[Swap, Window]]] = {}
        for swap in swaps:
            for window in swap.windows:
                alike.setdefault(window.high - window.low, []).append((swap, window))
        for length, members in alike.items():
            rows = np.stack([self.order[window.low : window.high] for _, window in members])
            for row, (swap, window) in zip(rows, members, strict=True):
                for lane, other in ((swap.a, swap.b), (swap.b, swap.a)):
                    if window.low <= lane < window.high:
                        row[lane - window.low] = self.order[other]
            self.work += length * len(members) * self.channels.positions
            for saved, (_, window) in zip(rearranged.saved(self.channels, rows), members, strict=True):
                window.saved = saved[window.begin - window.low : window.end - window.low]
        for swap in swaps:
            swap.change = -self.weight * sum(float((w.saved - self.saved[w.begin : w.end]).sum()) for w in swap.windows)
        return swaps

    def swap(self, swap: Swap) -> None:
        """Do it. Other swaps that look at one of the two lanes are out of date then."""
        pair = [swap.a, swap.b]
        self.order[pair] = self.order[pair[::-1]]
        self.lane[self.order[pair]] = pair
        for window in swap.windows:
            self.saved[window.begin : window.end] = window.saved

    def _windows(self, a: int, b: int) -> list[Window]:
        """Around lanes a and b, one or two: from `low` to `high` decides what happens from `begin` to `end`, which is all that changes."""
        c, found = self.format.cascade, []
        for first, last in _joined(min(a, b), max(a, b), 4 * c + 1, self.tile):
            start = first - first % self.tile
            stop = min(start + self.tile, len(self.order))
            low, high = max(start, first - 2 * c), min(stop, last + 2 * c + 1)
            found.append(Window(low, high, max(start, first - c), min(stop, last + c + 1)))
        return found


def _joined(a: int, b: int, reach: int, tile: int) -> list[tuple[int, int]]:
    """Lanes a <= b as one stretch where their windows meet inside a tile, else as two."""
    return [(a, b)] if b - a < reach and a // tile == b // tile else [(a, a), (b, b)]


def search(readers: Sequence[Reader], classes: Sequence[Sequence[int]], seed: int = 0, work: int = WORK) -> None:
    """Swap channels of one class with each other while the weighted error of all readers falls.

    classes  channels that may change places, each class on its own; a reader has all channels of a class or none

    The number of swaps tried depends on sizes only, so the outcome is the same on every machine. Never worse than the start.
    """
    pairs = _pairs([c for c in classes if len(c) > 1], seed)
    batch = max(1, len(pairs) // int(TRIES * APART * max((r.format.cascade for r in readers), default=1)))
    for start in range(0, len(pairs), batch):
        if sum(r.work for r in readers) > work:
            return
        tried = pairs[start : start + batch]
        trials: list[list[tuple[Reader, Swap]]] = [[] for _ in tried]
        for reader in readers:
            mine = [i for i, (a, _) in enumerate(tried) if a in reader.row_of]
            swaps = reader.swapped([(reader.lane_of(tried[i][0]), reader.lane_of(tried[i][1])) for i in mine])
            for i, swap in zip(mine, swaps, strict=True):
                trials[i].append((reader, swap))
        moved = {reader: np.zeros(len(reader.order), bool) for reader in readers}
        for trial in trials:
            current = not any(moved[r][w.low : w.high].any() for r, swap in trial for w in swap.windows)
            if current and sum(swap.change for _, swap in trial) < 0:
                for reader, swap in trial:
                    reader.swap(swap)
                    moved[reader][[swap.a, swap.b]] = True


def _pairs(classes: Sequence[Sequence[int]], seed: int) -> list[tuple[int, int]]:
    """TRIES · channels random pairs of different channels of one class, every channel alike."""
    rng = np.random.default_rng(seed)
    sizes = np.array([len(c) for c in classes], np.int64)
    of_class, within = np.repeat(np.arange(len(classes)), sizes), np.concatenate([np.arange(n) for n in sizes] or [sizes])
    one = rng.integers(0, max(1, len(within)), int(TRIES * sizes.sum()))
    size = sizes[of_class[one]]
    other = (within[one] + 1 + rng.integers(0, size - 1)) % size
    return [(classes[k][a], classes[k][b]) for k, a, b in zip(of_class[one], within[one], other, strict=True)]


def alternating(outliers: np.ndarray, zeros: np.ndarray) -> np.ndarray:
    """An order to begin with: the channels most often outliers, each before one of the other half, the most often zero first."""
    rank = np.argsort(zeros - outliers, kind="stable")
    half = len(rank) // 2
    order = np.empty_like(rank)
    order[: 2 * half : 2], order[1 : 2 * half : 2] = rank[:half], rank[::-1][:half]
    if len(rank) % 2:
        order[-1] = rank[half]
    return order


def lane_order(sample: np.ndarray, step: float, fmt: Format, start: torch.Tensor | None = None) -> torch.Tensor:
    """int64 [K]: lane i carries channel order[i]; from channel vectors float32 [M, K]. Never a greater error there than with `start`.

    start  order to begin with; without one the better of `alternating` and the channels' own

    The last orders are remembered: recipes that differ in weight bits or bias correction ask for the same ones.
    """
    content = hashlib.blake2b(np.ascontiguousarray(sample).tobytes(), digest_size=16).digest()
    key = content, sample.shape, step, fmt, None if start is None else start.numpy().tobytes()
    if key not in _found:
        _found[key] = _searched(sample, step, fmt, start)
        while len(_found) > MOST_FOUND:
            del _found[next(iter(_found))]
    return _found[key].clone()


def _searched(sample: np.ndarray, step: float, fmt: Format, start: torch.Tensor | None) -> torch.Tensor:
    reader = Reader(sample, step, fmt, range(sample.shape[1]))
    if start is not None:
        reader.place(start.numpy())
    else:
        own = reader.error
        reader.place(alternating(reader.channels.outliers, reader.channels.zeros))
        if reader.error > own:
            reader.place(np.arange(sample.shape[1]))
    search([reader], [range(sample.shape[1])])
    return torch.from_numpy(reader.order.astype(np.int64))


def order_for(sample: np.ndarray, fitted: Fitted) -> torch.Tensor:
    """int64 [K] for a method without a number format of ours: of the channels' own order, `alternating` (who is great beside who is zero)
    and the order of their magnitudes (who is alike beside each other), that with the least squared error on channel vectors [M, K]."""
    sample = calib.thinned(sample, ROWS)
    magnitude = np.abs(sample)
    outliers = (magnitude > np.quantile(magnitude, 0.99)).mean(axis=0)
    zeros = (fitted(sample) == 0).mean(axis=0)
    by_size = np.argsort(magnitude.mean(axis=0), kind="stable")
    orders = np.arange(sample.shape[1]), alternating(outliers, zeros), by_size
    errors = [squared_error(fitted, np.ascontiguousarray(sample[:, order])) for order in orders]
    return torch.from_numpy(orders[int(np.argmin(errors))].astype(np.int64))
