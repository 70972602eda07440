"""Outlier channels in high precision, the rest in groups: Atom."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import array_api_compat
import numpy as np

from overq.errors import FormatError, InputError
from overq.methods.blocks import blockwise
from overq.methods.method import Array, Cost, Fitted, Method, check_fraction, check_integer, checked_sample
from overq.methods.numbers import nearest

SCALE_BITS = 16


@dataclass(frozen=True)
class OutlierChannels(Fitted):
    """channels: those in high precision, ascending, out of `lanes`."""

    channels: tuple[int, ...]
    lanes: int


@dataclass(frozen=True)
class Atom(Method):
    """A few channels, chosen beforehand, have `high_bits`; the others `bits` and a step for each group of each vector.

    Source: Zhao et al., "Atom: Low-bit Quantization for Efficient and Accurate LLM Serving", MLSys 2024 (arXiv 2310.19102): 128 of 4096
    channels, those with the greatest sum of squares on samples, moved behind the others and quantized to 8 bits; groups of 128 with
    symmetric dynamic steps; the greatest magnitude times a clip ratio of 0.9.
    Our choices: ceil(ratio · K) channels, which are one group with a step of its own that clips nothing; the last group may be short;
    levels are symmetric. Metadata: 16 bits a step; channels are known beforehand.
    bits: 2 to 8. ratio: 1/32. high_bits: 2 to 16. block: lanes of a group, 128. clip: above 0, at most 1.
    """

    fitted = OutlierChannels
    stepless = True
    idempotent = False
    levels = False

    bits: int = 4
    ratio: float = 0.03125
    high_bits: int = 8
    block: int = 128
    clip: float = 0.9

    def __post_init__(self) -> None:
        check_integer(self, "bits", 2, 8)
        check_integer(self, "high_bits", 2, 16)
        check_integer(self, "block", 2, 2**16)
        check_fraction(self, "ratio")
        if isinstance(self.clip, bool) or not isinstance(self.clip, (int, float)) or not 0 < self.clip <= 1:
            raise FormatError(f"Atom.clip must be a number above 0, at most 1, not {self.clip!r}")

    @property
    def neighbours(self) -> bool:
        return True

    def fit(self, sample: np.ndarray, signed: bool, step: float | None = None) -> OutlierChannels:
        """Which channels; a given step is refused."""
        if step is not None:
            raise InputError(f"{self.describe()} takes its scales from each group and has no step; {step!r} was given")
        sample = checked_sample(sample, signed)
        lanes = sample.shape[1]
        energy = np.square(sample / (np.abs(sample).max() or 1.0), dtype=np.float64).sum(axis=0)
        richest = np.argsort(-energy, kind="stable")[: math.ceil(self.ratio * lanes)]
        return OutlierChannels(self, signed, None, tuple(sorted(int(i) for i in richest)), lanes)

    def decode(self, x: Array, fitted: OutlierChannels, axis: int) -> Array:
        if x.shape[axis] != fitted.lanes:
            raise InputError(f"x has {x.shape[axis]} lanes along axis {axis}, but was fitted to {fitted.lanes}")
        xp = array_api_compat.array_namespace(x)
        x = x if fitted.signed else xp.clip(x, 0.0, None)
        y, few = xp.empty_like(x), set(fitted.channels)
        others = [i for i in range(fitted.lanes) if i not in few]
        for channels, bits, group, clip in ((sorted(few), self.high_bits, None, 1.0), (others, self.bits, self.block, self.clip)):
            if channels:
                index = xp.asarray(np.asarray(channels), device=array_api_compat.device(x))
                rounded = partial(_rounded, top=2.0 ** (bits - fitted.signed) - 1, clip=clip)
                y[(slice(None),) * axis + (index,)] = blockwise(xp.take(x, index, axis=axis), axis, group, rounded)
        return y

    def count(self, x: Array, fitted: OutlierChannels, axis: int, weight_bits: int) -> Cost:
        lanes, few = x.shape[axis], len(fitted.channels)
        steps = math.ceil((lanes - few) / self.block) + bool(few)
        width = (self.bits * (lanes - few) + self.high_bits * few) / lanes
        return Cost(width, SCALE_BITS * steps / lanes, width, weight_bits)

    def describe(self) -> str:
        return f"Atom A{self.bits}, {self.ratio:.3g} of the channels in {self.high_bits} bits, groups of {self.block}"


def _rounded(x: Array, axis: int, top: float, clip: float) -> Array:
    """Levels -top … top of blocks, with a step of `clip` times the greatest magnitude over top."""
    xp = array_api_compat.array_namespace(x)
    step = xp.clip(xp.max(xp.abs(x), axis=axis, keepdims=True) * (clip / top), 2.0**-100, None)
    return xp.clip(nearest(x / step), -top, top) * step
