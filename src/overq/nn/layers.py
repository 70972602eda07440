"""Quantized Conv1d, Conv2d and Linear: the framework's own layer behind an overwritten input and quantized weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeGuard

import numpy as np
import torch
from torch import nn

from overq.nn.op import overwrite
from overq.nn.weights import dequantize_weight, quantize_weight
from overq.spec import Format

FloatLayer = nn.Conv1d | nn.Conv2d | nn.Linear
CHANNEL_DIM: dict[type[nn.Module], int] = {nn.Conv1d: -2, nn.Conv2d: -3, nn.Linear: -1}  # counted from the end: unbatched inputs work too


def can_quantize(module: nn.Module) -> TypeGuard[FloatLayer]:
    """Whether it is a Conv1d, Conv2d or Linear that runs that class's own forward."""
    return any(isinstance(module, base) and type(module).forward is base.forward for base in (nn.Conv1d, nn.Conv2d, nn.Linear))


def kind(layer: FloatLayer) -> type[nn.Module]:
    """Conv1d, Conv2d or Linear."""
    return next(base for base in CHANNEL_DIM if isinstance(layer, base))


def input_groups(module: nn.Module) -> int:
    """Into how many separate channel groups the layer cuts its input."""
    return getattr(module, "groups", 1)


def input_lanes(module: nn.Module) -> int:
    """Channels of one group: lanes never cross a group."""
    return getattr(module, "in_features", 0) or getattr(module, "in_channels", 0) // input_groups(module)


def fitted_format(fmt: Format, module: nn.Module) -> Format:
    """`fmt` as far as this layer can use it: a single-channel group has no neighbour, so it falls back to plain."""
    if input_lanes(module) == 1 and fmt.cascade:
        return Format.plain(fmt.bits, fmt.signed)
    return fmt


def by_group(x: torch.Tensor, fmt: Format, dim: int, groups: int) -> tuple[torch.Tensor, Format, int]:
    """(x, format, dim) such that lanes cross no border between `groups` equal channel groups; x perhaps as a view with one more dim."""
    if groups == 1 or not fmt.cascade:
        return x, fmt, dim
    lanes = x.shape[dim] // groups
    if fmt.lanes is None or fmt.lanes >= lanes:
        return x, fmt.with_(lanes=lanes), dim  # a tile is a group
    if lanes % fmt.lanes == 0:
        return x, fmt, dim
    return x.unflatten(dim, (groups, lanes)), fmt, dim


@dataclass(frozen=True)
class Arrangement:
    """How the K input channels of a group meet its lanes, alike in every group; None leaves them as they are.

    scale  float32 [K], by channel: inputs are divided by it, weights multiplied
    order  int64 [K]: lane i carries channel order[i]
    """

    scale: torch.Tensor | None = None
    order: torch.Tensor | None = None

    def vectors(self, sample: np.ndarray) -> np.ndarray:
        """Channel vectors float32 [M, K] as the lanes get them."""
        if self.scale is not None:
            sample = sample / self.scale.numpy()
        return sample if self.order is None else np.ascontiguousarray(sample[:, self.order.numpy()])

    def weight(self, weight: torch.Tensor) -> torch.Tensor:
        """A layer's weight [O, K, ...] that does to arranged inputs what it did to the inputs, but for rounding."""
        if self.scale is not None:
            scale = self.scale.to(weight.device).reshape(-1, *[1] * (weight.ndim - 2))
            weight = (weight.detach().float() * scale).to(weight.dtype)
        return weight if self.order is None else weight[:, self.order.to(weight.device)]


AS_IT_IS = Arrangement()


