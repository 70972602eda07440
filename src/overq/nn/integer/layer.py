"""IntegerLayer: a quantized layer's exact integers, from t to accumulators."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import product

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from overq import kernels
from overq.errors import FormatError, InputError
from overq.nn.layers import Quantized, input_groups
from overq.spec import Format, accumulator_bits, fraction_bits


@dataclass(frozen=True)
class IntegerLayer:
    """One convolution or matrix product in integers.

    step, format   of the input
    weights        int64 [O, C, kh, kw], C channels of one group; a linear layer has kh = kw = 1
    weight_bits    two's complement width of a weight
    scale          per output channel, what one unit of the accumulator is worth: step · weight scale / 2^fraction bits
    linear         input [..., K] instead of [N, C, H, W]
    order          int64 [C]: lane i of each group carries its channel order[i], weights alike; None: as they are
    """

    name: str
    step: float
    format: Format
    weights: Tensor
    weight_bits: int
    scale: list[float]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    linear: bool = False
    order: Tensor | None = None

    @property
    def unit(self) -> float:
        """What one unit of t is worth: step / 2^(b+1)."""
        return self.step / (2 * self.format.base)

    @property
    def depth(self) -> int:
        """Lanes of one dot product."""
        return self.weights[0].numel()

    @property
    def sum_bits(self) -> int:
        """Two's complement bits that hold every accumulator, whatever the input (see spec.accumulator_bits)."""
        return accumulator_bits(self.format, self.weight_bits, self.depth)

    def lanes(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """(digits int16, states uint8) [N, H, W, groups, C] of t [N, C, H, W] (or [N, K]): each group's channels are one vector."""
        rows = self._pixels(t).movedim(1, -1).unflatten(-1, (self.groups, -1))
        rows = rows.contiguous() if self.order is None else rows.index_select(-1, self.order)
        return kernels.get("auto", self.format).encode(rows, self.format)

    def accumulate(self, t: Tensor) -> Tensor:
        """int64 [N, O, H', W'] (or [N, O]): the sums of the array, with spec.fraction_bits fraction bits."""
        digits, states = self.lanes(t)
        E = kernels.get("array").effective(digits, states, self.format) >> (self.format.bits - fraction_bits(self.format))
        E = F.pad(E.to(torch.int64), (0, 0, 0, 0, self.padding[1], self.padding[1], self.padding[0], self.padding[0]))
        kernel = (self.weights.shape[2], self.weights.shape[3])
        by_group = self.weights.unflatten(0, (self.groups, -1))
        total: Tensor | None = None
        for (row, column), seen in zip(product(*map(range, kernel)), taps(E, kernel, self.stride, self.dilation, dim=1), strict=True):
            parts = [seen[..., g, :].contiguous() @ by_group[g, :, :, row, column].T.contiguous() for g in range(self.groups)]
            part = torch.cat(parts, -1)
            total = part if total is None else total + part
        assert total is not None  # a kernel has at least one tap
        return total[:, 0, 0] if self.linear else total.movedim(-1, 1)

    def _pixels(self, t: Tensor) -> Tensor:
        return t[:, :, None, None] if self.linear else t


def taps(x: Tensor, kernel: tuple[int, int], stride: tuple[int, int], dilation: tuple[int, int], dim: int) -> Iterator[Tensor]:
    """For each position of a kernel window, row by row, what it sees at all output pixels; height along `dim`, width after it."""
    high, wide = ((x.shape[dim + i] - dilation[i] * (kernel[i] - 1) - 1) // stride[i] + 1 for i in (0, 1))
    if high < 1 or wide < 1:
        raise InputError(f"a window of {kernel} does not fit into {tuple(x.shape[dim : dim + 2])} pixels")
    before = (slice(None),) * dim
    for row, column in product(*map(range, kernel)):
        top, left = row * dilation[0], column * dilation[1]
        bottom, right = top + (high - 1) * stride[0] + 1, left + (wide - 1) * stride[1] + 1
        yield x[(*before, slice(top, bottom, stride[0]), slice(left, right, stride[1]))]


def pair(value: int | tuple[int, ...]) -> tuple[int, int]:
    """(vertical, horizontal) of a framework argument that may be one number."""
    return (value, value) if isinstance(value, int) else (value[0], value[-1])


def integer_layer(name: str, layer: Quantized, weight_bits: int) -> IntegerLayer:
    """The integers of a quantized Conv2d or Linear. FormatError: anything else, equalized or oddly padded inputs."""
    if layer.input_scale is not None:
        raise FormatError(f"layer {name!r}: integers are not for equalized inputs, whose scales differ by channel")
    fmt = layer.format
    one = layer.step / (1 << fraction_bits(fmt))
    scale = [one * float(s) for s in layer.weight_scale]
    weights = layer.weight_integers.detach().cpu().to(torch.int64)
    make = partial(IntegerLayer, name, layer.step, fmt, weight_bits=weight_bits, scale=scale, order=layer.lane_order)
    if isinstance(layer, nn.Linear):
        return make(weights=weights[:, :, None, None], linear=True)
    if not isinstance(layer, nn.Conv2d) or layer.padding_mode != "zeros" or isinstance(layer.padding, str):
        raise FormatError(f"layer {name!r}: integers are for Conv2d with zero padding given as a number, and for Linear")
    return make(
        weights=weights,
        stride=pair(layer.stride),
        padding=pair(layer.padding),
        dilation=pair(layer.dilation),
        groups=input_groups(layer),
    )
