"""Layers as shapes alone: from SCALE-Sim's topology files, and of a decoder. No values, so that whole networks cost no memory."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from overq.errors import InputError
from overq.sim.layer import ArrayLayer

CONVOLUTION = ("IFMAP Height", "IFMAP Width", "Filter Height", "Filter Width", "Channels", "Num Filter", "Strides")
PRODUCT = ("M", "N", "K")


@dataclass(frozen=True)
class Work:
    """One layer: a convolution, or a matrix product (one pixel, as many images as it has rows).

    images, height, width   of the input map
    kernel, stride, padding, dilation   (vertical, horizontal); padding is zeros that lie in no memory
    channels, outputs       of one group
    groups                  independent groups: of a convolution, or heads of attention
    repeat                  how often the network has this layer
    cache                   lanes of one cached vector, where the stationary operand is no weight but keys or values of earlier tokens
    """

    name: str
    channels: int
    outputs: int
    images: int = 1
    height: int = 1
    width: int = 1
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    repeat: int = 1
    cache: int = 0

    def __post_init__(self) -> None:
        for value in (self.channels, self.outputs, self.images, self.height, self.width, *self.kernel, *self.stride, self.groups):
            if value < 1:
                raise InputError(f"layer {self.name!r}: every size is at least 1, not {value}")
        if self.kernel[0] > self.height + 2 * self.padding[0] or self.kernel[1] > self.width + 2 * self.padding[1]:
            raise InputError(f"layer {self.name!r}: a kernel of {self.kernel} does not fit into {self.height} × {self.width} pixels")

    def layer(self) -> ArrayLayer:
        """As the array meets it; every value is one and the same zero in memory."""
        zero = np.zeros((), np.int8)
        digits = np.broadcast_to(zero, (self.images, self.height, self.width, self.groups, self.channels))
        weights = np.broadcast_to(zero, (*self.kernel, self.channels, self.groups * self.outputs))
        return ArrayLayer(digits, digits, weights, self.stride, self.padding, self.dilation)

    @property
    def macs(self) -> int:
        layer = self.layer()
        return layer.vectors * layer.depth * self.outputs * self.groups


def topology(path: Path, batch: int = 1) -> list[Work]:
    """A SCALE-Sim topology file: convolutions (as many output pixels as SCALE-Sim counts: a last, partial stride is one more), or matrix
    products M, N, K. A column `Groups` may follow. `batch` images each."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = [[cell.strip() for cell in row] for row in csv.reader(file)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"cannot read the topology {path}: {getattr(error, 'strerror', None) or error}") from error
    rows = [row[:-1] if row and not row[-1] else row for row in rows]
    heads = [name.lower() for name in rows[0][1:]] if rows and rows[0] else []
    for names in (CONVOLUTION, PRODUCT):
        if heads[: len(names)] == [name.lower() for name in names] and heads[len(names) :] in ([], ["groups"]):
            made = [_row(path, number, names, row, batch) for number, row in enumerate(rows[1:], 2) if any(row)]
            if not made:
                raise InputError(f"{path} has no layer")
            return made
    wanted = " or ".join(", ".join(names) for names in (CONVOLUTION, PRODUCT))
    raise InputError(f"{path}: the first line names no layer's columns; after the layer's name come {wanted}, and Groups where wanted")


def _row(path: Path, number: int, names: Sequence[str], row: list[str], batch: int) -> Work:
    if not len(names) < len(row) <= len(names) + 2:
        raise InputError(f"{path}, line {number}: {len(row) - 1} numbers; {', '.join(names)} are {len(names)}")
    try:
        numbers = [int(cell) for cell in row[1:]]
    except ValueError:
        raise InputError(f"{path}, line {number}: whole numbers after the name, not {', '.join(row[1:])}") from None
    if min(numbers) < 1:
        raise InputError(f"{path}, line {number}: every size is at least 1, not {min(numbers)}")
    name, groups = row[0] or f"layer {number - 1}", numbers[len(names)] if len(numbers) > len(names) else 1
    if names is PRODUCT:
        rows, outputs, depth = numbers[:3]
        return Work(name, depth, outputs, rows * batch, groups=groups)
    high, wide, tall, broad, channels, filters, stride = numbers[:7]
    if channels % groups or filters % groups:
        raise InputError(f"{path}, line {number}: {groups} groups divide neither {channels} channels nor {filters} filters evenly")
    height, width = (p if p < k else -(-(p - k) // stride) * stride + k for p, k in ((high, tall), (wide, broad)))
    return Work(name, channels // groups, filters // groups, batch, height, width, (tall, broad), (stride, stride), groups=groups)


@dataclass(frozen=True)
class Decoder:
    """Sizes of a decoder-only language model's layers; `gated` has gate, up and down, else up and down."""

    layers: int
    hidden: int
    heads: int
    key_heads: int
    inner: int
    vocabulary: int = 0
    gated: bool = True

    def work(self, tokens: int, cached: int = 0, batch: int = 1) -> list[Work]:
        """Matrix products of `tokens` new tokens behind `cached` ones; a vocabulary adds the head, for the last token alone."""
        if self.hidden % self.heads or self.heads % self.key_heads:
            raise InputError(f"{self.heads} heads divide {self.hidden}, and {self.key_heads} key heads divide {self.heads}, in a decoder")
        head, context, rows = self.hidden // self.heads, tokens + cached, tokens * batch
        pairs, sharing = self.key_heads * head, self.heads // self.key_heads  # queries of `sharing` heads meet the same keys
        made = [
            Work("q", self.hidden, self.hidden, rows),
            Work("k", self.hidden, pairs, rows),
            Work("v", self.hidden, pairs, rows),
            Work("scores", head, context, tokens * sharing, groups=self.key_heads, cache=head),
            Work("values", context, head, tokens * sharing, groups=self.key_heads, cache=head),
            Work("o", self.hidden, self.hidden, rows),
            *([Work("gate", self.hidden, self.inner, rows)] if self.gated else []),
            Work("up", self.hidden, self.inner, rows),
            Work("down", self.inner, self.hidden, rows),
        ]
        layers = [replace(work, repeat=self.layers * (batch if work.cache else 1)) for work in made]
        return [*layers, *([Work("head", self.hidden, self.vocabulary, batch)] if self.vocabulary else [])]
