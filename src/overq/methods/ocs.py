"""Outlier channel splitting, of activations and of weights."""

from __future__ import annotations

import math
from dataclasses import dataclass

import array_api_compat
import numpy as np

from overq.errors import InputError
from overq.methods.method import Array, Cost, Fitted, Method, check_flag, check_fraction, check_integer
from overq.methods.numbers import digit_range, nearest, scaled
from overq.methods.uniform import Uniform
from overq.methods.weights import check, scales


@dataclass(frozen=True)
class Split(Fitted):
    """channels: the lanes that exist twice, out of `lanes`."""

    channels: tuple[int, ...]
    lanes: int


@dataclass(frozen=True)
class OCSActivations(Method):
    """The channels richest in outliers are duplicated, each copy carries half: twice the range at the same step.

    Source: Zhao, Hu, Dotzel, De Sa, Zhang, "Improving Neural Network Quantization without Retraining using Outlier Channel
    Splitting", ICML 2019 (arXiv 1901.09504): channels are chosen once, from samples, by their number of outliers, and
    quantization-aware splitting halves v to (v - 1/2)/2 and (v + 1/2)/2 in units of the step, whose rounded sum is exactly round(v).
    Our choices: ceil(ratio · K) channels; an outlier is a magnitude above the sample's 99th percentile; on a tie the channel with the
    greatest magnitude, then the lower one; each channel is split once.
    bits: 2 to 8. ratio: channels added, 0.02 in the paper's main tables. aware=False: plain halves. Step: distance of two levels.
    """

    fitted = Split

    bits: int = 4
    ratio: float = 0.02
    aware: bool = True

    def __post_init__(self) -> None:
        check_integer(self, "bits", 2, 8)
        check_fraction(self, "ratio")
        check_flag(self, "aware")

    def candidates(self, sample: np.ndarray, signed: bool) -> list:
        channels = richest_in_outliers(np.abs(sample), copies(self.ratio, sample.shape[1]))
        return [lambda step: Split(self, signed, step, channels, sample.shape[1])]

    def decode(self, x: Array, fitted: Split, axis: int) -> Array:
        if x.shape[axis] != fitted.lanes:
            raise InputError(f"x has {x.shape[axis]} lanes along axis {axis}, but was fitted to {fitted.lanes}")
        assert fitted.step is not None
        xp = array_api_compat.array_namespace(x)
        low, high = digit_range(self.bits, fitted.signed)
        v = scaled(x, fitted.step)
        level = xp.clip(nearest(v), low, high)
        if fitted.channels:
            index = xp.asarray(np.asarray(fitted.channels), device=array_api_compat.device(x))
            half, offset = xp.take(v, index, axis=axis) / 2, 0.25 if self.aware else 0.0
            both = xp.clip(nearest(half - offset), low, high) + xp.clip(nearest(half + offset), low, high)
            level[(slice(None),) * axis + (index,)] = both
        return level * fitted.step

    def count(self, x: Array, fitted: Split, axis: int, weight_bits: int) -> Cost:
        extra = len(fitted.channels) / fitted.lanes
        return Cost(self.bits * (1 + extra), 0, self.bits, weight_bits, extra)

    def describe(self) -> str:
        return f"OCS activations A{self.bits}, ratio {self.ratio:g}" + ("" if self.aware else ", plain halves")


@dataclass(frozen=True)
class OCSWeights(Uniform):
    """Weight channels that hold outliers are split; activations are quantized plainly (and feed both copies).

    Source: as `OCSActivations`; for weights the paper splits, one at a time, the input channel that holds the greatest magnitude of
    the layer, ceil(ratio · inputs) times, a copy may be split again, and quantizes the layer with one scale. That is
    `per_channel=False`. Our choice for the weights of this package, which have one scale per output channel: split the copy that lowers
    the sum of the squared scales most (rounding errors grow with it); if none does alone, the one that holds most of it. The
    integer weights are the merged ones, sums of the copies' levels: what the array effectively multiplies with.
    """

    ratio: float = 0.02
    per_channel: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_fraction(self, "ratio")
        check_flag(self, "per_channel")

    def integer_weights(self, w: Array, bits: int) -> tuple[Array, Array]:
        check(w, bits)
        return merged(w, bits, copies(self.ratio, w.shape[1]), self.per_channel)

    def count(self, x: Array, fitted: Fitted, axis: int, weight_bits: int) -> Cost:
        return Cost(self.bits, 0, self.bits, weight_bits, copies(self.ratio, x.shape[axis]) / x.shape[axis])

    def describe(self) -> str:
        return f"OCS weights A{self.bits}, ratio {self.ratio:g}, one scale per {'output channel' if self.per_channel else 'layer'}"


