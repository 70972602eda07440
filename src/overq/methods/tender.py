"""Tender: groups of channels whose steps are powers of two apart."""

from __future__ import annotations

from dataclasses import dataclass

import array_api_compat
import numpy as np

from overq.errors import InputError
from overq.methods.method import Array, Cost, Fitted, Method, check_integer
from overq.methods.numbers import digit_range, nearest, scaled


@dataclass(frozen=True)
class ChannelGroups(Fitted):
    """shifts: by channel, how often the step is halved."""

    shifts: tuple[int, ...]


@dataclass(frozen=True)
class Tender(Method):
    """Channels fall into groups by their greatest magnitude; each group's step is half of the one before, so sums are joined by shifts.

    Source: Lee, Lee, Sim, "Tender: Accelerating Large Language Models via Tensor Decomposition and Runtime Requantization", ISCA 2024
    (arXiv 2406.12930): a channel with greatest magnitude in (M/2^(g+1), M/2^g], M that of the tensor, belongs to group g, the last group
    takes all smaller ones; groups are formed from samples; partial sums are shifted by one bit from group to group inside the array.
    Our choices: signed levels -2^(b-1) … 2^(b-1)-1 as `uniform` has; the step has the least squared error (there M / (2^(b-1)-1)); the
    subtraction of each channel's middle and the cutting of tokens into chunks are left out. Nothing is stored beside a value: groups are
    known beforehand. bits: 2 to 8. groups: 1 to 16. Step: distance of two levels of the first group.
    """

    fitted = ChannelGroups
    levels = False

    bits: int = 4
    groups: int = 8

    def __post_init__(self) -> None:
        check_integer(self, "bits", 2, 8)
        check_integer(self, "groups", 1, 16)

    def candidates(self, sample: np.ndarray, signed: bool) -> list:
        most = np.abs(sample).max(axis=0)
        with np.errstate(divide="ignore"):
            halvings = np.floor(np.log2(np.float64(most.max() or 1.0) / most))
        shifts = tuple(int(g) for g in np.clip(halvings, 0, self.groups - 1))
        return [lambda step: ChannelGroups(self, signed, step, shifts)]

    def decode(self, x: Array, fitted: ChannelGroups, axis: int) -> Array:
        if x.shape[axis] != len(fitted.shifts):
            raise InputError(f"x has {x.shape[axis]} lanes along axis {axis}, but was fitted to {len(fitted.shifts)}")
        xp = array_api_compat.array_namespace(x)
        powers = xp.asarray(np.exp2(np.asarray(fitted.shifts, np.float32)), device=array_api_compat.device(x))
        powers = xp.reshape(powers, (-1,) + (1,) * (x.ndim - axis - 1))
        level = xp.clip(nearest(scaled(x * powers, fitted.step)), *digit_range(self.bits, fitted.signed))
        return level * fitted.step / powers

    def count(self, x: Array, fitted: Fitted, axis: int, weight_bits: int) -> Cost:
        return Cost(self.bits, 0, self.bits, weight_bits)

    def describe(self) -> str:
        return f"Tender A{self.bits}, {self.groups} groups"
