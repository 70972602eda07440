"""Channel reordering: an order of input channels in which outliers meet zeros.

An outlier is served if a zero follows within `cascade` lanes, so outlier-prone channels belong directly before zero-prone ones. Which
channels are zero *while* another is an outlier is a joint matter: the search swaps channels and lets the real kernel say, on a sample
of whole channel vectors, how the squared error of the decoded values changes. A swap touches few lanes, so only windows around them
are computed; what they add up to is the exact change.

The same search serves one layer (`lane_order`) and channels that several layers read (`nn.reorder_network`): *channels* are swapped, and
each `Reader` knows on which lane it meets a channel.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from overq import kernels
from overq.spec import Format

ROWS = 8192  # sampled vectors looked at: an order fitted on 2048 fits them better than the layer
WORK = 1 << 30  # values that one search may run through the kernel: about 2 seconds of two cores
TRIES = 24  # swaps tried for each channel, if WORK allows: with 64 the error falls by another 3 %, in three times the time


class Reader:
    """One layer's view of the channels: its sample in the present order, and the error on each lane.

    sample    float32 [M, K]: channel vectors in the layer's own order
    channels  names of the channels in that order
    weight    factor of its error in sums over several readers
    """

    def __init__(
        self, sample: np.ndarray, step: float, fmt: Format, channels: Sequence[int], weight: float = 1.0, rows: int = ROWS
    ) -> None:
        self.values = np.ascontiguousarray(sample[:rows].T)
        self.step, self.format, self.weight = step, fmt, weight
        self.row_of = {channel: row for row, channel in enumerate(channels)}
        self.tile = fmt.lanes or len(channels)
        self.whole = fmt.with_(lanes=None)
        self.place(np.arange(len(channels)))
        self.work = 0  # values that went through the kernel

    def rates(self) -> tuple[np.ndarray, np.ndarray]:
        """(outlier rate, zero rate) of each channel, in the layer's own order."""
        levels = np.floor(self.values / self.step + 0.5)
        outlier = (levels < self.format.digit_min) | (levels > self.format.digit_max)
        return outlier.mean(axis=1), (levels == 0).mean(axis=1)

    def place(self, order: np.ndarray) -> None:
        """Take an order: order[lane] is the channel's place in the layer's own order."""
        self.order = order
        self.lane = np.argsort(order)
        self.errors = self._errors(self.values[order], self.format)

    def lane_of(self, channel: int) -> int:
        """Where the channel is now."""
        return int(self.lane[self.row_of[channel]])

    def swapped(self, a: int, b: int) -> tuple[float, list[tuple[int, int, np.ndarray]]]:
        """(change of the error, new errors of lanes from … to …) if lanes a and b exchanged what they carry."""
        c, change, parts = self.format.cascade, 0.0, []
        order = self.order.copy()
        order[[a, b]] = order[[b, a]]
        for first, last in _joined(min(a, b), max(a, b), 4 * c + 1, self.tile):
            edge = first - first % self.tile, min(first - first % self.tile + self.tile, len(order))
            low, high = max(edge[0], first - 2 * c), min(edge[1], last + 2 * c + 1)  # what decides about …
            begin, end = max(edge[0], first - c), min(edge[1], last + c + 1)  # … the lanes that the swap can change
            new = self._errors(self.values[order[low:high]], self.whole)[begin - low : end - low]
            self.work += (high - low) * self.values.shape[1]
            change += float((new - self.errors[begin:end]).sum())
            parts.append((begin, end, new))
        return self.weight * change, parts

    def swap(self, a: int, b: int, parts: list[tuple[int, int, np.ndarray]]) -> None:
        """Exchange what lanes a and b carry; `parts` as `swapped` returned them."""
        self.order[[a, b]] = self.order[[b, a]]
        self.lane[self.order[[a, b]]] = a, b
        for begin, end, new in parts:
            self.errors[begin:end] = new

    def _errors(self, values: np.ndarray, fmt: Format) -> np.ndarray:
        """Squared error on each lane, in squared steps, so that nothing overflows."""
        difference = (kernels.get("auto", fmt).overwrite(values, self.step, fmt, 0) - values) / np.float32(self.step)
        return np.einsum("km,km->k", difference, difference).astype(np.float64)


def _joined(a: int, b: int, reach: int, tile: int) -> list[tuple[int, int]]:
    """Lanes a <= b as one stretch where their windows meet inside a tile, else as two."""
    return [(a, b)] if b - a < reach and a // tile == b // tile else [(a, a), (b, b)]


def search(readers: Sequence[Reader], classes: Sequence[Sequence[int]], seed: int = 0, work: int = WORK) -> None:
    """Swap channels of one class with each other while the weighted error of all readers falls.

    classes  channels that may change places, each class on its own; a reader has all channels of a class or none

    The number of swaps tried depends on sizes only, so the outcome is the same on every machine. Never worse than the start.
    """
    rng = np.random.default_rng(seed)
    members = [np.array(c) for c in classes if len(c) > 1]
    sizes = np.array([len(c) for c in members])
    for _ in range(int(TRIES * sizes.sum())):
        if sum(r.work for r in readers) > work:
            return
        channels = members[rng.choice(len(members), p=sizes / sizes.sum())]
        a, b = (int(c) for c in rng.choice(channels, 2, replace=False))
        concerned = [r for r in readers if a in r.row_of]
        trials = [r.swapped(r.lane_of(a), r.lane_of(b)) for r in concerned]
        if sum(change for change, _ in trials) < 0:
            for reader, (_, parts) in zip(concerned, trials, strict=True):
                reader.swap(reader.lane_of(a), reader.lane_of(b), parts)


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
    """
    reader = Reader(sample, step, fmt, range(sample.shape[1]))
    if start is not None:
        reader.place(start.numpy())
    else:
        own = reader.errors.sum()
        reader.place(alternating(*reader.rates()))
        if reader.errors.sum() > own:
            reader.place(np.arange(sample.shape[1]))
    search([reader], [range(sample.shape[1])])
    return torch.from_numpy(reader.order.astype(np.int64))
