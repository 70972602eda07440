"""Scaling: multiplication by a real number, done with an integer multiplier, an offset and a shift."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from overq.errors import FormatError
from overq.spec.requantize import MULTIPLIER_BITS, constants


@dataclass(frozen=True)
class Scaling:
    """y = (x · multiplier + offset) >> shift, per channel; the shift is arithmetic, so it rounds down, as t = floor(x · r) does.

    multiplier, offset, shift   int64 [channels], or [1] where all channels share them; 0 <= multiplier < 2^16
    """

    multiplier: Tensor
    offset: Tensor
    shift: Tensor

    def __call__(self, x: Tensor, dim: int) -> Tensor:
        """x int64, channels along `dim`."""
        shape = [1] * x.ndim
        shape[dim] = -1
        return (x * self.multiplier.reshape(shape) + self.offset.reshape(shape)) >> self.shift.reshape(shape)


def scaling(factors: Sequence[float], offsets: Sequence[float], bits: int) -> Scaling:
    """The Scaling nearest to y = floor(x · factor + offset), factor >= 0, for x of `bits` bits.

    The multiplier is rounded to 16 significant bits (relative error at most 2^-16). Where a huge offset would not fit into the
    product's bits + 16 bits, the multiplier gives up some of its own; an offset beyond even that saturates the result anyway.
    """
    if bits + MULTIPLIER_BITS > 62:
        raise FormatError(f"numbers of {bits} bits times {MULTIPLIER_BITS} do not fit 64-bit integers")
    made = [constants(factor, offset, bits) for factor, offset in zip(factors, offsets, strict=True)]
    multiplier, offset, shift = (torch.tensor(column, dtype=torch.int64) for column in zip(*made, strict=True))
    return Scaling(multiplier, offset, shift)
