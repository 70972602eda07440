"""IntegerLayer: a quantized layer's exact integers, from t to accumulators."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import product

import torch
from torch import Tensor, nn

from overq import kernels
from overq.errors import FormatError
from overq.integer.windows import padded, taps
from overq.nn.layers import input_groups
from overq.nn.quantized import Quantized
from overq.spec import Format, accumulator_bits


@dataclass(frozen=True)
class IntegerLayer:
    """One convolution or matrix product in integers.

    step, format   of the input
    weights        int64 [O, C, kh, kw], C channels of one group; Linear has kh = kw = 1, Conv1d kh = 1
    weight_bits    two's complement width of a weight
    scale          per output channel, what one unit of the accumulator is worth: step · weight scale / 2^f
    dims           of the input behind the channels: 0 Linear [..., K], 1 Conv1d [N, C, L], 2 Conv2d [N, C, H, W]; N may be missing
    padding, after      (vertical, horizontal) pixels before and behind; padding_mode as in torch.nn.Conv2d
    order          int64 [C]: lane i of each group carries its channel order[i], weights alike; None: as they are
    input_scale    float32 [C] or None: each group's channels are divided by it before they become t
    """

    name: str
    step: float
    format: Format
    weights: Tensor
    weight_bits: int
    scale: list[float]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    after: tuple[int, int] = (0, 0)
    padding_mode: str = "zeros"
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    dims: int = 2
    order: Tensor | None = None
    input_scale: Tensor | None = None

    @property
    def linear(self) -> bool:
        return self.dims == 0

    @property
    def channel_dim(self) -> int:
        """Of inputs and outputs, counted from the end."""
        return -1 - self.dims

    @property
    def unit(self) -> float:
        """What one unit of t is worth: step / 2^(f+1)."""
        return self.step / self.format.unit

    @property
    def depth(self) -> int:
        """Lanes of one dot product."""
        return self.weights[0].numel()

    @property
    def sum_bits(self) -> int:
        """Two's complement bits that hold every accumulator, whatever the input (see spec.accumulator_bits)."""
        return accumulator_bits(self.format, self.weight_bits, self.depth)

    def fixed(self, x: Tensor) -> Tensor:
        """int64 t of a real input, in its shape; NaN is refused, infinity saturates."""
        return kernels.get("array").to_fixed(self.scaled(x), self.step, self.format).to(torch.int64)

    def scaled(self, x: Tensor) -> Tensor:
        """A real input as it becomes t: divided by `input_scale`."""
        if self.input_scale is None:
            return x
        scale = self.input_scale.to(x.dtype).reshape(-1, *[1] * self.dims)
        return (x.unflatten(self.channel_dim, (self.groups, -1)) / scale).reshape(x.shape)

    def lanes(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """(digits int16, states uint8) [N, H, W, groups, C] of t."""
        return kernels.get("auto", self.format).encode(self.vectors(t), self.format)

    def vectors(self, values: Tensor) -> Tensor:
        """[N, H, W, groups, C] of t, or of what else there is for each value: each group's channels are one vector, in lane order."""
        rows = self._pixels(values).movedim(1, -1).unflatten(-1, (self.groups, -1))
        return rows.contiguous() if self.order is None else rows.index_select(-1, self.order)

    def accumulate(self, t: Tensor) -> Tensor:
        """int64 [N, O, H', W'] (or as `dims` says): the sums of the array, with f fraction bits."""
        digits, states = self.lanes(t)
        E = kernels.get("array").effective(digits, states, self.format)
        E = E.to(torch.int64)
        for dim in (0, 1):
            E = padded(E, 1 + dim, self.padding[dim], self.after[dim], self.padding_mode)
        kernel = (self.weights.shape[2], self.weights.shape[3])
        by_group = self.weights.unflatten(0, (self.groups, -1))  # [groups, O of a group, C, kh, kw]
        total: Tensor | None = None
        for (row, column), seen in zip(product(*map(range, kernel)), taps(E, kernel, self.stride, self.dilation, dim=1), strict=True):
            part = _product(seen, by_group[..., row, column])
            total = part if total is None else total + part
        assert total is not None  # a kernel has at least one tap
        if self.dims == 0:
            return total.reshape(*t.shape[:-1], -1)
        total = total.movedim(-1, 1)
        total = total[:, :, 0] if self.dims == 1 else total
        return total[0] if t.ndim == self.dims + 1 else total

    def _pixels(self, t: Tensor) -> Tensor:
        """[N, C, H, W] of t."""
        if self.dims == 0:
            return t.reshape(-1, t.shape[-1], 1, 1)
        t = t[None] if t.ndim == self.dims + 1 else t
        return t[:, :, None] if self.dims == 1 else t


def _product(x: Tensor, weights: Tensor) -> Tensor:
    """int64 [..., groups · O] of x [..., groups, C] and weights [groups, O, C]."""
    if weights.shape[2] == 1:
        return (x * weights[:, :, 0]).flatten(-2)
    return torch.cat([x[..., g, :].contiguous() @ w.T.contiguous() for g, w in enumerate(weights)], -1)


def integer_layer(name: str, layer: Quantized, weight_bits: int) -> IntegerLayer:
    """The integers of a quantized Conv1d, Conv2d or Linear."""
    fmt = layer.format
    if fmt is None:
        raise FormatError(f"layer {name!r}: integers are for methods with OverQ's or plain digits, not for {layer.fitted.describe()}")
    if layer.rotation is not None:
        raise FormatError(f"layer {name!r}: its input is rotated at run time, which integers do not do")
    if layer.input_shift is not None:
        raise FormatError(f"layer {name!r}: its input is shifted vector by vector, which integers do not do")
    if layer.dead_zone is not None:
        raise FormatError(f"layer {name!r}: its input has a dead zone, which integers do not know")
    one = layer.step / (1 << fmt.fraction_bits)
    scale = [one * float(s) for s in layer.weight_scale]
    weights = layer.weight_integers.detach().cpu().to(torch.int64)
    order, divisors = (None if values is None else values.detach().cpu() for values in (layer.lane_order, layer.input_scale))
    weight_bits = max(weight_bits, 1 + max(int(weights.max()), -int(weights.min()) - 1).bit_length())  # split weights have levels beyond
    make = partial(IntegerLayer, name, layer.step, fmt, weight_bits=weight_bits, scale=scale, order=order, input_scale=divisors)
    if isinstance(layer, nn.Linear):
        return make(weights=weights[:, :, None, None], dims=0)
    if not isinstance(layer, (nn.Conv1d, nn.Conv2d)):
        raise FormatError(f"layer {name!r}: integers are for Conv1d, Conv2d and Linear")
    before, after = _padding(layer)
    return make(
        weights=weights if weights.ndim == 4 else weights[:, :, None],
        stride=_tall(layer.stride, 1),
        padding=before,
        after=after,
        padding_mode=layer.padding_mode,
        dilation=_tall(layer.dilation, 1),
        groups=input_groups(layer),
        dims=weights.ndim - 2,
    )


def _tall(values: tuple[int, ...], missing: int) -> tuple[int, int]:
    """(vertical, horizontal) of a framework's argument; a Conv1d has no height."""
    return (missing, values[0]) if len(values) == 1 else (values[0], values[1])


def _padding(layer: nn.Conv1d | nn.Conv2d) -> tuple[tuple[int, int], tuple[int, int]]:
    """(before, behind), each (vertical, horizontal). "same" puts the odd pixel behind."""
    if layer.padding == "valid":
        return (0, 0), (0, 0)
    if layer.padding == "same":
        whole = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
        before, after = tuple(w // 2 for w in whole), tuple(w - w // 2 for w in whole)
        return _tall(before, 0), _tall(after, 0)
    same = _tall(tuple(int(p) for p in layer.padding), 0)
    return same, same
