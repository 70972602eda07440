"""ArrayLayer: a convolution or matrix product as the array meets it, cut into folds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
    held             bool [lanes, outputs], where an element holds a weight of the layer (all, but where groups share a tile)
    """

    weights: np.ndarray
    digits: np.ndarray
    states: np.ndarray
    outputs: slice
    first: bool
    held: np.ndarray


class Piece(NamedTuple):
    """What one kernel tap's channel vector, or a part of it no longer than the array, puts on lanes side by side."""

    group: int
    tap: tuple[int, int]
    channels: slice

    @property
    def lanes(self) -> int:
        return int(self.channels.stop - self.channels.start)


@dataclass(frozen=True)
class ArrayLayer:
    """Encoded activations and integer weights of one layer.

    digits, states   [N, H, W, groups, C], the C channels of a group encoded as one vector with `lanes` = the array's rows
    weights          integers [kh, kw, C, outputs], output channels of group g in the g-th of `groups` equal parts
    stride, padding, dilation   (vertical, horizontal); padding is zeros: digit 0, state OWN

    A matrix product [N, K] · [K, O] is N images of one pixel.

    How tiles are filled. Without `segments`, each kernel tap has tiles of its own. With them, several taps' whole channel vectors (or the
    tiles that they were encoded in) share a tile, and so do several groups whose depth fits the rows, each with its own columns and
    zeros elsewhere. The plain format, in which nothing crosses lanes, cuts its taps where it likes.
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

    def together(self, machine: ArrayConfig) -> int:
        """How many groups share a tile."""
        each = self.weights.shape[3] // self.groups
        if not machine.segments or self.depth > machine.rows:
            return 1
        return max(min(self.groups, machine.rows // self.depth, machine.columns // each), 1)

    def tiles(self, machine: ArrayConfig, groups: Sequence[int] = (0,)) -> list[list[Piece]]:
        """The folds that add up to one dot product, each as what stands on its lanes."""
        channels, rows = self.weights.shape[2], machine.rows
        pieces = [
            Piece(group, tap, slice(start, min(start + rows, channels)))
            for group in groups
            for tap in np.ndindex(*self.weights.shape[:2])
            for start in range(0, channels, rows)
        ]
        if not machine.segments:
            return [[piece] for piece in pieces]
        if not machine.format.cascade:
            return _cut(pieces, rows)
        tiles: list[list[Piece]] = []
        for piece in sorted(pieces, key=lambda piece: -piece.lanes):
            if not tiles or sum(other.lanes for other in tiles[-1]) + piece.lanes > rows:
                tiles.append([])
            tiles[-1].append(piece)
        return tiles

    def folds(self, machine: ArrayConfig) -> Iterator[Fold]:
        """In the order they run: for each group and block of columns, all tiles of the depth one after another."""
        limit = 1 << (machine.weight_bits - 1)
        if self.weights.size and not -limit <= self.weights.min() <= self.weights.max() < limit:
            raise InputError(f"weights from {self.weights.min()} to {self.weights.max()} do not fit {machine.weight_bits} bits")
        outputs = self.weights.shape[3]
        each, together = outputs // self.groups, self.together(machine)
        seen = self._padded(self.digits), self._padded(self.states)
        for start in range(0, self.groups, together):
            groups = range(start, min(start + together, self.groups))
            tiles = self.tiles(machine, groups)
            for column in range(groups[0] * each, (groups[-1] + 1) * each, machine.columns):
                block = slice(column, min(column + machine.columns, (groups[-1] + 1) * each))
                for index, tile in enumerate(tiles):
                    digits, states = (np.concatenate([self._tap(values, piece) for piece in tile], axis=1) for values in seen)
                    weights, held = self._weights(tile, block)
                    yield Fold(weights, digits, states, block, not index, held)

    def _weights(self, tile: list[Piece], block: slice) -> tuple[np.ndarray, np.ndarray]:
        """(weights, held) of a fold: each group's own columns, zeros where an element meets another group's lanes."""
        each = self.weights.shape[3] // self.groups
        held = np.concatenate([np.tile(np.arange(block.start, block.stop) // each == piece.group, (piece.lanes, 1)) for piece in tile])
        weights = np.concatenate([self.weights[(*piece.tap, piece.channels, block)] for piece in tile]).astype(np.int64)
        return np.where(held, weights, 0), held

    def _padded(self, values: np.ndarray) -> np.ndarray:
        high, wide = self.padding
        return np.pad(values, ((0, 0), (high, high), (wide, wide), (0, 0), (0, 0))) if high or wide else values

    def _tap(self, values: np.ndarray, piece: Piece) -> np.ndarray:
        """[vectors, lanes]: what one kernel tap sees at every output position."""
        (top, left), (high, wide) = (at * dilation for at, dilation in zip(piece.tap, self.dilation, strict=True)), self.out_size
        bottom, right = top + (high - 1) * self.stride[0] + 1, left + (wide - 1) * self.stride[1] + 1
        part = values[:, top : bottom : self.stride[0], left : right : self.stride[1], piece.group, piece.channels]
        return part.reshape(self.vectors, -1)


def _cut(pieces: list[Piece], rows: int) -> list[list[Piece]]:
    """Tiles of `rows` lanes from pieces that may be cut anywhere."""
    tiles: list[list[Piece]] = []
    free = 0
    for group, tap, channels in pieces:
        start = channels.start
        while start < channels.stop:
            if not free:
                tiles.append([])
                free = rows
            end = min(channels.stop, start + free)
            tiles[-1].append(Piece(group, tap, slice(start, end)))
            free -= end - start
            start = end
    return tiles