class Quantized(nn.Module):
    """What the three layers share; mixed in before the framework's class.

    step, format          of the input, after scale and order
    weight                dequantized, in the model's dtype: what the layer computes with
    weight_integers       int8, weight_scale float32 [O]: what `save` stores and hardware loads
    lane_order            int64 [K] or None: lane i of each group carries the group's channel lane_order[i]; the weights lie in this order
    input_scale           float32 [K] or None: each group's channels are divided by it; the weights are multiplied by it
    """

    step: float
    format: Format
    weight_integers: torch.Tensor
    weight_scale: torch.Tensor
    lane_order: torch.Tensor | None
    input_scale: torch.Tensor | None
    channel_dim: int

    def arranged(self, x: torch.Tensor) -> torch.Tensor:
        """The input scaled and in lane order: what is to be quantized. Same shape and dtype."""
        if self.lane_order is None and self.input_scale is None:
            return x
        y, dim = x.unflatten(self.channel_dim, (input_groups(self), -1)), self.channel_dim
        if self.input_scale is not None:
            y = y / self.input_scale.to(x.dtype).reshape(-1, *[1] * (-dim - 1))
        if self.lane_order is not None:
            y = y.index_select(dim, self.lane_order)
        return y.reshape(x.shape)

    def quantize_input(self, x: torch.Tensor) -> torch.Tensor:
        """The input as the lanes spell it, scaled and in lane order: same shape and dtype."""
        grouped, fmt, dim = by_group(self.arranged(x), self.format, self.channel_dim, input_groups(self))
        return overwrite(grouped, self.step, fmt, dim).reshape(x.shape)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(self.quantize_input(x))

    def extra_repr(self) -> str:
        signed = "signed" if self.format.signed else "unsigned"
        return f"{super().extra_repr()}, A{self.format.bits} {signed} cascade={self.format.cascade} step={self.step:.4g}"


class QuantizedConv1d(Quantized, nn.Conv1d):
    """Input [N, C, L] or [C, L], lanes along C."""


class QuantizedConv2d(Quantized, nn.Conv2d):
    """Input [N, C, H, W] or [C, H, W], lanes along C."""


class QuantizedLinear(Quantized, nn.Linear):
    """Input [..., K], lanes along K."""


_CLASSES: dict[type[nn.Module], Any] = {nn.Conv1d: QuantizedConv1d, nn.Conv2d: QuantizedConv2d, nn.Linear: QuantizedLinear}


def quantized_layer(
    module: FloatLayer, integers: torch.Tensor, scale: torch.Tensor, step: float, fmt: Format, arrangement: Arrangement = AS_IT_IS
) -> Quantized:
    """A quantized layer of the same shape, device and dtype as the float `module`, holding the given integer weights."""
    base, bias = kind(module), module.bias
    arguments: dict[str, Any] = {"bias": bias is not None, "device": "meta", "dtype": module.weight.dtype}
    if isinstance(module, nn.Linear):
        layer = _CLASSES[base](module.in_features, module.out_features, **arguments)
    else:
        same = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")
        layer = _CLASSES[base](**{name: getattr(module, name) for name in same}, **arguments)
    device = module.weight.device
    layer.weight = nn.Parameter(dequantize_weight(integers, scale, module.weight.dtype).to(device), requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach().clone(), requires_grad=False)
    layer.register_buffer("weight_integers", integers.to(device))
    layer.register_buffer("weight_scale", scale.to(device))
    for name, values in (("lane_order", arrangement.order), ("input_scale", arrangement.scale)):
        layer.register_buffer(name, None if values is None else values.to(device))
    layer.step, layer.format, layer.channel_dim = step, fmt, CHANNEL_DIM[base]
    return layer.train(module.training)


def quantize_layer(module: FloatLayer, weight_bits: int, step: float, fmt: Format, arrangement: Arrangement = AS_IT_IS) -> Quantized:
    """The quantized counterpart of a float layer."""
    integers, scale = quantize_weight(arrangement.weight(module.weight), weight_bits)
    return quantized_layer(module, integers, scale, step, fmt, arrangement)


def give_bias(layer: nn.Module) -> None:
    """Zeros for the bias that a Conv1d, Conv2d or Linear lacks; nothing where it has one."""
    if layer.bias is None:
        weight: Any = layer.weight
        layer.bias = nn.Parameter(weight.detach().new_zeros(weight.shape[0]), requires_grad=False)