def copies(ratio: float, channels: int) -> int:
    """Channels added."""
    return math.ceil(ratio * channels)


def richest_in_outliers(magnitudes: np.ndarray, number: int) -> tuple[int, ...]:
    """The `number` lanes with most values above the 99th percentile of all, in ascending order; magnitudes [M, K]."""
    outliers = (magnitudes > np.quantile(magnitudes, 0.99, method="lower")).sum(axis=0)
    order = np.lexsort((np.arange(len(outliers)), -magnitudes.max(axis=0), -outliers))
    return tuple(sorted(int(i) for i in order[:number]))


def merged(w: Array, bits: int, number: int, per_channel: bool) -> tuple[Array, Array]:
    """Split `number` times, quantize the copies with quantization-aware halves, add them up again: int16 levels and float32 scales [O]."""
    xp = array_api_compat.array_namespace(w)
    values, most = xp.astype(w, xp.float32), float(2 ** (bits - 1) - 1)
    peaks = xp.max(xp.abs(xp.reshape(values, (*w.shape[:2], -1))), axis=2)
    parents, _ = splits(np.asarray(peaks.tolist(), np.float32).T, number, per_channel)
    shares, owners = [1.0] * w.shape[1], list(range(w.shape[1]))  # copy -> its share of the weight, its input channel
    for parent in parents:
        shares[parent] /= 2
        shares.append(shares[parent])
        owners.append(owners[parent])
    here = {"device": array_api_compat.device(w)}
    halves = xp.take(values, xp.asarray(np.asarray(owners), **here), axis=1)
    halves = halves * xp.reshape(xp.asarray(np.asarray(shares, np.float32), **here), (-1,) + (1,) * (w.ndim - 2))
    scale = scales(halves if per_channel else xp.reshape(halves, (1, -1)), bits)
    scale = xp.reshape(scale, (-1,) + (1,) * (w.ndim - 1))
    values = values / scale
    copied: dict[int, list[Array]] = {}  # input channel -> its copies, in units of the scale
    place = [0] * w.shape[1]  # copy -> its place among the channel's copies
    for parent in parents:
        channel = owners[parent]
        own = copied.setdefault(channel, [values[:, channel]])
        place.append(len(own))
        own.append((own[place[parent]] + 0.5) / 2)
        own[place[parent]] = (own[place[parent]] - 0.5) / 2
    level = xp.clip(nearest(values), -most, most)
    for channel, own in copied.items():
        level[:, channel] = sum(xp.clip(nearest(copy), -most, most) for copy in own)
    return xp.astype(level, xp.int16), xp.reshape(scale, (-1,)) * xp.ones_like(level[:, 0].reshape(w.shape[0], -1)[:, 0])


def splits(peaks: np.ndarray, number: int, per_channel: bool) -> tuple[list[int], np.ndarray]:
    """Which copy to split, `number` times, and the copies' magnitudes afterwards.

    peaks: [inputs, outputs], greatest magnitude of each input channel in each output channel. Copy i < inputs is channel i itself;
    a split halves a copy and appends another like it.
    """
    table = np.concatenate([peaks, np.zeros((number, peaks.shape[1]), peaks.dtype)])
    parents = []
    for new in range(len(peaks), len(table)):
        if per_channel:
            holder = table[:new].argmax(axis=0)
            second, first = np.partition(table[:new], new - 2, axis=0)[-2:] if new > 1 else (0 * table[0], table[0])
            held = np.bincount(holder, first**2, minlength=new)
            gained = np.bincount(holder, first**2 - np.maximum(second, first / 2) ** 2, minlength=new)
            parent = max(range(new), key=lambda copy: (gained[copy], held[copy], -copy))
        else:
            parent = int(table[:new].max(axis=1).argmax())
        table[parent] /= 2
        table[new] = table[parent]
        parents.append(parent)
    return parents, table
