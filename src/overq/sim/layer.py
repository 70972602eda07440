"""ArrayLayer: a convolution or matrix product as the array meets it, cut into folds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from overq.errors import InputError
from overq.spec import ArrayConfig


class Fold(NamedTuple):
    """One tile of weights, and the vectors that pass through it.

    weights          int64 [lanes, outputs], at most rows × columns
    digits, states   [vectors, lanes]
    outputs          which output channels these columns are
    first            these sums start from 0, not from the fold before
    lanes            lanes in use
    """

    weights: np.ndarray
    digits: np.ndarray
    states: np.ndarray
    outputs: slice
    first: bool
    lanes: int


@dataclass(frozen=True)
class ArrayLayer:
    """Encoded activations and integer weights of one layer.

    digits, states   [N, H, W, groups, C], the C channels of a group encoded as one vector with `lanes` = the array's rows
    weights          integers [kh, kw, C, outputs], output channels of group g in the g-th of `groups` equal parts
    stride, padding, dilation   (vertical, horizontal); padding is zeros: digit 0, state OWN

    A matrix product [N, K] · [K, O] is N images of one pixel. A kernel tap has lanes of its own: a tile never holds two pixels.
    """

    digits: np.ndarray
    states: np.ndarray
    weights: np.ndarray
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)

    def __post_init__(self) -> None:
        if self.digits.ndim != 5 or self.digits.shape != self.states.shape:
            raise InputError(f"digits and states must be [N, H, W, groups, C], not {self.digits.shape} and {self.states.shape}")
        if self.weights.ndim != 4 or self.weights.shape[2] != self.digits.shape[4] or self.weights.shape[3] % self.groups:
            raise InputError(f"weights {self.weights.shape} do not fit {self.groups} groups of {self.digits.shape[4]} channels")
        if min(self.out_size) < 1:
            raise InputError(f"a kernel of {self.weights.shape[:2]} does not fit into {self.digits.shape[1:3]} pixels")

    @property
    def groups(self) -> int:
        return self.digits.shape[3]

    @property
    def depth(self) -> int:
        """Lanes of one whole dot product."""
        return int(np.prod(self.weights.shape[:3]))

    @property
    def out_size(self) -> tuple[int, int]:
        """Output height and width."""
        sizes = zip(self.digits.shape[1:3], self.padding, self.dilation, self.weights.shape[:2], self.stride, strict=True)
        high, wide = ((size + 2 * pad - dilation * (kernel - 1) - 1) // stride + 1 for size, pad, dilation, kernel, stride in sizes)
        return high, wide

    @property
    def vectors(self) -> int:
        """Output positions: vectors that pass through every fold."""
        return self.digits.shape[0] * self.out_size[0] * self.out_size[1]

    def tiles(self, rows: int) -> int:
        """Folds that add up to one dot product."""
        return self.weights.shape[0] * self.weights.shape[1] * -(-self.weights.shape[2] // rows)

    def folds(self, machine: ArrayConfig) -> Iterator[Fold]:
        """In the order they run: for each group and block of columns, all tiles of the depth one after another."""
        limit = 1 << (machine.weight_bits - 1)
        if self.weights.size and not -limit <= self.weights.min() <= self.weights.max() < limit:
            raise InputError(f"weights from {self.weights.min()} to {self.weights.max()} do not fit {machine.weight_bits} bits")
        kernel_high, kernel_wide, channels, outputs = self.weights.shape
        each = outputs // self.groups
        digits, states = self._padded(self.digits), self._padded(self.states)
        for group in range(self.groups):
            for column in range(group * each, (group + 1) * each, machine.columns):
                block = slice(column, min(column + machine.columns, (group + 1) * each))
                first = True
                for row in range(kernel_high):
                    for across in range(kernel_wide):
                        taps = [self._tap(values[:, :, :, group], row, across) for values in (digits, states)]
                        for lane in range(0, channels, machine.rows):
                            lanes = slice(lane, lane + machine.rows)
                            weights = self.weights[row, across, lanes, block].astype(np.int64)
                            yield Fold(weights, taps[0][:, lanes], taps[1][:, lanes], block, first, len(weights))
                            first = False

    def _padded(self, values: np.ndarray) -> np.ndarray:
        high, wide = self.padding
        return np.pad(values, ((0, 0), (high, high), (wide, wide), (0, 0), (0, 0))) if high or wide else values

    def _tap(self, values: np.ndarray, row: int, across: int) -> np.ndarray:
        """[vectors, C]: what one kernel tap sees at every output position."""
        top, left = row * self.dilation[0], across * self.dilation[1]
        bottom, right = top + (self.out_size[0] - 1) * self.stride[0] + 1, left + (self.out_size[1] - 1) * self.stride[1] + 1
        return values[:, top : bottom : self.stride[0], left : right : self.stride[1]].reshape(self.vectors, -1)
